//! Handling of Ctrl-C: the first one asks the command to stop without data loss, the second one ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use slm_checkpoint::StopFlag;

use crate::error::{Error, INTERRUPTED, Result};

#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn install() -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&flag);
        let installed = ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED.into());
            }
        });
        if let Err(error) = installed {
            tracing::warn!("Ctrl-C ends the program at once: no handler could be installed ({error})");
        }
        Self(flag)
    }

    /// Returns the flag, for loops that check it between steps.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.0
    }

    /// Returns the flag as readers and writers of files check it.
    pub(crate) fn stop(&self) -> StopFlag {
        Arc::clone(&self.0).into()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Resets the flag after Ctrl-C was handled.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Returns an error if Ctrl-C was pressed; called between two units of work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

//! Handling of Ctrl-C and of signals that end programs. The first one asks the command to stop without data loss, the
//! second one ends the program. While the program waits for input there is nothing to lose, and the first one ends it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use slm_checkpoint::StopFlag;

use crate::error::{Error, Result};
use crate::signals::{self, Signal};
use crate::terminal_mode::TerminalMode;

#[derive(Clone, Default)]
pub(crate) struct Interrupt {
    stop: Arc<AtomicBool>,
    /// True once a signal other than Ctrl-C was received.
    terminated: Arc<AtomicBool>,
    /// The mode of the terminal before the program began to wait for input; `None` if it does not wait.
    waiting: Arc<Mutex<Option<TerminalMode>>>,
}

impl Interrupt {
    pub(crate) fn install() -> Self {
        let interrupt = Self::default();
        let handler = interrupt.clone();
        if let Err(error) = signals::handle(move |signal| handler.received(signal)) {
            tracing::warn!("Ctrl-C ends the program at once: no handler could be installed ({error})");
        }
        interrupt
    }

    fn received(&self, signal: Signal) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mode) = &waiting {
            mode.restore();
        }
        if !signal.is_ctrl_c() {
            self.terminated.store(true, Ordering::SeqCst);
        }
        if self.stop.swap(true, Ordering::SeqCst) || waiting.is_some() {
            std::process::exit(signal.exit_code().into());
        }
    }

    /// Lets a signal end the program at once while the guard lives, which reads input.
    pub(crate) fn while_waiting(&self) -> Waiting<'_> {
        self.set_waiting(Some(TerminalMode::current()));
        Waiting(self)
    }

    /// [`Interrupt::while_waiting`] if `path` stands for standard input.
    pub(crate) fn while_reading(&self, path: &Path) -> Option<Waiting<'_>> {
        (path == Path::new("-")).then(|| self.while_waiting())
    }

    fn set_waiting(&self, mode: Option<TerminalMode>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Returns the flag, for loops that check it between steps.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Returns the flag as readers and writers of files check it.
    pub(crate) fn stop(&self) -> StopFlag {
        Arc::clone(&self.stop).into()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Resets the flag after Ctrl-C was handled.
    ///
    /// # Errors
    /// [`Error::Terminated`] if the program was asked to end by another signal.
    pub(crate) fn clear(&self) -> Result<()> {
        if self.terminated.load(Ordering::SeqCst) {
            return Err(Error::Terminated);
        }
        self.stop.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Returns an error if Ctrl-C was pressed; called between two units of work.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Guard of a read of input, during which a signal ends the program.
pub(crate) struct Waiting<'a>(&'a Interrupt);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set_waiting(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_signal_than_ctrl_c_is_not_forgotten() {
        let interrupt = Interrupt::default();
        interrupt.received(Signal::ctrl_c());
        assert!(matches!(interrupt.check(), Err(Error::Interrupted)));
        assert!(interrupt.clear().is_ok() && interrupt.check().is_ok());
        interrupt.received(Signal::termination());
        assert!(matches!(interrupt.clear(), Err(Error::Terminated)));
        assert!(interrupt.is_set());
    }
}

//! Requests to stop, which long reads and copies check.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A flag that a signal handler or another thread sets to stop reads and copies between two pieces of a file. They then
/// fail with [`Error::Stopped`]. The default is never set.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Option<Arc<AtomicBool>>);

/// The reason of an [`io::Error`] for a stopped read.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request")]
pub(crate) struct Stopped;

impl StopFlag {
    /// A flag that is never set.
    pub const NEVER: Self = Self(None);

    /// Checks whether the flag is set.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it is.
    pub fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// [`StopFlag::check`] with an error that passes through the standard library, and that [`Error::io`] recognizes.
    pub(crate) fn check_io(&self) -> io::Result<()> {
        // Not of the kind `Interrupted`, after which the standard library tries again.
        if self.is_set() { Err(io::Error::other(Stopped)) } else { Ok(()) }
    }

    fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

impl From<Arc<AtomicBool>> for StopFlag {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(Some(flag))
    }
}

impl PartialEq for StopFlag {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        }
    }
}

impl Eq for StopFlag {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_set_flag_becomes_an_error_of_its_own() {
        let flag = Arc::new(AtomicBool::new(false));
        let stop = StopFlag::from(Arc::clone(&flag));
        assert!(stop.check().is_ok() && stop.check_io().is_ok());
        assert!(stop == stop.clone() && stop != StopFlag::NEVER);
        flag.store(true, Ordering::Relaxed);
        assert!(matches!(stop.check(), Err(Error::Stopped)));
        let error = Error::io(Path::new("file"), "read")(stop.check_io().unwrap_err());
        assert!(matches!(error, Error::Stopped), "{error}");
        let other = Error::io(Path::new("file"), "read")(io::Error::other("of the disk"));
        assert!(matches!(other, Error::Io { .. }), "{other}");
        assert!(StopFlag::NEVER.check().is_ok());
    }
}

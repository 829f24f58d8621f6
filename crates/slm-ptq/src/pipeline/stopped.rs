//! The two reasons for which a step ends early.

use crate::Error;

/// The reason for which a step ended: its own error, or one of the callback.
pub(super) enum Stopped<E> {
    Failed(Error),
    Callback(E),
}

impl<E: From<Error>> Stopped<E> {
    pub(super) fn into_error(self) -> E {
        match self {
            Self::Failed(error) => error.into(),
            Self::Callback(error) => error,
        }
    }
}

impl<E> From<Error> for Stopped<E> {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl<E> From<slm_model::Error> for Stopped<E> {
    fn from(error: slm_model::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl<E> From<slm_checkpoint::Error> for Stopped<E> {
    fn from(error: slm_checkpoint::Error) -> Self {
        Self::Failed(error.into())
    }
}

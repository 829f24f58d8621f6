//! A text to continue, and how.

use serde_json::Value;
use slm_model::SamplingOptions;

use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// Mark of the user, which the answer repeats.
    pub(super) id: Option<Value>,
    pub(super) prompt: String,
    /// Maximum number of new tokens; `None` for the default.
    pub(super) max_new_tokens: Option<usize>,
    pub(super) sampling: SamplingOptions,
    /// Texts and special tokens to stop before.
    pub(super) stop: Vec<String>,
    pub(super) ignore_eos: bool,
}

impl Request {
    /// Checks that the request can be answered, whatever the model.
    pub(super) fn validate(&self) -> Result<()> {
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::Usage("--stop: the text to stop before is empty".to_owned()));
        }
        Ok(())
    }
}

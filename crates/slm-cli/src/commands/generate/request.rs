//! A text to continue, with its options.

use serde_json::Value;
use slm_model::SamplingOptions;

use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// Id that the user assigned and the answer repeats.
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
    /// Checks everything about the request that does not depend on the model.
    pub(super) fn validate(&self) -> Result<()> {
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::Usage("--stop: the text to stop before is empty".to_owned()));
        }
        Ok(())
    }
}

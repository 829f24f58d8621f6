//! Sampling options.

use clap::Args;
use slm_model::SamplingOptions;

use crate::error::{Error, Result};

/// Sampling options except the temperature, whose default depends on the command.
#[derive(Debug, Args)]
pub(super) struct SamplingArgs {
    /// Draw only from the K most likely tokens; 0 or -1 for all of them
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(i64).range(-1..))]
    top_k: Option<i64>,
    /// Draw from the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Draw only from tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// Make tokens of the prompt and of the generated text less likely: 1 for no penalty, 1.1 for a mild one
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// Subtract P from the logits of tokens that were generated
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f64,
    /// Subtract P from the logit of a token for each time that it was generated
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f64,
    /// Random seed: the same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    /// Options for sequence `index`, whose seed is the given one plus `index`.
    pub(super) fn options(&self, temperature: f64, index: u64) -> Result<SamplingOptions> {
        let options = SamplingOptions {
            temperature,
            top_k: self.top_k.and_then(|k| usize::try_from(k).ok()).filter(|&k| k > 0),
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed.wrapping_add(index),
        };
        validated(options, "--")
    }
}

/// Validates `options`. Errors name the options, with `prefix` in front.
pub(super) fn validated(options: SamplingOptions, prefix: &str) -> Result<SamplingOptions> {
    match options.validate() {
        Err(slm_model::Error::Sampling { field, found, remedy }) => {
            let name = if prefix.is_empty() { field.to_owned() } else { field.replace('_', "-") };
            Err(Error::Usage(format!("{prefix}{name} is {found}: {remedy}")))
        }
        checked => Ok(checked.map(|()| options)?),
    }
}

//! Options that say how tokens are drawn.

use clap::Args;
use slm_model::SamplingOptions;

/// Beside the temperature, which every command has its own default of.
#[derive(Debug, Args)]
pub(super) struct SamplingArgs {
    /// Draw from the K most likely tokens only
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest tokens whose probabilities reach P
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Seed of the draws: the same seed draws the same
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

impl SamplingArgs {
    /// The options of sequence number `index`, which is drawn with the seed that many further on.
    pub(super) fn options(&self, temperature: f64, index: u64) -> SamplingOptions {
        SamplingOptions {
            temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed.wrapping_add(index),
        }
    }
}

//! Model shapes by name.

use clap::ValueEnum;
use slm_model::ModelConfig;

/// Model shapes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// 288 wide, 6 layers, 6 heads, MLP 768, vocabulary 32000, tied
    #[value(name = "stories-15m")]
    Stories15m,
    /// 576 wide, 30 layers, 9 heads on 3, MLP 1536, vocabulary 49152, tied
    #[value(name = "smollm-135m")]
    Smollm135m,
    /// 2048 wide, 22 layers, 32 heads on 4, MLP 5632, vocabulary 32000
    #[value(name = "tinyllama-1.1b")]
    Tinyllama1b,
}

impl Shape {
    pub(super) fn config(self, positions: usize) -> ModelConfig {
        let (vocab, hidden, mlp, layers, heads, kv_heads, tied) = match self {
            Self::Stories15m => (32_000, 288, 768, 6, 6, 6, true),
            Self::Smollm135m => (49_152, 576, 1536, 30, 9, 3, true),
            Self::Tinyllama1b => (32_000, 2048, 5632, 22, 32, 4, false),
        };
        let mut config = ModelConfig::new(vocab, hidden, mlp, layers, heads, positions);
        config.num_kv_heads = kv_heads;
        config.tie_word_embeddings = tied;
        config
    }
}

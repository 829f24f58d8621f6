//! A decoder-only transformer driven by a [`ModelConfig`], with a KV cache ([`KvCache`]), sampling ([`Sampler`]),
//! streaming generation ([`generate`]) and evaluation ([`evaluate`]).
//!
//! A config specifies a model, layer by layer where layers differ. [`arch`] has the specifications of known
//! architectures, such as Llama, Gemma 3 and GPT-NeoX. The linear layers of a [`Transformer`] are those of `slm-nn`:
//! float, fake-quantized or packed integers, on every device. Computations are in f32.
#![forbid(unsafe_code)]

pub mod arch;
mod attention;
mod block;
mod blockwise;
mod compute;
mod config;
mod cpu;
mod divergence;
mod error;
mod eval;
mod generate;
mod init;
mod kv_cache;
mod layerwise;
mod mlp;
mod names;
mod norm;
mod rotary;
mod sampler;
mod session;
mod source;
#[cfg(test)]
mod testing;
mod token_table;
mod transformer;
mod visit;
mod windows;

pub use blockwise::{BlockwiseModel, HeadBlock, TransformerBlock};
pub use compute::autograd::is_one_operation;
pub use config::{
    Activation, AttentionBias, Choice, LayerOverride, LayerSpec, MlpKind, ModelConfig, NormKind,
    NormPlacement, Position, QkNorm, RopeScaling, RotaryConfig,
};
pub use cpu::{CpuBatch, CpuEngine, KvCacheType, PassTimes, SequenceId};
pub use divergence::{Divergence, DivergenceSummary, EvalWindow, strided_windows, window_nlls};
pub use error::{Error, Result, SourceError};
pub use eval::{Evaluation, evaluate, evaluate_windows, try_evaluate, window_logits, window_logits_by};
pub use generate::{GenerateOptions, GenerateOutput, Generator, StopReason, generate};
pub use kv_cache::KvCache;
pub use layerwise::{LayerwiseVisitor, ObservedModel, forward_layerwise, layerwise_steps};
pub use names::{
    EMBED_POSITIONS, EMBED_TOKENS, ExpectedTensor, FINAL_NORM, LM_HEAD, TOKEN_TABLE, expected_tensors,
};
pub use rotary::RotaryFrequencies;
pub use sampler::{Sampler, SamplingOptions};
pub use session::InferencePath;
pub use source::TensorSource;
pub use transformer::Transformer;
pub use windows::windows;

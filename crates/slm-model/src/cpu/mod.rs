//! Inference on slices in host memory.

mod attention;
mod batch;
mod buffers;
mod cache;
mod cache_type;
mod compute;
mod norm;
mod parallel;
mod times;

use burn::tensor::Device;

use self::batch::Rows;
pub use self::batch::{CpuBatch, SequenceId};
pub use self::cache_type::KvCacheType;
pub(crate) use self::compute::CpuCompute;
pub use self::times::PassTimes;
use crate::compute::walk::ModelOf;
use crate::compute::{HeadParts, LayerParts};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::transformer::Transformer;

/// Number of prompt positions that go through the model together: enough rows to keep the arithmetic units of every
/// core busy, and few enough that activations stay small compared with the weights.
const CHUNK: usize = 512;

/// Runs one sequence through a model whose weights are in host memory, without tensors. Generation and evaluation use
/// it there.
///
/// The engine borrows the model, copies its small parameters (norms, biases) to slices, and holds a KV cache and the
/// buffers of a pass, so that a pass allocates next to nothing. Results equal those of [`Transformer::forward`] except
/// for the order of sums. Layers in every form work, and hooks see every layer: float and fake-quantized ones run as
/// tensor operations.
///
/// ```
/// use burn::tensor::Device;
/// use slm_model::{CpuEngine, ModelConfig, Transformer};
///
/// let config = ModelConfig::new(100, 32, 64, 2, 4, 128);
/// let model = Transformer::new(&config, 0, &Device::flex())?;
/// let mut engine = CpuEngine::new(&model, 8)?;
/// engine.forward_last(&[5, 6, 7])?;
/// let logits = engine.forward_last(&[8])?;
/// assert_eq!(logits.len(), 100);
/// assert_eq!(engine.len(), 4);
/// # Ok::<(), slm_model::Error>(())
/// ```
#[derive(Debug)]
pub struct CpuEngine<'a> {
    batch: CpuBatch<'a>,
    sequence: SequenceId,
}

impl<'a> CpuEngine<'a> {
    /// Returns `true` if an engine can use the weights of `model`: they are in host memory, without gradients to track.
    pub fn supports(model: &Transformer) -> bool {
        supports_device(&model.device())
    }

    /// Creates an engine with an empty cache for `capacity` positions.
    ///
    /// # Errors
    /// [`Error::NotInHostMemory`] if [`supports`](Self::supports) returns `false`, [`Error::TooManyPositions`], and
    /// [`Error::Device`] if a tensor cannot be read.
    pub fn new(model: &'a Transformer, capacity: usize) -> Result<Self> {
        let mut batch = CpuBatch::new(model)?;
        let sequence = batch.add(capacity)?;
        Ok(Self { batch, sequence })
    }

    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.batch.len(self.sequence)
    }

    /// Returns `true` if no position is held.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty(self.sequence)
    }

    /// Number of positions that the cache has room for.
    pub fn capacity(&self) -> usize {
        self.batch.capacity(self.sequence)
    }

    /// Discards all positions from `len` on. A shorter cache is unchanged.
    pub fn truncate(&mut self, len: usize) {
        self.batch.truncate(self.sequence, len);
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> usize {
        self.batch.cache_bytes()
    }

    /// Time spent in passes since the engine was created or [`reset_times`](Self::reset_times).
    pub fn times(&self) -> PassTimes {
        self.batch.times()
    }

    /// Resets [`times`](Self::times) to zero.
    pub fn reset_times(&mut self) {
        self.batch.reset_times();
    }

    /// Runs positions that continue those held, and returns the logits of the last one: `vocab_size` values.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenId`], [`Error::CacheFull`] if the capacity is too small,
    /// [`Error::RotaryChange`] if the sequence must be recomputed, and [`Error::Device`] if a tensor cannot be read.
    pub fn forward_last(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.batch.run(&[(self.sequence, ids)], Rows::Last)
    }

    /// Runs positions that continue those held, and returns the logits of all: `ids.len() * vocab_size` values,
    /// row by row.
    ///
    /// # Errors
    /// As [`forward_last`](Self::forward_last).
    pub fn forward(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.batch.run(&[(self.sequence, ids)], Rows::All)
    }
}

/// Returns `true` if a prompt may be split into several passes without changing the result.
fn rows_are_independent(parts: &ModelOf<'_, CpuCompute>) -> bool {
    let head = match &parts.head {
        HeadParts::Linear(head) => Some(head),
        HeadParts::Tied(_) => None,
    };
    let mut linears = parts.layers.iter().flat_map(LayerParts::linears).chain(head);
    linears.all(|linear| linear.linear.rows_are_independent())
}

/// Returns `true` if an engine can use weights on `device`.
pub(crate) fn supports_device(device: &Device) -> bool {
    !device.is_autodiff() && slm_nn::on_cpu(device)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

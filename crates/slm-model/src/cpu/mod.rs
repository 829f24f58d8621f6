//! Inference on slices of host memory.

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

/// Positions of a prompt that go through the model together: enough rows to use every core's arithmetic to the
/// full, few enough that activations stay small beside the weights.
const CHUNK: usize = 512;

/// Runs one sequence through a model whose weights lie in host memory, without tensors: what generation and
/// evaluation use there.
///
/// It borrows the model, compiles what is small to slices (norms, biases) and holds a KV cache and the buffers of
/// a pass, so that a pass allocates next to nothing. Results equal those of [`Transformer::forward`] but for the
/// order of sums. Layers in every form work, and hooks see every layer: float and fake-quantized ones run as
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
    /// Whether the weights of `model` lie where an engine can work: in host memory, without gradients to track.
    pub fn supports(model: &Transformer) -> bool {
        supports_device(&model.device())
    }

    /// An engine with an empty cache for `capacity` positions.
    ///
    /// # Errors
    /// [`Error::NotInHostMemory`] where [`supports`](Self::supports) says no, [`Error::TooManyPositions`], and
    /// [`Error::Device`] when a tensor cannot be read.
    pub fn new(model: &'a Transformer, capacity: usize) -> Result<Self> {
        let mut batch = CpuBatch::new(model)?;
        let sequence = batch.add(capacity)?;
        Ok(Self { batch, sequence })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.batch.len(self.sequence)
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty(self.sequence)
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.batch.capacity(self.sequence)
    }

    /// Forgets all positions from `len` on; a cache already shorter stays as it is.
    pub fn truncate(&mut self, len: usize) {
        self.batch.truncate(self.sequence, len);
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> usize {
        self.batch.cache_bytes()
    }

    /// What passes have spent their time on since the engine was made or [`reset_times`](Self::reset_times).
    pub fn times(&self) -> PassTimes {
        self.batch.times()
    }

    /// Starts the account of [`times`](Self::times) afresh.
    pub fn reset_times(&mut self) {
        self.batch.reset_times();
    }

    /// Runs positions that continue those held, and returns the logits of the last: `vocab_size` values.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenId`], [`Error::CacheFull`] when the capacity is too small,
    /// [`Error::RotaryChange`] when the sequence must be computed anew, and [`Error::Device`] when a tensor cannot be
    /// read.
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

/// Whether a prompt may go through the model in several passes without a difference.
fn rows_are_independent(parts: &ModelOf<'_, CpuCompute>) -> bool {
    let head = match &parts.head {
        HeadParts::Linear(head) => Some(head),
        HeadParts::Tied(_) => None,
    };
    let mut linears = parts.layers.iter().flat_map(LayerParts::linears).chain(head);
    linears.all(|linear| linear.linear.rows_are_independent())
}

/// Whether an engine can work with weights on `device`.
pub(crate) fn supports_device(device: &Device) -> bool {
    !device.is_autodiff() && slm_nn::on_cpu(device)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

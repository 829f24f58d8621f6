//! Inference on slices of host memory.

mod attention;
mod buffers;
mod compute;
mod norm;
mod parallel;
mod times;

use burn::tensor::Device;

pub(crate) use self::compute::CpuCompute;
pub use self::times::PassTimes;
use crate::compute::walk::{self, ModelOf};
use crate::compute::{Compute, HeadParts, LayerParts};
use crate::error::{Error, Result};
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
    model: &'a Transformer,
    parts: ModelOf<'a, CpuCompute>,
    compute: CpuCompute,
    /// Maximum number of positions in one pass.
    chunk: usize,
    len: usize,
    /// Length of the sequence that the positions held were rotated for; 0 where none is held.
    rotated_for: usize,
    capacity: usize,
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
        if !Self::supports(model) {
            return Err(Error::NotInHostMemory);
        }
        model.check_positions(capacity)?;
        let config = model.config();
        let compute = CpuCompute::new(config, &model.device(), config.num_layers, capacity);
        let parts = walk::prepare(&compute, model.parts())?;
        let independent = rows_are_independent(&parts);
        Ok(Self {
            model,
            parts,
            compute,
            chunk: if independent { CHUNK } else { usize::MAX },
            len: 0,
            rotated_for: 0,
            capacity,
        })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on; a cache already shorter stays as it is.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if self.len == 0 {
            self.rotated_for = 0;
        }
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> usize {
        self.compute.cache_bytes()
    }

    /// What passes have spent their time on since the engine was made or [`reset_times`](Self::reset_times).
    pub fn times(&self) -> PassTimes {
        self.compute.times
    }

    /// Starts the account of [`times`](Self::times) afresh.
    pub fn reset_times(&mut self) {
        self.compute.times = PassTimes::default();
    }

    /// Runs positions that continue those held, and returns the logits of the last: `vocab_size` values.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenId`], [`Error::CacheFull`] when the capacity is too small,
    /// [`Error::RotaryChange`] when the sequence must be computed anew, and [`Error::Device`] when a tensor cannot be
    /// read.
    pub fn forward_last(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.start(ids)?;
        let chunks = ids.len().div_ceil(self.chunk);
        for (index, ids) in ids.chunks(self.chunk).enumerate() {
            self.run(ids, if index + 1 == chunks { Rows::Last } else { Rows::None })?;
        }
        Ok(&self.compute.logits[..self.model.config().vocab_size])
    }

    /// Runs positions that continue those held, and returns the logits of all: `ids.len() * vocab_size` values,
    /// row by row.
    ///
    /// # Errors
    /// As [`forward_last`](Self::forward_last).
    pub fn forward(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.start(ids)?;
        for ids in ids.chunks(self.chunk) {
            self.run(ids, Rows::All)?;
            self.compute.logit_row += ids.len();
        }
        Ok(&self.compute.logits[..ids.len() * self.model.config().vocab_size])
    }

    /// Checks the ids of a call and prepares for its passes.
    fn start(&mut self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.model.check_ids(ids)?;
        let needed = self.len.saturating_add(ids.len());
        if needed > self.capacity {
            return Err(Error::CacheFull { needed, capacity: self.capacity });
        }
        self.model.check_growth(self.rotated_for, needed)?;
        self.rotated_for = needed;
        self.compute.sequence = needed;
        self.compute.logit_row = 0;
        Ok(())
    }

    /// Takes new positions through the model; logits of `rows` go to the compute's.
    fn run(&mut self, ids: &[u32], rows: Rows) -> Result<()> {
        let Self { compute, parts, .. } = self;
        compute.start(self.len, ids.len());
        let mut stream = walk::layers(compute, parts, self.model.ids_tensor(ids))?;
        match rows {
            Rows::None => {
                compute.finish(stream);
                self.len += ids.len();
                return Ok(());
            }
            Rows::Last => compute.keep_last(&mut stream)?,
            Rows::All => {}
        }
        walk::logits(compute, &parts.norm, &parts.head, parts.logit_multiplier, stream)?;
        self.len += ids.len();
        Ok(())
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

/// Rows that the head is applied to.
#[derive(Debug, Clone, Copy)]
enum Rows {
    None,
    Last,
    All,
}

/// Whether an engine can work with weights on `device`.
pub(crate) fn supports_device(device: &Device) -> bool {
    !device.is_autodiff() && slm_nn::on_cpu(device)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! Inference of several sequences together.

use super::compute::{CpuCompute, Span};
use super::{CHUNK, PassTimes, rows_are_independent, supports_device};
use crate::compute::Compute;
use crate::compute::walk::{self, ModelOf};
use crate::error::{Error, Result};
use crate::transformer::Transformer;

/// Runs several sequences through a model whose weights are in host memory. Each pass reads every weight once for all
/// sequences. Decoding one token at a time spends most of its time on these reads.
///
/// Each sequence has its own KV cache. Its logits have the same bits as when it runs by itself, with packed and with
/// float weights. Only layers that run as tensor operations (fake-quantized layers, and packed layers with a hook) may
/// sum in another order. If a scale spans a whole input
/// ([`ActivationGranularity::PerTensor`](slm_quant_core::ActivationGranularity::PerTensor)), sequences run one after
/// the other.
///
/// ```
/// use burn::tensor::Device;
/// use slm_model::{CpuBatch, ModelConfig, Transformer};
///
/// let config = ModelConfig::new(100, 32, 64, 2, 4, 128);
/// let model = Transformer::new(&config, 0, &Device::flex())?;
/// let mut batch = CpuBatch::new(&model)?;
/// let (a, b) = (batch.add(8)?, batch.add(8)?);
/// let logits = batch.forward_last(&[(a, &[5, 6, 7]), (b, &[8])])?;
/// assert_eq!(logits.len(), 2 * 100);
/// assert_eq!(batch.len(a), 3);
/// batch.remove(a);
/// # Ok::<(), slm_model::Error>(())
/// ```
#[derive(Debug)]
pub struct CpuBatch<'a> {
    model: &'a Transformer,
    parts: ModelOf<'a, CpuCompute>,
    compute: CpuCompute,
    /// `true` if rows of several sequences may share a pass, and a prompt may take several passes.
    independent: bool,
    sequences: Vec<Option<Sequence>>,
}

/// A sequence of a [`CpuBatch`]. Its number is reused once the sequence is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceId(usize);

/// The state of a sequence besides its keys and values.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// Number of positions held.
    len: usize,
    /// Length of the sequence that the held positions were rotated for; 0 if none is held.
    rotated_for: usize,
    capacity: usize,
}

/// The positions of a pass whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// The last position of each sequence.
    Last,
    /// All positions.
    All,
}

impl<'a> CpuBatch<'a> {
    /// Creates a batch without sequences.
    ///
    /// # Errors
    /// [`Error::NotInHostMemory`] if [`CpuEngine::supports`](super::CpuEngine::supports) returns `false`, and
    /// [`Error::Device`] if a tensor cannot be read.
    pub fn new(model: &'a Transformer) -> Result<Self> {
        let device = model.device();
        if !supports_device(&device) {
            return Err(Error::NotInHostMemory);
        }
        let compute = CpuCompute::new(model.config(), &device);
        let parts = walk::prepare(&compute, model.parts())?;
        let independent = rows_are_independent(&parts);
        Ok(Self { model, parts, compute, independent, sequences: Vec::new() })
    }

    /// Adds an empty sequence with room for `capacity` positions.
    ///
    /// # Errors
    /// [`Error::TooManyPositions`].
    pub fn add(&mut self, capacity: usize) -> Result<SequenceId> {
        self.model.check_positions(capacity)?;
        let free = self.sequences.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.sequences.len());
        self.compute.allocate(slot, self.model.config().num_layers, self.model.kv_cache_type(), capacity);
        let sequence = Some(Sequence { len: 0, rotated_for: 0, capacity });
        match self.sequences.get_mut(slot) {
            Some(place) => *place = sequence,
            None => self.sequences.push(sequence),
        }
        Ok(SequenceId(slot))
    }

    /// Removes a sequence and frees its KV cache. Does nothing if it was removed before.
    pub fn remove(&mut self, id: SequenceId) {
        if let Some(place) = self.sequences.get_mut(id.0) {
            *place = None;
            self.compute.release(id.0);
        }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences.iter().flatten().count()
    }

    /// Number of positions that a sequence holds; 0 if it was removed.
    pub fn len(&self, id: SequenceId) -> usize {
        self.sequence(id).map_or(0, |sequence| sequence.len)
    }

    /// Returns `true` if a sequence holds no position.
    pub fn is_empty(&self, id: SequenceId) -> bool {
        self.len(id) == 0
    }

    /// Number of positions that a sequence has room for; 0 if it was removed.
    pub fn capacity(&self, id: SequenceId) -> usize {
        self.sequence(id).map_or(0, |sequence| sequence.capacity)
    }

    /// Discards the positions of a sequence from `len` on.
    pub fn truncate(&mut self, id: SequenceId, len: usize) {
        if let Some(Some(sequence)) = self.sequences.get_mut(id.0) {
            sequence.len = sequence.len.min(len);
            if sequence.len == 0 {
                sequence.rotated_for = 0;
            }
        }
    }

    /// Returns `true` if a row's logits depend only on its own sequence, so that rows of several may share a pass.
    pub fn rows_are_independent(&self) -> bool {
        self.independent
    }

    /// Bytes of all KV caches.
    pub fn cache_bytes(&self) -> usize {
        self.compute.cache_bytes()
    }

    /// Time spent in passes since the batch was created or [`reset_times`](Self::reset_times).
    pub fn times(&self) -> PassTimes {
        self.compute.times
    }

    /// Resets [`times`](Self::times) to zero.
    pub fn reset_times(&mut self) {
        self.compute.times = PassTimes::default();
    }

    /// Runs positions that continue each of several sequences, and returns the logits of the last position of each:
    /// `inputs.len() * vocab_size` values, in the order of `inputs`.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenId`], [`Error::CacheFull`] if a capacity is too small or a sequence was
    /// removed, [`Error::RotaryChange`] if a sequence must be recomputed. In these cases nothing was run.
    /// [`Error::Device`] if a tensor cannot be read, and [`Error::KvOverflow`].
    pub fn forward_last(&mut self, inputs: &[(SequenceId, &[u32])]) -> Result<&[f32]> {
        self.run(inputs, Rows::Last)
    }

    /// Runs `inputs` and returns the logits of `rows`.
    pub(super) fn run(&mut self, inputs: &[(SequenceId, &[u32])], rows: Rows) -> Result<&[f32]> {
        let before = self.sequences.clone();
        let result = self.check(inputs).and_then(|()| self.run_checked(inputs, rows));
        if result.is_err() {
            self.sequences = before;
        }
        result?;
        Ok(&self.compute.logits[..self.compute.logit_row * self.model.config().vocab_size])
    }

    fn check(&mut self, inputs: &[(SequenceId, &[u32])]) -> Result<()> {
        for (index, (id, ids)) in inputs.iter().enumerate() {
            if ids.is_empty() {
                return Err(Error::EmptyPrompt);
            }
            self.model.check_ids(ids)?;
            let Some(Some(sequence)) = self.sequences.get_mut(id.0) else {
                return Err(Error::CacheFull { needed: ids.len(), capacity: 0 });
            };
            // A sequence may occur several times. Each part continues those before it.
            let earlier = inputs[..index].iter().filter(|(other, _)| other == id).map(|(_, ids)| ids.len());
            let needed = sequence.len.saturating_add(earlier.sum::<usize>()).saturating_add(ids.len());
            if needed > sequence.capacity {
                return Err(Error::CacheFull { needed, capacity: sequence.capacity });
            }
            self.model.check_growth(sequence.rotated_for, needed)?;
            sequence.rotated_for = needed;
        }
        Ok(())
    }

    fn run_checked(&mut self, inputs: &[(SequenceId, &[u32])], rows: Rows) -> Result<()> {
        self.compute.logit_row = 0;
        let chunk = if self.independent { CHUNK } else { usize::MAX };
        let mut pass = Pass::default();
        for &(id, ids) in inputs {
            let mut rest = ids;
            while !rest.is_empty() {
                let (ids, later) = rest.split_at(rest.len().min(chunk - pass.ids.len()));
                let Some(Some(sequence)) = self.sequences.get_mut(id.0) else { break };
                pass.spans.push(Span {
                    sequence: id.0,
                    start: sequence.len,
                    rows: ids.len(),
                    total: sequence.rotated_for,
                    wanted: match rows {
                        Rows::All => ids.len(),
                        Rows::Last => usize::from(later.is_empty()),
                    },
                });
                pass.ids.extend_from_slice(ids);
                sequence.len += ids.len();
                rest = later;
                if pass.ids.len() == chunk {
                    self.run_pass(std::mem::take(&mut pass))?;
                }
            }
            if !self.independent {
                self.run_pass(std::mem::take(&mut pass))?;
            }
        }
        self.run_pass(pass)
    }

    fn run_pass(&mut self, pass: Pass) -> Result<()> {
        if pass.ids.is_empty() {
            return Ok(());
        }
        let Self { compute, parts, .. } = self;
        let wanted: usize = pass.spans.iter().map(|span| span.wanted).sum();
        let all = wanted == pass.ids.len();
        compute.start_spans(pass.spans);
        let mut stream = walk::layers(compute, parts, self.model.ids_tensor(&pass.ids))?;
        if wanted == 0 {
            compute.finish(stream);
            return Ok(());
        }
        if !all {
            compute.keep_wanted(&mut stream);
        }
        walk::logits(compute, &parts.norm, &parts.head, parts.logit_multiplier, stream)?;
        compute.logit_row += wanted;
        Ok(())
    }

    fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(id.0)?.as_ref()
    }
}

/// Rows that go through the model together.
#[derive(Debug, Default)]
struct Pass {
    spans: Vec<Span>,
    ids: Vec<u32>,
}

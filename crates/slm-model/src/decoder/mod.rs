//! Inference on slices of host memory.

mod buffers;
mod layer;
mod layerwise;
mod norm;
mod parallel;
mod times;

use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor, TensorData};
use slm_nn::{SliceLinear, SliceOutput, apply_linears};

use crate::error::{Error, Result};
use crate::rotary::Rotary;
use crate::transformer::Transformer;
use buffers::Buffers;
use layer::{DecoderLayer, Pass};
pub(crate) use layerwise::SliceWindows;
use norm::SliceNorm;
pub use times::PassTimes;
use times::Stopwatch;

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
/// use slm_model::{Decoder, ModelConfig, Transformer};
///
/// let config = ModelConfig::new(100, 32, 64, 2, 4, 128);
/// let model = Transformer::new(&config, 0, &Device::flex())?;
/// let mut decoder = Decoder::new(&model, 8)?;
/// decoder.forward_last(&[5, 6, 7])?;
/// let logits = decoder.forward_last(&[8])?;
/// assert_eq!(logits.len(), 100);
/// assert_eq!(decoder.len(), 4);
/// # Ok::<(), slm_model::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Transformer,
    device: Device,
    embed_tokens: Tensor<2>,
    embed_positions: Option<Tensor<2>>,
    rotary: Option<&'a Rotary>,
    layers: Vec<DecoderLayer<'a>>,
    norm: SliceNorm,
    /// None where the head is the transposed embedding.
    head: Option<SliceLinear<'a>>,
    /// Most positions in one pass.
    chunk: usize,
    len: usize,
    capacity: usize,
    buffers: Buffers,
    times: PassTimes,
}

impl<'a> Decoder<'a> {
    /// Whether the weights of `model` lie where a decoder can work: in host memory, without gradients to track.
    pub fn supports(model: &Transformer) -> bool {
        supports_device(&model.device())
    }

    /// A decoder with an empty cache for `capacity` positions.
    ///
    /// # Errors
    /// [`Error::NotInHostMemory`] where [`supports`](Self::supports) says no, [`Error::TooManyPositions`], and
    /// [`Error::Device`] when a tensor cannot be read.
    pub fn new(model: &'a Transformer, capacity: usize) -> Result<Self> {
        if !Self::supports(model) {
            return Err(Error::NotInHostMemory);
        }
        model.check_positions(capacity)?;
        let parts = model.parts();
        let device = model.device();
        let layers = parts
            .layers
            .iter()
            .enumerate()
            .map(|(index, block)| DecoderLayer::new(block, index, model.config(), capacity, &device))
            .collect::<Result<Vec<_>>>()?;
        let head =
            parts.lm_head.map(|head| slice_linear(head, &device, || "lm_head".to_owned())).transpose()?;
        let independent =
            layers.iter().flat_map(DecoderLayer::linears).chain(&head).all(SliceLinear::rows_are_independent);
        Ok(Self {
            model,
            embed_tokens: parts.embed_tokens,
            embed_positions: parts.embed_positions,
            rotary: parts.rotary,
            norm: SliceNorm::new(parts.norm, model.config().norm_eps)?,
            layers,
            head,
            chunk: if independent { CHUNK } else { usize::MAX },
            len: 0,
            capacity,
            buffers: Buffers::default(),
            times: PassTimes::default(),
            device,
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
    }

    /// Bytes of the KV cache.
    pub fn cache_bytes(&self) -> usize {
        self.layers.iter().map(DecoderLayer::cache_bytes).sum()
    }

    /// What passes have spent their time on since the decoder was made or [`reset_times`](Self::reset_times).
    pub fn times(&self) -> PassTimes {
        self.times
    }

    /// Starts the account of [`times`](Self::times) afresh.
    pub fn reset_times(&mut self) {
        self.times = PassTimes::default();
    }

    /// Runs positions that continue those held, and returns the logits of the last: `vocab_size` values.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenId`], [`Error::TooManyPositions`] when the capacity is too small, and
    /// [`Error::Device`] when a tensor cannot be read.
    pub fn forward_last(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.check(ids)?;
        let mut rows = 0;
        for ids in ids.chunks(self.chunk) {
            rows = ids.len();
            self.run_layers(ids)?;
        }
        self.head(rows - 1, 1, 0)?;
        Ok(&self.buffers.logits[..self.model.config().vocab_size])
    }

    /// Runs positions that continue those held, and returns the logits of all: `ids.len() * vocab_size` values,
    /// row by row.
    ///
    /// # Errors
    /// As [`forward_last`](Self::forward_last).
    pub fn forward(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.check(ids)?;
        let mut done = 0;
        for ids in ids.chunks(self.chunk) {
            self.run_layers(ids)?;
            self.head(0, ids.len(), done)?;
            done += ids.len();
        }
        Ok(&self.buffers.logits[..ids.len() * self.model.config().vocab_size])
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.model.check_ids(ids)?;
        let needed = self.len.saturating_add(ids.len());
        match needed > self.capacity {
            true => Err(Error::CacheFull { needed, capacity: self.capacity }),
            false => Ok(()),
        }
    }

    /// Takes new positions through all layers and leaves their normalized residual stream in `buffers.normed`.
    fn run_layers(&mut self, ids: &[u32]) -> Result<()> {
        let mut watch = Stopwatch::start();
        let config = self.model.config();
        let (start, rows) = (self.len, ids.len());
        self.buffers.prepare(config, rows);
        let embedding = (&self.embed_tokens, self.embed_positions.as_ref());
        embed(embedding, self.model.ids_tensor(ids), start, &mut self.buffers)?;
        let rotary = self.rotary.map(|rotary| rotary.angles(start, rows));
        let pass = Pass { config, start, rows, rotary: rotary.as_ref() };
        self.times.rest += watch.lap();
        for layer in &mut self.layers {
            layer.run(&pass, &mut self.buffers, &mut self.times, &mut watch)?;
        }
        let Buffers { x, delta, has_delta, normed, .. } = &mut self.buffers;
        let width = rows * config.hidden_size;
        let delta = has_delta.then_some(&delta[..width]);
        self.norm.add_and_normalize(&mut x[..width], delta, &mut normed[..width]);
        self.times.rest += watch.lap();
        self.len += rows;
        Ok(())
    }

    /// Applies the head to `rows` rows of `buffers.normed`, to row `to` of the logits and those after it.
    fn head(&mut self, from: usize, rows: usize, to: usize) -> Result<()> {
        let mut watch = Stopwatch::start();
        let (hidden, vocab) = (self.model.config().hidden_size, self.model.config().vocab_size);
        let Buffers { normed, logits, linear_scratch, .. } = &mut self.buffers;
        let x = &normed[from * hidden..][..rows * hidden];
        if logits.len() < (to + rows) * vocab {
            logits.resize((to + rows) * vocab, 0.0);
        }
        let out = &mut logits[to * vocab..][..rows * vocab];
        match &self.head {
            Some(head) => {
                let outputs = &mut [SliceOutput { layer: head, out }];
                apply_linears(x, rows, outputs, linear_scratch).map_err(|error| broken("lm_head", &error))?;
            }
            None => {
                let data = TensorData::new(x.to_vec(), [rows, hidden]);
                let x = Tensor::<2>::from_data(data, &self.device);
                copy_values(x.matmul(self.embed_tokens.clone().transpose()), out)?;
            }
        }
        self.times.products += watch.lap();
        Ok(())
    }
}

/// Whether a decoder can work with weights on `device`.
pub(crate) fn supports_device(device: &Device) -> bool {
    !device.is_autodiff() && slm_nn::on_cpu(device)
}

/// Puts the residual stream before the first layer into `buffers.x`, for ids whose first is at position `start`.
fn embed(
    (tokens, positions): (&Tensor<2>, Option<&Tensor<2>>),
    ids: Tensor<2, Int>,
    start: usize,
    buffers: &mut Buffers,
) -> Result<()> {
    let ([_, rows], [_, hidden]) = (ids.dims(), tokens.dims());
    let x = &mut buffers.x[..rows * hidden];
    copy_values(embedding(tokens.clone(), ids), x)?;
    if let Some(positions) = positions {
        let delta = &mut buffers.delta[..rows * hidden];
        copy_values(positions.clone().narrow(0, start, rows), delta)?;
        slm_cpu_ops::add(x, delta);
    }
    buffers.has_delta = false;
    Ok(())
}

fn slice_linear<'a>(
    linear: &'a slm_nn::Linear,
    device: &Device,
    name: impl FnOnce() -> String,
) -> Result<SliceLinear<'a>> {
    SliceLinear::new(linear, device).map_err(|error| broken(&name(), &error))
}

fn broken(what: &str, error: &slm_nn::Error) -> Error {
    Error::Device { what: what.to_owned(), detail: error.to_string() }
}

/// Copies a tensor's values to a slice of as many.
fn copy_values<const D: usize>(tensor: Tensor<D>, out: &mut [f32]) -> Result<()> {
    let data = tensor.into_data();
    match data.as_slice::<f32>() {
        Ok(values) if values.len() == out.len() => {
            out.copy_from_slice(values);
            Ok(())
        }
        Ok(values) => {
            let detail = format!("{} values instead of {}", values.len(), out.len());
            Err(Error::Device { what: "activations".to_owned(), detail })
        }
        Err(error) => Err(Error::Device { what: "activations".to_owned(), detail: format!("{error:?}") }),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

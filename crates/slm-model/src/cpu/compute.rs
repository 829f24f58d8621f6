//! [`Compute`] on slices in host memory.

use burn::tensor::{Device, Int, Tensor};
use slm_cpu_ops::{KvOverflow, geglu, geglu_tanh, gelu, gelu_tanh, silu, swiglu};
use slm_nn::{CpuLinear, CpuOutput, CpuScratch, Linear, apply_linears};

use super::KvCacheType;
use super::attention::{AttentionMemory, CpuAttention};
use super::buffers::{Buffer, CpuStream, Pool};
use super::cache::LayerCache;
use super::norm::{CpuNorm, add_product};
use super::parallel::{for_each_part, rows_per_part};
use super::times::{PassTimes, Stopwatch};
use crate::compute::{Compute, HeadParts, HeadShape, LayerParts};
use crate::config::{Activation, ModelConfig};
use crate::error::{Error, Result};
use crate::norm::Norm;
use crate::rotary::{Angles, Rotaries};
use crate::token_table::TokenTable;

/// A linear layer and its name, for errors.
#[derive(Debug)]
pub(crate) struct NamedLinear<'w> {
    pub(super) linear: CpuLinear<'w>,
    name: String,
}

/// The rows of one sequence in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Index of the sequence, whose KV caches the rows use.
    pub(super) sequence: usize,
    /// Position of the first row.
    pub(super) start: usize,
    pub(super) rows: usize,
    /// Length of the sequence that the rows are part of. It may continue after the pass.
    pub(super) total: usize,
    /// Number of rows, counted from the last one, whose logits are wanted.
    pub(super) wanted: usize,
}

/// Computes the rows of one or several sequences, with its own buffers, KV caches and time account.
#[derive(Debug)]
pub(crate) struct CpuCompute {
    device: Device,
    shape: HeadShape,
    rotaries: Rotaries,
    /// The KV caches of each sequence, one for each layer.
    caches: Vec<Vec<LayerCache>>,
    pool: Pool,
    linear_scratch: CpuScratch,
    attention_memory: AttentionMemory,
    /// The spans of the pass.
    spans: Vec<Span>,
    /// Number of rows of all spans.
    rows: usize,
    /// The angles of the pass, for each of `rotaries`.
    angles: Vec<Angles>,
    /// The output of [`head`](Compute::head), from row `logit_row` on.
    pub(super) logits: Vec<f32>,
    pub(super) logit_row: usize,
    pub(super) times: PassTimes,
    watch: Stopwatch,
}

impl CpuCompute {
    /// An instance without KV caches.
    pub(super) fn new(config: &ModelConfig, device: &Device) -> Self {
        let shape = HeadShape::of(config);
        Self {
            device: device.clone(),
            shape,
            rotaries: Rotaries::new(&config.layers(), shape.head_dim),
            caches: Vec::new(),
            pool: Pool::default(),
            linear_scratch: CpuScratch::default(),
            attention_memory: AttentionMemory::default(),
            spans: Vec::new(),
            rows: 0,
            angles: Vec::new(),
            logits: Vec::new(),
            logit_row: 0,
            times: PassTimes::default(),
            watch: Stopwatch::start(),
        }
    }

    /// An instance for passes over single layers: one KV cache of `capacity` positions serves every layer.
    pub(crate) fn for_single_layers(config: &ModelConfig, device: &Device, capacity: usize) -> Self {
        let mut compute = Self::new(config, device);
        compute.allocate(0, 1, KvCacheType::F32, capacity);
        compute
    }

    /// Gives a sequence `layers` KV caches of `capacity` positions.
    pub(super) fn allocate(&mut self, sequence: usize, layers: usize, kind: KvCacheType, capacity: usize) {
        let shape = self.shape;
        let cache = |_| LayerCache::new(kind, shape, capacity);
        if self.caches.len() <= sequence {
            self.caches.resize_with(sequence + 1, Vec::new);
        }
        self.caches[sequence] = (0..layers).map(cache).collect();
    }

    /// Frees the KV caches of a sequence.
    pub(super) fn release(&mut self, sequence: usize) {
        if let Some(caches) = self.caches.get_mut(sequence) {
            *caches = Vec::new();
        }
    }

    /// Starts a pass over the rows of several sequences, one span after the other.
    pub(super) fn start_spans(&mut self, spans: Vec<Span>) {
        self.watch = Stopwatch::start();
        self.rows = spans.iter().map(|span| span.rows).sum();
        // Calibration runs window after window through a layer, all at the same positions.
        if spans == self.spans {
            return;
        }
        let mut angles = spans.iter().map(|span| self.rotaries.angles(span.start, span.rows, span.total));
        self.angles = angles.next().unwrap_or_default();
        for more in angles {
            self.angles.iter_mut().zip(more).for_each(|(angles, more)| angles.append(more));
        }
        self.spans = spans;
    }

    /// Reduces the stream to the rows whose logits are wanted.
    pub(super) fn keep_wanted(&mut self, stream: &mut CpuStream) {
        let width = stream.x.len() / self.rows;
        let mut ranges = Vec::with_capacity(self.spans.len());
        let mut end = 0;
        for span in &self.spans {
            end += span.rows;
            ranges.push((end - span.wanted) * width..end * width);
        }
        stream.x.keep(&ranges);
        stream.pending.iter_mut().flatten().for_each(|(delta, _)| delta.keep(&ranges));
        self.rows = self.spans.iter().map(|span| span.wanted).sum();
    }

    /// Bytes of the KV caches.
    pub(super) fn cache_bytes(&self) -> usize {
        self.caches.iter().flatten().map(LayerCache::byte_size).sum()
    }

    /// Performs the pending additions and returns their buffers.
    fn apply_pending(&mut self, stream: &mut CpuStream) {
        for (delta, factor) in stream.pending.iter_mut().filter_map(Option::take) {
            add_product(&mut stream.x, &delta, factor);
            self.pool.give(delta);
        }
    }

    /// Copies a tensor's values to a buffer.
    fn buffer_of<const D: usize>(&mut self, tensor: Tensor<D>) -> Result<Buffer> {
        let mut buffer = self.pool.take(tensor.dims().iter().product());
        copy_values(tensor, &mut buffer)?;
        Ok(buffer)
    }
}

impl Compute for CpuCompute {
    type Linear<'w> = NamedLinear<'w>;
    type Norm<'w> = CpuNorm;
    type Stream = CpuStream;
    type Value = Buffer;
    /// The logits are in [`CpuCompute::logits`].
    type Logits = ();
    type Error = Error;

    fn linear<'w>(&self, linear: &'w Linear, name: &str) -> Result<NamedLinear<'w>> {
        let cpu = CpuLinear::new(linear, &self.device).map_err(|error| broken(name, &error))?;
        Ok(NamedLinear { linear: cpu, name: name.to_owned() })
    }

    fn norm(&self, norm: &Norm) -> Result<CpuNorm> {
        CpuNorm::new(norm)
    }

    fn start(&mut self, start: usize, rows: usize) {
        self.start_spans(vec![Span { sequence: 0, start, rows, total: start + rows, wanted: rows }]);
    }

    fn embed(&mut self, table: &TokenTable, ids: Tensor<2, Int>) -> Result<CpuStream> {
        let x = self.buffer_of(table.lookup(ids))?;
        self.times.rest += self.watch.lap();
        Ok(CpuStream::new(x))
    }

    fn positions(&mut self, table: &Tensor<2>) -> Result<Buffer> {
        let rows = self.spans.iter().map(|span| table.clone().narrow(0, span.start, span.rows));
        self.buffer_of(Tensor::cat(rows.collect(), 0))
    }

    fn scale(&mut self, stream: &mut CpuStream, factor: f64) -> Result<()> {
        self.apply_pending(stream);
        slm_cpu_ops::scale(&mut stream.x, factor as f32);
        Ok(())
    }

    fn read(&mut self, stream: &mut CpuStream, norm: Option<&CpuNorm>) -> Result<Buffer> {
        let mut out = self.pool.take(stream.x.len());
        match norm {
            Some(norm) => {
                let (x, deltas) = stream.split();
                norm.add_and_normalize(x, deltas, &mut out);
                for (delta, _) in stream.pending.iter_mut().filter_map(Option::take) {
                    self.pool.give(delta);
                }
            }
            None => {
                self.apply_pending(stream);
                out.copy_from_slice(&stream.x);
            }
        }
        self.times.rest += self.watch.lap();
        Ok(out)
    }

    fn normalize(&mut self, mut x: Buffer, norm: &CpuNorm) -> Result<Buffer> {
        let mut out = self.pool.take(x.len());
        norm.add_and_normalize(&mut x, [None, None], &mut out);
        self.pool.give(x);
        self.times.rest += self.watch.lap();
        Ok(out)
    }

    fn add(&mut self, stream: &mut CpuStream, x: Buffer, factor: f64) -> Result<()> {
        if stream.pending[1].is_some() {
            self.apply_pending(stream);
        }
        let free = usize::from(stream.pending[0].is_some());
        stream.pending[free] = Some((x, factor as f32));
        Ok(())
    }

    fn linears<const N: usize>(&mut self, x: Buffer, linears: [&NamedLinear<'_>; N]) -> Result<[Buffer; N]> {
        let rows = self.rows;
        let mut outputs = linears.map(|linear| (linear, self.pool.take(rows * linear.linear.out_features())));
        let mut slots = outputs.each_mut().map(|(linear, out)| CpuOutput { layer: &linear.linear, out });
        let name = linears.first().map_or("", |linear| &linear.name);
        apply_linears(&x, rows, &mut slots, &mut self.linear_scratch)
            .map_err(|error| broken(name, &error))?;
        self.pool.give(x);
        self.times.products += self.watch.lap();
        Ok(outputs.map(|(_, out)| out))
    }

    fn attend<'w>(
        &mut self,
        [mut q, mut k, v]: [Buffer; 3],
        layer: &LayerParts<NamedLinear<'w>, CpuNorm>,
    ) -> Result<Buffer> {
        let attention = CpuAttention {
            shape: self.shape,
            window: layer.spec.sliding_window,
            scale: layer.spec.attention_scale,
            angles: self.rotaries.index(layer.spec.rotary.as_ref()).map(|index| &self.angles[index]),
            q_norm: layer.q_norm.as_ref(),
            k_norm: layer.k_norm.as_ref(),
        };
        attention.place(&mut q, &mut k, self.rows);
        let width = k.len() / self.rows;
        let mut row = 0;
        for span in &self.spans {
            let values = row * width..(row + span.rows) * width;
            let cache = &mut self.caches[span.sequence][layer.slot];
            cache
                .store(span.start, &k[values.clone()], &v[values])
                .map_err(|KvOverflow { value }| Error::KvOverflow { layer: layer.slot, value })?;
            row += span.rows;
        }
        self.times.rest += self.watch.lap();
        let mut out = self.pool.take(q.len());
        let spans = self.spans.iter().map(|span| (*span, &self.caches[span.sequence][layer.slot]));
        attention.attend(spans, &q, &mut out, self.rows, &mut self.attention_memory);
        [q, k, v].into_iter().for_each(|buffer| self.pool.give(buffer));
        self.times.attention += self.watch.lap();
        Ok(out)
    }

    fn activate(&mut self, gate: Option<Buffer>, mut up: Buffer, activation: Activation) -> Result<Buffer> {
        let width = up.len() / self.rows;
        let part = rows_per_part(self.rows, width) * width;
        let inner = match gate {
            Some(mut gate) => {
                for_each_part(gate.chunks_mut(part).zip(up.chunks(part)), |(gate, up)| match activation {
                    Activation::Silu => swiglu(gate, up),
                    Activation::Gelu => geglu(gate, up),
                    Activation::GeluTanh => geglu_tanh(gate, up),
                });
                self.pool.give(up);
                gate
            }
            None => {
                for_each_part(up.chunks_mut(part), |up| match activation {
                    Activation::Silu => silu(up),
                    Activation::Gelu => gelu(up),
                    Activation::GeluTanh => gelu_tanh(up),
                });
                up
            }
        };
        self.times.rest += self.watch.lap();
        Ok(inner)
    }

    fn settle(&mut self, stream: &mut CpuStream) -> Result<()> {
        self.apply_pending(stream);
        Ok(())
    }

    fn copy(&mut self, stream: &CpuStream) -> CpuStream {
        let mut x = self.pool.take(stream.x.len());
        x.copy_from_slice(&stream.x);
        CpuStream::new(x)
    }

    fn keep_last(&mut self, stream: &mut CpuStream) -> Result<()> {
        self.spans.iter_mut().for_each(|span| span.wanted = 1);
        self.keep_wanted(stream);
        Ok(())
    }

    fn finish(&mut self, stream: CpuStream) {
        self.pool.give(stream.x);
        for (delta, _) in stream.pending.into_iter().flatten() {
            self.pool.give(delta);
        }
    }

    fn head(&mut self, x: Buffer, head: &HeadParts<NamedLinear<'_>>, factor: f64) -> Result<()> {
        let rows = self.rows;
        let vocab = match head {
            HeadParts::Linear(head) => head.linear.out_features(),
            HeadParts::Tied(embedding) => embedding.dims()[0],
        };
        let end = (self.logit_row + rows) * vocab;
        if self.logits.len() < end {
            self.logits.resize(end, 0.0);
        }
        let out = &mut self.logits[self.logit_row * vocab..end];
        match head {
            HeadParts::Linear(head) => {
                let outputs = &mut [CpuOutput { layer: &head.linear, out: &mut *out }];
                apply_linears(&x, rows, outputs, &mut self.linear_scratch)
                    .map_err(|error| broken(&head.name, &error))?;
            }
            HeadParts::Tied(embedding) => {
                let broken = |error: slm_nn::Error| broken("tied head", &error);
                let linear = Linear::from_weight((**embedding).clone(), None).map_err(broken)?;
                let layer = &CpuLinear::new(&linear, &self.device).map_err(broken)?;
                let outputs = &mut [CpuOutput { layer, out: &mut *out }];
                apply_linears(&x, rows, outputs, &mut self.linear_scratch).map_err(broken)?;
            }
        }
        if factor != 1.0 {
            slm_cpu_ops::scale(out, factor as f32);
        }
        self.pool.give(x);
        self.times.products += self.watch.lap();
        Ok(())
    }
}

fn broken(what: &str, error: &slm_nn::Error) -> Error {
    Error::Device { what: what.to_owned(), detail: error.to_string() }
}

/// Copies a tensor's values to a slice of the same length.
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

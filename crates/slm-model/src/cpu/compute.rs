//! [`Compute`] on slices of host memory.

use burn::tensor::{Device, Int, Tensor, TensorData};
use slm_cpu_ops::{AttentionScratch, KvLayer, geglu, geglu_tanh, gelu, gelu_tanh, silu, swiglu};
use slm_nn::{CpuLinear, CpuOutput, CpuScratch, Linear, apply_linears};
use slm_runtime::HugeVec;

use super::attention::CpuAttention;
use super::buffers::{Buffer, CpuStream, Pool};
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

/// Computes one sequence at a time, with buffers, KV caches and an account of the time of its own.
#[derive(Debug)]
pub(crate) struct CpuCompute {
    device: Device,
    shape: HeadShape,
    rotaries: Rotaries,
    caches: Vec<KvLayer<HugeVec<f32>>>,
    pool: Pool,
    linear_scratch: CpuScratch,
    /// For each part of an attention that runs at once.
    attention_scratch: Vec<AttentionScratch>,
    /// Position of the first row of the pass.
    start: usize,
    rows: usize,
    /// Length of the sequence that the pass is part of, where it is longer than what the pass reaches.
    pub(super) sequence: usize,
    /// Of the pass, for each of `rotaries`.
    angles: Vec<Angles>,
    /// What [`head`](Compute::head) writes, from row `logit_row` on.
    pub(super) logits: Vec<f32>,
    pub(super) logit_row: usize,
    pub(super) times: PassTimes,
    watch: Stopwatch,
}

impl CpuCompute {
    /// With `caches` KV caches of `capacity` positions.
    pub(crate) fn new(config: &ModelConfig, device: &Device, caches: usize, capacity: usize) -> Self {
        let shape = HeadShape::of(config);
        let cache = |_| KvLayer::with_buffers(shape.kv_heads, shape.head_dim, capacity, HugeVec::zeroed);
        Self {
            device: device.clone(),
            shape,
            rotaries: Rotaries::new(&config.layers(), shape.head_dim),
            caches: (0..caches).map(cache).collect(),
            pool: Pool::default(),
            linear_scratch: CpuScratch::default(),
            attention_scratch: Vec::new(),
            start: 0,
            rows: 0,
            sequence: 0,
            angles: Vec::new(),
            logits: Vec::new(),
            logit_row: 0,
            times: PassTimes::default(),
            watch: Stopwatch::start(),
        }
    }

    /// Bytes of the KV caches.
    pub(super) fn cache_bytes(&self) -> usize {
        self.caches.iter().map(KvLayer::byte_size).sum()
    }

    /// Carries out the pending additions and gives their memory back.
    fn apply_pending(&mut self, stream: &mut CpuStream) {
        for (delta, factor) in stream.pending.iter_mut().filter_map(Option::take) {
            add_product(&mut stream.x, &delta, factor);
            self.pool.give(delta);
        }
    }

    /// A tensor's values in a buffer.
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
    /// They are in [`CpuCompute::logits`].
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
        self.watch = Stopwatch::start();
        (self.start, self.rows) = (start, rows);
        self.angles = self.rotaries.angles(start, rows, self.sequence.max(start + rows));
    }

    fn embed(&mut self, table: &TokenTable, ids: Tensor<2, Int>) -> Result<CpuStream> {
        let x = self.buffer_of(table.lookup(ids))?;
        self.times.rest += self.watch.lap();
        Ok(CpuStream::new(x))
    }

    fn positions(&mut self, table: &Tensor<2>) -> Result<Buffer> {
        self.buffer_of(table.clone().narrow(0, self.start, self.rows))
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
            start: self.start,
            rows: self.rows,
            window: layer.spec.sliding_window,
            scale: layer.spec.attention_scale,
            angles: self.rotaries.index(layer.spec.rotary.as_ref()).map(|index| &self.angles[index]),
            q_norm: layer.q_norm.as_ref(),
            k_norm: layer.k_norm.as_ref(),
        };
        attention.place(&mut q, &mut k);
        let cache = &mut self.caches[layer.slot];
        cache.store(self.start, &k, &v);
        self.times.rest += self.watch.lap();
        let mut out = self.pool.take(q.len());
        attention.attend(cache, &q, &mut out, &mut self.attention_scratch);
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
        let width = stream.x.len() / self.rows;
        stream.x.keep_last(width);
        stream.pending.iter_mut().flatten().for_each(|(delta, _)| delta.keep_last(width));
        self.rows = 1;
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
                let data = TensorData::new(x.to_vec(), [rows, x.len() / rows]);
                let x = Tensor::<2>::from_data(data, &self.device);
                copy_values(x.matmul((**embedding).clone().transpose()), out)?;
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

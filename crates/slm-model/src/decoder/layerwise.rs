//! Sequences on their way through layers that come one at a time, on slices.

use burn::tensor::{Device, Int, Tensor};
use slm_nn::{Linear, SliceOutput, apply_linears};

use super::buffers::Buffers;
use super::layer::{DecoderLayer, Pass};
use super::norm::SliceNorm;
use super::times::{PassTimes, Stopwatch};
use super::{broken, embed, slice_linear};
use crate::block::Block;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::names::LM_HEAD;
use crate::norm::Norm;
use crate::rotary::Rotary;

/// The residual streams of several sequences, each of which starts at position 0. What layers see of a sequence is
/// what they see of it in a [`Decoder`](super::Decoder), bit for bit.
#[derive(Default)]
pub(crate) struct SliceWindows {
    /// `[len, hidden]` of each sequence.
    streams: Vec<Vec<f32>>,
    buffers: Buffers,
}

impl SliceWindows {
    /// Adds a sequence.
    pub(crate) fn embed(
        &mut self,
        config: &ModelConfig,
        embedding: (&Tensor<2>, Option<&Tensor<2>>),
        ids: Tensor<2, Int>,
    ) -> Result<()> {
        let [_, rows] = ids.dims();
        self.buffers.prepare(config, rows);
        embed(embedding, ids, 0, &mut self.buffers)?;
        self.streams.push(self.buffers.x[..rows * config.hidden_size].to_vec());
        Ok(())
    }

    /// Takes all sequences through layer `index`, and calls `done` after each.
    pub(crate) fn run_layer<E: From<crate::Error>>(
        &mut self,
        (index, block): (usize, &Block),
        config: &ModelConfig,
        rotary: Option<&Rotary>,
        device: &Device,
        done: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { streams, buffers } = self;
        let longest = streams.iter().map(Vec::len).max().unwrap_or(0) / config.hidden_size;
        let mut layer = DecoderLayer::new(block, index, config, longest, device)?;
        for stream in streams {
            let (width, rows) = (stream.len(), stream.len() / config.hidden_size);
            let rotary = rotary.map(|rotary| rotary.angles(0, rows));
            let pass = Pass { config, start: 0, rows, rotary: rotary.as_ref() };
            buffers.prepare(config, rows);
            buffers.x[..width].copy_from_slice(stream);
            buffers.has_delta = false;
            layer.run(&pass, buffers, &mut PassTimes::default(), &mut Stopwatch::start())?;
            stream.copy_from_slice(&buffers.x[..width]);
            slm_cpu_ops::add(stream, &buffers.delta[..width]);
            done()?;
        }
        Ok(())
    }

    /// Applies the last norm and the head to all sequences.
    pub(crate) fn run_head<E: From<crate::Error>>(
        &mut self,
        norm: &Norm,
        head: &Linear,
        config: &ModelConfig,
        device: &Device,
        done: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let norm = SliceNorm::new(norm, config.norm_eps)?;
        let head = slice_linear(head, device, || LM_HEAD.to_owned())?;
        let Buffers { normed, logits, linear_scratch, .. } = &mut self.buffers;
        for stream in &mut self.streams {
            let (width, rows) = (stream.len(), stream.len() / config.hidden_size);
            norm.add_and_normalize(stream, None, &mut normed[..width]);
            logits.resize(rows * config.vocab_size, 0.0);
            let outputs = &mut [SliceOutput { layer: &head, out: logits }];
            apply_linears(&normed[..width], rows, outputs, linear_scratch)
                .map_err(|error| broken(LM_HEAD, &error))?;
            done()?;
        }
        Ok(())
    }
}

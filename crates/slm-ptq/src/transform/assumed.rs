//! Inputs that the layers of a rotated model are assumed to have where no text runs through it.
//!
//! A rotation spreads every channel of the residual stream over all of them, so that the best guess is that channels are
//! independent and alike, after a norm with a root mean square of 1. Normally distributed rows run through the first half
//! of each MLP for the inputs of `down_proj`, which is not rotated. The inputs of a model that is not rotated differ too
//! much for such a guess: ranges that are chosen by it are worse than those from minimum to maximum.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use slm_checkpoint::Checkpoint;
use slm_model::{Activation, LayerSpec};
use slm_nn::to_vec_f32;

use super::equalize::{InputRows, ROWS, linear};
use super::rotation::normal;
use super::{TransformedSource, Transforms};
use crate::{Calibration, Error, InputMoments, ObservedInputs, Plan, Result};

/// Seed of the rows.
const SEED: u64 = 0;

impl Transforms {
    /// Normally distributed inputs of every `up_proj`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for norms that cannot be read.
    pub(crate) fn assumed_rows(&self, checkpoint: &Checkpoint) -> Result<InputRows> {
        let source = TransformedSource::new(checkpoint, self);
        let hidden = self.model.hidden_size;
        let normalized = normalized_rows(ROWS, hidden, &mut ChaCha8Rng::seed_from_u64(SEED));
        let rows = |index: usize| {
            let mut rows = normalized.clone();
            // The weight of the norm is folded into the layers after it.
            if let Some(bias) = source.read_bias(&format!("layers.{index}.post_attention_norm"))? {
                for row in rows.chunks_exact_mut(hidden.max(1)) {
                    row.iter_mut().zip(&bias).for_each(|(value, bias)| *value += bias);
                }
            }
            Ok((format!("layers.{index}.mlp.up_proj"), rows))
        };
        (0..self.model.num_layers).map(rows).collect()
    }

    /// Mean squares of the inputs of the planned layers, where `rows` are inputs of each `up_proj`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for weights that cannot be read, [`Error::Layer`] for an MLP that cannot be computed.
    pub(crate) fn assumed_inputs(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        rows: &InputRows,
        device: &Device,
    ) -> Result<Calibration> {
        let source = TransformedSource::new(checkpoint, self);
        let rotated = plan.layers.iter().filter(|layer| self.rotates_input_of(&layer.name));
        let mut squares: BTreeMap<String, Vec<f32>> =
            rotated.map(|layer| (layer.name.clone(), vec![1.0; layer.shape[1]])).collect();
        let of_down = |(index, layer): (usize, &LayerSpec)| -> Result<Option<(String, Vec<f32>)>> {
            let path = |part: &str| format!("layers.{index}.mlp.{part}");
            let (up, down) = (path("up_proj"), path("down_proj"));
            let Some(rows) = rows.get(&up).filter(|_| plan.quantizes(&down)) else { return Ok(None) };
            let gate = layer.mlp.is_gated().then(|| path("gate_proj"));
            let middle = middle(&source, rows, gate, up, layer.mlp.activation(), device)?;
            Ok(Some((down, mean_squares(&middle, rows.len() / self.model.hidden_size.max(1)))))
        };
        let found: Vec<Option<_>> =
            self.model.layers().par_iter().enumerate().map(of_down).collect::<Result<_>>()?;
        squares.extend(found.into_iter().flatten());
        let assumed = squares.into_iter().map(|(layer, squares)| {
            let moments = InputMoments::MeanSquares(squares);
            (layer, ObservedInputs { activation: None, moments, drift: None })
        });
        Ok(Calibration { layers: assumed.collect() })
    }
}

/// `rows` normally distributed rows of `width` values with a root mean square of 1.
fn normalized_rows(rows: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values: Vec<f32> = (0..rows * width).map(|_| normal(rng) as f32).collect();
    for row in values.chunks_exact_mut(width.max(1)) {
        let mean = row.iter().map(|value| value * value).sum::<f32>() / width as f32;
        row.iter_mut().for_each(|value| *value /= mean.max(f32::MIN_POSITIVE).sqrt());
    }
    values
}

/// Inputs of `down_proj` for `rows` of inputs of an MLP, whose gate is `None` if it has none.
fn middle(
    source: &TransformedSource<'_>,
    rows: &[f32],
    gate: Option<String>,
    up: String,
    activation: Activation,
    device: &Device,
) -> Result<Vec<f32>> {
    let hidden = source.hidden_size().max(1);
    let inputs =
        Tensor::<2>::from_data(TensorData::new(rows.to_vec(), [rows.len() / hidden, hidden]), device);
    let output = |path: &str| -> Result<Tensor<2>> {
        let weight = source.read_f32(&format!("{path}.weight"))?;
        let bias = source.read_bias(path)?;
        Ok(linear(inputs.clone(), weight, bias.as_deref(), device))
    };
    let outputs = output(&up)?;
    let middle = match gate {
        Some(gate) => activation.apply(output(&gate)?) * outputs,
        None => activation.apply(outputs),
    };
    to_vec_f32("input of down_proj", middle).map_err(|error| Error::layer(&up, error))
}

/// Mean square of each column of a matrix with `rows` rows.
fn mean_squares(values: &[f32], rows: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; values.len() / rows.max(1)];
    for row in values.chunks_exact(sums.len().max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value).powi(2));
    }
    sums.into_iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect()
}

//! Equalization of the channels between `up_proj` and `down_proj` of a gated MLP, chosen by the error of its output.
//!
//! Channel j is divided by a factor in `up_proj` and multiplied by it in `down_proj`, which in floats changes nothing.
//! Candidates are `s_j = activation_j^a (up_j / down_j)^b`: `a` makes large activations smaller (SmoothQuant: Xiao and
//! others, 2022), and `b` balances the peaks of rows and columns (Nagel and others, 2019). Rows of inputs run through the
//! quantized MLP of each candidate, and the candidate whose output is nearest to that of the float MLP is chosen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use slm_checkpoint::Checkpoint;
use slm_kernels::quantize_activations;
use slm_model::{Activation, FINAL_NORM, LM_HEAD, LayerSpec};
use slm_nn::{ForwardHook, to_vec_f32};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Granularity, ObserverKind, QuantScheme, QuantizationType,
    dequantize_into, quantize_matrix,
};

use super::readers::Readers;
use super::{TransformedSource, Transforms};
use crate::{Error, Plan, PtqConfig, Result, RoundingMethod};

/// Number of rows of inputs on which candidates are compared.
pub(super) const ROWS: usize = 128;
/// Maximum number of rows from one window.
const ROWS_PER_WINDOW: usize = 32;
/// Maximum error, as a share of that without equalization, for which channels are equalized.
const WORTH: f64 = 0.97;
/// Powers of the activations: of the root mean square of a channel, and of its peak.
const RMS_POWERS: [f64; 3] = [0.125, 0.25, 0.5];
const PEAK_POWERS: [f64; 2] = [0.25, 0.5];
/// Powers of the ratio of the peaks of weights.
const WEIGHT_POWERS: [f64; 4] = [0.0, 0.25, 0.5, 0.75];
/// Minimum magnitude of a channel, as a share of the largest; smaller magnitudes are raised to it.
const LEAST: f64 = 1e-4;

/// Rows of the outputs of norms, row-major, by the path of a layer that reads them.
pub(crate) type InputRows = BTreeMap<String, Vec<f32>>;

/// A hook that keeps a few rows of the inputs of each `q_proj`, `up_proj` and head, spread evenly over a window and over
/// windows.
#[derive(Default)]
pub(crate) struct InputRowsHook(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    rows: InputRows,
    failed: Option<Error>,
    /// `true` if the model overflowed.
    not_finite: bool,
}

impl InputRowsHook {
    /// The kept rows; none if the model overflowed, which the calibration afterwards reports with the layer.
    ///
    /// # Errors
    /// [`Error::Layer`] for inputs that could not be read.
    pub(crate) fn take(&self) -> Result<InputRows> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.failed.take() {
            Some(error) => Err(error),
            None if seen.not_finite => Ok(InputRows::new()),
            None => Ok(std::mem::take(&mut seen.rows)),
        }
    }
}

impl ForwardHook for InputRowsHook {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, _: &Tensor<2>) {
        if !(layer.ends_with(".up_proj") || layer.ends_with(".q_proj") || layer == LM_HEAD) {
            return;
        }
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [rows, cols] = input.dims();
        match to_vec_f32("input", input.clone()) {
            Ok(values) => {
                seen.not_finite |= values.iter().any(|value| !value.is_finite());
                let kept = seen.rows.entry(layer.to_owned()).or_default();
                let window = kept.len() / (ROWS_PER_WINDOW * cols).max(1);
                let stride = rows.div_ceil(ROWS_PER_WINDOW).max(1);
                // The first row of a window, whose activations are often massive, is kept only for the first window.
                let chosen = values.chunks_exact(cols.max(1)).skip(window * 5 % stride).step_by(stride);
                let room = (ROWS * cols).saturating_sub(kept.len()) / cols.max(1);
                chosen.take(room).for_each(|row| kept.extend_from_slice(row));
            }
            Err(error) => {
                seen.failed.get_or_insert_with(|| Error::layer(layer, error));
            }
        }
    }

    fn reads_output(&self) -> bool {
        false
    }
}

/// Indices among `count` windows of a text that together give enough rows for the comparison.
pub(crate) fn sampled_windows(count: usize) -> impl Iterator<Item = usize> {
    let wanted = ROWS.div_ceil(ROWS_PER_WINDOW).min(count);
    (0..wanted).map(move |index| index * count / wanted.max(1))
}

impl Transforms {
    /// Equalizes the MLPs of `checkpoint`, as changed so far, if that brings their quantized outputs nearer to the float
    /// outputs. It does the same for the readers of norms if the model is not rotated and either activations are quantized
    /// or the method is AWQ. `inputs` are rows from a text.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for weights that cannot be read, [`Error::Layer`] for weights that cannot be quantized.
    pub(crate) fn equalize(
        &mut self,
        checkpoint: &Checkpoint,
        inputs: &InputRows,
        plan: &Plan,
        config: &PtqConfig,
        device: &Device,
    ) -> Result<()> {
        self.smoothing.clear();
        let source = TransformedSource::new(checkpoint, self);
        let equalized = |(index, layer): (usize, &LayerSpec)| -> Result<Option<(String, Vec<f64>)>> {
            let path = |part: &str| format!("layers.{index}.mlp.{part}");
            let (up, down) = (path("up_proj"), path("down_proj"));
            let quantized = plan.quantizes(&up) || plan.quantizes(&down);
            if !layer.mlp.is_gated() || !quantized || !config.equalizes_layer(&down) {
                return Ok(None);
            }
            let Some(rows) = inputs.get(&up) else { return Ok(None) };
            let scheme = |layer: &str| plan.quantizes(layer).then(|| config.scheme_of(layer));
            let quantizes = config.quantization_type != QuantizationType::WeightOnly && plan.quantizes(&down);
            let schemes = Schemes { up: scheme(&up), down: scheme(&down), quantizes_input: quantizes };
            let mlp = Mlp::read(&source, index, layer.mlp.activation(), rows, schemes, device)?;
            let factors = mlp.best().map_err(|error| Error::layer(&down, error))?;
            Ok(factors.map(|factors| (up, factors)))
        };
        let found: Vec<Option<_>> =
            self.model.layers().par_iter().enumerate().map(equalized).collect::<Result<_>>()?;
        let found: Vec<(String, Vec<f64>)> = found.into_iter().flatten().collect();
        let quantizes_inputs = config.quantization_type != QuantizationType::WeightOnly;
        let scales_norms = quantizes_inputs || config.method == RoundingMethod::Awq;
        let norms = match self.residual.is_none() && scales_norms {
            true => self.equalize_norms(&source, inputs, plan, config, device)?,
            false => Vec::new(),
        };
        // The factors of a tied head do not apply to the embedding, so the head is untied.
        self.model.tie_word_embeddings &= norms.iter().all(|(norm, _)| norm != FINAL_NORM);
        self.equalized = Some(found.len());
        self.equalized_norms = norms.len();
        self.smoothing.extend(norms);
        self.smoothing.extend(found);
        Ok(())
    }

    /// Factors of the norms for which they bring the outputs of the readers nearer to the float outputs. A rotated
    /// model does not need them, because its channels are similar.
    fn equalize_norms(
        &self,
        source: &TransformedSource<'_>,
        inputs: &InputRows,
        plan: &Plan,
        config: &PtqConfig,
        device: &Device,
    ) -> Result<Vec<(String, Vec<f64>)>> {
        let has_head = plan.quantizes(LM_HEAD) && !plan.embedding.is_some_and(|table| table.shared);
        let mut found = Vec::new();
        for (divided, readers) in super::source::smoothed(&self.model, has_head) {
            let Some(rows) = readers.iter().find_map(|reader| inputs.get(reader)) else { continue };
            let is_norm = divided == FINAL_NORM || divided.ends_with("_norm");
            if !is_norm
                || !readers.iter().all(|reader| plan.quantizes(reader) && config.equalizes_layer(reader))
            {
                continue;
            }
            let layer = |reader: &String| {
                Ok((source.read_f32(&format!("{reader}.weight"))?, Some(config.scheme_of(reader))))
            };
            let layers = readers.iter().map(layer).collect::<Result<Vec<_>>>()?;
            let failed = |error| Error::layer(&divided, error);
            let quantizes_input = config.quantization_type != QuantizationType::WeightOnly;
            let readers = Readers::new(rows, self.model.hidden_size, layers, quantizes_input, device)
                .map_err(failed)?;
            if let Some(factors) = readers.best().map_err(failed)? {
                found.push((divided, factors));
            }
        }
        Ok(found)
    }
}

/// Quantization of the two layers and of the input of the second; `None` for weights that stay float.
struct Schemes {
    up: Option<QuantScheme>,
    down: Option<QuantScheme>,
    quantizes_input: bool,
}

/// A gated MLP, and its results for some rows.
struct Mlp {
    schemes: Schemes,
    /// `[inner, hidden]`.
    up: Vec<f32>,
    up_bias: Option<Vec<f32>>,
    /// `[hidden, inner]`.
    down: Vec<f32>,
    inner: usize,
    hidden: usize,
    inputs: Tensor<2>,
    /// The activated gate, `[rows, inner]`.
    gate: Vec<f32>,
    /// Inputs of `down_proj`, `[rows, inner]`.
    middle: Vec<f32>,
    /// Outputs without bias, `[rows, hidden]`.
    outputs: Vec<f32>,
    device: Device,
}

impl Mlp {
    fn read(
        source: &TransformedSource<'_>,
        index: usize,
        activation: Activation,
        rows: &[f32],
        schemes: Schemes,
        device: &Device,
    ) -> Result<Self> {
        let read = |part: &str| source.read_f32(&format!("layers.{index}.mlp.{part}.weight"));
        let (gate, up, down) = (read("gate_proj")?, read("up_proj")?, read("down_proj")?);
        let bias = |part: &str| source.read_bias(&format!("layers.{index}.mlp.{part}"));
        let (gate_bias, up_bias) = (bias("gate_proj")?, bias("up_proj")?);
        let hidden = source.hidden_size();
        let inner = up.len() / hidden.max(1);
        let count = rows.len() / hidden.max(1);
        let inputs = Tensor::from_data(TensorData::new(rows.to_vec(), [count, hidden]), device);
        let mut mlp = Self {
            schemes,
            up,
            up_bias,
            down,
            inner,
            hidden,
            inputs,
            gate: Vec::new(),
            middle: Vec::new(),
            outputs: Vec::new(),
            device: device.clone(),
        };
        let failed = |error| Error::layer(&format!("layers.{index}.mlp"), error);
        let gates = linear(mlp.inputs.clone(), gate, gate_bias.as_deref(), device);
        mlp.gate = to_vec_f32("gate", activation.apply(gates)).map_err(failed)?;
        mlp.middle = mlp.gated(mlp.up.clone(), mlp.up_bias.as_deref()).map_err(failed)?;
        mlp.outputs = mlp.output(mlp.middle.clone(), mlp.down.clone()).map_err(failed)?;
        Ok(mlp)
    }

    /// Inputs of `down_proj` for this weight and bias of `up_proj`.
    fn gated(&self, up: Vec<f32>, bias: Option<&[f32]>) -> slm_nn::Result<Vec<f32>> {
        let mut middle = to_vec_f32("product", linear(self.inputs.clone(), up, bias, &self.device))?;
        middle.iter_mut().zip(&self.gate).for_each(|(value, gate)| *value *= gate);
        Ok(middle)
    }

    fn output(&self, middle: Vec<f32>, down: Vec<f32>) -> slm_nn::Result<Vec<f32>> {
        let rows = middle.len() / self.inner.max(1);
        let middle = Tensor::from_data(TensorData::new(middle, [rows, self.inner]), &self.device);
        to_vec_f32("product", linear(middle, down, None, &self.device))
    }

    /// The candidate with the least error; `None` if it is hardly better than no equalization.
    fn best(&self) -> slm_nn::Result<Option<Vec<f64>>> {
        best_of(self.candidates(), self.inner, |factors| self.error(factors))
    }

    fn candidates(&self) -> Vec<Vec<f64>> {
        let (rms, peaks) = channel_magnitudes(&self.middle, self.inner);
        let mut columns = vec![0.0; self.inner];
        super::smoothing::column_maxima(&self.down, &mut columns);
        let up_rows = self.up.chunks_exact(self.hidden.max(1));
        let rows =
            up_rows.map(|row| row.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs()))));
        let ratios: Vec<f64> =
            floored(rows.collect()).iter().zip(floored(columns)).map(|(row, column)| row / column).collect();
        let mut powers = vec![(&rms, 0.0)];
        powers.extend(RMS_POWERS.map(|power| (&rms, power)));
        powers.extend(PEAK_POWERS.map(|power| (&peaks, power)));
        let pairs = powers.iter().flat_map(|&activation| WEIGHT_POWERS.map(|weight| (activation, weight)));
        let candidate = |((values, a), b): ((&Vec<f64>, f64), f64)| -> Vec<f64> {
            let factors = values.iter().zip(&ratios).map(|(value, ratio)| value.powf(a) * ratio.powf(b));
            normalized(factors.collect())
        };
        // The first has powers of 0 only.
        pairs.skip(1).map(candidate).collect()
    }

    /// Mean over the rows of `|y' - y|² / |y|²`, where y' is the output of the quantized MLP that is equalized by
    /// `factors`. Each row counts at most 1.
    fn error(&self, factors: &[f64]) -> slm_nn::Result<f64> {
        let mut up = self.up.clone();
        for (row, factor) in up.chunks_exact_mut(self.hidden.max(1)).zip(factors) {
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / factor) as f32);
        }
        let mut down = scaled_columns(&self.down, factors, |value, factor| value * factor);
        let bias =
            self.up_bias.as_ref().map(|bias| scaled_columns(bias, factors, |value, factor| value / factor));
        // With one scale per row or per group, the scale is divided by the same factor as the row: nothing changes.
        let mut middle = match self.schemes.up {
            Some(scheme) if scheme.granularity == Granularity::PerTensor => {
                self.gated(rounded(&up, [self.inner, self.hidden], scheme)?, bias.as_deref())?
            }
            _ => scaled_columns(&self.middle, factors, |value, factor| value / factor),
        };
        if self.schemes.quantizes_input {
            quantize_rows(&mut middle, self.inner)?;
        }
        if let Some(scheme) = self.schemes.down {
            down = rounded(&down, [self.hidden, self.inner], scheme)?;
        }
        let outputs = self.output(middle, down)?;
        Ok(relative_error(&outputs, &self.outputs, self.hidden))
    }
}

/// The candidate with the least error; `None` if it is hardly better than factors of 1 for all `channels`.
pub(super) fn best_of(
    candidates: impl IntoIterator<Item = Vec<f64>>,
    channels: usize,
    error_of: impl Fn(&[f64]) -> slm_nn::Result<f64>,
) -> slm_nn::Result<Option<Vec<f64>>> {
    let mut best = (WORTH * error_of(&vec![1.0; channels])?, None);
    for factors in candidates {
        let error = error_of(&factors)?;
        if error < best.0 {
            best = (error, Some(factors));
        }
    }
    Ok(best.1)
}

/// The values of a `[_, factors.len()]` matrix, each combined with the factor of its column.
pub(super) fn scaled_columns(values: &[f32], factors: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f32> {
    let rows = values.chunks_exact(factors.len().max(1));
    rows.flat_map(|row| row.iter().zip(factors))
        .map(|(&value, &factor)| combine(f64::from(value), factor) as f32)
        .collect()
}

/// Root mean square and peak of each column of a `[_, cols]` matrix, in multiples of the root mean square of a row: each
/// row has its own scale, so only the size of a value relative to its row counts.
pub(super) fn channel_magnitudes(values: &[f32], cols: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut rms, mut peaks) = (vec![0.0_f64; cols], vec![0.0_f64; cols]);
    for row in values.chunks_exact(cols.max(1)) {
        let squares: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        let scale = (row.len() as f64 / squares.max(f64::MIN_POSITIVE)).sqrt();
        for ((rms, peak), &value) in rms.iter_mut().zip(&mut peaks).zip(row) {
            let value = f64::from(value.abs()) * scale;
            *rms += value * value;
            *peak = peak.max(value);
        }
    }
    rms.iter_mut().for_each(|value| *value = value.sqrt());
    (floored(rms), floored(peaks))
}

/// Mean over rows of `cols` values of `|y' - y|² / |y|²`. Each row counts at most 1.
pub(super) fn relative_error(found: &[f32], expected: &[f32], cols: usize) -> f64 {
    let width = cols.max(1);
    let relative = |(found, expected): (&[f32], &[f32])| {
        let square = |value: f32| f64::from(value).powi(2);
        let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
        let size: f64 = expected.iter().map(|&value| square(value)).sum();
        if error.is_finite() { (error / size.max(f64::MIN_POSITIVE)).min(1.0) } else { 1.0 }
    };
    let rows = found.chunks_exact(width).zip(expected.chunks_exact(width));
    rows.map(relative).sum::<f64>() / (expected.len() / width).max(1) as f64
}

/// The weight after quantization with a min-max range.
pub(super) fn rounded(
    values: &[f32],
    [rows, cols]: [usize; 2],
    scheme: QuantScheme,
) -> slm_nn::Result<Vec<f32>> {
    Ok(quantize_matrix(values, rows, cols, scheme, &ObserverKind::MinMax)?.dequantize())
}

/// Rounds each row to 8 bits with its own scale.
pub(super) fn quantize_rows(values: &mut [f32], cols: usize) -> slm_nn::Result<()> {
    let rows = values.len() / cols.max(1);
    let quant = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
    let quantized = quantize_activations(values, rows, cols, &quant)?;
    for (index, row) in values.chunks_exact_mut(cols.max(1)).enumerate() {
        dequantize_into(quantized.row_codes(index), quantized.qparams(index), row)?;
    }
    Ok(())
}

/// `x wᵀ + b` with the row-major weight `[_, inputs]`.
pub(super) fn linear(x: Tensor<2>, weight: Vec<f32>, bias: Option<&[f32]>, device: &Device) -> Tensor<2> {
    let inputs = x.dims()[1];
    let shape = [weight.len() / inputs.max(1), inputs];
    let product = x.matmul(Tensor::<2>::from_data(TensorData::new(weight, shape), device).transpose());
    match bias {
        Some(bias) => product + Tensor::<2>::from_data(TensorData::new(bias.to_vec(), [1, shape[0]]), device),
        None => product,
    }
}

/// The values, raised to at least a small share of the largest.
pub(super) fn floored(mut values: Vec<f64>) -> Vec<f64> {
    let most = values.iter().copied().fold(0.0, f64::max);
    let least = if most > 0.0 { LEAST * most } else { 1.0 };
    values.iter_mut().for_each(|value| *value = value.max(least));
    values
}

/// The values divided by their geometric mean.
pub(super) fn normalized(mut values: Vec<f64>) -> Vec<f64> {
    let mean = values.iter().map(|value| value.ln()).sum::<f64>() / values.len().max(1) as f64;
    values.iter_mut().for_each(|value| *value /= mean.exp());
    values
}

impl InputRowsHook {
    /// The hook as a trait object.
    pub(crate) fn shared(self: &Arc<Self>) -> Arc<dyn ForwardHook> {
        Arc::clone(self) as Arc<dyn ForwardHook>
    }
}

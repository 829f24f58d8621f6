//! Equalization of the channels between a norm and the layers that read it, chosen by the error of their outputs.
//!
//! Channel j is divided by a factor in the norm and multiplied by it in the columns of the layers. Candidates are
//! `s_j = activation_j^a / weight_j^b` (SmoothQuant: Xiao and others, 2022; with `b` = 0 AWQ: Lin and others, 2023).

use burn::tensor::{Device, Tensor, TensorData};
use slm_nn::to_vec_f32;
use slm_quant_core::QuantScheme;

use super::equalize::{
    best_of, channel_magnitudes, floored, normalized, quantize_rows, relative_error, rounded, scaled_columns,
};
use super::smoothing::column_maxima;

/// Powers of the activations and of the weights if inputs are quantized.
const POWERS: [(f64, f64); 7] =
    [(0.25, 0.0), (0.5, 0.0), (0.75, 0.0), (0.5, 0.5), (0.65, 0.35), (0.8, 0.2), (0.35, 0.65)];
/// The same if only weights are quantized (AWQ).
const WEIGHT_POWERS: [(f64, f64); 9] = [
    (0.1, 0.0),
    (0.2, 0.0),
    (0.3, 0.0),
    (0.4, 0.0),
    (0.5, 0.0),
    (0.6, 0.0),
    (0.7, 0.0),
    (0.8, 0.0),
    (0.9, 0.0),
];
/// Maximum number of outputs of one layer that are compared; a larger head is sampled evenly.
const OUTPUTS: usize = 4096;

/// The layers that read one norm, and rows of its output.
pub(super) struct Readers {
    rows: Vec<f32>,
    cols: usize,
    layers: Vec<Reader>,
    quantizes_input: bool,
    device: Device,
}

struct Reader {
    weight: Vec<f32>,
    scheme: Option<QuantScheme>,
    outputs: Vec<f32>,
}

impl Readers {
    /// `layers` are weights `[outputs, cols]` with their quantization. `quantizes_input` says whether their input is
    /// quantized to 8 bits.
    pub(super) fn new(
        rows: &[f32],
        cols: usize,
        layers: Vec<(Vec<f32>, Option<QuantScheme>)>,
        quantizes_input: bool,
        device: &Device,
    ) -> slm_nn::Result<Self> {
        let mut readers =
            Self { rows: rows.to_vec(), cols, layers: Vec::new(), quantizes_input, device: device.clone() };
        for (weight, scheme) in layers {
            let weight = some_rows(weight, cols);
            let outputs = readers.product(&readers.rows, &weight)?;
            readers.layers.push(Reader { weight, scheme, outputs });
        }
        Ok(readers)
    }

    fn product(&self, x: &[f32], weight: &[f32]) -> slm_nn::Result<Vec<f32>> {
        let tensor = |values: &[f32]| {
            let shape = [values.len() / self.cols.max(1), self.cols];
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &self.device)
        };
        to_vec_f32("product", tensor(x).matmul(tensor(weight).transpose()))
    }

    /// The candidate with the least error; `None` if it is hardly better than no equalization.
    pub(super) fn best(&self) -> slm_nn::Result<Option<Vec<f64>>> {
        let (rms, peaks) = channel_magnitudes(&self.rows, self.cols);
        let mut weights = vec![0.0; self.cols];
        self.layers.iter().for_each(|layer| column_maxima(&layer.weight, &mut weights));
        let weights = floored(weights);
        let powers: &[(f64, f64)] = if self.quantizes_input { &POWERS } else { &WEIGHT_POWERS };
        let candidates =
            [&rms, &peaks].into_iter().flat_map(|values| powers.iter().map(move |&p| (values, p)));
        let factors = candidates.map(|(values, (a, b))| {
            let factors = values.iter().zip(&weights).map(|(value, weight)| value.powf(a) / weight.powf(b));
            normalized(factors.collect())
        });
        best_of(factors, self.cols, |factors| self.error(factors))
    }

    /// Sum of the relative errors of the outputs of all layers.
    fn error(&self, factors: &[f64]) -> slm_nn::Result<f64> {
        let mut rows = scaled_columns(&self.rows, factors, |x, s| x / s);
        if self.quantizes_input {
            quantize_rows(&mut rows, self.cols)?;
        }
        let mut sum = 0.0;
        for layer in &self.layers {
            let mut weight = scaled_columns(&layer.weight, factors, |w, s| w * s);
            let count = weight.len() / self.cols.max(1);
            if let Some(scheme) = layer.scheme {
                weight = rounded(&weight, [count, self.cols], scheme)?;
            }
            sum += relative_error(&self.product(&rows, &weight)?, &layer.outputs, count);
        }
        Ok(sum)
    }
}

/// At most [`OUTPUTS`] rows of `weight`, evenly spread.
fn some_rows(weight: Vec<f32>, cols: usize) -> Vec<f32> {
    let count = weight.len() / cols.max(1);
    match count.div_ceil(OUTPUTS) {
        0 | 1 => weight,
        stride => weight.chunks_exact(cols).step_by(stride).flatten().copied().collect(),
    }
}

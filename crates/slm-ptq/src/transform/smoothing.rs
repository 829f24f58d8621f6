//! Smoothing of channels: makes large activations smaller and their weights larger.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use slm_nn::{ForwardHook, to_vec_f32};

use crate::{Error, Result};

/// Minimum magnitude of a channel; smaller magnitudes, such as those of unused channels, are raised to it.
const LEAST: f64 = 1e-5;

/// Largest absolute value of every input channel, by layer.
pub(crate) type ChannelMaxima = BTreeMap<String, Vec<f32>>;

/// The factors of SmoothQuant (Xiao and others, 2022): `s = activation^strength / weight^(1 - strength)` for each
/// channel. Activations are divided by them and weights multiplied.
pub(super) fn factors(activations: &[f64], weights: &[f64], strength: f64) -> Vec<f64> {
    let channels = activations.iter().zip(weights);
    let factor = |(&x, &w): (&f64, &f64)| x.max(LEAST).powf(strength) / w.max(LEAST).powf(1.0 - strength);
    channels.map(factor).collect()
}

/// Largest absolute value of every column of a `[_, cols]` matrix, or of `so_far` if that is larger.
pub(super) fn column_maxima(values: &[f32], so_far: &mut [f64]) {
    for row in values.chunks_exact(so_far.len().max(1)) {
        so_far.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(f64::from(value.abs())));
    }
}

/// A hook that keeps [`ChannelMaxima`].
#[derive(Default)]
pub(crate) struct MaximaHook(Mutex<(ChannelMaxima, Option<Error>)>);

impl MaximaHook {
    /// Takes the maxima seen so far.
    ///
    /// # Errors
    /// [`Error::Layer`] for inputs that could not be read.
    pub(crate) fn take(self: Arc<Self>) -> Result<ChannelMaxima> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.1.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut seen.0)),
        }
    }
}

impl ForwardHook for MaximaHook {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, _: &Tensor<2>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [_, cols] = input.dims();
        match to_vec_f32("input", input.clone()) {
            Ok(values) => {
                let maxima = seen.0.entry(layer.to_owned()).or_insert_with(|| vec![0.0; cols]);
                for row in values.chunks_exact(cols.max(1)) {
                    maxima.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(value.abs()));
                }
            }
            Err(error) => {
                seen.1.get_or_insert_with(|| Error::layer(layer, error));
            }
        }
    }
}

//! Measures of outliers that decide whether a rotation helps.

use rayon::prelude::*;
use slm_checkpoint::Checkpoint;
use slm_model::LM_HEAD;
use slm_quant_core::{Granularity, QuantizationType};

use super::{TransformedSource, Transforms};
use crate::{Plan, PlannedLayer, PtqConfig, Result};

/// Largest share of the squared peaks of weights that a rotation may leave. Rounding to nearest uses the importance of
/// inputs, which a rotation equalizes, so it loses from a rotation.
const MAX_PEAKS_LEFT: f64 = 0.9;
/// The same for methods that use all products of inputs, which lose nothing from a rotation.
const MAX_PEAKS_LEFT_WITH_HESSIANS: f64 = 0.95;
/// Squared peak of the weight of a norm, in multiples of its mean square, above which one channel makes the others
/// vanish in 8 bits.
const MAX_NORM_PEAK: f64 = 16.0;
/// Number of transformer layers that are sampled, evenly spread over the model.
const SAMPLED_LAYERS: usize = 8;

/// Reason against a rotation; `None` if it pays.
///
/// The step of a quantized weight is proportional to the peak of the weights that share its scale, and the mean squared
/// rounding error to the square of the step. So the squared peaks, in multiples of the mean square, serve to compare
/// errors.
pub(super) fn reason_against(
    checkpoint: &Checkpoint,
    rotation: &Transforms,
    plan: &Plan,
    config: &PtqConfig,
) -> Result<Option<String>> {
    let norm_peaks = rotation.norms.values().map(|norm| peak(norm.weight.iter().copied()));
    let norms = norm_peaks.sum::<f64>() / rotation.norms.len().max(1) as f64;
    if norms > MAX_NORM_PEAK && config.quantization_type != QuantizationType::WeightOnly {
        return Ok(None);
    }
    let none = Transforms::none(&checkpoint.config().model);
    let num_layers = checkpoint.config().model.num_layers;
    let sampled: Vec<_> = plan.layers.iter().filter(|layer| is_sampled(&layer.name, num_layers)).collect();
    let peak_of = |layer: &PlannedLayer, transforms: &Transforms| -> Result<f64> {
        let values =
            TransformedSource::new(checkpoint, transforms).read_f32(&format!("{}.weight", layer.name))?;
        Ok(shared_peak(&values, layer.shape[1], config.scheme.granularity))
    };
    let peaks = sampled.into_par_iter().map(|layer| Ok([peak_of(layer, &none)?, peak_of(layer, rotation)?]));
    let peaks: Vec<[f64; 2]> = peaks.collect::<Result<_>>()?;
    let [before, after] = [0, 1].map(|index| peaks.iter().map(|peaks| peaks[index]).sum::<f64>());
    let most = if config.method.needs_hessians() { MAX_PEAKS_LEFT_WITH_HESSIANS } else { MAX_PEAKS_LEFT };
    let worth = after <= most * before;
    Ok((!worth).then(|| {
        format!(
            "rotation would leave {:.0} % of the rounding error, more than {:.0} %",
            after / before.max(f64::MIN_POSITIVE) * 100.0,
            most * 100.0
        )
    }))
}

fn is_sampled(layer: &str, num_layers: usize) -> bool {
    let stride = num_layers.div_ceil(SAMPLED_LAYERS).max(1);
    let index = layer.strip_prefix("layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    layer == LM_HEAD || index.is_some_and(|index| index % stride == stride / 2)
}

/// Mean over the groups that share a scale of the squared peak, in multiples of the mean square of all `values`.
fn shared_peak(values: &[f32], cols: usize, granularity: Granularity) -> f64 {
    let cols = cols.max(1);
    let width = match granularity {
        Granularity::PerTensor => values.len().max(1),
        Granularity::PerChannel => cols,
        Granularity::PerGroup { group_size } => group_size.clamp(1, cols),
    };
    let rows = values.chunks(if width > cols { width } else { cols });
    let groups = rows.flat_map(|row| row.chunks(width));
    let peak = |group: &[f32]| group.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs())));
    let sum: f64 = groups.map(|group| peak(group).powi(2) * group.len() as f64).sum();
    let squares: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    if squares > 0.0 { sum / squares } else { 1.0 }
}

fn peak(values: impl Iterator<Item = f64>) -> f64 {
    let (mut most, mut squares, mut count) = (0.0_f64, 0.0, 0.0);
    for value in values {
        (most, squares, count) = (most.max(value * value), squares + value * value, count + 1.0);
    }
    if squares > 0.0 { most * count / squares } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_of_what_shares_a_scale() {
        let values = [1.0, 1.0, 1.0, -1.0, 3.0, 1.0, 1.0, 1.0];
        let all = 9.0 / (16.0 / 8.0);
        assert!((shared_peak(&values, 4, Granularity::PerTensor) - all).abs() < 1e-12);
        let rows = (1.0 * 4.0 + 9.0 * 4.0) / 16.0;
        assert!((shared_peak(&values, 4, Granularity::PerChannel) - rows).abs() < 1e-12);
        let groups = (1.0 * 6.0 + 9.0 * 2.0) / 16.0;
        assert!((shared_peak(&values, 4, Granularity::PerGroup { group_size: 2 }) - groups).abs() < 1e-12);
        assert_eq!(shared_peak(&[0.0; 4], 2, Granularity::PerTensor), 1.0);
        assert_eq!(peak([1.0, -1.0].into_iter()), 1.0);
        assert_eq!(peak([0.0, 0.0, 0.0, 5.0].into_iter()), 4.0);
    }

    #[test]
    fn layers_are_spread_over_the_model() {
        let sampled = |layers: usize| {
            (0..layers).filter(|i| is_sampled(&format!("layers.{i}.mlp.up_proj"), layers)).count()
        };
        assert_eq!([1, 4, 8, 30, 100].map(sampled), [1, 4, 8, 7, 8]);
        assert!(is_sampled(LM_HEAD, 30));
    }
}

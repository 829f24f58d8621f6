//! Channel factors between two models, one of which was smoothed or equalized before it was quantized.

use std::collections::BTreeMap;

use slm_checkpoint::Checkpoint;
use slm_model::{LM_HEAD, Transformer};
use slm_nn::{NamedLinears, to_vec_f32};
use slm_ptq::ChannelFactors;

use crate::error::Result;

/// Norms of a layer, and the linear layers that read their outputs.
const NORMS: [(&str, &[&str]); 2] = [
    ("input_norm", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    ("post_attention_norm", &["mlp.gate_proj", "mlp.up_proj"]),
];

/// Reads the weight of a norm by its name; `None` if there is no such norm.
pub(super) type ReadNorm<'a> = dyn Fn(&str) -> Result<Option<Vec<f32>>> + 'a;

/// Returns the factors between the inputs and outputs of layers of `quantized` and those of the float model `float`,
/// whose norms are read with `norm`.
///
/// Norms are float in both models, so their weights give exact factors. The factors between `up_proj` and `down_proj`,
/// and between `v_proj` and `o_proj`, are fitted to the rows of the quantized weight; rounding errors cancel out over a
/// row.
pub(super) fn between(
    float: &Transformer,
    norm: &ReadNorm<'_>,
    quantized: &Checkpoint,
) -> Result<BTreeMap<String, ChannelFactors>> {
    let config = float.config();
    let mut factors: BTreeMap<String, ChannelFactors> = BTreeMap::new();
    for index in 0..config.num_layers {
        for (before, readers) in NORMS {
            if let Some(ratio) = of_norm(&format!("layers.{index}.{before}.weight"), norm, quantized)? {
                for reader in readers {
                    let layer = factors.entry(format!("layers.{index}.{reader}")).or_default();
                    layer.input = Some(ratio.clone());
                }
            }
        }
    }
    if let Some(ratio) = of_norm("norm.weight", norm, quantized)? {
        factors.entry(LM_HEAD.to_owned()).or_default().input = Some(ratio);
    }
    let mut weights = Vec::new();
    float.for_each_linear(&mut |name, linear| {
        if name.ends_with("up_proj") || name.ends_with("v_proj") {
            weights.extend(linear.float_weight().map(|weight| (name.to_owned(), weight)));
        }
    });
    for (name, weight) in weights {
        let Some((matrix, _)) = quantized.read_quantized(&name)? else { continue };
        let values = to_vec_f32("weight", weight).map_err(slm_train::Error::from)?;
        let layer = factors.entry(name.clone()).or_default();
        let rows = of_rows(&values, &matrix.dequantize(), matrix.cols(), layer.input.as_deref());
        layer.output = Some(rows.clone());
        let (reader, input) = match name.strip_suffix("up_proj") {
            Some(mlp) => (format!("{mlp}down_proj"), rows),
            None => {
                let attention = name.trim_end_matches("v_proj");
                (format!("{attention}o_proj"), for_query_heads(&rows, config.head_dim, config.num_heads))
            }
        };
        factors.entry(reader).or_default().input = Some(input);
    }
    Ok(factors)
}

/// Returns the factor of each channel after a norm; `None` if either model lacks the norm.
fn of_norm(name: &str, norm: &ReadNorm<'_>, quantized: &Checkpoint) -> Result<Option<Vec<f32>>> {
    let (Some(float), true) = (norm(name)?, quantized.tensors().shape(name).is_some()) else {
        return Ok(None);
    };
    let changed = quantized.tensors().read_f32(name)?;
    let ratio = |(float, changed): (&f32, &f32)| if *float == 0.0 { 1.0 } else { changed / float };
    Ok(Some(float.iter().zip(&changed).map(ratio).collect()))
}

/// Returns the factor for each row of `changed` that best fits the row of `float` with its columns divided by `input`.
fn of_rows(float: &[f32], changed: &[f32], cols: usize, input: Option<&[f32]>) -> Vec<f32> {
    let rows = float.chunks(cols).zip(changed.chunks(cols));
    rows.map(|(float, changed)| {
        let (mut product, mut square) = (0.0, 0.0);
        for (col, (float, changed)) in float.iter().zip(changed).enumerate() {
            let float = f64::from(float / input.map_or(1.0, |input| input[col]));
            product += float * f64::from(*changed);
            square += float * float;
        }
        if product > 0.0 { (product / square) as f32 } else { 1.0 }
    })
    .collect()
}

/// Repeats the factors of value heads for the query heads that share them.
fn for_query_heads(values: &[f32], head_dim: usize, num_heads: usize) -> Vec<f32> {
    let heads: Vec<&[f32]> = values.chunks(head_dim.max(1)).collect();
    let shared_by = (num_heads / heads.len().max(1)).max(1);
    heads.iter().flat_map(|head| std::iter::repeat_n(*head, shared_by)).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_rows_are_found_under_rounding() {
        let float: Vec<f32> = (0..128).map(|index| ((index * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let (rows, input) = ([0.5_f32, 2.0], (0..64).map(|col| 1.0 + col as f32 / 64.0).collect::<Vec<_>>());
        let changed: Vec<f32> = float
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let exact = value * rows[index / 64] / input[index % 64];
                (exact * 64.0).round() / 64.0
            })
            .collect();
        let found = of_rows(&float, &changed, 64, Some(&input));
        assert!(found.iter().zip(rows).all(|(found, row)| (found / row - 1.0).abs() < 5e-3), "{found:?}");
        assert_eq!(for_query_heads(&[1.0, 2.0, 3.0, 4.0], 2, 4), [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
    }
}

//! Norms whose weights are folded into the layers after them.

use std::collections::BTreeMap;

use slm_checkpoint::Checkpoint;
use slm_model::{FINAL_NORM, NormKind};

use super::{cannot_rotate, misplaced_norm};
use crate::Result;

/// Largest bias of a LayerNorm in multiples of its weight that can be folded without loss of precision.
const MAX_BIAS: f64 = 1e4;

/// A norm that is replaced by a norm with a weight of ones.
#[derive(Debug, Clone)]
pub(super) struct FoldedNorm {
    /// The weight, which is folded into the layers after the norm.
    pub(super) weight: Vec<f64>,
    /// The bias of a LayerNorm, divided by its weight.
    pub(super) bias: Option<Vec<f64>>,
}

/// Reads the norms of a model in which every norm comes before linear layers.
///
/// # Errors
/// [`Error::Setting`](crate::Error::Setting) for a model with other norms, or with a LayerNorm whose bias cannot be
/// divided by its weight.
pub(super) fn fold(checkpoint: &Checkpoint) -> Result<BTreeMap<String, FoldedNorm>> {
    let model = &checkpoint.config().model;
    let layers = model.layers();
    if let Some(layer) = misplaced_norm(&layers) {
        return Err(cannot_rotate(format!(
            "layer {layer} normalizes the output of attention and MLP, and the weight of that norm cannot be folded \
             into another layer"
        )));
    }
    let paths = (0..layers.len())
        .flat_map(|layer| ["input_norm", "post_attention_norm"].map(|norm| format!("layers.{layer}.{norm}")))
        .chain([FINAL_NORM.to_owned()]);
    let read = |name: String| -> Result<Vec<f64>> {
        let values = checkpoint.tensors().read_f32(&name).map_err(slm_checkpoint::Error::from)?;
        Ok(values.into_iter().map(f64::from).collect())
    };
    let mut norms = BTreeMap::new();
    for path in paths {
        let weight = read(format!("{path}.weight"))?;
        let bias = match model.norm {
            NormKind::RmsNorm => None,
            NormKind::LayerNorm => {
                let mut bias = read(format!("{path}.bias"))?;
                bias.iter_mut()
                    .zip(&weight)
                    .filter(|(bias, _)| **bias != 0.0)
                    .for_each(|(bias, w)| *bias /= w);
                if bias.iter().any(|bias| !bias.is_finite() || bias.abs() > MAX_BIAS) {
                    return Err(cannot_rotate(format!(
                        "{path} has a weight near 0 where its bias is not, and so cannot be folded"
                    )));
                }
                Some(bias)
            }
        };
        norms.insert(path, FoldedNorm { weight, bias });
    }
    Ok(norms)
}

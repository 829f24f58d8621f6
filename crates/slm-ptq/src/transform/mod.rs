//! Exact changes of a float transformer that make it easier to quantize, applied to its tensors as they are read.
//!
//! - *Rotation.* The residual stream is multiplied by a random orthogonal matrix R: `E R` in place of the embedding, and
//!   `W diag(g) R` in place of the weights that read the stream through a norm with weight g, `Rᵀ W` in place of those
//!   that write to it. RMSNorm commutes with R once its weight is folded into the layers after it; LayerNorm does too if
//!   the vector of ones is a fixed point of R. In the same way each head of `v_proj` and `o_proj` is rotated by a
//!   smaller matrix. Outliers are spread over all channels at no cost at inference (QuaRot: Ashkboos and others, 2024).
//! - *Smoothing.* Each channel between a norm and the layers that read it, between `v_proj` and `o_proj`, and between
//!   `up_proj` and `down_proj`, is divided by a factor on one side and multiplied by it on the other (SmoothQuant:
//!   Xiao and others, 2022).
//! - *Equalization.* Smoothing between `up_proj` and `down_proj`, and after the norms of a model that is not rotated,
//!   with the factors that leave the least error.

mod apply;
mod assumed;
mod equalize;
mod hadamard;
mod norms;
mod outliers;
mod policy;
mod readers;
mod rotation;
mod smoothing;
mod source;

use std::collections::BTreeMap;

use slm_checkpoint::Checkpoint;
use slm_model::{LayerSpec, ModelConfig};

use self::apply::LinearChange;
pub(crate) use self::equalize::{InputRowsHook, sampled_windows};
use self::norms::FoldedNorm;
use self::rotation::Rotation;
use self::smoothing::ChannelMaxima;
pub use self::source::TransformedSource;
use crate::{Error, Result};

/// Exact changes of the tensors of one float checkpoint.
#[derive(Debug, Clone)]
pub struct Transforms {
    model: ModelConfig,
    /// Seed of the rotations; `None` if there are none.
    seed: Option<u64>,
    residual: Option<Rotation>,
    heads: Option<Rotation>,
    norms: BTreeMap<String, FoldedNorm>,
    /// Factors by the path of the norm or linear layer whose output is divided by them.
    smoothing: BTreeMap<String, Vec<f64>>,
    /// Strength of the smoothing.
    strength: Option<f64>,
    /// Number of MLPs that are equalized, if equalization was tried.
    equalized: Option<usize>,
    /// Number of norms whose readers are equalized.
    equalized_norms: usize,
    /// Reason for not rotating.
    reason: Option<String>,
}

impl Transforms {
    /// No change.
    pub fn none(model: &ModelConfig) -> Self {
        Self {
            model: model.clone(),
            seed: None,
            residual: None,
            heads: None,
            norms: BTreeMap::new(),
            smoothing: BTreeMap::new(),
            strength: None,
            equalized: None,
            equalized_norms: 0,
            reason: None,
        }
    }

    /// Rotation of the residual stream and of the heads by the matrices of `seed`. A tied head is then no longer the embedding: the weight of the
    /// last norm is folded into the head, but not into the embedding.
    ///
    /// # Errors
    /// [`Error::Setting`] for a model that cannot be rotated, with the reason, and [`Error::Checkpoint`] for norms that
    /// cannot be read.
    pub fn rotation(checkpoint: &Checkpoint, seed: u64) -> Result<Self> {
        let model = &checkpoint.config().model;
        let norms = norms::fold(checkpoint)?;
        let keeps_ones = model.norm == slm_model::NormKind::LayerNorm;
        let rotation = |width, seed, keeps_ones| {
            Rotation::new(width, seed, keeps_ones).ok_or_else(|| {
                cannot_rotate(format!(
                    "no orthogonal matrix of width {width} can be built: its odd factor is too large"
                ))
            })
        };
        let mut transformed = model.clone();
        transformed.tie_word_embeddings = false;
        Ok(Self {
            seed: Some(seed),
            residual: Some(rotation(model.hidden_size, seed, keeps_ones)?),
            heads: Some(rotation(model.head_dim, seed, false)?),
            norms,
            ..Self::none(&transformed)
        })
    }

    /// Configuration of the changed model.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Returns `true` if nothing is changed.
    pub fn is_none(&self) -> bool {
        self.residual.is_none() && self.heads.is_none() && self.smoothing.is_empty()
    }

    /// Returns `true` if the residual stream is rotated.
    pub(crate) fn is_rotated(&self) -> bool {
        self.residual.is_some()
    }

    /// Returns `true` if the input of the linear layer `path` is rotated, which spreads its large channels over all.
    pub fn rotates_input_of(&self, path: &str) -> bool {
        self.linear(path).input.is_some()
    }

    /// The changes of the linear layer `path`.
    fn linear(&self, path: &str) -> LinearChange<'_> {
        let (parent, layer) = path.rsplit_once('.').unwrap_or(("", path));
        let block = parent.rsplit_once('.').map_or("", |(block, _)| block);
        let mut change = LinearChange::default();
        let norm = match layer {
            "q_proj" | "k_proj" | "v_proj" => format!("{block}.input_norm"),
            "gate_proj" | "up_proj" => format!("{block}.post_attention_norm"),
            "lm_head" => slm_model::FINAL_NORM.to_owned(),
            "o_proj" => {
                change.input = self.heads.as_ref();
                let factors = self.smoothing.get(&format!("{parent}.v_proj"));
                change.input_factors = factors.map(|factors| self.of_all_heads(factors));
                change.output = self.residual.as_ref();
                return change;
            }
            "down_proj" => {
                change.input_factors = self.smoothing.get(&format!("{parent}.up_proj")).cloned();
                change.output = self.residual.as_ref();
                return change;
            }
            _ => return change,
        };
        change.input = self.residual.as_ref();
        change.input_factors = self.smoothing.get(&norm).cloned();
        change.fold = self.norms.get(&norm).map(|norm| norm.weight.as_slice());
        if layer == "v_proj" {
            change.output = self.heads.as_ref();
        }
        if matches!(layer, "v_proj" | "up_proj") {
            change.output_divisors = self.smoothing.get(path).map(Vec::as_slice);
        }
        change
    }

    /// Values of the KV heads, repeated for each of their query heads.
    fn of_all_heads(&self, values: &[f64]) -> Vec<f64> {
        let heads = values.chunks_exact(self.model.head_dim.max(1));
        heads.flat_map(|head| head.repeat(self.model.heads_per_kv_head())).collect()
    }
}

/// The error for a model that cannot be rotated.
fn cannot_rotate(detail: String) -> Error {
    Error::Setting {
        key: "rotate",
        detail: format!("is on, but this model cannot be rotated: {detail}"),
        remedy: "turn it off",
    }
}

/// The first layer that has no norm on its input, or one on its output.
fn misplaced_norm(layers: &[LayerSpec]) -> Option<usize> {
    layers.iter().position(|layer| layer.norm_placement != slm_model::NormPlacement::Pre)
}

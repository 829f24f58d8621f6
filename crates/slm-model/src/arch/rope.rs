//! Rotary positions as Hugging Face configs write them, in both styles.
//!
//! transformers 4 has `rope_theta` and an optional object `rope_scaling`; transformers 5 has one object
//! `rope_parameters` with everything, or with such an object for each type of layer.

use serde_json::json;

use super::fields::Fields;
use crate::config::{RopeScaling, RotaryConfig};
use crate::error::{Error, Result};

const SUPPORTED_TYPES: &str = "\"default\", \"linear\", \"llama3\"";
const ORIGINAL_POSITIONS: &str = "original_max_position_embeddings";
const ONLY_WHOLE: &str = "1 (every dimension of a head is rotated)";

/// The names of an architecture's rotary fields, and what stands in for those that a config leaves out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rope {
    /// Name of the base beside `rope_scaling`.
    pub(super) theta_name: &'static str,
    /// Base of the frequencies.
    pub(super) theta: f64,
    /// Name of the share of a head that is rotated, and the share. None where heads are rotated as a whole.
    pub(super) share: Option<(&'static str, f64)>,
}

/// Rotary parameters as an object, or the fields next to it, give them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Parsed {
    theta: f64,
    scaling: Option<RopeScaling>,
    share: Option<f64>,
}

/// Rotary fields outside of an object, which may leave them out.
#[derive(Debug, Clone, Copy)]
struct Beside {
    theta: f64,
    share: Option<f64>,
    /// Wins over the one inside, as in transformers (`standardize_rope_params`).
    original_positions: Option<usize>,
}

impl Rope {
    /// Whole heads, with this base unless the config gives another.
    pub(super) const fn whole(theta: f64) -> Self {
        Self { theta_name: "rope_theta", theta, share: None }
    }

    /// The rotary embedding of all layers.
    pub(super) fn read(&self, fields: &Fields<'_>, head_dim: usize) -> Result<RotaryConfig> {
        let parameters = fields.object("rope_parameters")?;
        self.read_from(fields, parameters, head_dim)
    }

    /// The rotary embedding of the layers of one type, which may have parameters of their own.
    pub(super) fn read_of_type(
        &self,
        fields: &Fields<'_>,
        layer_type: &str,
        head_dim: usize,
    ) -> Result<RotaryConfig> {
        let parameters = match fields.object("rope_parameters")? {
            Some(all) => Some(all.required(layer_type, all.object(layer_type)?)?),
            None => None,
        };
        self.read_from(fields, parameters, head_dim)
    }

    fn read_from(
        &self,
        fields: &Fields<'_>,
        parameters: Option<Fields<'_>>,
        head_dim: usize,
    ) -> Result<RotaryConfig> {
        fields.neutral("rope_interleaved", &json!(false), "false (the halves of a head are paired)")?;
        let share_beside = match self.share {
            Some((name, _)) => fields.f64(name)?,
            None => {
                fields.neutral("partial_rotary_factor", &json!(1.0), ONLY_WHOLE)?;
                fields.neutral("rotary_pct", &json!(1.0), ONLY_WHOLE)?;
                None
            }
        };
        let theta = fields.f64(self.theta_name)?;
        let beside = Beside {
            theta: theta.unwrap_or(self.theta),
            share: share_beside,
            original_positions: fields.usize(ORIGINAL_POSITIONS)?,
        };
        let parse = |object: Option<Fields<'_>>| object.map(|object| self.parse(&object, beside)).transpose();
        let (old, new) = (parse(fields.object("rope_scaling")?)?, parse(parameters)?);
        let found = match (old, new) {
            (Some(old), Some(new)) if old != new => {
                let found = "one that differs from rope_scaling";
                let expected = "one description of the rotary positions";
                return Err(fields.wrong("rope_parameters", expected, found));
            }
            (old, new) => {
                new.or(old).unwrap_or(Parsed { theta: beside.theta, scaling: None, share: beside.share })
            }
        };
        if theta.is_some_and(|theta| theta != found.theta) {
            let expected = format!("{}, as in the object beside it", found.theta);
            return Err(fields.wrong(self.theta_name, expected, beside.theta));
        }
        let rotary = RotaryConfig { theta: found.theta, scaling: found.scaling, dims: None };
        let Some((name, default)) = self.share else { return Ok(rotary) };
        let share = found.share.unwrap_or(default);
        match share > 0.0 && share <= 1.0 {
            true => Ok(rotary.with_share(share, head_dim)),
            false => Err(fields.wrong(name, "a share above 0 and at most 1", share)),
        }
    }

    /// An object `rope_scaling` or `rope_parameters`.
    fn parse(&self, rope: &Fields<'_>, beside: Beside) -> Result<Parsed> {
        let share = match self.share {
            Some(_) => rope.f64("partial_rotary_factor")?.or(beside.share),
            None => {
                rope.neutral("partial_rotary_factor", &json!(1.0), ONLY_WHOLE)?;
                None
            }
        };
        let theta = rope.f64("rope_theta")?.unwrap_or(beside.theta);
        let (new_name, old_name) = (rope.str("rope_type")?, rope.str("type")?);
        let scaling = match new_name.or(old_name).unwrap_or("default") {
            "default" => None,
            "linear" => Some(RopeScaling::Linear { factor: rope.required_f64("factor")? }),
            "llama3" => {
                let inside = rope.usize(ORIGINAL_POSITIONS)?;
                Some(RopeScaling::Llama3 {
                    factor: rope.required_f64("factor")?,
                    low_freq_factor: rope.required_f64("low_freq_factor")?,
                    high_freq_factor: rope.required_f64("high_freq_factor")?,
                    original_max_position_embeddings: rope
                        .required(ORIGINAL_POSITIONS, beside.original_positions.or(inside))?,
                })
            }
            other => return Err(rope.unsupported("rope_type", format!("{other:?}"), SUPPORTED_TYPES)),
        };
        // Everything in this object changes the frequencies: nothing in it can be passed over.
        match rope.unseen().into_iter().next() {
            Some(field) => {
                let supported = format!("the parameters of {SUPPORTED_TYPES}");
                Err(Error::HfUnsupported { field, found: "present".to_owned(), supported })
            }
            None => Ok(Parsed { theta, scaling, share }),
        }
    }
}

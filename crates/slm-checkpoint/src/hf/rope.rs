//! Rotary positions as Hugging Face configs write them, in both styles.
//!
//! transformers 4 has `rope_theta` and an optional object `rope_scaling`; transformers 5 has one object
//! `rope_parameters` with everything.

use serde_json::json;
use slm_model::{Position, RopeScaling};

use super::fields::Fields;
use crate::Result;

/// Base of the frequencies where a config gives none, in every supported family.
const DEFAULT_THETA: f64 = 10_000.0;

const SUPPORTED_TYPES: &str = "\"default\", \"linear\", \"llama3\"";

pub(super) fn position(fields: &Fields<'_>) -> Result<Position> {
    let only_whole = "1 (every dimension of a head is rotated)";
    fields.neutral("partial_rotary_factor", &json!(1.0), only_whole)?;
    fields.neutral("rotary_pct", &json!(1.0), only_whole)?;
    fields.neutral("rope_interleaved", &json!(false), "false (the halves of a head are paired)")?;

    let theta = fields.f64("rope_theta")?;
    let old = match fields.object("rope_scaling")? {
        Some(scaling) => Some(parse(&scaling, theta)?),
        None => None,
    };
    let new = match fields.object("rope_parameters")? {
        Some(parameters) => Some(parse(&parameters, theta)?),
        None => None,
    };
    let beside = theta.unwrap_or(DEFAULT_THETA);
    let position = match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let found = "one that differs from rope_scaling";
            return Err(fields.wrong("rope_parameters", "one description of the rotary positions", found));
        }
        (old, new) => new.or(old).unwrap_or(Position::Rotary { theta: beside, scaling: None }),
    };
    match position {
        Position::Rotary { theta: inside, .. } if theta.is_some_and(|theta| theta != inside) => {
            Err(fields.wrong("rope_theta", format!("{inside}, as in the object beside it"), beside))
        }
        position => Ok(position),
    }
}

/// An object `rope_scaling` or `rope_parameters`; `theta` is the one beside it.
fn parse(rope: &Fields<'_>, theta: Option<f64>) -> Result<Position> {
    rope.neutral("partial_rotary_factor", &json!(1.0), "1 (every dimension of a head is rotated)")?;
    let theta = rope.f64("rope_theta")?.or(theta).unwrap_or(DEFAULT_THETA);
    let (new_name, old_name) = (rope.str("rope_type")?, rope.str("type")?);
    let scaling = match new_name.or(old_name).unwrap_or("default") {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: rope.required_f64("factor")? }),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: rope.required_f64("factor")?,
            low_freq_factor: rope.required_f64("low_freq_factor")?,
            high_freq_factor: rope.required_f64("high_freq_factor")?,
            original_max_position_embeddings: rope.required_usize("original_max_position_embeddings")?,
        }),
        other => return Err(rope.unsupported("rope_type", format!("{other:?}"), SUPPORTED_TYPES)),
    };
    // Everything in this object changes the frequencies: nothing in it can be passed over.
    match rope.unseen().first() {
        Some(field) => {
            let supported = format!("the parameters of {SUPPORTED_TYPES}");
            Err(crate::Error::unsupported(rope.path(), field, "present", supported))
        }
        None => Ok(Position::Rotary { theta, scaling }),
    }
}

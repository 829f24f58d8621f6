//! Rotary positions as Hugging Face configs write them, in both styles.
//!
//! transformers 4 has `rope_theta` and an optional object `rope_scaling`; transformers 5 has one object
//! `rope_parameters` with everything, or with such an object for each type of layer. If a config gives a value twice,
//! the rule is that of transformers 5 (`modeling_rope_utils.py`: `convert_rope_params_to_dict`,
//! `standardize_rope_params`), and the user is told:
//!
//! | doubled | which holds |
//! |---|---|
//! | `rope_scaling` and `rope_parameters` | `rope_scaling`, unless it is null or empty |
//! | `rope_theta` in the object and next to it | the one inside |
//! | `partial_rotary_factor` in the object and next to it | the one inside |
//! | `original_max_position_embeddings` in the object and next to it | the one next to it |
//! | `rope_type` and `type` | `rope_type` |
//!
//! `original_max_position_embeddings` defaults to `max_position_embeddings`. Keys that a type does not use are ignored.

use serde_json::Map;

use super::fields::Fields;
use crate::config::{ModelConfig, RopeScaling, RotaryConfig};
use crate::error::Result;

const SUPPORTED_TYPES: &str =
    "\"default\", \"linear\", \"dynamic\", \"yarn\", \"longrope\", \"llama3\", \"mrope\"";
const ORIGINAL_POSITIONS: &str = "original_max_position_embeddings";
const SHARE: &str = "partial_rotary_factor";
/// Keys about images and sound: the positions of text are the same along all axes.
const MULTIMODAL: &[&str] = &["mrope_section", "mrope_interleaved"];

/// The names of an architecture's rotary fields, and their defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rope {
    /// Name of the base next to the object.
    pub(super) theta_name: &'static str,
    /// Base of the frequencies.
    pub(super) theta: f64,
    /// Name, next to the object, of the share of a head that is rotated, and the share. `None` if heads are rotated as
    /// a whole.
    pub(super) share: Option<(&'static str, f64)>,
    /// Default of the `original_max_position_embeddings` next to the object (Phi-3).
    pub(super) original_positions: Option<usize>,
    /// Other names of the type `longrope` (Phi-3).
    pub(super) long_names: &'static [&'static str],
}

/// Place of the parameters of one rotary embedding.
struct Place<'a, 'b> {
    fields: &'b Fields<'a>,
    /// The object, if there is one.
    object: Option<Fields<'b>>,
    /// Base, unless the object gives another.
    theta: Option<f64>,
    /// Number of original positions, whatever the object says.
    original_positions: Option<usize>,
}

impl Rope {
    /// Rotation of whole heads with default base `theta`.
    pub(super) const fn whole(theta: f64) -> Self {
        Self { theta_name: "rope_theta", theta, share: None, original_positions: None, long_names: &[] }
    }

    /// The rotary embedding of all layers.
    pub(super) fn read(&self, fields: &Fields<'_>, model: &ModelConfig) -> Result<RotaryConfig> {
        let (old, new) = (fields.object("rope_scaling")?, fields.object("rope_parameters")?);
        let (old, new) = (old.filter(|old| !old.map().is_empty()), new.filter(|new| !new.map().is_empty()));
        if let (Some(old), Some(new)) = (&old, &new)
            && old.map() != new.map()
        {
            fields.note("rope_parameters", "was ignored: rope_scaling holds, as in transformers");
        }
        let place = Place {
            fields,
            object: old.or(new),
            theta: fields.f64(self.theta_name)?,
            original_positions: fields.usize(ORIGINAL_POSITIONS)?.or(self.original_positions),
        };
        self.read_place(&place, model)
    }

    /// The rotary embedding of the layers of one type, which have their own object in `rope_parameters`. Fields of
    /// `rope_scaling` override those of that object.
    pub(super) fn read_of_type(
        &self,
        fields: &Fields<'_>,
        layer_type: &str,
        scaled: bool,
        model: &ModelConfig,
    ) -> Result<RotaryConfig> {
        let mut merged = Map::new();
        let mut path = layer_type.to_owned();
        if let Some(all) = fields.object("rope_parameters")? {
            if let Some(own) = all.object(layer_type)? {
                merged.extend(own.map().clone());
                path = format!("rope_parameters.{layer_type}");
            } else if !all.map().is_empty() {
                let what =
                    "has no object for this type of layer: its defaults were taken, as in transformers";
                all.note(layer_type, what);
            }
        }
        if let Some(scaling) = fields.object("rope_scaling")?.filter(|_| scaled) {
            merged.extend(scaling.map().clone());
            path = "rope_scaling".to_owned();
        }
        let object = fields.nested(&path, &merged);
        let theta = fields.f64(self.theta_name)?;
        let place = Place { fields, object: Some(object), theta, original_positions: None };
        self.read_place(&place, model)
    }

    fn read_place(&self, place: &Place<'_, '_>, model: &ModelConfig) -> Result<RotaryConfig> {
        let fields = place.fields;
        // transformers always pairs the halves of a head, whatever this field says.
        if fields.bool("rope_interleaved")? == Some(true) {
            fields
                .note("rope_interleaved", "was ignored, as in transformers: the halves of a head are paired");
        }
        let empty = Map::new();
        let nothing = fields.nested("rope_parameters", &empty);
        let object = place.object.as_ref().unwrap_or(&nothing);
        let inside = object.f64("rope_theta")?;
        if let (Some(inside), Some(beside)) = (inside, place.theta)
            && inside != beside
        {
            let what = format!(
                "is {beside}, inside the object it is {inside}: the one inside holds, as in transformers"
            );
            fields.note(self.theta_name, what);
        }
        if inside.is_none()
            && place.theta.is_none()
            && (object.has("rope_theta") || fields.has(self.theta_name))
        {
            fields.note(
                self.theta_name,
                format_args!("is null: {} was used, the default of transformers", self.theta),
            );
        }
        let theta = inside.or(place.theta).unwrap_or(self.theta);
        let (name, old_name) = (object.str("rope_type")?, object.str("type")?);
        let name = name.or(old_name).unwrap_or("default");
        let name = if self.long_names.contains(&name) { "longrope" } else { name };
        let scaling = self.scaling(name, place, object, model)?;
        let dims = self.dims(name, fields, object, model.head_dim)?;
        object.ignore(MULTIMODAL);
        for key in object.unseen() {
            let key = key.rsplit('.').next().unwrap_or_default();
            object.note(key, format_args!("was ignored: it is not a parameter of the type {name:?}"));
        }
        Ok(RotaryConfig { theta, scaling, dims })
    }

    /// The change of the frequencies. The formulas for absent factors are those of transformers.
    fn scaling(
        &self,
        name: &str,
        place: &Place<'_, '_>,
        object: &Fields<'_>,
        model: &ModelConfig,
    ) -> Result<Option<RopeScaling>> {
        let max_positions = model.max_position_embeddings;
        let required = |key: &str| object.required(key, object.f64(key)?);
        Ok(match name {
            // For text the three axes of mrope have the same positions, so it equals the default.
            "default" | "mrope" => None,
            "linear" => Some(RopeScaling::Linear { factor: required("factor")? }),
            "dynamic" => {
                let factor = required("factor")?;
                object.note("rope_type", format_args!(
                    "is \"dynamic\", which changes nothing up to max_position_embeddings = {max_positions}; up to \
                     {factor} times as many positions, the base grows with the sequence"
                ));
                Some(RopeScaling::Dynamic { factor, max_position_embeddings: max_positions })
            }
            "llama3" => Some(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_position_embeddings: original_positions(place, object, max_positions)?,
            }),
            "yarn" => {
                let original = original_positions(place, object, max_positions)?;
                let factor = object.f64("factor")?.unwrap_or(max_positions as f64 / original as f64);
                // 0 counts as absent in these four, as in Python's `or`.
                let given = |key: &str| -> Result<_> { Ok(object.f64(key)?.filter(|&value| value != 0.0)) };
                let (mscale, mscale_all_dim) = (given("mscale")?, given("mscale_all_dim")?);
                let attention =
                    |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                let default = match (mscale, mscale_all_dim) {
                    (Some(mscale), Some(all_dim)) => attention(mscale) / attention(all_dim),
                    _ => attention(1.0),
                };
                Some(RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_fast: given("beta_fast")?.unwrap_or(32.0),
                    beta_slow: given("beta_slow")?.unwrap_or(1.0),
                    truncate: object.bool("truncate")?.unwrap_or(true),
                    attention_factor: object.f64("attention_factor")?.unwrap_or(default),
                })
            }
            "longrope" => {
                let original = original_positions(place, object, max_positions)?;
                let factor = object.f64("factor")?.unwrap_or(max_positions as f64 / original as f64);
                let default = match factor <= 1.0 {
                    true => 1.0,
                    false => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
                };
                Some(RopeScaling::LongRope {
                    short_factor: object.required("short_factor", object.numbers("short_factor")?)?,
                    long_factor: object.required("long_factor", object.numbers("long_factor")?)?,
                    original_max_position_embeddings: original,
                    attention_factor: object.f64("attention_factor")?.unwrap_or(default),
                })
            }
            other => return Err(object.unsupported("rope_type", format!("{other:?}"), SUPPORTED_TYPES)),
        })
    }

    /// Number of rotated values of a head; `None` if all are rotated.
    ///
    /// Architectures without a share rotate whole heads. transformers ignores a share there, unless a type of scaling
    /// reads it, and then fails.
    fn dims(
        &self,
        name: &str,
        fields: &Fields<'_>,
        object: &Fields<'_>,
        head_dim: usize,
    ) -> Result<Option<usize>> {
        let inside = object.f64(SHARE)?;
        let Some((beside_name, default)) = self.share else {
            let beside = fields.f64(SHARE)?;
            let share = inside.or(beside).filter(|&share| share != 1.0);
            let at = if inside.is_some() { object } else { fields };
            return match share {
                Some(share) if name != "default" => {
                    Err(at.unsupported(SHARE, share, "1 (this architecture rotates whole heads)"))
                }
                Some(_) => {
                    at.note(SHARE, "was ignored, as in transformers: this architecture rotates whole heads");
                    Ok(None)
                }
                None => Ok(None),
            };
        };
        let beside = fields.f64(beside_name)?;
        let share = inside.or(beside).unwrap_or(default);
        if !(share > 0.0 && share <= 1.0) {
            let (at, name) = if inside.is_some() { (object, SHARE) } else { (fields, beside_name) };
            return Err(at.wrong(name, "a share above 0 and at most 1", share));
        }
        Ok(RotaryConfig::default().with_share(share, head_dim).dims)
    }
}

/// The context of the pretraining, by the rules in the documentation of this module.
fn original_positions(place: &Place<'_, '_>, object: &Fields<'_>, max_positions: usize) -> Result<usize> {
    let inside = object.usize(ORIGINAL_POSITIONS)?;
    if let (Some(inside), Some(beside)) = (inside, place.original_positions)
        && inside != beside
    {
        object.note(
            ORIGINAL_POSITIONS,
            format_args!(
                "is {inside}, beside the object it is {beside}: the one beside holds, as in transformers"
            ),
        );
    }
    let original = place.original_positions.or(inside).unwrap_or(max_positions);
    match original {
        // Its logarithm must not be 0.
        0 | 1 => Err(object.wrong(ORIGINAL_POSITIONS, "a number above 1", original)),
        original => Ok(original),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_that_are_listed_are_read() {
        let factors = json!([1.0, 2.0]);
        for name in SUPPORTED_TYPES.split(", ").map(|name| name.trim_matches('"')) {
            let object = json!({ "rope_scaling": {
                "type": name, "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4,
                "short_factor": factors, "long_factor": factors,
            } });
            let object = object.as_object().unwrap().clone();
            let model = ModelConfig::new(10, 8, 8, 1, 2, 64);
            Rope::whole(1e4).read(&Fields::new(&object), &model).unwrap();
        }
    }
}

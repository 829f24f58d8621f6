//! The choice between static and dynamic scales for the input of each layer.

use std::fmt;
use std::str::FromStr;

use glob::Pattern;
use serde::{Deserialize, Serialize};
use slm_quant_core::{ActivationQuant, QuantizationType};

use crate::{Error, ObservedInputs, PtqConfig, Result};

/// Relative error of static inputs, as [`ActivationStats::row_error`](crate::ActivationStats) estimates it, above which
/// [`DynamicInputs::Auto`] makes them dynamic.
pub const MAX_STATIC_ERROR: f64 = 0.03;

/// Layers whose inputs are quantized dynamically although the type is static.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum DynamicInputs {
    /// Layers that lose more than [`MAX_STATIC_ERROR`] of a row to one scale for all rows. Written `auto`.
    #[default]
    Auto,
    /// No layer. Written `none`.
    None,
    /// Layers whose names match one of the globs. Written as a list.
    Matching(Vec<String>),
}

/// [`DynamicInputs`] in a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    List(Vec<String>),
}

impl TryFrom<Written> for DynamicInputs {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Word(word) => word.parse(),
            Written::List(patterns) if patterns.is_empty() => Ok(Self::None),
            Written::List(patterns) => Ok(Self::Matching(patterns)),
        }
    }
}

impl From<DynamicInputs> for Written {
    fn from(inputs: DynamicInputs) -> Self {
        match inputs {
            DynamicInputs::Auto => Self::Word("auto".to_owned()),
            DynamicInputs::None => Self::Word("none".to_owned()),
            DynamicInputs::Matching(patterns) => Self::List(patterns),
        }
    }
}

impl FromStr for DynamicInputs {
    type Err = String;

    /// `auto`, `none`, in any case, or patterns with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => {
                let patterns: Vec<String> =
                    text.split(',').map(|pattern| pattern.trim().to_owned()).collect();
                match patterns.iter().any(String::is_empty) {
                    true => Err("use auto, none, or names of layers such as '*.down_proj'".to_owned()),
                    false => Ok(Self::Matching(patterns)),
                }
            }
        }
    }
}

impl fmt::Display for DynamicInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Matching(patterns) => f.write_str(&patterns.join(",")),
        }
    }
}

impl PtqConfig {
    /// Rejects patterns of [`DynamicInputs::Matching`] that match no layer of `plan`.
    ///
    /// # Errors
    /// [`Error::Pattern`] and [`Error::UnmatchedPattern`].
    #[cfg(feature = "checkpoint")]
    pub(crate) fn check_dynamic_inputs(&self, plan: &crate::Plan) -> Result<()> {
        let DynamicInputs::Matching(patterns) = &self.dynamic_inputs else { return Ok(()) };
        let names: Vec<&str> = plan.layers.iter().map(|layer| layer.name.as_str()).collect();
        crate::plan::patterns("dynamic input", &names, patterns).map(drop)
    }

    /// Treatment of the input of layer `name`. `inputs`, the statistics from calibration, are needed for static inputs.
    ///
    /// # Errors
    /// [`Error::NotCalibrated`] for static inputs without statistics, [`Error::Pattern`] for a pattern that is not a
    /// valid glob.
    pub fn activation_quant(&self, name: &str, inputs: Option<&ObservedInputs>) -> Result<ActivationQuant> {
        match self.quantization_type {
            QuantizationType::WeightOnly => return Ok(ActivationQuant::Float),
            QuantizationType::Dynamic => return Ok(ActivationQuant::Dynamic(self.activation_granularity)),
            QuantizationType::Static => {}
        }
        let stats = inputs
            .and_then(|inputs| inputs.activation)
            .ok_or_else(|| Error::NotCalibrated { layer: name.to_owned() })?;
        let is_dynamic = match &self.dynamic_inputs {
            DynamicInputs::Auto => stats.row_error > MAX_STATIC_ERROR,
            DynamicInputs::None => false,
            DynamicInputs::Matching(patterns) => matches_any(patterns, name)?,
        };
        Ok(match is_dynamic {
            true => ActivationQuant::Dynamic(self.activation_granularity),
            false => ActivationQuant::Static(stats.qparams),
        })
    }
}

fn matches_any(patterns: &[String], name: &str) -> Result<bool> {
    for text in patterns {
        let pattern = Pattern::new(text).map_err(|error| Error::Pattern {
            what: "dynamic input",
            pattern: text.clone(),
            detail: error.msg.to_owned(),
        })?;
        if pattern.matches(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms() {
        for (text, inputs) in [
            ("\"auto\"", DynamicInputs::Auto),
            ("\"none\"", DynamicInputs::None),
            (
                "[\"*.down_proj\",\"lm_head\"]",
                DynamicInputs::Matching(vec!["*.down_proj".into(), "lm_head".into()]),
            ),
        ] {
            assert_eq!(serde_json::from_str::<DynamicInputs>(text).unwrap(), inputs);
            assert_eq!(serde_json::to_string(&inputs).unwrap(), text);
            assert_eq!(inputs.to_string().parse::<DynamicInputs>().unwrap(), inputs);
        }
        assert!("a,,b".parse::<DynamicInputs>().is_err());
    }
}

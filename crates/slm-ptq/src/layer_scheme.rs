//! Schemes of single layers in text form.

use std::fmt;
use std::str::FromStr;

use glob::Pattern;
use serde::{Deserialize, Serialize};
use slm_quant_core::{Bits, Granularity, Mapping, QuantScheme, ScaleDtype};

use crate::{Error, Result};

/// The scheme of some layers: `float`, or a width and the differences from the scheme of all other layers.
///
/// Written `int8:channel`, `int4:group:32:affine:f16`, `int8` or `float`: the width, then in any order a granularity, a
/// mapping and a type of scales. Omitted parts are those of the scheme of all layers. `8` is read as `int8`, `4` as
/// `int4`.
///
/// ```
/// use slm_ptq::LayerScheme;
/// use slm_quant_core::{Bits, QuantScheme};
///
/// let scheme: LayerScheme = "int8:channel:f16".parse()?;
/// let all = QuantScheme::per_tensor(Bits::Int4);
/// assert_eq!(scheme.over(all).unwrap().to_string(), "int8 channel symmetric f16-scales");
/// assert_eq!("float".parse::<LayerScheme>()?.over(all), None);
/// assert_eq!("8".parse::<LayerScheme>()?, "int8".parse()?);
/// assert!("int3".parse::<LayerScheme>().is_err());
/// # Ok::<(), slm_ptq::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LayerScheme {
    /// Not quantized.
    Float,
    /// Quantized.
    Quantized {
        /// Width of the codes.
        bits: Bits,
        /// Weights that share a scale, if not those of the scheme of all layers.
        granularity: Option<Granularity>,
        /// The mapping, if not that of all layers.
        mapping: Option<Mapping>,
        /// The type of scales, if not that of all layers.
        scale_dtype: Option<ScaleDtype>,
    },
}

impl LayerScheme {
    /// The full scheme, given the scheme `all` of all layers; `None` for float.
    pub fn over(self, all: QuantScheme) -> Option<QuantScheme> {
        match self {
            Self::Float => None,
            Self::Quantized { bits, granularity, mapping, scale_dtype } => Some(QuantScheme {
                bits,
                granularity: granularity.unwrap_or(all.granularity),
                mapping: mapping.unwrap_or(all.mapping),
                scale_dtype: scale_dtype.unwrap_or(all.scale_dtype),
            }),
        }
    }
}

impl From<QuantScheme> for LayerScheme {
    fn from(scheme: QuantScheme) -> Self {
        Self::Quantized {
            bits: scheme.bits,
            granularity: Some(scheme.granularity),
            mapping: Some(scheme.mapping),
            scale_dtype: Some(scheme.scale_dtype),
        }
    }
}

impl FromStr for LayerScheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |found: &str| Err(Error::Scheme { text: text.to_owned(), found: found.to_owned() });
        let mut words = text.split(':');
        let bits = match words.next().unwrap_or_default() {
            "float" if text == "float" => return Ok(Self::Float),
            "int8" | "8" => Bits::Int8,
            "int4" | "4" => Bits::Int4,
            other => return refuse(other),
        };
        let (mut granularity, mut mapping, mut scale_dtype) = (None, None, None);
        while let Some(word) = words.next() {
            let group;
            let word = match word {
                "group" => {
                    group = format!("group:{}", words.next().unwrap_or_default());
                    group.as_str()
                }
                word => word,
            };
            let known =
                match (word.parse::<Granularity>(), word.parse::<Mapping>(), word.parse::<ScaleDtype>()) {
                    (Ok(value), ..) => granularity.replace(value).is_none(),
                    (_, Ok(value), _) => mapping.replace(value).is_none(),
                    (.., Ok(value)) => scale_dtype.replace(value).is_none(),
                    _ => false,
                };
            if !known {
                return refuse(word);
            }
        }
        Ok(Self::Quantized { bits, granularity, mapping, scale_dtype })
    }
}

impl fmt::Display for LayerScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Quantized { bits, granularity, mapping, scale_dtype } = self else {
            return f.write_str("float");
        };
        write!(f, "int{}", bits.count())?;
        granularity.iter().try_for_each(|value| write!(f, ":{value}"))?;
        mapping.iter().try_for_each(|value| write!(f, ":{value}"))?;
        scale_dtype.iter().try_for_each(|value| write!(f, ":{value}"))
    }
}

impl TryFrom<String> for LayerScheme {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<LayerScheme> for String {
    fn from(scheme: LayerScheme) -> Self {
        scheme.to_string()
    }
}

/// The scheme of the layers whose names match a pattern. Written `PATTERN=SCHEME` on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRule {
    /// Names as in reports; `*` matches any run of characters.
    pub pattern: String,
    /// Scheme of these layers.
    pub scheme: LayerScheme,
}

impl FromStr for LayerRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((pattern, scheme)) if !pattern.trim().is_empty() => {
                Ok(Self { pattern: pattern.to_owned(), scheme: scheme.parse()? })
            }
            _ => Err(Error::Rule { text: text.to_owned() }),
        }
    }
}

/// The last of `rules` that matches `layer`. Patterns that are not valid globs match nothing here; planning rejects
/// them.
pub(crate) fn last_match<'a>(rules: &'a [LayerRule], layer: &str) -> Option<&'a LayerRule> {
    let matches = |rule: &&LayerRule| Pattern::new(&rule.pattern).is_ok_and(|pattern| pattern.matches(layer));
    rules.iter().rev().find(matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_read_as_they_are_written() {
        for text in [
            "float",
            "int8",
            "int4",
            "int8:channel",
            "int4:group:32",
            "int4:group:32:affine:f16",
            "int8:tensor:symmetric",
        ] {
            assert_eq!(text.parse::<LayerScheme>().unwrap().to_string(), text);
        }
        let scheme: LayerScheme = "int4:f16:affine:group:8".parse().unwrap();
        assert_eq!(scheme.to_string(), "int4:group:8:affine:f16");
        let all = QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerChannel);
        assert_eq!(LayerScheme::from(all).over(QuantScheme::per_tensor(Bits::Int4)), Some(all));
        let channel = "int4".parse::<LayerScheme>().unwrap().over(all).unwrap();
        assert_eq!((channel.bits, channel.granularity), (Bits::Int4, Granularity::PerChannel));
    }

    #[test]
    fn what_is_no_scheme_is_refused_by_the_word_that_is_wrong() {
        for (text, word) in [
            ("int3", "int3"),
            ("", ""),
            ("int8:row", "row"),
            ("int4:group", "group:"),
            ("int4:group:0x", "group:0x"),
            ("int8:channel:tensor", "tensor"),
            ("float:channel", "float"),
        ] {
            match text.parse::<LayerScheme>() {
                Err(Error::Scheme { found, .. }) => assert_eq!(found, word, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in ["lm_head", "=int8", "lm_head=int9"] {
            assert!(text.parse::<LayerRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_rule_that_matches_counts() {
        let rules: Vec<LayerRule> = ["*=int4:channel", "layers.*=int8", "layers.0.*=float"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let scheme = |layer| last_match(&rules, layer).unwrap().scheme.to_string();
        assert_eq!(scheme("lm_head"), "int4:channel");
        assert_eq!(scheme("layers.1.mlp.up_proj"), "int8");
        assert_eq!(scheme("layers.0.mlp.up_proj"), "float");
    }
}

//! The selection of the layers to quantize, before anything is changed.

use std::collections::{BTreeMap, HashSet};

use glob::Pattern;
use slm_nn::{Error as LayerError, NamedLinears, Weight, linear_names};
use slm_quant_core::QuantScheme;

use crate::layer_scheme::last_match;
use crate::{Error, LayerScheme, PtqConfig, Result};

/// A layer that will be quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// Its name.
    pub name: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
}

/// A layer that stays float.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedLayer {
    /// Its name.
    pub name: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// Reason for skipping it.
    pub reason: String,
}

/// Every named linear of a model, either planned or skipped with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Layers to quantize, in forward order.
    pub layers: Vec<PlannedLayer>,
    /// Layers left float.
    pub skipped: Vec<SkippedLayer>,
    /// Quantization of the token embedding, if it is quantized. Only plans for slm's transformer have it.
    pub embedding: Option<PlannedEmbedding>,
}

/// A token embedding that is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedEmbedding {
    /// Quantization scheme of its table.
    pub scheme: QuantScheme,
    /// `true` if the head is tied to it: one table then serves both, and is the head's layer in [`Plan::layers`].
    pub shared: bool,
}

impl Plan {
    /// Plans `config` for `model`, and checks that the scheme fits every planned layer.
    ///
    /// # Errors
    /// [`Error::Pattern`] and [`Error::UnmatchedPattern`] for patterns of layers, [`Error::Layer`] for a group size
    /// that does not fit or a layer that is packed or in training already, [`Error::NothingToQuantize`].
    pub fn new<M: NamedLinears + ?Sized>(model: &M, config: &PtqConfig) -> Result<Self> {
        let (mut layers, mut unfit) = (Vec::new(), BTreeMap::new());
        model.for_each_linear(&mut |name, linear| {
            let shape = [linear.out_features(), linear.in_features()];
            layers.push(PlannedLayer { name: name.to_owned(), shape });
            let reason = match linear.weight {
                Weight::Float(_) => return,
                Weight::FakeQuantized(_) => LayerError::NotFloat,
                Weight::Packed(_) | Weight::QuantizedTrainable(_) => LayerError::AlreadyPacked,
            };
            unfit.insert(name.to_owned(), reason);
        });
        let plan = Self::of_layers(layers, config)?;
        match plan.layers.iter().find_map(|layer| unfit.remove_entry(&layer.name)) {
            Some((layer, reason)) => Err(Error::layer(&layer, reason)),
            None => Ok(plan),
        }
    }

    /// Plans `config` for the float linear `layers` of a model that need not be in memory.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn of_layers(layers: Vec<PlannedLayer>, config: &PtqConfig) -> Result<Self> {
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        patterns("layer", &names, config.layers.iter().map(|rule| &rule.pattern))?;
        let mut plan = Self::skipping(layers, &config.skip)?;
        for PlannedLayer { name, shape } in std::mem::take(&mut plan.layers) {
            match last_match(&config.layers, &name) {
                Some(rule) if rule.scheme == LayerScheme::Float => {
                    let reason = format!("layer pattern {:?}", rule.pattern);
                    plan.skipped.push(SkippedLayer { name, shape, reason });
                }
                _ => plan.layers.push(PlannedLayer { name, shape }),
            }
        }
        for PlannedLayer { name, shape: [rows, cols] } in &plan.layers {
            let count = config.scheme_of(name).granularity.scale_count(*rows, *cols);
            count.map_err(|error| Error::layer(name, error))?;
        }
        if plan.layers.is_empty() {
            return Err(Error::NothingToQuantize {
                detail: match plan.skipped.len() {
                    0 => "the model names no linear layer: those that may be quantized are slm's `Linear`s, in types \
                          that derive NamedLinears"
                        .to_owned(),
                    count if config.layers.is_empty() => {
                        format!("skip patterns match all {count} linear layers")
                    }
                    count => format!("skip and layer patterns leave all {count} linear layers float"),
                },
            });
        }
        Ok(plan)
    }

    /// Splits `layers` only by skip patterns, whatever the scheme.
    ///
    /// # Errors
    /// [`Error::Pattern`] and [`Error::UnmatchedPattern`].
    pub fn skipping(layers: Vec<PlannedLayer>, skip: &[String]) -> Result<Self> {
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        let patterns = patterns("skip", &names, skip)?;
        let mut plan = Self { layers: Vec::new(), skipped: Vec::new(), embedding: None };
        for PlannedLayer { name, shape } in layers {
            match patterns.iter().find(|pattern| pattern.matches(&name)) {
                Some(pattern) => {
                    let reason = format!("skip pattern {:?}", pattern.as_str());
                    plan.skipped.push(SkippedLayer { name, shape, reason });
                }
                None => plan.layers.push(PlannedLayer { name, shape }),
            }
        }
        Ok(plan)
    }

    /// Returns `true` if the plan quantizes `layer`.
    pub fn quantizes(&self, layer: &str) -> bool {
        self.layers.iter().any(|planned| planned.name == layer)
    }

    /// Rejects a model that lacks a layer that the plan quantizes.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] with the first missing layer.
    pub fn check_model<M: NamedLinears + ?Sized>(&self, model: &M) -> Result<()> {
        let names: HashSet<String> = linear_names(model).into_iter().collect();
        match self.layers.iter().find(|layer| !names.contains(&layer.name)) {
            Some(layer) => Err(Error::UnknownLayer { layer: layer.name.clone() }),
            None => Ok(()),
        }
    }
}

pub(crate) fn patterns<'a>(
    what: &'static str,
    names: &[&str],
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<Pattern>> {
    texts
        .into_iter()
        .map(|text| {
            let pattern = Pattern::new(text).map_err(|error| Error::Pattern {
                what,
                pattern: text.clone(),
                detail: error.msg.to_owned(),
            })?;
            if names.iter().any(|name| pattern.matches(name)) {
                return Ok(pattern);
            }
            let example = names.first().copied().unwrap_or_default().to_owned();
            Err(Error::UnmatchedPattern {
                what,
                pattern: text.clone(),
                example,
                nearest: nearest(names, text),
            })
        })
        .collect()
}

/// Least similarity (Jaro-Winkler) at which a name is suggested.
const SIMILAR: f64 = 0.8;

/// The pattern that was probably meant by `text`, which matches none of `names`.
fn nearest(names: &[&str], text: &str) -> Option<String> {
    let bare = text.trim_start_matches("model.").trim_end_matches(".weight");
    if names.contains(&bare) {
        return Some(bare.to_owned());
    }
    if !bare.is_empty() && names.iter().any(|name| name.contains(bare)) {
        // A name prefix gets all layers under it; otherwise the text may occur anywhere in a name.
        let starts = names.iter().any(|name| name.starts_with(&format!("{bare}.")));
        return Some(if starts { format!("{bare}.*") } else { format!("*{bare}*") });
    }
    let whole = names.iter().map(|name| (*name, (*name).to_owned()));
    let ends = names.iter().filter_map(|name| Some((name.rsplit_once('.')?.1, name.rsplit_once('.')?.1)));
    let candidates = whole.chain(ends.map(|(end, _)| (end, format!("*.{end}"))));
    let similar = candidates.map(|(name, pattern)| (strsim::jaro_winkler(bare, name), pattern));
    let best = similar.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILAR).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_nearly_fits_is_put_right() {
        let names =
            ["layers.0.self_attn.q_proj", "layers.0.mlp.down_proj", "layers.10.mlp.down_proj", "lm_head"];
        let meant = |text: &str| nearest(&names, text).unwrap_or_default();
        assert_eq!(meant("lmhead"), "lm_head");
        assert_eq!(meant("lm_head.weight"), "lm_head");
        assert_eq!(meant("model.layers.0.mlp.down_proj.weight"), "layers.0.mlp.down_proj");
        assert_eq!(meant("down_proj"), "*down_proj*");
        assert_eq!(meant("downproj"), "*.down_proj");
        assert_eq!(meant("layers.0"), "layers.0.*");
        assert_eq!(meant("embedding"), "");
    }
}

//! Which layers are quantized, decided before anything is changed.

use glob::Pattern;
use slm_quant_nn::{Linear, NamedLinears, Weight, linear_names};

use crate::{Error, PtqConfig, Result};

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
    /// Why it is skipped.
    pub reason: String,
}

/// Every named linear of a model, either planned or skipped with a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Layers to quantize, in forward order.
    pub layers: Vec<PlannedLayer>,
    /// Layers left float.
    pub skipped: Vec<SkippedLayer>,
}

impl Plan {
    /// Plans `config` for `model`, and checks that the scheme fits every planned layer.
    ///
    /// # Errors
    /// [`Error::Pattern`] and [`Error::UnmatchedPattern`] for skip patterns, [`Error::Layer`] for a group size
    /// that does not fit or a layer that is packed already, [`Error::NothingToQuantize`].
    pub fn new<M: NamedLinears + ?Sized>(model: &M, config: &PtqConfig) -> Result<Self> {
        let patterns = patterns(model, &config.skip)?;
        let mut plan = Self { layers: Vec::new(), skipped: Vec::new() };
        let mut refused = None;
        model.for_each_linear(&mut |name, linear| {
            let shape = [linear.out_features(), linear.in_features()];
            if let Some(pattern) = patterns.iter().find(|pattern| pattern.matches(name)) {
                let reason = format!("skip pattern {:?}", pattern.as_str());
                plan.skipped.push(SkippedLayer { name: name.to_owned(), shape, reason });
                return;
            }
            if let Err(error) = check(name, linear, config) {
                refused.get_or_insert(error);
            }
            plan.layers.push(PlannedLayer { name: name.to_owned(), shape });
        });
        match refused {
            Some(error) => Err(error),
            None if plan.layers.is_empty() => Err(Error::NothingToQuantize {
                detail: match plan.skipped.len() {
                    0 => "the model names no linear layer".to_owned(),
                    count => format!("skip patterns match all {count} linear layers"),
                },
            }),
            None => Ok(plan),
        }
    }
}

fn check(name: &str, linear: &Linear, config: &PtqConfig) -> Result<()> {
    if matches!(linear.weight, Weight::Packed(_)) {
        return Err(Error::layer(name, slm_quant_nn::Error::AlreadyPacked));
    }
    config
        .scheme
        .granularity
        .scale_count(linear.out_features(), linear.in_features())
        .map_err(|error| Error::layer(name, error))?;
    Ok(())
}

fn patterns<M: NamedLinears + ?Sized>(model: &M, skip: &[String]) -> Result<Vec<Pattern>> {
    let names = linear_names(model);
    skip.iter()
        .map(|text| {
            let pattern = Pattern::new(text)
                .map_err(|error| Error::Pattern { pattern: text.clone(), detail: error.msg.to_owned() })?;
            if names.iter().any(|name| pattern.matches(name)) {
                Ok(pattern)
            } else {
                let example = names.first().cloned().unwrap_or_default();
                Err(Error::UnmatchedPattern { pattern: text.clone(), example })
            }
        })
        .collect()
}

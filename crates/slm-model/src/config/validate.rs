//! Checks of a config.

use super::{LayerSpec, ModelConfig, Position, RopeScaling, RotaryConfig};
use crate::error::{Error, Result};

/// Maximum width or count: no model comes near it, and products of sizes stay inside `u64`.
const MAX_SIZE: usize = 1 << 24;
/// Maximum number of layers, for the same reason.
pub(crate) const MAX_LAYERS: usize = 1 << 12;

impl ModelConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Config`] with the first invalid field and a remedy.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_SIZE),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_layers", self.num_layers, MAX_LAYERS),
            ("num_heads", self.num_heads, MAX_SIZE),
            ("num_kv_heads", self.num_kv_heads, MAX_SIZE),
            ("head_dim", self.head_dim, MAX_SIZE),
            ("max_position_embeddings", self.max_position_embeddings, MAX_SIZE),
        ];
        for (field, value, max) in sizes {
            if value == 0 || value > max {
                return Err(bad(field, value, format!("use 1 to {max}")));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let remedy = format!("it must divide num_heads = {}", self.num_heads);
            return Err(bad("num_kv_heads", self.num_kv_heads, remedy));
        }
        if self.num_heads * self.head_dim > MAX_SIZE {
            let remedy = format!("with num_heads = {} it must stay below {MAX_SIZE} in all", self.num_heads);
            return Err(bad("head_dim", self.head_dim, remedy));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(bad("norm_eps", self.norm_eps, "use a small positive number such as 1e-5".into()));
        }
        positive("embedding_multiplier", self.embedding_multiplier)?;
        positive("logit_multiplier", self.logit_multiplier)?;
        self.check_layer("", "position.rotary.", &self.base_layer())?;
        self.check_overrides()
    }

    fn check_overrides(&self) -> Result<()> {
        let mut named = vec![false; self.num_layers];
        for change in &self.layer_overrides {
            if change.layers.is_empty() {
                return Err(bad("layer_overrides.layers", "empty", "name at least one layer".into()));
            }
            for &index in &change.layers {
                match named.get_mut(index) {
                    None => {
                        let remedy = format!("use 0 to {}", self.num_layers - 1);
                        return Err(bad("layer_overrides.layers", index, remedy));
                    }
                    Some(true) => {
                        let remedy = "name each layer in one override only".into();
                        return Err(bad("layer_overrides.layers", index, remedy));
                    }
                    Some(named) => *named = true,
                }
            }
            let spec = self.layer(change.layers[0]);
            self.check_layer("layer_overrides.", "layer_overrides.rotary.", &spec)?;
        }
        Ok(())
    }

    /// Checks one kind of layer. The prefixes stand before the names of its fields.
    fn check_layer(&self, prefix: &str, rotary_prefix: &str, spec: &LayerSpec) -> Result<()> {
        positive(&format!("{prefix}residual_multiplier"), spec.residual_multiplier)?;
        if let Some(scale) = spec.attention_scale {
            positive(&format!("{prefix}attention_scale"), scale)?;
        }
        if spec.sliding_window == Some(0) {
            let remedy = "leave it out, or let a position see at least itself: 1".into();
            return Err(bad(format!("{prefix}sliding_window"), 0, remedy));
        }
        match &spec.rotary {
            Some(rotary) => self.check_rotary(rotary_prefix, rotary),
            None => Ok(()),
        }
    }

    fn check_rotary(&self, prefix: &str, rotary: &RotaryConfig) -> Result<()> {
        let &RotaryConfig { theta, ref scaling, dims } = rotary;
        match dims {
            None if !self.head_dim.is_multiple_of(2) => {
                let remedy = "rotary positions pair the two halves of a head: use an even number".into();
                return Err(bad("head_dim", self.head_dim, remedy));
            }
            Some(dims) if dims == 0 || dims > self.head_dim || !dims.is_multiple_of(2) => {
                let remedy = format!("use an even number from 2 to head_dim = {}", self.head_dim);
                return Err(bad(format!("{prefix}dims"), dims, remedy));
            }
            _ => {}
        }
        if !(theta.is_finite() && theta > 1.0) {
            let remedy = "use a number above 1, such as 10000".into();
            return Err(bad(format!("{prefix}theta"), theta, remedy));
        }
        let pairs = dims.unwrap_or(self.head_dim) / 2;
        scaling.as_ref().map_or(Ok(()), |scaling| scaling.validate(&format!("{prefix}scaling."), pairs))
    }

    /// Returns `true` if learned position vectors are added to the embedding.
    pub(crate) fn has_learned_positions(&self) -> bool {
        self.position == Position::Learned
    }
}

impl RopeScaling {
    /// Checks the scaling of a rotation of `pairs` pairs.
    fn validate(&self, prefix: &str, pairs: usize) -> Result<()> {
        let at_least_one = |field: &str, factor: f64| {
            if factor.is_finite() && factor >= 1.0 {
                Ok(())
            } else {
                Err(bad(format!("{prefix}{field}"), factor, "use a number of at least 1".into()))
            }
        };
        let context = |field: &str, original: usize| match original {
            1.. => Ok(()),
            0 => {
                let remedy = "use the context length of the pretraining".into();
                Err(bad(format!("{prefix}{field}.original_max_position_embeddings"), original, remedy))
            }
        };
        match *self {
            Self::Linear { factor } => at_least_one("linear.factor", factor),
            Self::Dynamic { factor, max_position_embeddings } => {
                at_least_one("dynamic.factor", factor)?;
                let field = |name: &str| format!("{prefix}dynamic.{name}");
                if max_position_embeddings == 0 {
                    let remedy = "use the context length of the pretraining".into();
                    return Err(bad(field("max_position_embeddings"), max_position_embeddings, remedy));
                }
                match pairs {
                    2.. => Ok(()),
                    _ => Err(bad(field("factor"), factor, "rotate at least two pairs of a head".into())),
                }
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let field = |name: &str| format!("{prefix}llama3.{name}");
                at_least_one("llama3.factor", factor)?;
                positive(&field("low_freq_factor"), low_freq_factor)?;
                if !(high_freq_factor.is_finite() && high_freq_factor > low_freq_factor) {
                    let remedy = format!("it must be above low_freq_factor = {low_freq_factor}");
                    return Err(bad(field("high_freq_factor"), high_freq_factor, remedy));
                }
                context("llama3", original_max_position_embeddings)
            }
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate: _,
                attention_factor,
            } => {
                let field = |name: &str| format!("{prefix}yarn.{name}");
                at_least_one("yarn.factor", factor)?;
                positive(&field("beta_slow"), beta_slow)?;
                positive(&field("beta_fast"), beta_fast)?;
                positive(&field("attention_factor"), attention_factor)?;
                context("yarn", original_max_position_embeddings)
            }
            Self::LongRope {
                ref short_factor,
                ref long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                for (name, factors) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                    let name = format!("{prefix}long_rope.{name}");
                    if factors.len() != pairs {
                        let found = format!("{} numbers", factors.len());
                        return Err(bad(
                            name,
                            found,
                            format!("give one for each of {pairs} pairs of a head"),
                        ));
                    }
                    factors.iter().try_for_each(|&factor| positive(&name, factor))?;
                }
                positive(&format!("{prefix}long_rope.attention_factor"), attention_factor)?;
                context("long_rope", original_max_position_embeddings)
            }
        }
    }
}

fn positive(field: &str, value: f64) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(bad(field, value, "use a positive number".into())),
    }
}

pub(super) fn bad(field: impl Into<String>, found: impl ToString, remedy: String) -> Error {
    Error::Config { field: field.into(), found: found.to_string(), remedy }
}

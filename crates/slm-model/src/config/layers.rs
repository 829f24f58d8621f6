//! The specification of each layer, and how a config describes differences between layers.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{IntoDeserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AttentionBias, MlpKind, ModelConfig, NormPlacement, Position, QkNorm, RotaryConfig};

/// All settings in which one layer may differ from another. The fields are those of [`ModelConfig`].
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Placement of the norms.
    pub norm_placement: NormPlacement,
    /// `true` if the MLP reads the input of the layer rather than the result of attention.
    pub parallel_residual: bool,
    /// Factor of the outputs of attention and MLP.
    pub residual_multiplier: f64,
    /// Factor of the attention scores; `None` for `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f64>,
    /// Number of positions that a position attends to, itself included; `None` for all before it.
    pub sliding_window: Option<usize>,
    /// Rotation of queries and keys.
    pub rotary: Option<RotaryConfig>,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Attention projections with a bias.
    pub attention_bias: AttentionBias,
    /// Kind of MLP.
    pub mlp: MlpKind,
    /// `true` if the MLP's linear layers have biases.
    pub mlp_bias: bool,
}

/// Layers that differ from the rest of the model, and their differences. Absent fields are as in the rest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerOverride {
    /// Indices of the layers, from 0.
    pub layers: Vec<usize>,
    /// See [`ModelConfig::norm_placement`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_placement: Option<NormPlacement>,
    /// See [`ModelConfig::parallel_residual`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_residual: Option<bool>,
    /// See [`ModelConfig::residual_multiplier`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual_multiplier: Option<f64>,
    /// See [`ModelConfig::attention_scale`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_scale: Option<Choice<f64>>,
    /// See [`ModelConfig::sliding_window`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<Choice<usize>>,
    /// See [`Position::Rotary`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary: Option<Choice<RotaryConfig>>,
    /// See [`ModelConfig::qk_norm`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<QkNorm>,
    /// See [`ModelConfig::attention_bias`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_bias: Option<AttentionBias>,
    /// See [`ModelConfig::mlp`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<MlpKind>,
    /// See [`ModelConfig::mlp_bias`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp_bias: Option<bool>,
}

/// A value, or explicitly none. In a file, the value itself or `"none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<T>(pub Option<T>);

/// Calls `$each!(field)` for every field of [`LayerSpec`], and `$option!(field)` for fields that may be none.
macro_rules! fields {
    ($each:ident, $option:ident) => {
        $each!(norm_placement);
        $each!(parallel_residual);
        $each!(residual_multiplier);
        $option!(attention_scale);
        $option!(sliding_window);
        $option!(rotary);
        $each!(qk_norm);
        $each!(attention_bias);
        $each!(mlp);
        $each!(mlp_bias);
    };
}

impl LayerOverride {
    /// The differences of `spec`, which the layers `layers` have, from `base`.
    fn between(base: &LayerSpec, spec: &LayerSpec, layers: Vec<usize>) -> Self {
        let mut found = Self { layers, ..Self::default() };
        macro_rules! plain {
            ($field:ident) => {
                found.$field = (spec.$field != base.$field).then_some(spec.$field.clone());
            };
        }
        macro_rules! option {
            ($field:ident) => {
                found.$field = (spec.$field != base.$field).then_some(Choice(spec.$field.clone()));
            };
        }
        fields!(plain, option);
        found
    }

    fn apply(&self, spec: &mut LayerSpec) {
        macro_rules! plain {
            ($field:ident) => {
                spec.$field = self.$field.unwrap_or(spec.$field);
            };
        }
        macro_rules! option {
            ($field:ident) => {
                if let Some(choice) = &self.$field {
                    spec.$field = choice.0.clone();
                }
            };
        }
        fields!(plain, option);
    }
}

impl ModelConfig {
    /// The layers that no override names.
    pub(super) fn base_layer(&self) -> LayerSpec {
        LayerSpec {
            norm_placement: self.norm_placement,
            parallel_residual: self.parallel_residual,
            residual_multiplier: self.residual_multiplier,
            attention_scale: self.attention_scale,
            sliding_window: self.sliding_window,
            rotary: match &self.position {
                Position::Rotary(rotary) => Some(rotary.clone()),
                Position::Learned | Position::None => None,
            },
            qk_norm: self.qk_norm,
            attention_bias: self.attention_bias,
            mlp: self.mlp,
            mlp_bias: self.mlp_bias,
        }
    }

    /// The specification of layer `index`.
    pub fn layer(&self, index: usize) -> LayerSpec {
        let mut spec = self.base_layer();
        for change in self.layer_overrides.iter().filter(|change| change.layers.contains(&index)) {
            change.apply(&mut spec);
        }
        spec
    }

    /// The specifications of all layers, in order.
    pub fn layers(&self) -> Vec<LayerSpec> {
        let mut specs = vec![self.base_layer(); self.num_layers];
        for change in &self.layer_overrides {
            for &index in &change.layers {
                if let Some(spec) = specs.get_mut(index) {
                    change.apply(spec);
                }
            }
        }
        specs
    }

    /// Sets the layers to `specs`: `num_layers` becomes their number, the fields of the config become those of the most
    /// frequent kind of layer, and overrides describe the differences of the others.
    pub fn set_layers(&mut self, specs: &[LayerSpec]) {
        let mut kinds: Vec<(LayerSpec, Vec<usize>)> = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            match kinds.iter_mut().find(|(kind, _)| kind == spec) {
                Some((_, layers)) => layers.push(index),
                None => kinds.push((spec.clone(), vec![index])),
            }
        }
        self.num_layers = specs.len();
        // The first among equally frequent kinds.
        let Some((base, _)) = kinds.iter().rev().max_by_key(|(_, layers)| layers.len()) else {
            self.layer_overrides.clear();
            return;
        };
        let base = base.clone();
        macro_rules! set {
            ($field:ident) => {
                self.$field = base.$field;
            };
        }
        macro_rules! nothing {
            ($field:ident) => {};
        }
        fields!(set, nothing);
        (self.attention_scale, self.sliding_window) = (base.attention_scale, base.sliding_window);
        self.position = match (&base.rotary, &self.position) {
            (Some(rotary), _) => Position::Rotary(rotary.clone()),
            (None, Position::Learned) => Position::Learned,
            (None, _) => Position::None,
        };
        let others = kinds.into_iter().filter(|(kind, _)| *kind != base);
        self.layer_overrides =
            others.map(|(kind, layers)| LayerOverride::between(&base, &kind, layers)).collect();
    }
}

impl<T: Serialize> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str("none"),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueOrNone<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ValueOrNone<T> {
            type Value = Choice<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or \"none\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Choice<T>, E> {
                match text {
                    "none" => Ok(Choice(None)),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Choice<T>, E> {
                T::deserialize(value.into_deserializer()).map(|value| Choice(Some(value)))
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Choice<T>, E> {
                T::deserialize(value.into_deserializer()).map(|value| Choice(Some(value)))
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Choice<T>, E> {
                T::deserialize(value.into_deserializer()).map(|value| Choice(Some(value)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Choice<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|value| Choice(Some(value)))
            }
        }
        deserializer.deserialize_any(ValueOrNone(PhantomData))
    }
}

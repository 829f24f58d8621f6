//! Quantization schemes of layers, in the vocabulary of a `quantization_config`.

use std::fmt;

use serde_json::{Map, Value, json};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Bits};

/// The quantization of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scheme {
    pub(super) bits: Bits,
    /// Number of values that share a scale within a row; `None` if the whole row does.
    pub(super) group_size: Option<usize>,
    pub(super) symmetric: bool,
    pub(super) inputs: Inputs,
}

/// Quantization of the inputs of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inputs {
    Float,
    DynamicToken,
    DynamicTensor,
    Static,
}

impl From<ActivationQuant> for Inputs {
    fn from(activation: ActivationQuant) -> Self {
        match activation {
            ActivationQuant::Float => Self::Float,
            ActivationQuant::Dynamic(ActivationGranularity::PerToken) => Self::DynamicToken,
            ActivationQuant::Dynamic(ActivationGranularity::PerTensor) => Self::DynamicTensor,
            ActivationQuant::Static(_) => Self::Static,
        }
    }
}

impl Scheme {
    pub(super) fn bit_count(self) -> u32 {
        match self.bits {
            Bits::Int8 => 8,
            Bits::Int4 => 4,
        }
    }

    /// Returns `true` if codes are packed in words, as they are if inputs are float.
    pub(super) fn is_packed(self) -> bool {
        self.inputs == Inputs::Float
    }

    fn format(self) -> &'static str {
        if self.is_packed() { "pack-quantized" } else { "int-quantized" }
    }

    fn to_json(self, targets: &[String]) -> Value {
        let args = |bits: u32, symmetric: bool, strategy: &str, group_size: Option<usize>, dynamic: bool| {
            json!({
                "num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy,
                "group_size": group_size, "dynamic": dynamic, "actorder": null, "block_structure": null,
                "observer": if dynamic { Value::Null } else { "minmax".into() }, "observer_kwargs": {},
            })
        };
        let strategy = if self.group_size.is_some() { "group" } else { "channel" };
        // slm's input codes have zero points.
        let inputs = match self.inputs {
            Inputs::Float => Value::Null,
            Inputs::DynamicToken => args(8, false, "token", None, true),
            Inputs::DynamicTensor => args(8, false, "tensor", None, true),
            Inputs::Static => args(8, false, "tensor", None, false),
        };
        json!({
            "targets": targets,
            "weights": args(self.bit_count(), self.symmetric, strategy, self.group_size, false),
            "input_activations": inputs,
            "output_activations": null,
            "format": self.format(),
        })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "int{} {}", self.bit_count(), self.format())
    }
}

/// The linear layers of a model, grouped by quantization scheme.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<(Scheme, Vec<String>)>,
    float: Vec<String>,
}

impl Groups {
    pub(super) fn add(&mut self, module: &str, scheme: Option<Scheme>) {
        let Some(scheme) = scheme else {
            self.float.push(module.to_owned());
            return;
        };
        match self.groups.iter_mut().find(|(known, _)| *known == scheme) {
            Some((_, modules)) => modules.push(module.to_owned()),
            None => self.groups.push((scheme, vec![module.to_owned()])),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The `quantization_config`.
    pub(super) fn to_json(&self) -> Value {
        let mut groups = Map::new();
        let all = ["Linear".to_owned()];
        for (index, (scheme, modules)) in self.groups.iter().enumerate() {
            let targets = if self.groups.len() == 1 { &all[..] } else { &modules[..] };
            groups.insert(format!("group_{index}"), scheme.to_json(targets));
        }
        let mut formats: Vec<&str> = self.groups.iter().map(|(scheme, _)| scheme.format()).collect();
        formats.sort_unstable();
        formats.dedup();
        json!({
            "quant_method": "compressed-tensors",
            "format": if let [format] = formats[..] { format } else { "mixed-precision" },
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": self.ignored(),
            "kv_cache_scheme": null,
            "global_compression_ratio": null,
        })
    }

    /// Returns the linear layers that stay float. A tied head has no weight, but other programs count it as a layer.
    fn ignored(&self) -> Vec<String> {
        let mut ignored = self.float.clone();
        let has_head =
            |modules: &[String]| modules.iter().any(|module| module == "lm_head" || module == "embed_out");
        if !has_head(&ignored) && !self.groups.iter().any(|(_, modules)| has_head(modules)) {
            ignored.push("lm_head".to_owned());
        }
        ignored
    }
}

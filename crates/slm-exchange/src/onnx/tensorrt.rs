//! TensorRT's rules for quantized models: symmetric codes, zero points of 0, constant positive scales, INT8 per tensor
//! or channel, and INT4 only for weights, in blocks.

use slm_quant_core::{ActivationQuant, Bits, Granularity, QuantizedMatrix};

/// Counts of quantized tensors, and those that break a rule.
#[derive(Debug, Default)]
pub(super) struct TensorRtRules {
    tensors: usize,
    broken: Vec<String>,
}

impl TensorRtRules {
    /// Checks the weights of the layer `name`.
    pub(super) fn check_weights(&mut self, name: &str, matrix: &QuantizedMatrix) {
        let scheme = matrix.scheme();
        let blocks = matches!(scheme.granularity, Granularity::PerGroup { .. });
        let reason = match (scheme.bits, blocks) {
            _ if !scheme.mapping.is_symmetric() => Some("they have zero points"),
            (Bits::Int8, true) => Some("they are INT8 in groups"),
            (Bits::Int4, false) => Some("they are INT4 without groups"),
            _ if (0..matrix.scales().len()).any(|index| matrix.scales().get(index) < 0.0) => {
                Some("they have negative scales")
            }
            _ => None,
        };
        self.add("the weights of", name, reason.map(str::to_owned));
    }

    /// Checks the inputs of the layer `name`, whose weights have codes of `bits`.
    pub(super) fn check_inputs(&mut self, name: &str, bits: Bits, activation: ActivationQuant) {
        let reason = match activation {
            ActivationQuant::Float => return,
            ActivationQuant::Dynamic(_) => Some("their scales are not constant".to_owned()),
            ActivationQuant::Static(_) if bits == Bits::Int4 => {
                Some("they are quantized, and INT4 weights take floats only".to_owned())
            }
            ActivationQuant::Static(params) if params.zero_point == 128 => None,
            ActivationQuant::Static(params) => {
                Some(format!("they have a zero point ({})", params.zero_point))
            }
        };
        self.add("the inputs of", name, reason);
    }

    fn add(&mut self, what: &str, name: &str, reason: Option<String>) {
        self.tensors += 1;
        self.broken.extend(reason.map(|reason| format!("{what} {name}: {reason}")));
    }

    /// Returns a sentence that states whether the rules hold; `None` for a float model.
    pub(super) fn note(&self) -> Option<String> {
        match (&self.broken[..], self.tensors) {
            (_, 0) => None,
            ([], _) => {
                Some("TensorRT's rules hold: symmetric, zero points 0, constant positive scales".to_owned())
            }
            ([first], _) => Some(format!("TensorRT's rules do not hold for {first}")),
            ([first, rest @ ..], tensors) => Some(format!(
                "TensorRT's rules do not hold for {} of {tensors} quantized tensors: {first}, and others",
                rest.len() + 1
            )),
        }
    }
}

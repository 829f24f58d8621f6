//! The roles of parameters in linear layers, for optimizers.

use std::collections::HashMap;

use burn::module::ParamId;

use crate::{NamedLinears, Weight};

/// The role of a parameter in a [`Linear`](crate::Linear).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParameterRole {
    /// A float weight, plain or fake-quantized. Optimizers decay these.
    Weight,
    /// Learned scales of a fake-quantized weight.
    LearnedScale,
    /// The pending update of a weight that exists as codes.
    Update,
    /// A bias.
    Bias,
}

/// Roles of the parameters of all linears of `module`. A parameter that is not among them belongs to no linear.
pub fn parameter_roles<M: NamedLinears + ?Sized>(module: &M) -> HashMap<ParamId, ParameterRole> {
    let mut roles = HashMap::new();
    module.for_each_linear(&mut |_, linear| {
        match &linear.weight {
            Weight::Float(weight) => {
                roles.insert(weight.id, ParameterRole::Weight);
            }
            Weight::FakeQuantized(weight) => roles.extend(weight.parameter_roles()),
            Weight::Packed(_) => {}
            Weight::QuantizedTrainable(weight) => roles.extend([weight.parameter_role()]),
        }
        if let Some(bias) = &linear.bias {
            roles.insert(bias.id, ParameterRole::Bias);
        }
    });
    roles
}

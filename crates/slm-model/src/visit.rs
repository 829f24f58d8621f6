//! Visits a model's float tensors under their canonical names.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use slm_nn::{Linear, widened};

/// Passes tensors to a closure, one at a time.
pub(crate) struct TensorVisitor<'a, E> {
    visit: &'a mut dyn FnMut(&str, TensorData) -> Result<(), E>,
}

impl<'a, E> TensorVisitor<'a, E> {
    pub(crate) fn new(visit: &'a mut dyn FnMut(&str, TensorData) -> Result<(), E>) -> Self {
        Self { visit }
    }

    pub(crate) fn param<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) -> Result<(), E> {
        (self.visit)(name, widened(param.val()).into_data())
    }

    /// Visits the weight (unless packed) and the bias of a linear layer.
    pub(crate) fn linear(&mut self, path: &str, linear: &Linear) -> Result<(), E> {
        if let Some(weight) = linear.float_weight() {
            (self.visit)(&format!("{path}.weight"), weight.into_data())?;
        }
        linear.bias.iter().try_for_each(|bias| self.param(&format!("{path}.bias"), bias))
    }
}

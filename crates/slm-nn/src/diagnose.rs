//! Search for the layer at which values stop being finite.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

use crate::{ForwardHook, NamedLinears, attach_hook, detach_hooks, to_vec_f32};

/// Runs `forward` and returns the name of the first linear layer whose input or output is not finite.
///
/// Every input and output is read back, so use this only for a run that has already failed. Hooks of `model` are
/// removed.
pub fn first_layer_not_finite<M: NamedLinears>(model: &mut M, forward: impl FnOnce(&M)) -> Option<String> {
    let watch = Arc::new(Watch::default());
    attach_hook(model, &(Arc::clone(&watch) as Arc<dyn ForwardHook>));
    forward(model);
    detach_hooks(model);
    watch.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Returns `true` if every value of `tensor` is finite, and `false` for a tensor that cannot be read.
pub fn is_finite<const D: usize>(tensor: &Tensor<D>) -> bool {
    to_vec_f32("value", tensor.clone()).is_ok_and(|values| values.iter().all(|value| value.is_finite()))
}

#[derive(Default)]
struct Watch(Mutex<Option<String>>);

impl ForwardHook for Watch {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, output: &Tensor<2>) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_none() && !(is_finite(input) && is_finite(output)) {
            *found = Some(layer.to_owned());
        }
    }
}

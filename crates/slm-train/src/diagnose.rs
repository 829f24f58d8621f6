//! Where values stopped being finite.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use slm_model::Transformer;
use slm_nn::{ForwardHook, attach_hook, to_vec_f32};

/// The first linear layer whose weights, input or output are not finite on `ids`, one row of a batch that gave a
/// loss that is not; else the first parameter that is not finite.
pub(crate) fn first_not_finite(model: &Transformer, ids: &[u32]) -> Option<String> {
    let mut model = model.valid();
    let hook = Arc::new(Watch::default());
    attach_hook(&mut model, &(Arc::clone(&hook) as Arc<dyn ForwardHook>));
    model.forward(model.ids_tensor(ids));
    let found = hook.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    found.map(|layer| format!("layer {layer}")).or_else(|| {
        let mut parameters = Parameters { path: Vec::new(), gradients: None, found: None };
        model.visit(&mut parameters);
        parameters.found
    })
}

/// The first parameter whose gradient is not finite.
pub(crate) fn first_gradient_not_finite<M: Module>(model: &M, gradients: &GradientsParams) -> Option<String> {
    let mut parameters = Parameters { path: Vec::new(), gradients: Some(gradients), found: None };
    model.visit(&mut parameters);
    parameters.found
}

fn is_finite<const D: usize>(tensor: &Tensor<D>) -> bool {
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

struct Parameters<'a> {
    path: Vec<String>,
    gradients: Option<&'a GradientsParams>,
    found: Option<String>,
}

impl ModuleVisitor for Parameters<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.found.is_some() {
            return;
        }
        let finite = match self.gradients {
            None => is_finite(&param.val()),
            Some(gradients) => gradients.get::<D>(param.id).is_none_or(|gradient| is_finite(&gradient)),
        };
        if !finite {
            self.found = Some(format!("parameter {}", self.path.join(".")));
        }
    }
}

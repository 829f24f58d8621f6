//! Search for the place where values stop being finite.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use slm_model::Transformer;
use slm_nn::{first_layer_not_finite, is_finite};

/// The first linear layer whose weights, input or output are not finite on `ids`, one row of a batch whose loss was not
/// finite; otherwise the first parameter that is not finite.
pub(crate) fn first_not_finite(model: &Transformer, ids: &[u32]) -> Option<String> {
    let mut model = model.valid();
    let found = first_layer_not_finite(&mut model, |model| {
        model.forward(model.ids_tensor(ids));
    });
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

//! Adam with a learning rate for each parameter.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::{AdamW, AdamWConfig, AdamWState, GradientsParams, Optimizer};
use burn::tensor::Tensor;

/// Decay rates of the gradient's moments, as usual for the training of quantized weights.
const BETAS: (f32, f32) = (0.9, 0.95);

/// Adam (Kingma and Ba, 2015, <https://arxiv.org/abs/1412.6980>) without weight decay.
pub(super) struct BlockOptimizer {
    adam: AdamW,
    rates: HashMap<ParamId, f64>,
    states: HashMap<ParamId, AdamWState<1>>,
}

impl BlockOptimizer {
    /// An optimizer that updates only the parameters in `rates`.
    pub(super) fn new(rates: HashMap<ParamId, f64>) -> Self {
        let config = AdamWConfig::new().with_beta_1(BETAS.0).with_beta_2(BETAS.1).with_weight_decay(0.0);
        Self { adam: config.build(), rates, states: HashMap::new() }
    }

    /// One step with `factor` times the learning rates.
    pub(super) fn step<M: Module>(&mut self, module: M, gradients: &mut GradientsParams, factor: f64) -> M {
        module.map(&mut Step { optimizer: self, gradients, factor })
    }
}

struct Step<'a> {
    optimizer: &'a mut BlockOptimizer,
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(rate) = self.optimizer.rates.get(&param.id) else { return param };
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let value = tensor.inner();
        let shape = value.shape();
        let size = shape.num_elements();
        let state = self.optimizer.states.remove(&id);
        let (value, state) = self.optimizer.adam.step(
            rate * self.factor,
            value.reshape([size]),
            gradient.reshape([size]),
            state,
        );
        if let Some(state) = state {
            self.optimizer.states.insert(id, state);
        }
        let tensor = Tensor::from_inner(value.reshape(shape)).set_require_grad(true);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

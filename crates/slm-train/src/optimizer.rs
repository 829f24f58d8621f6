//! One optimizer step: clipping by the global norm, then AdamW.
//!
//! The arithmetic is that of Burn's `AdamW`; on devices in host memory it is one pass over each parameter. Burn's
//! module optimizer is not used, for two reasons: it clips each parameter by its own norm, and it keys saved state by
//! parameter ids, which differ from run to run, and restores it on the default device. Here state is kept by parameter
//! path.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, View};
use safetensors::{SafeTensorError, SafeTensors};
use slm_autograd::AdamWStep;
use slm_checkpoint::WriteFile;
use slm_nn::{NamedLinears, ParameterRole, parameter_roles};

use crate::loss::sum_in_order;
use crate::{Error, Result, TrainingOptions};

/// AdamW with the state of every parameter.
pub(crate) struct ModelOptimizer {
    decayed: AdamW,
    plain: AdamW,
    options: TrainingOptions,
    /// Learning rate of learned scales, as a multiple of that of everything else.
    scale_learning_rate: f64,
    states: BTreeMap<String, Moments>,
}

/// State of one parameter, flattened; AdamW works element by element.
#[derive(Clone)]
struct Moments(AdaptiveMomentumState<1>);

impl ModelOptimizer {
    pub(crate) fn new(options: &TrainingOptions, scale_learning_rate: f64) -> Self {
        let config = |weight_decay: f64| {
            AdamWConfig::new()
                .with_beta_1(options.beta1 as f32)
                .with_beta_2(options.beta2 as f32)
                .with_epsilon(options.epsilon as f32)
                .with_weight_decay(weight_decay as f32)
                .build()
        };
        Self {
            decayed: config(options.weight_decay),
            plain: config(0.0),
            options: options.clone(),
            scale_learning_rate,
            states: BTreeMap::new(),
        }
    }

    /// Forgets the state of all parameters.
    pub(crate) fn clear(&mut self) {
        self.states.clear();
    }

    /// Updates `model` with `gradients`, whose [`global_norm`] is `norm`. Parameters are updated in place unless
    /// something else holds them. If the norm is not finite, nothing changes.
    pub(crate) fn step<M: Module + NamedLinears>(
        &mut self,
        learning_rate: f64,
        model: M,
        gradients: &mut GradientsParams,
        norm: f64,
    ) -> M {
        if !norm.is_finite() {
            return model;
        }
        let limit = self.options.grad_clip;
        let scale = (limit > 0.0 && norm > limit).then(|| limit / norm);
        let roles = parameter_roles(&model);
        let mut step = Step { optimizer: self, gradients, learning_rate, scale, roles, path: Vec::new() };
        model.map(&mut step)
    }

    /// Updates one parameter in one pass, on devices in host memory, with the arithmetic of Burn's `AdamW`.
    fn fused_step(
        &self,
        learning_rate: f64,
        decays: bool,
        scale: Option<f64>,
        value: Tensor<1>,
        gradient: Tensor<1>,
        state: Option<Moments>,
    ) -> (Tensor<1>, Option<Moments>) {
        let (time, moments) = match state {
            Some(Moments(state)) => (state.time + 1, [state.moment_1, state.moment_2]),
            None => (1, [value.zeros_like(), value.zeros_like()]),
        };
        let options = &self.options;
        let decay = if decays { learning_rate * options.weight_decay } else { 0.0 };
        let step = AdamWStep {
            learning_rate: learning_rate as f32,
            decay: (1.0 - decay) as f32,
            beta_1: options.beta1 as f32,
            beta_2: options.beta2 as f32,
            epsilon: options.epsilon as f32,
            gradient_scale: scale.unwrap_or(1.0) as f32,
            time: i32::try_from(time).unwrap_or(i32::MAX),
        };
        let (value, [moment_1, moment_2]) = slm_autograd::adamw(value, gradient, moments, step);
        (value, Some(Moments(AdaptiveMomentumState::new(time, moment_1, moment_2))))
    }

    /// Restores the state of `model`'s parameters after `steps` steps from the content of a file [written](WriteFile)
    /// by this type. Learned scales do not take part in the first `observe_steps`.
    pub(crate) fn load<M: Module + NamedLinears>(
        &mut self,
        bytes: &[u8],
        steps: usize,
        observe_steps: usize,
        model: &M,
        device: &Device,
    ) -> Result<()> {
        let failed = |detail: String| Error::OptimizerState { detail };
        let file = SafeTensors::deserialize(bytes).map_err(|error| failed(error.to_string()))?;
        let mut sizes = Sizes { path: Vec::new(), sizes: BTreeMap::new() };
        model.visit(&mut sizes);
        let roles = parameter_roles(model);
        let steps_of = |id: &ParamId| match roles.get(id) {
            Some(ParameterRole::LearnedScale) => steps.saturating_sub(observe_steps),
            _ => steps,
        };
        sizes.sizes.retain(|_, (id, _)| steps_of(id) > 0);
        if file.len() != 2 * sizes.sizes.len() {
            let (found, expected) = (file.len(), 2 * sizes.sizes.len());
            return Err(failed(format!("it holds {found} tensors, the model needs {expected}")));
        }
        self.states.clear();
        for (path, (id, size)) in sizes.sizes {
            let read = |moment: &str| -> Result<Tensor<1>> {
                let name = format!("{path}.{moment}");
                let view = file.tensor(&name).map_err(|error| failed(error.to_string()))?;
                if view.dtype() != Dtype::F32 || view.shape() != [size] {
                    let (dtype, shape) = (view.dtype(), view.shape());
                    return Err(failed(format!("{name} is {dtype:?} {shape:?}, expected F32 [{size}]")));
                }
                let (values, _) = view.data().as_chunks::<4>();
                let values: Vec<f32> = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
                Ok(Tensor::from_data(TensorData::new(values, [size]), device))
            };
            let state = AdaptiveMomentumState::new(steps_of(&id), read("moment_1")?, read("moment_2")?);
            self.states.insert(path, Moments(state));
        }
        Ok(())
    }
}

struct Step<'a> {
    optimizer: &'a mut ModelOptimizer,
    gradients: &'a mut GradientsParams,
    learning_rate: f64,
    /// Factor of the gradients, if they are clipped.
    scale: Option<f64>,
    roles: HashMap<ParamId, ParameterRole>,
    path: Vec<String>,
}

impl ModuleMapper for Step<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(stored_segment(name).to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let requires_grad = tensor.is_require_grad();
        let value = tensor.inner();
        let shape = value.shape();
        let size = shape.num_elements();
        let gradient = gradient.reshape([size]);
        let path = self.path.join(".");
        let state = self.optimizer.states.remove(&path);
        let role = self.roles.get(&id);
        let decays = role == Some(&ParameterRole::Weight);
        let is_scale = role == Some(&ParameterRole::LearnedScale);
        let factor = if is_scale { self.optimizer.scale_learning_rate } else { 1.0 };
        let rate = self.learning_rate * factor;
        let (value, state) = if slm_autograd::is_supported(&value.device()) {
            self.optimizer.fused_step(rate, decays, self.scale, value.reshape([size]), gradient, state)
        } else {
            let gradient = match self.scale {
                Some(scale) => gradient.mul_scalar(scale),
                None => gradient,
            };
            let adamw = if decays { &self.optimizer.decayed } else { &self.optimizer.plain };
            let state = state.map(|Moments(state)| AdamWState::new(state));
            let (value, state) = adamw.step(rate, value.reshape([size]), gradient, state);
            (value, state.map(|state| Moments(state.momentum)))
        };
        if let Some(state) = state {
            self.optimizer.states.insert(path, state);
        }
        let tensor = Tensor::from_inner(value.reshape(shape)).set_require_grad(requires_grad);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// The state is a safetensors file with `<path>.moment_1` and `<path>.moment_2` of every parameter.
impl WriteFile for ModelOptimizer {
    fn write_file(&self, path: &Path) -> io::Result<()> {
        let tensors = self.states.iter().flat_map(|(path, Moments(state))| {
            [("moment_1", &state.moment_1), ("moment_2", &state.moment_2)]
                .map(|(name, tensor)| (format!("{path}.{name}"), Moment { tensor, shape: tensor.dims() }))
        });
        safetensors::serialize_to_file(tensors, None, path).map_err(|error| match error {
            SafeTensorError::IoError(error) => error,
            error => io::Error::other(error),
        })
    }
}

/// A tensor that is read from its device when it is written.
struct Moment<'a> {
    tensor: &'a Tensor<1>,
    shape: [usize; 1],
}

impl View for Moment<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match slm_nn::to_vec_f32("moment", self.tensor.clone()) {
            Ok(values) => Cow::Owned(values.into_iter().flat_map(f32::to_le_bytes).collect()),
            Err(error) => unreachable!("moments are 32-bit floats: {error}"),
        }
    }

    fn data_len(&self) -> usize {
        self.shape[0] * size_of::<f32>()
    }
}

/// The norm of all gradients of `model` together: the root of the sum of their squares.
pub(crate) fn global_norm<M: Module>(model: &M, gradients: &GradientsParams) -> Result<f64> {
    let mut squares = Squares { gradients, sums: Vec::new() };
    model.visit(&mut squares);
    if squares.sums.is_empty() {
        return Ok(0.0);
    }
    // Read back once, for all parameters.
    let sums = slm_nn::to_vec_f32("gradient norm", Tensor::cat(squares.sums, 0))?;
    Ok(sums.into_iter().map(f64::from).sum::<f64>().sqrt())
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let fused = slm_autograd::is_supported(&gradient.device());
            self.sums.push(if fused {
                slm_autograd::sum_squares(gradient)
            } else {
                sum_in_order(gradient.square())
            });
        }
    }
}

/// The segment of a parameter's path in saved states. Trainable quantized weights keep the name of the first saved
/// states.
fn stored_segment(name: &str) -> &str {
    if name == "QuantizedTrainable" { "Tuned" } else { name }
}

/// Id and number of elements of every float parameter that is trained, by path.
struct Sizes {
    path: Vec<String>,
    sizes: BTreeMap<String, (ParamId, usize)>,
}

impl ModuleVisitor for Sizes {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(stored_segment(name).to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.sizes.insert(self.path.join("."), (param.id, param.shape().num_elements()));
        }
    }
}

#[cfg(test)]
#[path = "optimizer_tests.rs"]
mod tests;

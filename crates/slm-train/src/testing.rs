//! Helpers for the tests of several files.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use slm_model::{ModelConfig, Transformer};

use crate::{
    QuantizationConfig, StepReport, TokenizerConfig, TrainObserver, TrainingConfig, TrainingOptions,
};

/// A model that trains in a second, with a width that 32 does not divide.
pub(crate) fn tiny_config() -> TrainingConfig {
    let mut model = ModelConfig::new(320, 24, 52, 2, 2, 64);
    model.num_kv_heads = 1;
    TrainingConfig {
        model,
        tokenizer: TokenizerConfig::default(),
        training: TrainingOptions {
            steps: 20,
            batch_size: 3,
            sequence_length: 24,
            learning_rate: 3e-3,
            warmup_steps: 4,
            eval_interval: 8,
            save_interval: 6,
            validation_windows: 4,
            validation_fraction: 0.1,
            seed: 1,
            ..TrainingOptions::default()
        },
        quantization: QuantizationConfig::default(),
        qat: crate::QatTrainingOptions::default(),
        finetune: crate::FinetuneOptions::default(),
    }
}

pub(crate) use slm_nn::cpu_devices;

/// The CPU devices, and with `--features wgpu` a GPU; a software Vulkan driver is enough.
pub(crate) fn all_devices() -> Vec<Device> {
    #[cfg_attr(not(feature = "wgpu"), expect(unused_mut))]
    let mut all = cpu_devices();
    #[cfg(feature = "wgpu")]
    all.push(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice));
    all
}

/// Values of every float parameter by path or, given `gradients`, the gradients of parameters that have one.
pub(crate) fn by_path(
    model: &Transformer,
    gradients: Option<&GradientsParams>,
) -> BTreeMap<String, Vec<f32>> {
    struct Read<'a> {
        path: Vec<String>,
        gradients: Option<&'a GradientsParams>,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for Read<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = match self.gradients {
                Some(gradients) => gradients.get::<D>(param.id),
                None => Some(param.val()),
            };
            if let Some(tensor) = tensor {
                let values = tensor.into_data().try_into_vec::<f32>().unwrap();
                self.found.insert(self.path.join("."), values);
            }
        }
    }
    let mut read = Read { path: Vec::new(), gradients, found: BTreeMap::new() };
    model.visit(&mut read);
    read.found
}

/// `model` with a NaN in every norm.
pub(crate) fn poisoned(model: Transformer) -> Transformer {
    struct Poison;
    impl ModuleMapper for Poison {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if D == 1 {
                param.map(|tensor| Tensor::from_inner(tensor.inner() * f32::NAN).require_grad())
            } else {
                param
            }
        }
    }
    model.map(&mut Poison)
}

/// A stop flag that is never set.
pub(crate) fn never() -> AtomicBool {
    AtomicBool::new(false)
}

/// Stops a run after the given step.
pub(crate) struct StopAt<'a>(pub(crate) usize, pub(crate) &'a AtomicBool);

impl TrainObserver for StopAt<'_> {
    fn on_step(&mut self, report: &StepReport, _: f64) {
        if report.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

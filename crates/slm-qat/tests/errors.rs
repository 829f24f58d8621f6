//! Tests that errors of layers in training reach the user with the name of the layer and the cause.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use slm_nn::{Linear, LinearConfig, NamedLinears, to_vec_f32};
use slm_ptq::PtqConfig;
use slm_qat::{Error, QatConfig, QatOptions, ScaleMode, prepare};
use slm_quant_core::{Bits, QuantScheme, QuantizationType, ScaleDtype};

#[derive(Module, Debug)]
struct Net {
    body: Linear,
    head: Linear,
}

impl NamedLinears for Net {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        visit("body", &self.body);
        visit("head", &self.head);
    }
    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        visit("body", &mut self.body);
        visit("head", &mut self.head);
    }
}

impl Net {
    fn new(device: &Device) -> Self {
        let layer = |inputs, outputs| LinearConfig::new(inputs, outputs).init(0.5, device);
        Self { body: layer(8, 6), head: layer(6, 4) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.body.forward(x))
    }
}

/// Every combination of type and scales, with scales stored as F16.
fn configs() -> Vec<QatConfig> {
    let mut all = Vec::new();
    for quantization_type in
        [QuantizationType::WeightOnly, QuantizationType::Dynamic, QuantizationType::Static]
    {
        for scale in [ScaleMode::Observed, ScaleMode::Learned] {
            let scheme = QuantScheme::per_tensor(Bits::Int8).with_scale_dtype(ScaleDtype::F16);
            let quantization = PtqConfig::new(scheme, quantization_type);
            all.push(QatConfig { quantization, options: QatOptions { scale, ..QatOptions::default() } });
        }
    }
    all
}

fn devices() -> Vec<Device> {
    slm_nn::cpu_devices().into_iter().map(Device::autodiff).collect()
}

/// Multiplies every parameter, as a diverging run does over many steps.
struct Grow(f32);

impl ModuleMapper for Grow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let factor = self.0;
        param.map(|tensor| Tensor::from_inner(tensor.inner() * factor).require_grad())
    }
}

#[test]
fn a_scale_that_f16_does_not_hold_is_an_error_of_its_layer() {
    for device in devices() {
        for config in configs() {
            let mut net = Net::new(&device);
            let prepared = prepare(&mut net, &config, 10).unwrap();
            let x = Tensor::<2>::ones([3, 8], &device);
            net.forward(x.clone());
            prepared.check().unwrap();

            net.head = net.head.map(&mut Grow(1e9));
            let y = net.forward(x);
            assert!(to_vec_f32("y", y).unwrap().iter().all(|y| y.is_nan()));
            let error = prepared.check().unwrap_err();
            let message = error.to_string();
            assert!(matches!(&error, Error::Pass(error) if error.layer == "head"), "{config:?}: {message}");
            assert!(message.starts_with("weight of layer head: "), "{message}");
            assert!(message.contains("f16") && message.contains("use f32 scales"), "{message}");
            prepared.check().unwrap();
        }
    }
}

#[test]
fn values_that_are_not_finite_are_an_error_of_the_first_layer_that_met_them() {
    for device in devices() {
        for config in configs().into_iter().filter(|config| {
            // Weight-only layers do not quantize their input, so only the loss shows the error.
            config.quantization.quantization_type != QuantizationType::WeightOnly
        }) {
            let mut net = Net::new(&device);
            let prepared = prepare(&mut net, &config, 10).unwrap();
            net.forward(Tensor::<2>::ones([3, 8], &device) / 0.0).sum().backward();
            let message = prepared.check().unwrap_err().to_string();
            assert!(message.starts_with("input of layer body: "), "{config:?}: {message}");
            assert!(message.contains("is not finite"), "{message}");
        }
        for config in configs() {
            let mut net = Net::new(&device);
            let prepared = prepare(&mut net, &config, 10).unwrap();
            net.head = net.head.map(&mut Grow(f32::NAN));
            // Clones without gradients report to the same slot.
            net.valid().forward(Tensor::<2>::ones([3, 8], &device.clone().inner()));
            let message = prepared.check().unwrap_err().to_string();
            assert!(message.starts_with("weight of layer head: "), "{config:?}: {message}");
        }
    }
}

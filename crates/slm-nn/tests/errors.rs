//! Tests that packed layers report their names when their input is not finite, with tensors and with slices.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use slm_kernels::{KernelKind, PackedMatrix};
use slm_nn::{
    CpuLinear, CpuOutput, CpuScratch, ErrorSlot, Linear, NamedLinears, Place, apply_linears, cpu_devices,
    first_layer_not_finite, report_errors,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, ObserverKind, QParams, QuantScheme, quantize_matrix,
};
use slm_testing::tensor;

#[derive(Module, Debug)]
struct Pair {
    first: Linear,
    second: Linear,
}

impl NamedLinears for Pair {
    fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) {
        visit("first", &self.first);
        visit("second", &self.second);
    }
    fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        visit("first", &mut self.first);
        visit("second", &mut self.second);
    }
}

fn pair(activation: ActivationQuant) -> Pair {
    let layer = |seed: usize| {
        let values: Vec<f32> = (0..16).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect();
        let quantized =
            quantize_matrix(&values, 4, 4, QuantScheme::per_tensor(Bits::Int8), &ObserverKind::MinMax)
                .unwrap();
        let packed = Arc::new(PackedMatrix::new(quantized, KernelKind::Scalar).unwrap());
        Linear::from_packed(packed, activation, None).unwrap()
    };
    Pair { first: layer(0), second: layer(3) }
}

fn activations() -> [ActivationQuant; 3] {
    [
        ActivationQuant::Static(QParams { scale: 0.1, zero_point: 3 }),
        ActivationQuant::Dynamic(ActivationGranularity::PerToken),
        ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
    ]
}

const BAD: [f32; 4] = [1.0, f32::INFINITY, 0.0, 2.0];

#[test]
fn the_first_layer_that_met_the_value_is_named() {
    for device in cpu_devices() {
        for activation in activations() {
            let mut pair = pair(activation);
            let errors = ErrorSlot::default();
            report_errors(&mut pair, &errors);
            let run = |pair: &Pair, x: [f32; 4]| {
                let x = tensor(x.to_vec(), [1, 4], &device);
                pair.second.forward(pair.first.forward(x));
            };
            run(&pair, [1.0; 4]);
            errors.check().unwrap();
            run(&pair, BAD);
            let error = errors.check().unwrap_err();
            assert_eq!((error.layer.as_str(), error.place), ("first", Place::Input), "{activation:?}");
            errors.check().unwrap();
            assert_eq!(first_layer_not_finite(&mut pair, |pair| run(pair, BAD)).as_deref(), Some("first"));
            assert_eq!(first_layer_not_finite(&mut pair, |pair| run(pair, [1.0; 4])), None);
        }
    }
}

#[test]
fn layers_on_slices_report_the_same() {
    for activation in activations() {
        let mut pair = pair(activation);
        let errors = ErrorSlot::default();
        report_errors(&mut pair, &errors);
        let layer = CpuLinear::new(&pair.second, &Device::flex()).unwrap();
        let mut scratch = CpuScratch::default();
        let mut out = [0.0; 4];
        let mut apply = |x: &[f32]| {
            let mut outputs = [CpuOutput { layer: &layer, out: &mut out }];
            apply_linears(x, 1, &mut outputs, &mut scratch).unwrap();
        };
        apply(&[1.0; 4]);
        errors.check().unwrap();
        apply(&BAD);
        let error = errors.check().unwrap_err();
        assert_eq!((error.layer.as_str(), error.place), ("second", Place::Input), "{activation:?}");
        assert!(out.iter().all(|y| y.is_nan()));
    }
}

//! Tests that the three forms of a linear layer agree, on every CPU device, in value and in gradient.

use std::sync::{Arc, Mutex};

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use slm_kernels::{KernelKind, PackedMatrix};
use slm_nn::{
    FakeQuantizedWeight, ForwardHook, Linear, NamedLinears, SharedQatStage, Weight, WeightExecution,
    attach_hook, cpu_devices, detach_hooks, fake_quantize_activation, to_vec_f32,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, ObserverKind, QParams, QuantScheme,
    quantize_matrix,
};
use slm_testing::{ramp as values, tensor};

fn activations() -> [ActivationQuant; 4] {
    [
        ActivationQuant::Float,
        ActivationQuant::Dynamic(ActivationGranularity::PerToken),
        ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
        ActivationQuant::Static(QParams { scale: 0.01, zero_point: 121 }),
    ]
}

fn schemes() -> Vec<QuantScheme> {
    let mut schemes = Vec::new();
    for bits in [Bits::Int8, Bits::Int4] {
        for granularity in
            [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 5 }]
        {
            for mapping in [Mapping::Symmetric, Mapping::Affine] {
                schemes
                    .push(QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(mapping));
            }
        }
    }
    schemes
}

fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance * (1.0 + e.abs()), "{what}: [{i}] {a} is not {e}");
    }
}

/// The float, fake-quantized, kernel and tensor-operation forms of one quantized layer.
#[test]
fn every_form_gives_the_same_result() {
    let (rows, out_features, in_features) = (3, 7, 13);
    let x = values(1, rows * in_features);
    let weight = values(2, out_features * in_features);
    let bias = values(3, out_features);
    for device in cpu_devices() {
        for scheme in schemes() {
            let quantized =
                quantize_matrix(&weight, out_features, in_features, scheme, &ObserverKind::MinMax).unwrap();
            let packed = Arc::new(PackedMatrix::new(quantized.clone(), KernelKind::Scalar).unwrap());
            for activation in activations() {
                let what = format!("{device:?} {scheme} {activation:?}");
                let bias = || Some(tensor(bias.clone(), [out_features], &device));
                let input = || tensor(x.clone(), [rows, in_features], &device);
                let dequantized = tensor(quantized.dequantize(), [out_features, in_features], &device);
                let rounded_input = fake_quantize_activation(input(), activation);
                let float = Linear::from_weight(dequantized, bias()).unwrap().forward(rounded_input);
                let float = to_vec_f32("float", float).unwrap();

                let kernel = Linear::from_packed(Arc::clone(&packed), activation, bias()).unwrap();
                let execution = kernel.packed().unwrap().execution(&device);
                assert_eq!(execution, WeightExecution::Kernel(KernelKind::Scalar));
                let y = to_vec_f32("kernel", kernel.forward(input())).unwrap();
                assert_close(&y, &float, 2e-6, &what);
                let by_kernel = y;

                let autodiff = device.clone().autodiff();
                assert_eq!(kernel.packed().unwrap().execution(&autodiff), WeightExecution::TensorOps);
                let bias_on = bias().map(|bias| bias.to_device(&autodiff));
                let on_tensors = Linear::from_packed(Arc::clone(&packed), activation, bias_on).unwrap();
                let y = on_tensors.forward(tensor(x.clone(), [rows, in_features], &autodiff));
                assert_close(&to_vec_f32("tensor ops", y).unwrap(), &float, 2e-6, &what);

                let param = Param::from_tensor(tensor(weight.clone(), [out_features, in_features], &device));
                let fake = FakeQuantizedWeight::new(
                    param,
                    scheme,
                    ObserverKind::MinMax,
                    activation,
                    &SharedQatStage::default(),
                )
                .unwrap();
                assert_eq!(fake.quantize().unwrap(), quantized, "{what}");
                let fake = Linear::new(Weight::FakeQuantized(fake), bias()).unwrap();
                let y = to_vec_f32("fake", fake.forward(input())).unwrap();
                // With quantized activations the fake-quantized form runs the kernel; otherwise it multiplies floats.
                let same = if activation == ActivationQuant::Float { &float } else { &by_kernel };
                assert_close(&y, same, 0.0, &what);
            }
        }
    }
}

/// With an input that no activation grid clips, gradients are those of the float layer: the
/// straight-through estimator.
#[test]
fn gradients_pass_straight_through() {
    for device in cpu_devices() {
        let device = device.autodiff();
        let weight = Param::from_tensor(tensor(values(4, 6 * 5), [6, 5], &device)).set_require_grad(true);
        let id = weight.id;
        // The symmetric mapping clips neither end; a narrow grid would.
        let scheme = QuantScheme::per_tensor(Bits::Int4);
        let dynamic = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
        let fake = FakeQuantizedWeight::new(
            weight,
            scheme,
            ObserverKind::MinMax,
            dynamic,
            &SharedQatStage::default(),
        )
        .unwrap();
        let linear = Linear::new(Weight::FakeQuantized(fake.clone()), None).unwrap();
        let x = tensor(values(5, 2 * 5), [2, 5], &device).require_grad();
        let grads = linear.forward(x.clone()).sum().backward();

        let x_grad = to_vec_f32("grad", x.grad(&grads).unwrap()).unwrap();
        let columns = fake.quantize().unwrap().dequantize();
        for (i, grad) in x_grad.iter().enumerate() {
            let expected: f32 = (0..6).map(|row| columns[row * 5 + i % 5]).sum();
            assert!((grad - expected).abs() < 1e-5, "input gradient {i}: {grad} is not {expected}");
        }
        let w_grad = to_vec_f32("grad", fake.float_weight().grad(&grads).unwrap()).unwrap();
        let x = to_vec_f32("x", fake_quantize_activation(x, dynamic)).unwrap();
        for (i, grad) in w_grad.iter().enumerate() {
            let expected = x[i % 5] + x[5 + i % 5];
            assert!((grad - expected).abs() < 1e-5, "weight gradient {i} of {id}: {grad} is not {expected}");
        }
    }
}

#[test]
fn an_input_that_is_not_finite_gives_an_output_that_is_not() {
    let quantized =
        quantize_matrix(&values(6, 12), 3, 4, QuantScheme::per_tensor(Bits::Int8), &ObserverKind::MinMax)
            .unwrap();
    let packed = Arc::new(PackedMatrix::new(quantized, KernelKind::Scalar).unwrap());
    for device in cpu_devices() {
        for activation in activations() {
            let linear = Linear::from_packed(Arc::clone(&packed), activation, None).unwrap();
            let y = linear.forward(tensor(vec![1.0, f32::NAN, 0.0, 2.0], [1, 4], &device));
            assert!(to_vec_f32("y", y).unwrap().iter().all(|y| y.is_nan()));
        }
    }
}

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

/// Name of a layer, shape of its input, shape of its output.
type Seen = (String, [usize; 2], [usize; 2]);

#[derive(Default)]
struct Shapes(Mutex<Vec<Seen>>);

impl ForwardHook for Shapes {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, output: &Tensor<2>) {
        self.0.lock().unwrap().push((layer.to_owned(), input.dims(), output.dims()));
    }
}

#[test]
fn hooks_see_every_named_layer_until_detached() {
    let device = Device::flex();
    let layer =
        |seed, out, inp| Linear::from_weight(tensor(values(seed, out * inp), [out, inp], &device), None);
    let mut pair = Pair { first: layer(1, 4, 3).unwrap(), second: layer(2, 2, 4).unwrap() };
    let hook = Arc::new(Shapes::default());
    attach_hook(&mut pair, &(Arc::clone(&hook) as Arc<dyn ForwardHook>));
    let run =
        |pair: &Pair| pair.second.forward(pair.first.forward(tensor(values(3, 30), [2, 5, 3], &device)));
    assert_eq!(run(&pair).dims(), [2, 5, 2]);
    detach_hooks(&mut pair);
    run(&pair);
    let seen = hook.0.lock().unwrap();
    assert_eq!(*seen, [("first".into(), [10, 3], [10, 4]), ("second".into(), [10, 4], [10, 2])]);
}

#[test]
fn a_bias_of_another_width_is_refused() {
    let device = Device::flex();
    let refused =
        Linear::from_weight(tensor(values(1, 6), [2, 3], &device), Some(tensor(vec![0.0], [1], &device)));
    assert!(refused.unwrap_err().to_string().contains("bias: expected shape [2], found [1]"));
}

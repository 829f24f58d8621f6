//! Tests of linear layers on a GPU device. Runs with `--features wgpu`; a software Vulkan driver is enough.
#![cfg(feature = "wgpu")]

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, DeviceKind};
use slm_kernels::{KernelKind, PackedMatrix};
use slm_nn::{
    FakeQuantizedInput, FakeQuantizedWeight, Linear, SharedQatStage, Weight, WeightExecution, to_vec_f32,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, ObserverKind, QParams, QuantScheme,
    quantize_matrix,
};
use slm_testing::{ramp as values, tensor};

/// Packed weights stay packed on the device, and the result is that of the CPU's integer kernel except for the order of
/// float sums.
#[test]
fn packed_linears_agree_with_the_cpu() {
    let (gpu, cpu) = (Device::wgpu(DeviceKind::DefaultDevice), Device::flex());
    let (rows, out_features, in_features) = (3, 9, 37);
    let (x, weight) = (values(1, rows * in_features), values(2, out_features * in_features));
    let bias = values(3, out_features);
    let groups = Granularity::PerGroup { group_size: 8 };
    for bits in [Bits::Int8, Bits::Int4] {
        for granularity in [Granularity::PerTensor, Granularity::PerChannel, groups] {
            for mapping in [Mapping::Symmetric, Mapping::Affine] {
                let scheme =
                    QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(mapping);
                let quantized =
                    quantize_matrix(&weight, out_features, in_features, scheme, &ObserverKind::MinMax)
                        .unwrap();
                let packed = Arc::new(PackedMatrix::new(quantized, KernelKind::Scalar).unwrap());
                for activation in [
                    ActivationQuant::Float,
                    ActivationQuant::Dynamic(ActivationGranularity::PerToken),
                    ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
                    ActivationQuant::Static(QParams { scale: 0.008, zero_point: 120 }),
                ] {
                    let run = |device: &Device| {
                        let bias = Some(tensor(bias.clone(), [out_features], device));
                        let linear = Linear::from_packed(Arc::clone(&packed), activation, bias).unwrap();
                        let y = linear.forward(tensor(x.clone(), [rows, in_features], device));
                        (linear.packed().unwrap().execution(device), to_vec_f32("y", y).unwrap())
                    };
                    let ((on_gpu, actual), (_, expected)) = (run(&gpu), run(&cpu));
                    assert_eq!(on_gpu, WeightExecution::TensorOps);
                    for (a, e) in actual.iter().zip(&expected) {
                        // Half a step of one activation code: GPUs may round a division the other way.
                        assert!((a - e).abs() < 2e-2, "{scheme} {activation:?}: {a} is not {e}");
                    }
                    let mean = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs()).sum::<f32>();
                    assert!(
                        mean / (actual.len() as f32) < 2e-3,
                        "{scheme} {activation:?}: mean difference {mean}"
                    );
                }
            }
        }
    }
}

/// Fake quantization trains on the device: value, and gradients by weight, scales and input, are those of the CPU.
#[test]
fn fake_quantized_linears_train() {
    let groups = Granularity::PerGroup { group_size: 5 };
    let inputs = [
        FakeQuantizedInput::Fixed(ActivationQuant::Float),
        FakeQuantizedInput::Fixed(ActivationQuant::Dynamic(ActivationGranularity::PerToken)),
        FakeQuantizedInput::Observed { averaging_constant: 0.5 },
    ];
    for granularity in [Granularity::PerTensor, Granularity::PerChannel, groups] {
        for (mapping, learned) in
            [(Mapping::Symmetric, false), (Mapping::Affine, false), (Mapping::SymmetricTorch, true)]
        {
            for input in inputs {
                let scheme =
                    QuantScheme::per_tensor(Bits::Int4).with_granularity(granularity).with_mapping(mapping);
                let run = |device: Device| {
                    let device = device.autodiff();
                    let weight = Param::from_tensor(tensor(values(4, 6 * 8), [6, 8], &device));
                    let stage = SharedQatStage::default();
                    let build = if learned { FakeQuantizedWeight::learned } else { FakeQuantizedWeight::new };
                    let fake = build(weight, scheme, ObserverKind::MinMax, input, &stage).unwrap();
                    let linear = Linear::new(Weight::FakeQuantized(fake.clone()), None).unwrap().train();
                    // The second batch moves the range of the first.
                    linear.forward(tensor(values(6, 4 * 8), [4, 8], &device));
                    let x = tensor(values(5, 4 * 8), [4, 8], &device).require_grad();
                    let y = linear.forward(x.clone());
                    let grads = (y.clone() * y.clone()).sum().backward();
                    let mut all = to_vec_f32("y", y).unwrap();
                    all.extend(to_vec_f32("x", x.grad(&grads).unwrap()).unwrap());
                    all.extend(to_vec_f32("w", fake.float_weight().grad(&grads).unwrap()).unwrap());
                    if let Some(scale) = fake.learned_scale() {
                        all.extend(to_vec_f32("s", scale.grad(&grads).unwrap()).unwrap());
                    }
                    (all, fake.input_bounds())
                };
                let (expected, bounds) = run(Device::flex());
                let (actual, gpu_bounds) = run(Device::wgpu(DeviceKind::DefaultDevice));
                assert_eq!(bounds, gpu_bounds);
                let largest = expected.iter().fold(0.0_f32, |largest, e| largest.max(e.abs()));
                assert!(largest > 0.1);
                // A division that rounds differently may move one activation by a code, so a few values may differ.
                let near = |(a, e): &(&f32, &f32)| (*a - *e).abs() < 1e-4 * (1.0 + largest);
                let count = actual.iter().zip(&expected).filter(near).count();
                assert!(
                    count * 10 >= expected.len() * 9,
                    "{scheme} {input:?}: {actual:?} is not {expected:?}"
                );
            }
        }
    }
}

/// Options that would need the weights back on the host in every step are rejected when the layer is prepared.
#[test]
fn observers_that_need_the_host_are_refused() {
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    let weight = Param::from_tensor(tensor(values(4, 12), [3, 4], &device));
    let scheme = QuantScheme::per_tensor(Bits::Int4);
    let refused = FakeQuantizedWeight::new(
        weight,
        scheme,
        ObserverKind::Mse,
        ActivationQuant::Float,
        &SharedQatStage::default(),
    );
    assert!(refused.unwrap_err().to_string().contains("observer mse would need the weights back"));
}

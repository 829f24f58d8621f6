//! Tests of trainable quantized weights: the product is that of the packed layer, the gradients are those of a float
//! layer with the same values. With `--features wgpu` on a GPU too; a software Vulkan driver is enough.

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use slm_kernels::{KernelKind, PackedMatrix};
use slm_nn::{
    Linear, PackedWeight, QuantizedTrainableWeight, Rounding, Weight, cpu_devices, fake_quantize_activation,
    to_vec_f32,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, ObserverKind, QuantScheme, quantize_matrix,
};
use slm_testing::{ramp as values, tensor};

const ROWS: usize = 6;
const COLS: usize = 13;

fn devices() -> Vec<Device> {
    #[cfg_attr(not(feature = "wgpu"), expect(unused_mut))]
    let mut devices = cpu_devices();
    #[cfg(feature = "wgpu")]
    devices.push(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice));
    devices
}

fn packed(bits: Bits, activation: ActivationQuant) -> PackedWeight {
    let scheme = QuantScheme::per_tensor(bits).with_granularity(Granularity::PerGroup { group_size: 5 });
    let matrix = quantize_matrix(&values(1, ROWS * COLS), ROWS, COLS, scheme, &ObserverKind::MinMax).unwrap();
    PackedWeight::new(Arc::new(PackedMatrix::new(matrix, KernelKind::Scalar).unwrap()), activation)
}

fn tuned(weight: &PackedWeight, device: &Device, rounding: Rounding) -> Linear {
    Linear::new(
        Weight::QuantizedTrainable(QuantizedTrainableWeight::new(weight, device, rounding).unwrap()),
        None,
    )
    .unwrap()
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    to_vec_f32("tensor", tensor).unwrap()
}

/// Maps the only parameter of a layer.
struct Parameter<'a>(&'a mut dyn FnMut(Tensor<2>) -> Tensor<2>);

impl ModuleMapper for Parameter<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        let changed = (self.0)(tensor.reshape([ROWS, COLS])).reshape(shape);
        Param::from_mapped_value(id, changed, mapper)
    }
}

#[test]
fn products_are_those_of_the_packed_layer_and_gradients_those_of_its_values() {
    for device in devices() {
        for bits in [Bits::Int8, Bits::Int4] {
            for activation in [
                ActivationQuant::Float,
                ActivationQuant::Dynamic(ActivationGranularity::PerToken),
                ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
            ] {
                let weight = packed(bits, activation);
                let train = device.clone().autodiff();
                let layer = tuned(&weight, &train, Rounding::Nearest);
                let stored = Linear::new(Weight::Packed(weight.clone()), None).unwrap();
                let x = tensor(values(2, 4 * COLS), [4, COLS], &train).require_grad();
                let y = layer.forward(x.clone());
                let plain = tensor(values(2, 4 * COLS), [4, COLS], &device);
                assert_eq!(read(y.clone()), read(stored.forward(plain.clone())));
                assert_eq!(read(layer.valid().forward(plain.clone())), read(y.clone()));

                let grad = tensor(values(3, 4 * ROWS), [4, ROWS], &train);
                let grads = (y * grad).sum().backward();
                let by_x = read(x.grad(&grads).unwrap());
                let mut by_weight = Vec::new();
                let mut see = |update: Tensor<2>| {
                    assert!(read(update.clone()).iter().all(|&value| value == 0.0));
                    by_weight = read(update.grad(&grads).unwrap());
                    update
                };
                layer.clone().map(&mut Grad(&mut see));

                let dequantized = weight.matrix().unpack().dequantize();
                let rounded = read(fake_quantize_activation(plain, activation));
                let grad = values(3, 4 * ROWS);
                for row in 0..ROWS {
                    for col in 0..COLS {
                        let expected: f32 =
                            (0..4).map(|m| grad[m * ROWS + row] * rounded[m * COLS + col]).sum();
                        assert!((by_weight[row * COLS + col] - expected).abs() < 1e-5);
                    }
                }
                for m in 0..4 {
                    for col in 0..COLS {
                        let expected: f32 =
                            (0..ROWS).map(|row| grad[m * ROWS + row] * dequantized[row * COLS + col]).sum();
                        assert!((by_x[m * COLS + col] - expected).abs() < 1e-5);
                    }
                }
            }
        }
    }
}

/// Passes the tensor of the only parameter to a closure unchanged, so that its gradient can be read.
struct Grad<'a>(&'a mut dyn FnMut(Tensor<2>) -> Tensor<2>);

impl ModuleMapper for Grad<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let any: Box<dyn std::any::Any> = Box::new(tensor.clone());
        let matrix = any.downcast::<Tensor<2>>().expect("weights are matrices");
        (self.0)(*matrix);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

#[test]
fn an_update_is_taken_into_the_codes_and_forgotten() {
    for device in devices() {
        let train = device.clone().autodiff();
        let weight = packed(Bits::Int4, ActivationQuant::Float);
        let before = weight.matrix().unpack();
        let layer = tuned(&weight, &train, Rounding::ErrorFeedback);
        // One and a quarter steps of the scale of each weight.
        let update: Vec<f32> = (0..ROWS * COLS)
            .map(|i| 1.25 * before.qparams(before.scale_index(i / COLS, i % COLS / 5)).scale)
            .collect();
        let mut layer =
            layer.map(&mut Parameter(&mut |zeros| zeros + tensor(update.clone(), [ROWS, COLS], &train)));
        let Weight::QuantizedTrainable(tuned) = &mut layer.weight else { panic!("not tuned") };
        tuned.apply(Rounding::ErrorFeedback, 0).unwrap();
        let after = tuned.packed().matrix().unpack();
        assert_eq!(after.scales(), before.scales());
        for row in 0..ROWS {
            for col in 0..COLS {
                let moved = after.code(row, col) - before.code(row, col);
                assert_eq!(moved, 1.min(7 - before.code(row, col)));
                if moved == 1 {
                    // A quarter of 254 steps remains.
                    assert!((tuned.residual()[row * COLS + col] - 64).abs() <= 1);
                }
            }
        }
        let mut zeros = true;
        layer.map(&mut Parameter(&mut |update| {
            zeros = read(update.clone()).iter().all(|&value| value == 0.0);
            update
        }));
        assert!(zeros);
    }
}

/// The same updates give the same codes and residuals on every device, bit for bit.
#[test]
fn an_update_becomes_the_same_codes_on_every_device() {
    let weight = packed(Bits::Int8, ActivationQuant::Float);
    for rounding in [Rounding::Nearest, Rounding::Stochastic { seed: 7 }, Rounding::ErrorFeedback] {
        let run = |device: Device| {
            let train = device.autodiff();
            let mut layer = tuned(&weight, &train, rounding);
            for draw in 0..3 {
                let update: Vec<f32> =
                    values(10 + draw as usize, ROWS * COLS).iter().map(|v| 0.02 * v).collect();
                layer = layer
                    .map(&mut Parameter(&mut |zeros| zeros + tensor(update.clone(), [ROWS, COLS], &train)));
                let Weight::QuantizedTrainable(tuned) = &mut layer.weight else { panic!("not tuned") };
                tuned.apply(rounding, draw).unwrap();
            }
            // Products use the new codes.
            let x = tensor(values(2, 4 * COLS), [4, COLS], &train);
            let y = read(layer.forward(x));
            let Weight::QuantizedTrainable(tuned) = &layer.weight else { panic!("not tuned") };
            (tuned.packed().matrix().unpack(), tuned.residual().to_vec(), y)
        };
        let (codes, residual, y) = run(Device::flex());
        assert_ne!(codes, weight.matrix().unpack());
        for device in devices() {
            let (other, rest, product) = run(device.clone());
            assert_eq!((&other, &rest), (&codes, &residual), "{rounding:?} on {device:?}");
            assert!(product.iter().zip(&y).all(|(a, b)| (a - b).abs() < 1e-5), "{rounding:?} on {device:?}");
        }
    }
}

#[test]
fn a_residual_of_another_length_is_refused() {
    let weight = packed(Bits::Int8, ActivationQuant::Float);
    let mut tuned =
        QuantizedTrainableWeight::new(&weight, &Device::flex().autodiff(), Rounding::Nearest).unwrap();
    assert!(
        tuned.restore_residual(vec![0; 3]).unwrap_err().to_string().contains("expected 0 values, found 3")
    );
}

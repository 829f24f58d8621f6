//! Tests of fake quantization in training: its value is the one that conversion stores, its gradient that of the
//! definition.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use slm_kernels::quantize_activations;
use slm_nn::{
    FakeQuantizedInput, FakeQuantizedWeight, Linear, QatStage, SharedQatStage, Weight, cpu_devices,
    fake_quantize_activation, to_vec_f32,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, ObserverKind, QParams, QuantRange,
    QuantScheme, ScaleDtype, fake_quantize_backward, fake_quantize_learnable_backward, quantize_matrix,
};
use slm_testing::{ramp as values, tensor};

const ROWS: usize = 7;
const COLS: usize = 13;
const FLOAT: FakeQuantizedInput = FakeQuantizedInput::Fixed(ActivationQuant::Float);

fn weight(seed: usize, device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(tensor(values(seed, ROWS * COLS), [ROWS, COLS], device))
}

fn granularities() -> [Granularity; 3] {
    [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 5 }]
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    to_vec_f32("tensor", tensor).unwrap()
}

/// Parameters of every value of a weight, group by group.
fn each_group(granularity: Granularity) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut groups = Vec::new();
    let width = granularity.group_width(COLS).unwrap();
    for row in 0..ROWS {
        for (group, start) in (0..COLS).step_by(width).enumerate() {
            let index = match granularity {
                Granularity::PerTensor => 0,
                _ => row * COLS.div_ceil(width) + group,
            };
            groups.push((index, row * COLS + start..row * COLS + (start + width).min(COLS)));
        }
    }
    groups
}

#[test]
fn weights_train_on_exactly_what_is_stored_and_clipped_ones_get_no_gradient() {
    for device in cpu_devices() {
        for bits in [Bits::Int8, Bits::Int4] {
            for granularity in granularities() {
                for mapping in [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine] {
                    for scale_dtype in [ScaleDtype::F32, ScaleDtype::F16] {
                        for observer in [ObserverKind::MinMax, ObserverKind::Mse] {
                            let scheme = QuantScheme { bits, granularity, mapping, scale_dtype };
                            let what = format!("{scheme} {scale_dtype:?} {observer} {device:?}");
                            let (device, stage) = (device.clone().autodiff(), SharedQatStage::default());
                            let fake =
                                FakeQuantizedWeight::new(weight(2, &device), scheme, observer, FLOAT, &stage)
                                    .unwrap();
                            let y = fake.rounded_weight();
                            let stored = fake.quantize().unwrap();
                            assert_eq!(read(y.clone()), stored.dequantize(), "{what}");
                            let direct =
                                quantize_matrix(&values(2, ROWS * COLS), ROWS, COLS, scheme, &observer);
                            assert_eq!(stored, direct.unwrap(), "{what}");

                            let grad = values(3, ROWS * COLS);
                            let loss = y * tensor(grad.clone(), [ROWS, COLS], &device);
                            let grads = loss.sum().backward();
                            let by_weight = read(fake.float_weight().grad(&grads).unwrap());
                            for (index, at) in each_group(granularity) {
                                let expected = fake_quantize_backward(
                                    &values(2, ROWS * COLS)[at.clone()],
                                    &grad[at.clone()],
                                    stored.qparams(index),
                                    scheme.range(),
                                );
                                assert_eq!(by_weight[at], expected.unwrap(), "{what}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn learned_scales_get_the_gradient_of_lsq() {
    for device in cpu_devices() {
        for granularity in granularities() {
            let (device, stage) = (device.clone().autodiff(), SharedQatStage::default());
            let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(granularity);
            let fake =
                FakeQuantizedWeight::learned(weight(4, &device), scheme, ObserverKind::Mse, FLOAT, &stage)
                    .unwrap();
            let y = fake.rounded_weight();
            let stored = fake.quantize().unwrap();
            assert_eq!(read(y.clone()), stored.dequantize());
            let grad = values(5, ROWS * COLS);
            let grads = (y * tensor(grad.clone(), [ROWS, COLS], &device)).sum().backward();
            let by_scale = read(fake.learned_scale().unwrap().grad(&grads).unwrap());
            let by_weight = read(fake.float_weight().grad(&grads).unwrap());
            let count = match granularity {
                Granularity::PerTensor => ROWS * COLS,
                _ => granularity.group_width(COLS).unwrap(),
            };
            let factor = 1.0 / (count as f32 * 7.0).sqrt();
            let mut expected = vec![0.0; by_scale.len()];
            for (index, at) in each_group(granularity) {
                let gradients = fake_quantize_learnable_backward(
                    &values(4, ROWS * COLS)[at.clone()],
                    &grad[at.clone()],
                    stored.qparams(index).scale,
                    0.0,
                    QuantRange::INT4,
                    factor,
                )
                .unwrap();
                assert_eq!(by_weight[at], gradients.grad_x);
                expected[index] += gradients.grad_scale;
            }
            for (found, expected) in by_scale.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{found} {expected}");
            }
        }
        let affine = QuantScheme::per_tensor(Bits::Int4).with_mapping(Mapping::Affine);
        let refused = FakeQuantizedWeight::learned(
            weight(4, &device),
            affine,
            ObserverKind::Mse,
            FLOAT,
            &SharedQatStage::default(),
        );
        assert!(refused.unwrap_err().to_string().contains("use symmetric"));
    }
}

/// The codes of fake-quantized activations are those that a packed layer computes with.
#[test]
fn activations_are_rounded_to_the_codes_of_the_packed_layer() {
    let x = values(6, ROWS * COLS);
    for device in cpu_devices() {
        for quant in [
            ActivationQuant::Dynamic(ActivationGranularity::PerToken),
            ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
            ActivationQuant::Static(QParams { scale: 0.006, zero_point: 121 }),
        ] {
            let codes = quantize_activations(&x, ROWS, COLS, &quant).unwrap();
            let device = device.clone().autodiff();
            let input = tensor(x.clone(), [ROWS, COLS], &device).require_grad();
            let rounded = fake_quantize_activation(input.clone(), quant);
            let found = read(rounded.clone());
            let grads = rounded.sum().backward();
            let by_x = read(input.grad(&grads).unwrap());
            for row in 0..ROWS {
                let params = codes.qparams(row);
                let at = row * COLS..(row + 1) * COLS;
                let expected: Vec<f32> = codes
                    .row_codes(row)
                    .iter()
                    .map(|&code| (i32::from(code) - params.zero_point) as f32 * params.scale)
                    .collect();
                assert_eq!(found[at.clone()], expected);
                let pass = fake_quantize_backward(&x[at.clone()], &[1.0; COLS], params, QuantRange::UINT8);
                assert_eq!(by_x[at], pass.unwrap());
            }
            // The fixed range clips the largest values.
            let clipped = by_x.contains(&0.0);
            assert_eq!(clipped, matches!(quant, ActivationQuant::Static(_)));
        }
    }
}

#[test]
fn stages_observe_train_and_freeze() {
    for device in cpu_devices() {
        let (train, stage) = (device.clone().autodiff(), SharedQatStage::default());
        let scheme = QuantScheme::per_tensor(Bits::Int4);
        let observer = ObserverKind::MovingAverage { averaging_constant: 0.5 };
        let observed = FakeQuantizedInput::Observed { averaging_constant: 0.5 };
        let fake = FakeQuantizedWeight::new(weight(1, &train), scheme, observer, observed, &stage).unwrap();
        let layer = Linear::new(Weight::FakeQuantized(fake.clone()), None).unwrap();
        let plain = Linear::from_weight(fake.float_weight(), None).unwrap();
        let batch = |scale: f32| {
            let x = values(8, 2 * COLS).into_iter().map(|x| x * scale).collect();
            tensor(x, [2, COLS], &train)
        };
        let bounds = |scale: f32| {
            let x = read(batch(scale));
            x.iter().fold((0.0_f32, 0.0_f32), |(low, high), &x| (low.min(x), high.max(x)))
        };

        assert_eq!((fake.activation().unwrap(), fake.input_bounds()), (None, None));
        stage.set(QatStage::Observe);
        let y = read(layer.forward(batch(1.0)));
        assert_eq!(y, read(plain.forward(batch(1.0))), "observing changes nothing");
        assert_eq!(fake.input_bounds(), Some(bounds(1.0)));

        stage.set(QatStage::Train);
        assert_ne!(read(layer.forward(batch(3.0))), read(plain.forward(batch(3.0))));
        let (low, high) = fake.input_bounds().unwrap();
        assert!((low - 2.0 * bounds(1.0).0).abs() < 1e-6 && (high - 2.0 * bounds(1.0).1).abs() < 1e-6);
        assert!(matches!(fake.activation(), Ok(Some(ActivationQuant::Static(_)))));

        // Neither a frozen pass nor an evaluation changes the observed bounds.
        let state = fake.state().unwrap();
        stage.set(QatStage::Frozen);
        layer.forward(batch(10.0));
        stage.set(QatStage::Train);
        layer.valid().forward(tensor(values(9, 2 * COLS), [2, COLS], &device));
        assert_eq!(fake.state().unwrap(), state);

        // A restored layer continues from the state of this one.
        let switch = SharedQatStage::default();
        let mut again =
            FakeQuantizedWeight::new(weight(1, &train), scheme, observer, observed, &switch).unwrap();
        again.restore(&state).unwrap();
        assert_eq!(again.state().unwrap(), state);
        let again = Linear::new(Weight::FakeQuantized(again), None).unwrap();
        assert_eq!(read(again.forward(batch(2.0))), read(layer.forward(batch(2.0))));
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let (device, stage) = (Device::flex().autodiff(), SharedQatStage::default());
    let scheme = QuantScheme::per_tensor(Bits::Int4);
    let rows = scheme.with_granularity(Granularity::PerChannel);
    let learned = |scheme| {
        FakeQuantizedWeight::learned(weight(1, &device), scheme, ObserverKind::MinMax, FLOAT, &stage)
    };
    let state = learned(rows).unwrap().state().unwrap();
    let error = learned(scheme).unwrap().restore(&state).unwrap_err();
    assert_eq!(error.to_string(), "state learned_scale of a quantized layer: expected 1 values, found 7");
    let mut observed =
        FakeQuantizedWeight::new(weight(1, &device), rows, ObserverKind::MinMax, FLOAT, &stage).unwrap();
    assert!(observed.restore(&state).unwrap_err().to_string().contains("expected 0 values, found 7"));
}

#[test]
fn values_that_are_not_finite_make_everything_nan_and_change_no_range() {
    for device in cpu_devices() {
        let (device, stage) = (device.autodiff(), SharedQatStage::default());
        let scheme = QuantScheme::per_tensor(Bits::Int8);
        let observed = FakeQuantizedInput::Observed { averaging_constant: 0.5 };
        let fake =
            FakeQuantizedWeight::new(weight(1, &device), scheme, ObserverKind::MinMax, observed, &stage)
                .unwrap();
        let layer = Linear::new(Weight::FakeQuantized(fake.clone()), None).unwrap();
        layer.forward(tensor(values(2, COLS), [1, COLS], &device));
        let before = fake.input_bounds();
        let mut x = values(3, COLS);
        x[4] = f32::INFINITY;
        let x = tensor(x, [1, COLS], &device).require_grad();
        let y = layer.forward(x.clone());
        assert!(read(y.clone()).iter().all(|y| y.is_nan()));
        let grads = y.sum().backward();
        assert!(read(x.grad(&grads).unwrap()).iter().all(|grad| grad.is_nan()));
        assert_eq!(fake.input_bounds(), before);
    }
}

//! Tests that fake quantization on the host and by tensor operations gives the same codes on one device.
//!
//! The two compute ranges in different precision, so values lie on grids whose scale is a power of two. On these grids
//! both are exact, every second value is a tie, and the results must be equal bit for bit.

use std::sync::Arc;

use burn::tensor::Tensor;
use proptest::prelude::*;
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, ObserverKind, QParams, QuantScheme,
};
use slm_testing::tensor;

use super::{FakeQuantizedWeight, device, ops};
use crate::activation::{FakeQuantizedInput, InputRanges};
use crate::errors::Reporter;
use crate::{SharedQatStage, cpu_devices, to_vec_f32};

/// Multiples of half of `scale`: each group of `width` values starts with the two `ends` of the grid, in units of
/// `scale`, followed by values between them.
fn on_half_steps(halves: &[u32], width: usize, ends: (f32, f32), scale: f32) -> Vec<f32> {
    let span = ((ends.1 - ends.0) * 2.0) as u32;
    let value = |(i, &halves): (usize, &u32)| match i % width {
        0 => ends.0 * scale,
        1 => ends.1 * scale,
        _ => (ends.0 + (halves % (span + 1)) as f32 * 0.5) * scale,
    };
    halves.iter().enumerate().map(value).collect()
}

fn bits(name: &'static str, tensor: Tensor<2>) -> Vec<u32> {
    to_vec_f32(name, tensor).unwrap().into_iter().map(|value| (value + 0.0).to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn activations(halves in prop::collection::vec(any::<u32>(), 24), zero in 0_u32..=255, exponent in -20_i32..8) {
        let scale = 2.0_f32.powi(exponent);
        let ends = (-(zero as f32), 255.0 - zero as f32);
        let x = on_half_steps(&halves, 8, ends, scale);
        let fixed = QParams { scale: 2.0 * scale, zero_point: 100 };
        for device in cpu_devices() {
            for quant in [
                ActivationQuant::Static(fixed),
                ActivationQuant::Dynamic(ActivationGranularity::PerToken),
                ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
            ] {
                let ranges = Arc::new(InputRanges::new(FakeQuantizedInput::Fixed(quant), SharedQatStage::default(), None));
                let input = || tensor(x.clone(), [3, 8], &device);
                let host = ops::fake_quantize_input(input(), &ranges, &Reporter::default());
                let by_tensors = device::fake_quantize_input(input(), &ranges);
                prop_assert_eq!(bits("host", host), bits("tensors", by_tensors), "{:?}", quant);
            }
        }
    }

    #[test]
    fn weights(halves in prop::collection::vec(any::<u32>(), 24), zero in 0_i32..=15, exponent in -20_i32..8) {
        let scale = 2.0_f32.powi(exponent);
        for bits_of_weight in [Bits::Int8, Bits::Int4] {
            for mapping in [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine] {
                let scheme = QuantScheme::per_tensor(bits_of_weight).with_mapping(mapping);
                let (min, max) = (scheme.range().quant_min() as f32, scheme.range().quant_max() as f32);
                let half = (max - min) / 2.0;
                let ends = match mapping {
                    Mapping::SymmetricTorch => (-half, half),
                    Mapping::Affine => (-(zero as f32), max - min - zero as f32),
                    _ => (min, max),
                };
                let w = on_half_steps(&halves, 4, ends, scale);
                for granularity in
                    [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 4 }]
                {
                    let scheme = scheme.with_granularity(granularity);
                    for device in cpu_devices() {
                        let weight = tensor(w.clone(), [3, 8], &device);
                        let param = burn::module::Param::from_tensor(weight.clone());
                        let float = FakeQuantizedInput::Fixed(ActivationQuant::Float);
                        let stage = SharedQatStage::default();
                        let prepared =
                            FakeQuantizedWeight::new(param, scheme, ObserverKind::MinMax, float, &stage).unwrap();
                        let host =
                            ops::fake_quantize_weight(weight.clone(), &prepared.ranges, &Reporter::default());
                        let by_tensors = device::fake_quantize_weight(weight, scheme);
                        prop_assert_eq!(bits("host", host), bits("tensors", by_tensors), "{}", scheme);
                    }
                }
            }
        }
    }

    #[test]
    fn learned_scales(halves in prop::collection::vec(any::<u32>(), 24), exponents in prop::collection::vec(-6_i32..6, 6)) {
        let scales: Vec<f32> = exponents.into_iter().map(|exponent| 2.0_f32.powi(exponent)).collect();
        let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerGroup { group_size: 4 });
        // Some values lie beyond the ends of the grid.
        let w: Vec<f32> = halves.iter().enumerate().map(|(i, &half)| ((half % 41) as f32 * 0.5 - 10.0) * scales[i / 4]).collect();
        for device in cpu_devices() {
            let weight = tensor(w.clone(), [3, 8], &device);
            let scales: Tensor<1> = tensor(scales.clone(), [6], &device);
            let host = ops::fake_quantize_learned(weight.clone(), scales.clone(), scheme, &Reporter::default());
            let by_tensors = device::fake_quantize_learned(weight, scales, scheme);
            prop_assert_eq!(bits("host", host), bits("tensors", by_tensors));
        }
    }
}

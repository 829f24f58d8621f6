//! Activations rounded to the grid that a packed linear would use, by tensor operations on any device.

use burn::tensor::Tensor;
use slm_quant_core::{ActivationGranularity, ActivationQuant, DYNAMIC_SCALE_FLOOR, QuantRange};

const CODE_MIN: f32 = QuantRange::UINT8.quant_min() as f32;
const CODE_MAX: f32 = QuantRange::UINT8.quant_max() as f32;
/// The scale that an all-zero input gets, as in PyTorch's dynamic quantization.
const EMPTY_RANGE_SCALE: f32 = 0.1;

/// The values that the codes of `x` stand for. Gradients pass straight through, except where a value lies
/// outside the representable range.
///
/// # Shapes
/// - `x`, output: `[rows, features]`
pub fn fake_quantize_activation(x: Tensor<2>, activation: ActivationQuant) -> Tensor<2> {
    match activation {
        ActivationQuant::Float => x,
        ActivationQuant::Static(params) => {
            let rounded = (x.clone().detach() * (1.0 / params.scale)).round() + params.zero_point as f32;
            let codes = rounded.clone().clamp(CODE_MIN, CODE_MAX);
            let inside = codes.clone().equal(rounded).float();
            straight_through(x, (codes - params.zero_point as f32) * params.scale, || inside)
        }
        ActivationQuant::Dynamic(granularity) => {
            let (scale, zero_point) = dynamic_qparams(&x, granularity);
            let rounded = (x.clone().detach() * scale.clone().recip()).round() + zero_point.clone();
            let codes = rounded.clone().clamp(CODE_MIN, CODE_MAX);
            let inside = codes.clone().equal(rounded).float();
            straight_through(x, (codes - zero_point) * scale, || inside)
        }
    }
}

/// A tensor whose value is exactly `value` and whose gradient by `x` is `pass` (1 or 0 per element).
pub(crate) fn straight_through(
    x: Tensor<2>,
    value: Tensor<2>,
    pass: impl FnOnce() -> Tensor<2>,
) -> Tensor<2> {
    if !x.device().is_autodiff() {
        return value;
    }
    // x - x is zero for every finite x, so the sum is `value` to the last bit.
    value.detach() + (x.clone() - x.detach()) * pass().detach()
}

/// Scale and zero point, `[rows, 1]` or `[1, 1]`, of the range of `x` widened to hold zero: what
/// `slm_quant_core::choose_qparams_dynamic` computes, in 32-bit instead of 64-bit floats.
fn dynamic_qparams(x: &Tensor<2>, granularity: ActivationGranularity) -> (Tensor<2>, Tensor<2>) {
    let x = x.clone().detach();
    let (low, high) = match granularity {
        ActivationGranularity::PerToken => (x.clone().min_dim(1), x.max_dim(1)),
        ActivationGranularity::PerTensor => (x.clone().min().unsqueeze::<2>(), x.max().unsqueeze::<2>()),
    };
    let (low, high) = (low.clamp_max(0.0), high.clamp_min(0.0));
    let scale = (high - low.clone()) / (CODE_MAX - CODE_MIN);
    let empty = scale.clone().equal_elem(0.0);
    let scale = scale.clamp_min(DYNAMIC_SCALE_FLOOR).mask_fill(empty, EMPTY_RANGE_SCALE);
    let zero_point = (low / scale.clone()).neg().round().clamp(CODE_MIN, CODE_MAX);
    (scale, zero_point)
}

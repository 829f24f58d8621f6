//! Fake quantization by tensor operations, on devices with their own memory. Nothing is read back.
//!
//! The arithmetic is that of the host in 32-bit floats, up to the rounding of divisions.

use burn::tensor::Tensor;
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, DYNAMIC_SCALE_FLOOR, Granularity, Mapping, QuantRange,
    QuantScheme, TORCH_EPS, TORCHAO_EPS,
};

use super::ranges::lsq_factor;
use crate::activation::{FakeQuantizedInput, InputRanges, ObservedBounds};

const CODE_MIN: f32 = QuantRange::UINT8.quant_min() as f32;
const CODE_MAX: f32 = QuantRange::UINT8.quant_max() as f32;
/// The scale that an all-zero input gets, as in PyTorch's dynamic quantization.
const EMPTY_RANGE_SCALE: f32 = 0.1;

/// `weight` rounded to the grid of its current bounds.
pub(crate) fn fake_quantize_weight(weight: Tensor<2>, scheme: QuantScheme) -> Tensor<2> {
    let groups = Groups::of(&weight, scheme);
    let values = groups.gather(weight.clone().detach());
    let (low, high) = (values.clone().min_dim(1).clamp_max(0.0), values.clone().max_dim(1).clamp_min(0.0));
    let (min, max) = (scheme.range().quant_min() as f32, scheme.range().quant_max() as f32);
    let (scale, zero_point) = match scheme.mapping {
        Mapping::Affine => {
            let scale = ((high - low.clone()) / (max - min)).clamp_min(TORCHAO_EPS);
            let zero_point = (low / scale.clone()).round().neg().add_scalar(min).clamp(min, max);
            (scale, Some(zero_point))
        }
        Mapping::SymmetricTorch => (low.neg().max_pair(high) / ((max - min) / 2.0), None),
        Mapping::Symmetric => ((low / min).max_pair(high / max), None),
    };
    let scale = scale.clamp_min(TORCHAO_EPS);
    let rounded = (values * scale.clone().recip()).round();
    let rounded = match &zero_point {
        Some(zero_point) => rounded + zero_point.clone(),
        None => rounded,
    };
    let codes = rounded.clone().clamp(min, max);
    let inside = groups.scatter(codes.clone().equal(rounded).float());
    let steps = match zero_point {
        Some(zero_point) => codes - zero_point,
        None => codes,
    };
    straight_through(weight, groups.scatter(steps * scale), || inside)
}

/// `weight` rounded with learned scales `[count]`, whose gradient is that of LSQ.
pub(crate) fn fake_quantize_learned(weight: Tensor<2>, scales: Tensor<1>, scheme: QuantScheme) -> Tensor<2> {
    let [rows, cols] = weight.dims();
    let groups = Groups::of(&weight, scheme);
    let (min, max) = (scheme.range().quant_min() as f32, scheme.range().quant_max() as f32);
    let count = scales.dims()[0];
    let learned = scales.clone().detach();
    let magnitude = learned.clone().abs().clamp_min(TORCHAO_EPS);
    let scale = magnitude.clone().mask_where(learned.lower_elem(0.0), magnitude.neg()).reshape([count, 1]);
    let quotient = groups.gather(weight.clone().detach()) * scale.clone().recip();
    let rounded = quotient.clone().round();
    let codes = rounded.clone().clamp(min, max);
    let inside = codes.clone().equal(rounded).float();
    let value = groups.scatter(codes.clone() * scale);
    if !weight.device().is_autodiff() {
        return value;
    }
    // LSQ: rounded code minus quotient where the value is in range, the code where it is not.
    let by_scale = (codes - quotient * inside.clone()).detach() * lsq_factor(scheme, rows, cols);
    let scales = scales.reshape([count, 1]);
    // The value is zero, as in `straight_through`.
    let through_scale = groups.scatter((scales.clone() - scales.detach()) * by_scale);
    let inside = groups.scatter(inside);
    straight_through(weight, value, || inside) + through_scale
}

/// `x` rounded on the grid of `ranges`.
pub(crate) fn fake_quantize_input(x: Tensor<2>, ranges: &InputRanges) -> Tensor<2> {
    match round_input(&x, ranges) {
        Some(Rounded { value, inside }) => straight_through(x, value, || inside),
        None => x,
    }
}

/// An input on its grid.
pub(crate) struct Rounded {
    /// Dequantized values of the codes.
    pub(crate) value: Tensor<2>,
    /// 1 where a value is in range, 0 where it was clipped.
    pub(crate) inside: Tensor<2>,
}

/// Rounds `x` on the grid of `ranges`, without gradient; `None` if the input stays float.
pub(crate) fn round_input(x: &Tensor<2>, ranges: &InputRanges) -> Option<Rounded> {
    let known = |value: f32| Tensor::<2>::full([1, 1], value, &x.device()).detach();
    let (scale, zero_point) = match ranges.quant() {
        FakeQuantizedInput::Fixed(ActivationQuant::Float) => return None,
        FakeQuantizedInput::Fixed(ActivationQuant::Static(params)) => {
            (known(params.scale), known(params.zero_point as f32))
        }
        FakeQuantizedInput::Fixed(ActivationQuant::Dynamic(granularity)) => dynamic_qparams(x, granularity),
        FakeQuantizedInput::Observed { .. } => observed_qparams(x, ranges),
    };
    let rounded = (x.clone().detach() * scale.clone().recip()).round() + zero_point.clone();
    let codes = rounded.clone().clamp(CODE_MIN, CODE_MAX);
    let inside = codes.clone().equal(rounded).float();
    Some(Rounded { value: (codes - zero_point) * scale, inside })
}

/// Scale and zero point `[1, 1]` of a moving average that stays on the device.
fn observed_qparams(x: &Tensor<2>, ranges: &InputRanges) -> (Tensor<2>, Tensor<2>) {
    let values = x.clone().detach();
    let range = || (values.clone().min().unsqueeze::<2>(), values.clone().max().unsqueeze::<2>());
    let training = x.device().is_autodiff();
    let mut bounds = ranges.lock();
    let known = match &*bounds {
        ObservedBounds::Nothing => None,
        ObservedBounds::Host((min, max)) => {
            let tensor = |value: f32| Tensor::<2>::full([1, 1], value, &x.device()).detach();
            Some((tensor(*min), tensor(*max)))
        }
        ObservedBounds::Device(bounds) => {
            let [min, max] = (**bounds).clone();
            Some(if training { (Tensor::from_inner(min), Tensor::from_inner(max)) } else { (min, max) })
        }
    };
    let (min, max) = match (known, ranges.observes(training)) {
        (Some(known), None) => known,
        (None, _) => range(),
        (Some((min, max)), Some(constant)) => {
            let (low, high) = range();
            (min.clone() + (low - min) * constant, max.clone() + (high - max) * constant)
        }
    };
    if training {
        *bounds = ObservedBounds::Device(Box::new([min.clone().inner(), max.clone().inner()]));
    }
    drop(bounds);
    let (low, high) = (min.clamp_max(0.0), max.clamp_min(0.0));
    let scale = ((high - low.clone()) / (CODE_MAX - CODE_MIN)).clamp_min(TORCH_EPS);
    let zero_point = (low / scale.clone()).round().neg().add_scalar(CODE_MIN).clamp(CODE_MIN, CODE_MAX);
    (scale, zero_point)
}

/// Scale and zero point, `[rows, 1]` or `[1, 1]`, of the range of `x` widened to include zero, as
/// `slm_quant_core::choose_qparams_dynamic` computes them but in 32-bit instead of 64-bit floats.
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

/// A tensor whose value is exactly `value` and whose gradient with respect to `x` is `pass` (1 or 0 per element).
fn straight_through(x: Tensor<2>, value: Tensor<2>, pass: impl FnOnce() -> Tensor<2>) -> Tensor<2> {
    if !x.device().is_autodiff() {
        return value;
    }
    // x - x is zero for every finite x, so the sum is `value` to the last bit.
    value.detach() + (x.clone() - x.detach()) * pass().detach()
}

/// Layout of the groups that share a scale in a `[rows, cols]` matrix.
struct Groups {
    rows: usize,
    cols: usize,
    /// Columns of a group.
    width: usize,
    /// Number of groups of a row; 0 if all rows are one group.
    per_row: usize,
}

impl Groups {
    fn of(weight: &Tensor<2>, scheme: QuantScheme) -> Self {
        let [rows, cols] = weight.dims();
        match scheme.granularity {
            Granularity::PerTensor => Self { rows, cols, width: rows * cols, per_row: 0 },
            Granularity::PerChannel => Self { rows, cols, width: cols, per_row: 1 },
            Granularity::PerGroup { group_size } => {
                Self { rows, cols, width: group_size, per_row: cols.div_ceil(group_size) }
            }
        }
    }

    /// Reshapes to `[groups, width]`. A shorter last group is padded with zeros, which every range includes.
    fn gather(&self, matrix: Tensor<2>) -> Tensor<2> {
        if self.per_row == 0 {
            return matrix.reshape([1, self.width]);
        }
        let missing = self.per_row * self.width - self.cols;
        let matrix = match missing {
            0 => matrix,
            _ => Tensor::cat(vec![matrix.clone(), Tensor::zeros([self.rows, missing], &matrix.device())], 1),
        };
        matrix.reshape([self.rows * self.per_row, self.width])
    }

    /// Reshapes back to `[rows, cols]`.
    fn scatter(&self, groups: Tensor<2>) -> Tensor<2> {
        if self.per_row == 0 {
            return groups.reshape([self.rows, self.cols]);
        }
        groups.reshape([self.rows, self.per_row * self.width]).narrow(1, 0, self.cols)
    }
}

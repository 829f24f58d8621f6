//! Fake quantization as one operation with its own backward pass, for backends in host memory.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::fmt::Debug;
use std::sync::Arc;

#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use slm_autograd::{HostBackend, KeptInput, record};
use slm_quant_core::{QuantScheme, Result, ScaleDtype};

use super::fake_quantizer::FakeQuantizer;
use super::linear;
use super::ranges::{WeightRanges, learned_params, lsq_factor};
use crate::activation::InputRanges;
use crate::errors::{Place, Reporter};

/// Fake quantization of matrices in host memory. The gradient passes straight through where a value is in range, and is
/// zero where it was clipped.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex, Autodiff)]
pub(crate) trait FakeQuantOps: Backend {
    /// Rounds to the grid that `ranges` chooses for `weight`.
    fn fake_quantize_weight(
        weight: FloatTensor<Self>,
        ranges: Arc<WeightRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self>;

    /// Rounds to the grid of the scales `[count]`, which get the gradient of LSQ.
    fn fake_quantize_learned(
        weight: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        errors: Reporter,
    ) -> FloatTensor<Self>;

    /// Rounds to the grid that `ranges` chooses for the activations `x`.
    fn fake_quantize_input(
        x: FloatTensor<Self>,
        ranges: Arc<InputRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self>;

    /// `x W^T` of both rounded, by the integer kernel that a packed layer runs.
    fn fake_quantized_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        input: Arc<InputRanges>,
        ranges: Arc<WeightRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self>;

    /// The same with learned scales.
    fn fake_quantized_linear_learned(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        input: Arc<InputRanges>,
        ranges: Arc<WeightRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self>;
}

pub(crate) fn fake_quantize_weight(
    weight: Tensor<2>,
    ranges: &Arc<WeightRanges>,
    errors: &Reporter,
) -> Tensor<2> {
    let (weight, ranges) = (weight.into_dispatch(), Arc::clone(ranges));
    Tensor::from_dispatch(Dispatch::fake_quantize_weight(weight, ranges, errors.clone()))
}

pub(crate) fn fake_quantize_learned(
    weight: Tensor<2>,
    scales: Tensor<1>,
    scheme: QuantScheme,
    errors: &Reporter,
) -> Tensor<2> {
    let (weight, scales) = (weight.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::fake_quantize_learned(weight, scales, scheme, errors.clone()))
}

pub(crate) fn fake_quantize_input(x: Tensor<2>, ranges: &Arc<InputRanges>, errors: &Reporter) -> Tensor<2> {
    let (x, ranges) = (x.into_dispatch(), Arc::clone(ranges));
    Tensor::from_dispatch(Dispatch::fake_quantize_input(x, ranges, errors.clone()))
}

pub(crate) fn fake_quantized_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    scales: Option<Tensor<1>>,
    input: &Arc<InputRanges>,
    ranges: &Arc<WeightRanges>,
    errors: &Reporter,
) -> Tensor<2> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let (input, ranges, errors) = (Arc::clone(input), Arc::clone(ranges), errors.clone());
    Tensor::from_dispatch(match scales {
        None => Dispatch::fake_quantized_linear(x, weight, input, ranges, errors),
        Some(scales) => {
            let scales = scales.into_dispatch();
            Dispatch::fake_quantized_linear_learned(x, weight, scales, input, ranges, errors)
        }
    })
}

macro_rules! without_gradients {
    ($backend:ty) => {
        impl FakeQuantOps for $backend {
            fn fake_quantize_weight(
                weight: FloatTensor<Self>,
                ranges: Arc<WeightRanges>,
                errors: Reporter,
            ) -> FloatTensor<Self> {
                let (rows, cols) = dims(&weight);
                let choose = |values: &[f32]| ranges.fake_quantizer(values, rows, cols, false);
                rounded::<Self>(&weight, choose, Place::Weight, &errors).0
            }

            fn fake_quantize_learned(
                weight: FloatTensor<Self>,
                scales: FloatTensor<Self>,
                scheme: QuantScheme,
                errors: Reporter,
            ) -> FloatTensor<Self> {
                let (_, cols) = dims(&weight);
                let quantizer = learned_quantizer::<Self>(&scales, scheme, cols);
                rounded::<Self>(&weight, |_| quantizer, Place::Weight, &errors).0
            }

            fn fake_quantize_input(
                x: FloatTensor<Self>,
                ranges: Arc<InputRanges>,
                errors: Reporter,
            ) -> FloatTensor<Self> {
                let (_, cols) = dims(&x);
                let choose = |values: &[f32]| ranges.fake_quantizer(values, cols, false);
                rounded::<Self>(&x, choose, Place::Input, &errors).0
            }

            fn fake_quantized_linear(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                input: Arc<InputRanges>,
                ranges: Arc<WeightRanges>,
                errors: Reporter,
            ) -> FloatTensor<Self> {
                linear::product::<Self>(&x, &weight, None, &input, &ranges, false, &errors).0
            }

            fn fake_quantized_linear_learned(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                scales: FloatTensor<Self>,
                input: Arc<InputRanges>,
                ranges: Arc<WeightRanges>,
                errors: Reporter,
            ) -> FloatTensor<Self> {
                linear::product::<Self>(&x, &weight, Some(&scales), &input, &ranges, false, &errors).0
            }
        }
    };
}

without_gradients!(Flex);
#[cfg(feature = "ndarray")]
without_gradients!(NdArray);

impl<B: HostBackend + FakeQuantOps, C: CheckpointStrategy> FakeQuantOps for Autodiff<B, C> {
    fn fake_quantize_weight(
        weight: FloatTensor<Self>,
        ranges: Arc<WeightRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self> {
        let (rows, cols) = dims(&weight);
        let node = weight.node();
        let weight = weight.into_primitive();
        let choose = |values: &[f32]| ranges.fake_quantizer(values, rows, cols, true);
        let (value, quantizer) = rounded::<B>(&weight, choose, Place::Weight, &errors);
        record!(C, StraightThrough, [node], value, (weight, quantizer, errors))
    }

    fn fake_quantize_learned(
        weight: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        errors: Reporter,
    ) -> FloatTensor<Self> {
        let (rows, cols) = dims(&weight);
        let nodes = [weight.node(), scales.node()];
        let weight = weight.into_primitive();
        let learned = LearnedScales { factor: lsq_factor(scheme, rows, cols), count: scales.shape()[0] };
        let quantizer = learned_quantizer::<B>(&scales.into_primitive(), scheme, cols);
        let (value, quantizer) = rounded::<B>(&weight, |_| quantizer, Place::Weight, &errors);
        record!(C, Learned(learned), nodes, value, (weight, quantizer, errors))
    }

    fn fake_quantize_input(
        x: FloatTensor<Self>,
        ranges: Arc<InputRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self> {
        let (_, cols) = dims(&x);
        let node = x.node();
        let x = x.into_primitive();
        let choose = |values: &[f32]| ranges.fake_quantizer(values, cols, true);
        let (value, quantizer) = rounded::<B>(&x, choose, Place::Input, &errors);
        record!(C, StraightThrough, [node], value, (x, quantizer, errors))
    }

    fn fake_quantized_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        input: Arc<InputRanges>,
        ranges: Arc<WeightRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let (y, quantizers) = linear::product::<B>(&x, &weight, None, &input, &ranges, true, &errors);
        let saved = linear::Saved { x: KeptInput::new(x), weight, quantizers, errors };
        record!(C, linear::Observed, nodes, y, saved)
    }

    fn fake_quantized_linear_learned(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        input: Arc<InputRanges>,
        ranges: Arc<WeightRanges>,
        errors: Reporter,
    ) -> FloatTensor<Self> {
        let (rows, cols) = dims(&weight);
        let factor = lsq_factor(ranges.scheme, rows, cols);
        let learned = LearnedScales { factor, count: scales.shape()[0] };
        let nodes = [x.node(), weight.node(), scales.node()];
        let (x, weight, scales) = (x.into_primitive(), weight.into_primitive(), scales.into_primitive());
        let (y, quantizers) =
            linear::product::<B>(&x, &weight, Some(&scales), &input, &ranges, true, &errors);
        let saved = linear::Saved { x: KeptInput::new(x), weight, quantizers, errors };
        record!(C, linear::Learned(learned), nodes, y, saved)
    }
}

/// Learned scales as the backward pass sees them.
#[derive(Debug, Clone, Copy)]
pub(super) struct LearnedScales {
    /// LSQ's factor on their gradient.
    pub(super) factor: f64,
    pub(super) count: usize,
}

/// Backward pass of rounding with a given quantizer. State: the input, its quantizer, and the reporter of errors.
#[derive(Debug)]
struct StraightThrough;

impl<B: HostBackend> Backward<B, 1> for StraightThrough {
    type State = (FloatTensor<B>, Option<Arc<FakeQuantizer>>, Reporter);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let Some(parent) = parent else { return };
        let (x, quantizer, errors) = ops.state;
        let (rows, cols) = dims(&x);
        let mut by_x = B::own(grad);
        let computed = quantizer.and_then(|quantizer| {
            let computed = B::with_values(&x, |x| quantizer.backward(x, B::owned_mut(&mut by_x)));
            errors.ok(Place::Gradient, computed)
        });
        if computed.is_none() {
            by_x = B::from_values(vec![f32::NAN; rows * cols], &[rows, cols]);
        }
        grads.register::<B>(parent.id, by_x);
    }
}

/// Backward pass of rounding with learned scales. State: the weight, its quantizer, and the reporter of errors.
#[derive(Debug)]
struct Learned(LearnedScales);

impl<B: HostBackend> Backward<B, 2> for Learned {
    type State = (FloatTensor<B>, Option<Arc<FakeQuantizer>>, Reporter);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [weight_parent, scales_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (weight, quantizer, errors) = ops.state;
        let LearnedScales { factor, count } = self.0;
        let (rows, cols) = dims(&weight);
        let mut by_weight = B::own(grad);
        let by_scales = quantizer.and_then(|quantizer| {
            let computed = B::with_values(&weight, |weight| {
                quantizer.learned_backward(weight, B::owned_mut(&mut by_weight), factor)
            });
            errors.ok(Place::Gradient, computed)
        });
        let by_scales = by_scales.unwrap_or_else(|| {
            by_weight = B::from_values(vec![f32::NAN; rows * cols], &[rows, cols]);
            vec![f32::NAN; count]
        });
        if let Some(parent) = weight_parent {
            grads.register::<B>(parent.id, by_weight);
        }
        if let Some(parent) = scales_parent {
            grads.register::<B>(parent.id, B::from_values(by_scales, &[count]));
        }
    }
}

/// The values of `x` rounded by the quantizer that `choose` returns for them, and that quantizer; NaN and `None` for an
/// error, which is reported.
fn rounded<B: HostBackend>(
    x: &FloatTensor<B>,
    choose: impl FnOnce(&[f32]) -> Result<FakeQuantizer>,
    place: Place,
    errors: &Reporter,
) -> (FloatTensor<B>, Option<Arc<FakeQuantizer>>) {
    let (rows, cols) = dims(x);
    let computed = B::with_values(x, |values| {
        let quantizer = choose(values)?;
        Ok((quantizer.forward(values)?, Arc::new(quantizer)))
    });
    let (values, quantizer) = match errors.ok(place, computed) {
        Some((values, quantizer)) => (values, Some(quantizer)),
        None => (vec![f32::NAN; rows * cols], None),
    };
    (B::from_values(values, &[rows, cols]), quantizer)
}

pub(super) fn learned_quantizer<B: HostBackend>(
    scales: &FloatTensor<B>,
    scheme: QuantScheme,
    cols: usize,
) -> Result<FakeQuantizer> {
    let dtype: ScaleDtype = scheme.scale_dtype;
    B::with_values(scales, |scales| FakeQuantizer::of_weight(scheme, cols, learned_params(scales, dtype)?))
}

pub(super) fn dims(tensor: &impl TensorMetadata) -> (usize, usize) {
    let shape = tensor.shape();
    (shape[0], shape[1])
}

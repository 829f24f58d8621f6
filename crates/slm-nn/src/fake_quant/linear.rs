//! A fake-quantized linear layer as one operation. Rounded weights are recomputed in the backward pass: those of all layers
//! together would take the memory of another model.
//!
//! With quantized activations the forward pass runs on integers, and the backward pass on their dequantized values.
//! Multiplying the rounded floats instead would give the same sums up to float rounding. That rounding occasionally
//! moves an activation of the next layer to the neighbouring code, so that the trained and the converted model would
//! differ.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_autograd::{HostBackend, KeptInput, Matrix, Precision, matmul};
use slm_kernels::{PackedMatrix, linear};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Result};
use slm_runtime::zeros;

use super::fake_quantizer::FakeQuantizer;
use super::ops::{LearnedScales, dims, learned_quantizer};
use super::ranges::{WeightRanges, quantized};
use crate::activation::{FakeQuantizedInput, InputRanges};
use crate::errors::{Place, Reporter};

/// The grids of input and weight, and the precision of products of floats.
#[derive(Debug)]
pub(super) struct FakeQuantizers {
    /// `None` for a float input.
    input: Option<FakeQuantizer>,
    weight: FakeQuantizer,
    precision: Precision,
}

/// `x W^T` of rounded input and weight, and the quantizers; NaN and `None` for an error, which is reported.
pub(super) fn product<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    scales: Option<&FloatTensor<B>>,
    input: &InputRanges,
    ranges: &WeightRanges,
    training: bool,
    errors: &Reporter,
) -> (FloatTensor<B>, Option<Arc<FakeQuantizers>>) {
    let ((m, k), (n, _)) = (dims(x), dims(weight));
    let learned = scales.map(|scales| learned_quantizer::<B>(scales, ranges.scheme, k));
    let precision = Precision::current();
    let computed = B::with_values(x, |x| {
        B::with_values(weight, |weight| {
            if input.is_float() {
                let of_weight = |weight: &[f32]| -> Result<_> {
                    let quantizer =
                        learned.unwrap_or_else(|| ranges.fake_quantizer(weight, n, k, training))?;
                    let rounded = quantizer.forward(weight)?;
                    Ok((quantizer, rounded))
                };
                let (quantizer, rounded) = errors.ok(Place::Weight, of_weight(weight))?;
                let y = matmul(precision, Matrix::new(x, m, k), Matrix::new(&rounded, n, k).transpose());
                return Some((y, Arc::new(FakeQuantizers { input: None, weight: quantizer, precision })));
            }
            let of_weight = |weight: &[f32]| -> Result<_> {
                let quantizer = learned.unwrap_or_else(|| ranges.fake_quantizer(weight, n, k, training))?;
                let matrix = quantized(weight, n, k, ranges.scheme, quantizer.params())?;
                Ok((quantizer, PackedMatrix::new(matrix, ranges.kernel)?))
            };
            let input_quantizer = errors.ok(Place::Input, input.fake_quantizer(x, k, training))?;
            let (weight_quantizer, packed) = errors.ok(Place::Weight, of_weight(weight))?;
            let mut y = zeros(m * n);
            errors.ok(Place::Input, linear(x, m, &packed, &quant(input, &input_quantizer), None, &mut y))?;
            let (input, weight) = (Some(input_quantizer), weight_quantizer);
            Some((y, Arc::new(FakeQuantizers { input, weight, precision })))
        })
    });
    match computed {
        Some((y, quantizers)) => (B::from_values(y, &[m, n]), Some(quantizers)),
        None => (B::from_values(vec![f32::NAN; m * n], &[m, n]), None),
    }
}

/// The settings with which the kernel computes the codes of `quantizer`.
fn quant(input: &InputRanges, quantizer: &FakeQuantizer) -> ActivationQuant {
    match input.quant() {
        FakeQuantizedInput::Fixed(ActivationQuant::Dynamic(ActivationGranularity::PerToken)) => {
            ActivationQuant::Dynamic(ActivationGranularity::PerToken)
        }
        FakeQuantizedInput::Fixed(_) | FakeQuantizedInput::Observed { .. } => {
            ActivationQuant::Static(quantizer.params()[0])
        }
    }
}

/// Values that the backward pass needs. The rounded values are recomputed, not kept.
#[derive(Debug, Clone)]
pub(super) struct Saved<B: HostBackend> {
    pub(super) x: KeptInput<B>,
    pub(super) weight: FloatTensor<B>,
    pub(super) quantizers: Option<Arc<FakeQuantizers>>,
    pub(super) errors: Reporter,
}

/// Backward pass with an observed grid.
#[derive(Debug)]
pub(super) struct Observed;

impl<B: HostBackend> Backward<B, 2> for Observed {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, weight, quantizers, errors } = ops.state;
        let x = x.tensor();
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, quantizers.as_deref(), &grad, &errors));
        }
        if let Some(parent) = weight_parent {
            let (n, k) = dims(&weight);
            let by_weight = quantizers.and_then(|quantizers| {
                let by_weight = by_rounded_weight::<B>(&x, &quantizers, &grad).and_then(|mut through| {
                    B::with_values(&weight, |weight| quantizers.weight.backward(weight, &mut through))?;
                    Ok(through)
                });
                errors.ok(Place::Gradient, by_weight)
            });
            let by_weight = by_weight.unwrap_or_else(|| vec![f32::NAN; n * k]);
            grads.register::<B>(parent.id, B::from_values(by_weight, &[n, k]));
        }
    }
}

/// Backward pass with learned scales.
#[derive(Debug)]
pub(super) struct Learned(pub(super) LearnedScales);

impl<B: HostBackend> Backward<B, 3> for Learned {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent, scales_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, weight, quantizers, errors } = ops.state;
        let x = x.tensor();
        let LearnedScales { factor, count } = self.0;
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, quantizers.as_deref(), &grad, &errors));
        }
        let (n, k) = dims(&weight);
        let computed = quantizers.and_then(|quantizers| {
            let computed = by_rounded_weight::<B>(&x, &quantizers, &grad).and_then(|mut through| {
                let by_scales = B::with_values(&weight, |weight| {
                    quantizers.weight.learned_backward(weight, &mut through, factor)
                })?;
                Ok((through, by_scales))
            });
            errors.ok(Place::Gradient, computed)
        });
        let (by_weight, by_scales) =
            computed.unwrap_or_else(|| (vec![f32::NAN; n * k], vec![f32::NAN; count]));
        if let Some(parent) = weight_parent {
            grads.register::<B>(parent.id, B::from_values(by_weight, &[n, k]));
        }
        if let Some(parent) = scales_parent {
            grads.register::<B>(parent.id, B::from_values(by_scales, &[count]));
        }
    }
}

/// The gradient with respect to the input: that of the rounded input where it is in range.
fn by_input<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    quantizers: Option<&FakeQuantizers>,
    grad: &FloatTensor<B>,
    errors: &Reporter,
) -> FloatTensor<B> {
    let ((m, k), (n, _)) = (dims(x), dims(weight));
    let through_weight = |quantizers: &FakeQuantizers| -> Result<_> {
        let rounded = B::with_values(weight, |weight| quantizers.weight.forward(weight))?;
        let mut through = B::with_values(grad, |grad| {
            matmul(quantizers.precision, Matrix::new(grad, m, n), Matrix::new(&rounded, n, k))
        });
        if let Some(input) = &quantizers.input {
            B::with_values(x, |x| input.backward(x, &mut through))?;
        }
        Ok(through)
    };
    let by_x = quantizers.and_then(|quantizers| errors.ok(Place::Gradient, through_weight(quantizers)));
    B::from_values(by_x.unwrap_or_else(|| vec![f32::NAN; m * k]), &[m, k])
}

/// The gradient with respect to the rounded weight, `grad^T x`.
fn by_rounded_weight<B: HostBackend>(
    x: &FloatTensor<B>,
    quantizers: &FakeQuantizers,
    grad: &FloatTensor<B>,
) -> Result<Vec<f32>> {
    let ((m, k), (_, n)) = (dims(x), dims(grad));
    let multiply = |x: &[f32]| {
        B::with_values(grad, |grad| {
            matmul(quantizers.precision, Matrix::new(grad, m, n).transpose(), Matrix::new(x, m, k))
        })
    };
    Ok(match &quantizers.input {
        Some(input) => multiply(&B::with_values(x, |x| input.forward(x))?),
        None => B::with_values(x, multiply),
    })
}

//! A fake-quantized linear with quantized activations: forward on the integers, backward on what they stand for.
//!
//! Multiplying the rounded floats instead would give the same sums up to float rounding, which now and then moves
//! an activation of the next layer to the neighbouring code: enough to tell the trained model from the converted.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_autograd::{HostBackend, Matrix, matmul};
use slm_kernels::{PackedMatrix, linear};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Result};

use super::grid::Grid;
use super::ops::{LearnedScales, dims, learned_grid};
use super::ranges::{WeightRanges, quantized};
use crate::activation::{InputQuant, InputRanges};
use crate::errors::{Place, Reporter};

/// The grids of input and weight.
#[derive(Debug)]
pub(super) struct Grids {
    input: Grid,
    weight: Grid,
}

/// `x W^T` of rounded input and weight, and the grids; NaN and none for an error, which is reported.
pub(super) fn product<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    scales: Option<&FloatTensor<B>>,
    input: &InputRanges,
    ranges: &WeightRanges,
    training: bool,
    errors: &Reporter,
) -> (FloatTensor<B>, Option<Arc<Grids>>) {
    let ((m, k), (n, _)) = (dims(x), dims(weight));
    let learned = scales.map(|scales| learned_grid::<B>(scales, ranges.scheme, k));
    let computed = B::with_values(x, |x| {
        B::with_values(weight, |weight| {
            let of_weight = |weight: &[f32]| -> Result<_> {
                let grid = learned.unwrap_or_else(|| ranges.grid(weight, n, k, training))?;
                let matrix = quantized(weight, n, k, ranges.scheme, grid.params())?;
                Ok((grid, PackedMatrix::new(matrix, ranges.kernel)?))
            };
            let input_grid = errors.ok(Place::Input, input.grid(x, k, training))?;
            let (weight_grid, packed) = errors.ok(Place::Weight, of_weight(weight))?;
            let mut y = vec![0.0; m * n];
            errors.ok(Place::Input, linear(x, m, &packed, &quant(input, &input_grid), None, &mut y))?;
            Some((y, Arc::new(Grids { input: input_grid, weight: weight_grid })))
        })
    });
    match computed {
        Some((y, grids)) => (B::from_values(y, &[m, n]), Some(grids)),
        None => (B::from_values(vec![f32::NAN; m * n], &[m, n]), None),
    }
}

/// The settings that give the codes of `grid` to the kernel.
fn quant(input: &InputRanges, grid: &Grid) -> ActivationQuant {
    match input.quant() {
        InputQuant::Fixed(ActivationQuant::Dynamic(ActivationGranularity::PerToken)) => {
            ActivationQuant::Dynamic(ActivationGranularity::PerToken)
        }
        InputQuant::Fixed(_) | InputQuant::Observed { .. } => ActivationQuant::Static(grid.params()[0]),
    }
}

/// What the backward pass needs. The rounded values are computed again rather than kept.
#[derive(Debug, Clone)]
pub(super) struct Saved<T> {
    pub(super) x: T,
    pub(super) weight: T,
    pub(super) grids: Option<Arc<Grids>>,
    pub(super) errors: Reporter,
}

/// Backward pass with a grid that is observed.
#[derive(Debug)]
pub(super) struct Observed;

impl<B: HostBackend> Backward<B, 2> for Observed {
    type State = Saved<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, weight, grids, errors } = ops.state;
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, grids.as_deref(), &grad, &errors));
        }
        if let Some(parent) = weight_parent {
            let (n, k) = dims(&weight);
            let by_weight = grids.and_then(|grids| {
                let by_weight = by_rounded_weight::<B>(&x, &grids, &grad).and_then(|through| {
                    B::with_values(&weight, |weight| grids.weight.backward(weight, &through))
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
    type State = Saved<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent, scales_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, weight, grids, errors } = ops.state;
        let LearnedScales { factor, count } = self.0;
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, grids.as_deref(), &grad, &errors));
        }
        let (n, k) = dims(&weight);
        let computed = grids.and_then(|grids| {
            let computed = by_rounded_weight::<B>(&x, &grids, &grad).and_then(|through| {
                B::with_values(&weight, |weight| grids.weight.learned_backward(weight, &through, factor))
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

/// The gradient by the input: that by the rounded input, where the grid reaches.
fn by_input<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    grids: Option<&Grids>,
    grad: &FloatTensor<B>,
    errors: &Reporter,
) -> FloatTensor<B> {
    let ((m, k), (n, _)) = (dims(x), dims(weight));
    let through_weight = |grids: &Grids| -> Result<_> {
        let rounded = B::with_values(weight, |weight| grids.weight.forward(weight))?;
        let mut through = vec![0.0; m * k];
        B::with_values(grad, |grad| {
            matmul(Matrix::new(grad, m, n), Matrix::new(&rounded, n, k), &mut through);
        });
        B::with_values(x, |x| grids.input.backward(x, &through))
    };
    let by_x = grids.and_then(|grids| errors.ok(Place::Gradient, through_weight(grids)));
    B::from_values(by_x.unwrap_or_else(|| vec![f32::NAN; m * k]), &[m, k])
}

/// The gradient by the rounded weight, `grad^T x`.
fn by_rounded_weight<B: HostBackend>(
    x: &FloatTensor<B>,
    grids: &Grids,
    grad: &FloatTensor<B>,
) -> Result<Vec<f32>> {
    let ((m, k), (_, n)) = (dims(x), dims(grad));
    let rounded = B::with_values(x, |x| grids.input.forward(x))?;
    let mut through = vec![0.0; n * k];
    B::with_values(grad, |grad| {
        matmul(Matrix::new(grad, m, n).transpose(), Matrix::new(&rounded, m, k), &mut through);
    });
    Ok(through)
}

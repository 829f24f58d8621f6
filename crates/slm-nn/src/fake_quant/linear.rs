//! A fake-quantized linear with quantized activations: forward on the integers, backward on what they stand for.
//!
//! Multiplying the rounded floats instead would give the same sums up to float rounding, which now and then moves
//! an activation of the next layer to the neighbouring code: enough to tell the trained model from the converted.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_autograd::{Matrix, matmul};
use slm_kernels::{PackedMatrix, linear};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Result};

use super::grid::Grid;
use super::ops::{dims, learned_grid};
use super::ranges::{WeightRanges, quantized};
use crate::activation::{InputQuant, InputRanges};
use crate::host::HostBackend;

/// The grids of input and weight.
#[derive(Debug)]
pub(super) struct Grids {
    input: Grid,
    weight: Grid,
}

/// `x W^T` of rounded input and weight, and the grids; NaN and none where a value is not finite.
pub(super) fn product<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    scales: Option<&FloatTensor<B>>,
    input: &InputRanges,
    ranges: &WeightRanges,
    training: bool,
) -> (FloatTensor<B>, Option<Arc<Grids>>) {
    let ((m, k), (n, _)) = (dims(x), dims(weight));
    let learned = scales.map(|scales| learned_grid::<B>(scales, ranges.scheme, k));
    let computed = B::with_values(x, |x| {
        B::with_values(weight, |weight| -> Result<_> {
            let grids = Grids {
                input: input.grid(x, k, training)?,
                weight: match learned {
                    Some(Some(grid)) => grid,
                    Some(None) => return Err(slm_quant_core::Error::Empty { what: "scales" }),
                    None => ranges.grid(weight, n, k, training)?,
                },
            };
            let matrix = quantized(weight, n, k, ranges.scheme, grids.weight.params())?;
            let packed = PackedMatrix::new(matrix, ranges.kernel)?;
            let mut y = vec![0.0; m * n];
            linear(x, m, &packed, &quant(input, &grids.input), None, &mut y)?;
            Ok((y, Arc::new(grids)))
        })
    });
    match computed {
        Ok((y, grids)) => (B::from_values(y, [m, n]), Some(grids)),
        Err(_) => (B::from_values(vec![f32::NAN; m * n], [m, n]), None),
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
}

/// Backward pass with a grid that is observed.
#[derive(Debug)]
pub(super) struct Observed;

impl<B: HostBackend> Backward<B, 2> for Observed {
    type State = Saved<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, weight, grids } = ops.state;
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, grids.as_deref(), &grad));
        }
        if let Some(parent) = weight_parent {
            let (n, k) = dims(&weight);
            let by_weight = grids.map_or_else(
                || vec![f32::NAN; n * k],
                |grids| {
                    let through = by_rounded_weight::<B>(&x, &grids, &grad);
                    B::with_values(&weight, |weight| grids.weight.backward(weight, &through))
                },
            );
            grads.register::<B>(parent.id, B::from_values(by_weight, [n, k]));
        }
    }
}

/// Backward pass with learned scales; holds LSQ's factor.
#[derive(Debug)]
pub(super) struct Learned(pub(super) f64);

impl<B: HostBackend> Backward<B, 3> for Learned {
    type State = Saved<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, weight_parent, scales_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let Saved { x, weight, grids } = ops.state;
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, grids.as_deref(), &grad));
        }
        let (n, k) = dims(&weight);
        let (by_weight, by_scales) = match &grids {
            Some(grids) => {
                let through = by_rounded_weight::<B>(&x, grids, &grad);
                B::with_values(&weight, |weight| grids.weight.learned_backward(weight, &through, self.0))
            }
            None => (vec![f32::NAN; n * k], vec![f32::NAN]),
        };
        if let Some(parent) = weight_parent {
            grads.register::<B>(parent.id, B::from_values(by_weight, [n, k]));
        }
        if let Some(parent) = scales_parent {
            let count = by_scales.len();
            grads.register::<B>(parent.id, B::from_values(by_scales, [count]));
        }
    }
}

/// The gradient by the input: that by the rounded input, where the grid reaches.
fn by_input<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    grids: Option<&Grids>,
    grad: &FloatTensor<B>,
) -> FloatTensor<B> {
    let ((m, k), (n, _)) = (dims(x), dims(weight));
    let by_x = grids.map_or_else(
        || vec![f32::NAN; m * k],
        |grids| {
            let rounded = B::with_values(weight, |weight| grids.weight.forward(weight));
            let mut through = vec![0.0; m * k];
            B::with_values(grad, |grad| {
                matmul(Matrix::new(grad, m, n), Matrix::new(&rounded, n, k), &mut through);
            });
            B::with_values(x, |x| grids.input.backward(x, &through))
        },
    );
    B::from_values(by_x, [m, k])
}

/// The gradient by the rounded weight, `grad^T x`.
fn by_rounded_weight<B: HostBackend>(x: &FloatTensor<B>, grids: &Grids, grad: &FloatTensor<B>) -> Vec<f32> {
    let ((m, k), (_, n)) = (dims(x), dims(grad));
    let rounded = B::with_values(x, |x| grids.input.forward(x));
    let mut through = vec![0.0; n * k];
    B::with_values(grad, |grad| {
        matmul(Matrix::new(grad, m, n).transpose(), Matrix::new(&rounded, m, k), &mut through);
    });
    through
}

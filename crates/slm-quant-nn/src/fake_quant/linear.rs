//! A fake-quantized linear with quantized activations: forward on the integers, backward on what they stand for.
//!
//! Multiplying the rounded floats instead would give the same sums up to float rounding, which now and then moves
//! an activation of the next layer to the neighbouring code: enough to tell the trained model from the converted.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_quant_core::{ActivationGranularity, ActivationQuant, PackedMatrix, Result, linear};

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
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, grids.as_deref(), grad.clone()));
        }
        if let Some(parent) = weight_parent {
            let grids = grids.as_deref();
            let through = by_rounded_weight::<B>(&x, grids, grad);
            let masked = masked::<B>(&weight, &through, grids.map(|grids| &grids.weight));
            grads.register::<B>(parent.id, masked);
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
            grads.register::<B>(parent.id, by_input::<B>(&x, &weight, grids.as_deref(), grad.clone()));
        }
        let (n, k) = dims(&weight);
        let through = by_rounded_weight::<B>(&x, grids.as_deref(), grad);
        let (by_weight, by_scales) = B::with_values(&weight, |weight| {
            B::with_values(&through, |through| match &grids {
                Some(grids) => grids.weight.learned_backward(weight, through, self.0),
                None => (vec![f32::NAN; weight.len()], vec![f32::NAN]),
            })
        });
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
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let rounded = on_grid::<B>(weight, grids.map(|grids| &grids.weight));
    let through = B::float_matmul(grad, rounded);
    masked::<B>(x, &through, grids.map(|grids| &grids.input))
}

/// The gradient by the rounded weight, `grad^T x`.
fn by_rounded_weight<B: HostBackend>(
    x: &FloatTensor<B>,
    grids: Option<&Grids>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let rounded = on_grid::<B>(x, grids.map(|grids| &grids.input));
    B::float_matmul(B::float_transpose(grad), rounded)
}

fn on_grid<B: HostBackend>(values: &FloatTensor<B>, grid: Option<&Grid>) -> FloatTensor<B> {
    let (rows, cols) = dims(values);
    let rounded = B::with_values(values, |values| match grid {
        Some(grid) => grid.forward(values),
        None => vec![f32::NAN; values.len()],
    });
    B::from_values(rounded, [rows, cols])
}

fn masked<B: HostBackend>(
    values: &FloatTensor<B>,
    grad: &FloatTensor<B>,
    grid: Option<&Grid>,
) -> FloatTensor<B> {
    let (rows, cols) = dims(values);
    let masked = B::with_values(values, |values| {
        B::with_values(grad, |grad| match grid {
            Some(grid) => grid.backward(values, grad),
            None => vec![f32::NAN; values.len()],
        })
    });
    B::from_values(masked, [rows, cols])
}

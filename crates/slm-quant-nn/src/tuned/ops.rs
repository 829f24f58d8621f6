//! The product of an input and weights that exist as codes alone, with gradients by both.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![allow(deprecated)]

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use slm_fused::{Matrix, matmul, record};
use slm_quant_core::{ActivationQuant, linear};

use super::Stored;
use crate::PhaseSwitch;
use crate::activation::InputRanges;
use crate::fake_quant::grid::Grid;
use crate::host::HostBackend;

#[backend_extension(NdArray, Flex, Autodiff)]
pub(crate) trait TunedOps: Backend {
    /// `x W^T` by the kernel of the packed weights. `update` is zero, and gets the gradient by the weights.
    fn tuned_linear(
        x: FloatTensor<Self>,
        update: FloatTensor<Self>,
        stored: Arc<Stored>,
    ) -> FloatTensor<Self>;
}

pub(super) fn tuned_linear(x: Tensor<2>, update: Tensor<2>, stored: &Arc<Stored>) -> Tensor<2> {
    let (x, update) = (x.into_dispatch(), update.into_dispatch());
    Tensor::from_dispatch(Dispatch::tuned_linear(x, update, Arc::clone(stored)))
}

impl TunedOps for Flex {
    fn tuned_linear(
        x: FloatTensor<Self>,
        _update: FloatTensor<Self>,
        stored: Arc<Stored>,
    ) -> FloatTensor<Self> {
        product::<Self>(&x, &stored)
    }
}

impl TunedOps for NdArray {
    fn tuned_linear(
        x: FloatTensor<Self>,
        _update: FloatTensor<Self>,
        stored: Arc<Stored>,
    ) -> FloatTensor<Self> {
        product::<Self>(&x, &stored)
    }
}

impl<B: HostBackend + TunedOps, C: CheckpointStrategy> TunedOps for Autodiff<B, C> {
    fn tuned_linear(
        x: FloatTensor<Self>,
        update: FloatTensor<Self>,
        stored: Arc<Stored>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), update.node()];
        let x = x.into_primitive();
        let y = product::<B>(&x, &stored);
        record!(C, TunedBackward, nodes, y, (x, stored))
    }
}

/// State: input and weights.
#[derive(Debug)]
struct TunedBackward;

impl<B: HostBackend> Backward<B, 2> for TunedBackward {
    type State = (FloatTensor<B>, Arc<Stored>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [x_parent, update_parent] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, stored) = ops.state;
        let (rows, cols) = (x.shape()[0], x.shape()[1]);
        let n = stored.packed.matrix().rows();
        let grid = input_grid::<B>(&x, &stored);
        if let Some(parent) = x_parent {
            let weights = stored.packed.matrix().unpack().dequantize();
            let mut through = vec![0.0; rows * cols];
            B::with_values(&grad, |grad| {
                matmul(Matrix::new(grad, rows, n), Matrix::new(&weights, n, cols), &mut through);
            });
            let by_x = match &grid {
                InputGrid::Float => through,
                InputGrid::Rounded(grid) => B::with_values(&x, |x| grid.backward(x, &through)),
                InputGrid::NotFinite => vec![f32::NAN; rows * cols],
            };
            grads.register::<B>(parent.id, B::from_values(by_x, [rows, cols]));
        }
        if let Some(parent) = update_parent {
            let mut by_weight = vec![0.0; n * cols];
            let mut product = |x: &[f32]| {
                B::with_values(&grad, |grad| {
                    matmul(
                        Matrix::new(grad, rows, n).transpose(),
                        Matrix::new(x, rows, cols),
                        &mut by_weight,
                    );
                });
            };
            match &grid {
                InputGrid::Rounded(grid) => product(&B::with_values(&x, |x| grid.forward(x))),
                InputGrid::Float | InputGrid::NotFinite => B::with_values(&x, |x| product(x)),
            }
            grads.register::<B>(parent.id, B::from_values(by_weight, [n, cols]));
        }
    }
}

/// The grid of an input.
enum InputGrid {
    /// It is not rounded.
    Float,
    Rounded(Grid),
    NotFinite,
}

fn input_grid<B: HostBackend>(x: &FloatTensor<B>, stored: &Stored) -> InputGrid {
    if stored.packed.activation() == ActivationQuant::Float {
        return InputGrid::Float;
    }
    let ranges = InputRanges::new(stored.packed.activation().into(), PhaseSwitch::default(), None);
    let cols = x.shape()[1];
    B::with_values(x, |x| ranges.grid(x, cols, false)).map_or(InputGrid::NotFinite, InputGrid::Rounded)
}

/// Values that are not finite make all of the result NaN.
fn product<B: HostBackend>(x: &FloatTensor<B>, stored: &Stored) -> FloatTensor<B> {
    let (m, n) = (x.shape()[0], stored.packed.matrix().rows());
    let y = B::with_values(x, |x| {
        let mut y = vec![0.0; m * n];
        match linear(x, m, stored.packed.matrix(), &stored.packed.activation(), None, &mut y) {
            Ok(()) => y,
            Err(_) => vec![f32::NAN; m * n],
        }
    });
    B::from_values(y, [m, n])
}

//! Products with codes in host memory, by the kernels.

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use slm_autograd::{Matrix, matmul};
use slm_kernels::linear;
use slm_quant_core::ActivationQuant;

use super::Stored;
use super::ops::CodeProducts;
use crate::PhaseSwitch;
use crate::activation::InputRanges;
use crate::fake_quant::grid::Grid;
use crate::host::HostBackend;

impl<B: HostBackend> CodeProducts for B {
    /// Values that are not finite make all of the result NaN.
    fn product(x: &FloatTensor<B>, stored: &Stored) -> FloatTensor<B> {
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

    fn gradients(
        x: &FloatTensor<B>,
        grad: &FloatTensor<B>,
        stored: &Stored,
        [by_x, by_weight]: [bool; 2],
    ) -> [Option<FloatTensor<B>>; 2] {
        let grid = input_grid::<B>(x, stored);
        [
            by_x.then(|| by_input::<B>(x, grad, stored, &grid)),
            by_weight.then(|| by_weights::<B>(x, grad, stored, &grid)),
        ]
    }
}

fn by_input<B: HostBackend>(
    x: &FloatTensor<B>,
    grad: &FloatTensor<B>,
    stored: &Stored,
    grid: &InputGrid,
) -> FloatTensor<B> {
    let (rows, cols) = (x.shape()[0], x.shape()[1]);
    let n = stored.packed.matrix().rows();
    let weights = stored.packed.matrix().unpack().dequantize();
    let mut through = vec![0.0; rows * cols];
    B::with_values(grad, |grad| {
        matmul(Matrix::new(grad, rows, n), Matrix::new(&weights, n, cols), &mut through);
    });
    let by_x = match grid {
        InputGrid::Float => through,
        InputGrid::Rounded(grid) => B::with_values(x, |x| grid.backward(x, &through)),
        InputGrid::NotFinite => vec![f32::NAN; rows * cols],
    };
    B::from_values(by_x, [rows, cols])
}

fn by_weights<B: HostBackend>(
    x: &FloatTensor<B>,
    grad: &FloatTensor<B>,
    stored: &Stored,
    grid: &InputGrid,
) -> FloatTensor<B> {
    let (rows, cols) = (x.shape()[0], x.shape()[1]);
    let n = stored.packed.matrix().rows();
    let mut by_weights = vec![0.0; n * cols];
    let mut product = |x: &[f32]| {
        B::with_values(grad, |grad| {
            let grad = Matrix::new(grad, rows, n).transpose();
            matmul(grad, Matrix::new(x, rows, cols), &mut by_weights);
        });
    };
    match grid {
        InputGrid::Rounded(grid) => product(&B::with_values(x, |x| grid.forward(x))),
        InputGrid::Float | InputGrid::NotFinite => B::with_values(x, product),
    }
    B::from_values(by_weights, [n, cols])
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

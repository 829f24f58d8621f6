//! One implementation of the matrix products, and the parts of a product that it computes.

use std::ops::Range;

use crate::tile::Tile;
use crate::{QuantizedActivations, Workspace};

/// Rows of weights in a unit of work.
pub(crate) const UNIT_ROWS: usize = 16;

/// What input codes are taken less of in products with weights of several groups to a row, whatever their
/// zero point: the middle, so that 8 bits hold the difference. [`linear`](crate::linear()) says how.
pub(crate) const MIDDLE: i32 = 128;

/// The input of a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    Quantized(&'a QuantizedActivations),
    /// Row-major floats and how many rows they are.
    Float(&'a [f32], usize),
}

impl Input<'_> {
    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Quantized(x) => x.rows(),
            Self::Float(_, rows) => *rows,
        }
    }
}

/// A part of a product: some rows of the input times some units of weights.
pub(crate) struct Part<'a> {
    pub(crate) x: Input<'a>,
    /// Location of the input after [`Kernel::arrange`].
    pub(crate) workspace: &'a Workspace,
    pub(crate) slot: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// The cells of the result, `[m, rows]`, that this part computes.
    pub(crate) out: Tile<'a, f32>,
    pub(crate) units: Range<usize>,
}

/// An implementation of the matrix products. A value exists only where the processor has its instructions.
///
/// The order of float operations is that of [`linear`](crate::linear()).
pub(crate) trait Kernel: Copy {
    /// Weights as the kernel reads them.
    type Weights;

    /// Units of weights that parts of many rows should have a multiple of.
    const TILE_UNITS: usize;

    /// Puts an input into the form that the kernel reads for these weights, and says where it is.
    fn arrange(self, x: Input<'_>, w: &Self::Weights, workspace: &mut Workspace) -> usize;

    /// Computes a part of a product.
    fn part(self, w: &Self::Weights, part: Part<'_>);

    /// The integer sums behind a product with 8-bit inputs, to `[m, rows, groups]`.
    fn accumulate(self, x: &QuantizedActivations, w: &Self::Weights, out: &mut [i32]);
}

//! The interface of a kernel, and the parts of a product that it computes.

use std::ops::Range;

use crate::tile::Tile;
use crate::{QuantizedActivations, Workspace};

/// Rows of weights in a panel, the unit of work.
pub(crate) const NR: usize = 16;

/// Offset that is subtracted from activation codes in per-group products, whatever their zero point: the middle of
/// their range, so that the difference fits in 8 bits. [`linear`](crate::linear()) gives the formula.
pub(crate) const ACTIVATION_OFFSET: i32 = 128;

/// The input of a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    Quantized(&'a QuantizedActivations),
    /// Row-major floats and the number of rows.
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

/// A part of a product: some rows of the input times some panels of weights.
pub(crate) struct MatmulPart<'a> {
    pub(crate) x: Input<'a>,
    /// The input's slot in the workspace, from [`Kernel::pack_lhs`].
    pub(crate) workspace: &'a Workspace,
    pub(crate) slot: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// The cells of the result, `[m, rows]`, that this part computes.
    pub(crate) out: Tile<'a, f32>,
    pub(crate) panels: Range<usize>,
}

/// An implementation of the matrix products. A value exists only where the processor has its instructions.
///
/// The order of float operations is that of [`linear`](crate::linear()).
pub(crate) trait Kernel: Copy {
    /// Weights in the layout that the kernel reads.
    type Weights;

    /// Granularity of panels of weights in parts of many rows.
    const PANELS_PER_TILE: usize;

    /// Packs an input in the layout that the kernel reads for these weights, and returns its slot.
    fn pack_lhs(self, x: Input<'_>, w: &Self::Weights, workspace: &mut Workspace) -> usize;

    /// Computes a part of a product.
    fn part(self, w: &Self::Weights, part: MatmulPart<'_>);

    /// Writes the integer sums behind a product with 8-bit inputs to `[m, rows, groups]`.
    fn accumulate(self, x: &QuantizedActivations, w: &Self::Weights, out: &mut [i32]);
}

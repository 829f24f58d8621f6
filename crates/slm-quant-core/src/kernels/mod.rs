//! Kernels: matrix products with quantized weights, for each instruction set.
//!
//! | file | holds |
//! |---|---|
//! | `kind` | which kernels there are and which one is used |
//! | `scalar` | the reference every other kernel equals bit for bit, on canonical weights |
//! | `blocked` | weights in the order in which vector kernels read them |
//! | `block_rows` | rows of codes on their way into that order |
//! | `packing` | a matrix that is being packed |
//! | `activations` | quantizing the input |
//! | `inputs` | inputs in the form in which vector kernels read them |
//! | `simd` | the vector operations that kernels are written in |
//! | `avx2`, `avx512vnni`, `dotprod` | those operations in one instruction set each |
//! | `isa` | one of them, whichever the processor has |
//! | `integer`, `grouped` | a tile of the product with 8-bit inputs: one group to a row, or several |
//! | `float` | a tile of the product with float inputs |
//! | `pages` | memory for weights |
//! | `advice` | large pages for memory of other owners |
//! | `unpacked` | a tile of many rows on weights unpacked beforehand |
//! | `driver` | tiles |
//! | `region` | several products, shared among threads |
//! | `shares` | who takes which part of a product of one row |
//! | `vectorize` | plain loops compiled for each instruction set |
//! | `workspace` | memory that calls use again |
//! | `vector` | a kernel out of the above, for any instruction set |
//! | `measure` | what the processor can do at most |
//! | `team` | threads for work that lasts microseconds |
//! | `packed` | weights together with the kernel that reads them |

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_variables, unreachable_code, reason = "only vector kernels need most of this")
)]

mod activations;
mod advice;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod block_rows;
mod blocked;
#[cfg(target_arch = "aarch64")]
mod dotprod;
mod driver;
mod float;
mod grouped;
mod inputs;
mod integer;
mod isa;
mod kind;
mod measure;
mod packed;
mod packing;
mod pages;
mod region;
mod scalar;
mod shared_out;
mod shares;
mod simd;
mod team;
mod unpacked;
mod vector;
mod vectorize;
mod workspace;

pub use activations::{
    ActivationQuant, QuantizedActivations, quantize_activations, quantize_activations_into,
};
pub use advice::advise_large_pages;
pub use kind::KernelKind;
pub use measure::{ReadMeter, measure_peak_ops, measure_read_bandwidth};
pub use pages::Pages;
pub use region::Product;
pub use team::{for_each_chunk, for_each_task};
pub use workspace::Workspace;

pub(crate) use packed::Packed;
pub(crate) use packing::{Packing, RowsMut};
pub(crate) use region::multiply;

use std::ops::Range;

use shared_out::SharedOut;

/// Rows of weights in a unit of work.
pub(crate) const UNIT_ROWS: usize = 16;

/// What input codes are taken less of in products with weights of several groups to a row, whatever their
/// zero point: the middle, so that 8 bits hold the difference. [`crate::linear`] says how.
const MIDDLE: i32 = 128;

/// The input of a product.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    Quantized(&'a QuantizedActivations),
    /// Row-major floats and how many rows they are.
    Float(&'a [f32], usize),
}

impl Input<'_> {
    /// Rows.
    fn rows(&self) -> usize {
        match self {
            Self::Quantized(x) => x.rows(),
            Self::Float(_, rows) => *rows,
        }
    }
}

/// A part of a product: some rows of the input times some units of weights.
struct Part<'a> {
    x: Input<'a>,
    /// Where [`Kernel::arrange`] has put the input.
    workspace: &'a Workspace,
    slot: usize,
    bias: Option<&'a [f32]>,
    /// `[m, rows]`. No other part has these cells.
    out: SharedOut<'a, f32>,
    rows: Range<usize>,
    units: Range<usize>,
}

/// An implementation of the matrix products. A value exists only where the processor has its instructions.
///
/// The order of float operations is that of [`crate::linear`].
trait Kernel: Copy {
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

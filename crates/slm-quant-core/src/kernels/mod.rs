//! Kernels: matrix products with quantized weights, for each instruction set.
//!
//! | file | holds |
//! |---|---|
//! | `kind` | which kernels there are and which one is used |
//! | `scalar` | the reference every other kernel equals bit for bit, on canonical weights |
//! | `blocked` | weights in the order in which vector kernels read them |
//! | `activations` | quantizing the input, and the form in which kernels read it |
//! | `simd` | the vector operations that kernels are written in |
//! | `avx2`, `avx512vnni` | those operations in one instruction set each |
//! | `integer`, `float` | a tile of the product, with 8-bit and with float inputs |
//! | `driver` | tiles and threads |
//! | `measure` | what the processor can do at most |
//! | `packed` | weights together with the kernel that reads them |

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod blocked;
mod driver;
mod float;
mod integer;
mod kind;
mod measure;
mod packed;
mod scalar;
mod shared_out;
mod simd;

pub use activations::{ActivationQuant, QuantizedActivations, quantize_activations};
pub use kind::KernelKind;
pub use measure::{measure_peak_ops, measure_read_bandwidth};

pub(crate) use packed::Packed;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512vnni::Avx512Vnni;
use shared_out::SharedOut;
use simd::{LANES, Simd};

use crate::QuantizedMatrix;
use activations::{FloatInputs, Inputs};
use blocked::Blocked;
use float::FloatJob;
use integer::{Floats, IntegerJob, Sums};

/// An implementation of the matrix products. A value exists only where the processor has its instructions.
///
/// The order of float operations is that of [`crate::linear`].
trait Kernel: Copy {
    /// Weights as the kernel reads them.
    type Weights;

    /// Arranges weights for this kernel.
    fn pack(self, matrix: QuantizedMatrix) -> Self::Weights;

    /// 8-bit inputs times weights, to `[m, rows]`.
    fn linear_quantized(
        self,
        x: &QuantizedActivations,
        w: &Self::Weights,
        bias: Option<&[f32]>,
        out: &mut [f32],
    );

    /// The integer sums behind [`Kernel::linear_quantized`], to `[m, rows, groups]`.
    fn accumulate(self, x: &QuantizedActivations, w: &Self::Weights, out: &mut [i32]);

    /// Float inputs times dequantized weights, to `[m, rows]`.
    fn linear_float(self, x: &[f32], w: &Self::Weights, bias: Option<&[f32]>, out: &mut [f32]);
}

/// Every vector instruction set is a kernel.
impl<S: Simd> Kernel for S {
    type Weights = Blocked;

    fn pack(self, matrix: QuantizedMatrix) -> Blocked {
        Blocked::pack(matrix)
    }

    fn linear_quantized(self, x: &QuantizedActivations, w: &Blocked, bias: Option<&[f32]>, out: &mut [f32]) {
        let x = Inputs::new(x, w, S::CENTERED_INPUT8);
        let out = Floats { out: SharedOut::new(out), bias, rows: w.rows() };
        driver::run(self, &IntegerJob { x, w, out });
    }

    fn accumulate(self, x: &QuantizedActivations, w: &Blocked, out: &mut [i32]) {
        let x = Inputs::new(x, w, S::CENTERED_INPUT8);
        let out = Sums { out: SharedOut::new(out), rows: w.rows(), groups: w.groups_per_row() };
        driver::run(self, &IntegerJob { x, w, out });
    }

    fn linear_float(self, x: &[f32], w: &Blocked, bias: Option<&[f32]>, out: &mut [f32]) {
        let x = FloatInputs::new(x, x.len() / w.cols(), w);
        driver::run(self, &FloatJob { x, w, out: SharedOut::new(out), bias });
    }
}

/// How far ahead of its reads a kernel asks for weights. About the bytes that arrive during one memory
/// latency on each of four streams.
const PREFETCH_BYTES: usize = 512;

/// The values of a block's lanes out of one value per row of weights; zeros where there is none.
#[inline(always)]
fn load_lanes<S: Simd>(simd: S, values: Option<&[f32]>, block: usize) -> S::F32 {
    let Some(values) = values else { return simd.splat_f32(0.0) };
    let values = &values[block * LANES..];
    if let Some(lanes) = values.first_chunk() {
        return simd.load_f32(lanes);
    }
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    simd.load_f32(&lanes)
}

/// Writes a tile to rows `row..row + M` of a `[m, width]` output, as far as the width goes.
///
/// The caller is the task that owns these rows and blocks.
#[inline(always)]
fn store_tile<S: Simd, const M: usize, const NB: usize>(
    simd: S,
    out: &SharedOut<'_, f32>,
    width: usize,
    row: usize,
    blocks: [usize; NB],
    tile: &[[S::F32; NB]; M],
) {
    let mut lanes = [[[0.0; LANES]; NB]; M];
    for i in 0..M {
        for b in 0..NB {
            simd.store_f32(tile[i][b], &mut lanes[i][b]);
        }
    }
    for (i, lanes) in lanes.iter().enumerate() {
        for (&block, lanes) in blocks.iter().zip(lanes) {
            let count = LANES.min(width - block * LANES);
            // SAFETY: the driver gives each row and block to one task, so that no other thread writes
            // these cells.
            unsafe { out.write((row + i) * width + block * LANES, &lanes[..count]) }
        }
    }
}

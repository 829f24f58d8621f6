//! Kernels: matrix products with quantized weights, for each instruction set.
//!
//! | file | holds |
//! |---|---|
//! | `kind` | which kernels there are and which one is used |
//! | `scalar` | the reference every other kernel equals bit for bit, on canonical weights |
//! | `blocked` | weights in the order in which vector kernels read them |
//! | `activations` | quantizing the input |
//! | `inputs` | inputs in the form in which vector kernels read them |
//! | `simd` | the vector operations that kernels are written in |
//! | `avx2`, `avx512vnni` | those operations in one instruction set each |
//! | `integer`, `float` | a tile of the product, with 8-bit and with float inputs |
//! | `driver` | tiles and threads |
//! | `vector` | a kernel out of the above, for any instruction set |
//! | `measure` | what the processor can do at most |
//! | `packed` | weights together with the kernel that reads them |

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod blocked;
#[cfg(target_arch = "x86_64")]
mod driver;
#[cfg(target_arch = "x86_64")]
mod float;
#[cfg(target_arch = "x86_64")]
mod inputs;
#[cfg(target_arch = "x86_64")]
mod integer;
mod kind;
mod measure;
mod packed;
mod scalar;
mod shared_out;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
mod vector;

pub use activations::{ActivationQuant, QuantizedActivations, quantize_activations};
pub use kind::KernelKind;
pub use measure::{measure_peak_ops, measure_read_bandwidth};

pub(crate) use packed::Packed;

use crate::QuantizedMatrix;
#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512vnni::Avx512Vnni;
use shared_out::SharedOut;

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

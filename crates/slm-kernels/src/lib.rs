//! Kernels: matrix products with quantized weights, for each instruction set of the processor.
//!
//! A [`PackedMatrix`] is a [`QuantizedMatrix`](slm_quant_core::QuantizedMatrix) in the layout that one [`KernelKind`]
//! reads. [`linear()`] multiplies it with floats or with [`QuantizedActivations`]. [`linear_many`] computes several
//! products of one input in one parallel region. Every kernel gives the same bits as [`KernelKind::Scalar`].
//!
//! Errors are those of the numerics crate, [`slm_quant_core::Error`].
//!
//! | module | holds |
//! |---|---|
//! | `linear` | the linear layers that users call |
//! | `packed_matrix`, `builder` | weights packed for a kernel: from a whole matrix, or from rows as they arrive |
//! | `kind` | the kernels by name, and the choice of one |
//! | `kernel` | the interface of a kernel |
//! | `schedule` | several products, scheduled on threads |
//! | `scalar` | the reference every other kernel equals bit for bit, on canonical weights |
//! | `packed_rhs` | weights in the layout that vector kernels read |
//! | `panel_rows` | reordering of rows of codes into panels |
//! | `packing` | a matrix while it is packed |
//! | `packed` | weights together with the kernel that reads them |
//! | `activations` | quantization of the input |
//! | `lhs` | inputs in the layout that vector kernels read |
//! | `workspace` | memory reused from call to call |
//! | `vector` | a kernel built on the vector operations, for any instruction set |
//! | `tile` | a rectangle of an output that belongs to one thread |
//! | `macrokernel` | splits one thread's part of a product into calls of the microkernel |
//! | `integer`, `grouped` | a tile of the product with 8-bit inputs: one group to a row, or several |
//! | `float` | a tile of the product of float inputs and quantized weights |
//! | `fixed_point` | float inputs as exact integers |
//! | `float_matrix`, `rows` | float weights, and a tile of their product |
//! | `panels` | products with panels of keys and values |
//! | `columns` | the inner loop of float products |
//! | `transpose` | transposition of floats |
//! | `unpacked` | a tile of many rows, on weights unpacked beforehand |
//! | `simd` | the vector operations that kernels are written in |
//! | `avx2`, `avx512vnni`, `dotprod` | those operations in one instruction set each |
//! | `x86` | instructions that both kernels for x86-64 use |
//! | `isa` | detection of instruction sets |
//! | `vectorize` | plain loops compiled for each instruction set |
//! | `measure` | peak speed and memory bandwidth of this machine |

#![allow(unsafe_code)]
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_variables, unreachable_code, reason = "only vector kernels need most of this")
)]

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod builder;
mod columns;
#[cfg(target_arch = "aarch64")]
mod dotprod;
mod fixed_point;
mod float;
mod float_matrix;
mod grouped;
mod integer;
mod isa;
mod kernel;
mod kind;
mod lhs;
mod linear;
mod macrokernel;
mod measure;
mod packed;
mod packed_matrix;
mod packed_rhs;
mod packing;
mod panel_rows;
mod panels;
mod rows;
mod scalar;
mod schedule;
mod simd;
mod tile;
mod transpose;
mod unpacked;
mod vector;
mod vectorize;
mod workspace;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use activations::{QuantizedActivations, quantize_activations, quantize_activations_into};
pub use builder::{PackedMatrixBuilder, PackedRows};
pub use float_matrix::{FloatMatrix, FloatValues};
pub use kind::KernelKind;
pub use linear::{LinearInput, accumulate, linear, linear_many, linear_quantized};
pub use measure::{ReadMeter, measure_peak_flops, measure_peak_ops, measure_read_bandwidth};
pub use packed_matrix::PackedMatrix;
pub use panels::{PANEL_ROWS, PANEL_WIDTH, PanelValues, Panels, multiply_panels, widen};
pub use schedule::{MatmulTask, MatmulWeights};
pub use transpose::transpose;
pub use workspace::Workspace;

//! The float operations of a transformer on host slices: everything in an inference pass except the matrix products
//! with weights. No tensor framework is involved.
//!
//! There is one operation per file. Each is a plain function on slices, single-threaded and free of allocation, so that
//! the caller can divide rows or heads among threads. Each is compiled once for the baseline of the target and, on
//! x86-64, once for AVX2 with FMA. Which of the two runs is decided at run time. Only `bf16/avx512.rs` has `unsafe` code.
//!
//! All floats are f32; the operands of a matrix product may be rounded to BF16. A NaN in the input is a NaN in the output.

mod activation;
mod activation_backward;
mod adamw;
mod add;
mod argmax;
mod attention;
mod bf16;
mod causal;
mod causal_backward;
mod causal_forward;
mod cross_entropy;
mod dispatch;
mod distillation;
mod exp;
mod halves;
mod kv;
mod kv_head;
mod kv_run;
mod lanes;
mod matmul;
mod matmul_f32;
mod matrix;
mod norm;
mod norm_backward;
mod panel;
mod rotary;
mod softmax;

pub use activation::{geglu, geglu_tanh, gelu, gelu_tanh, silu, swiglu};
pub use activation_backward::{gelu_backward, gelu_tanh_backward, swiglu_backward};
pub use adamw::{AdamWStep, adamw};
pub use add::{add, add_into, add_scaled, scale};
pub use argmax::argmax;
pub use attention::{AttentionScratch, BlockAttention, Queries, attend};
pub use bf16::{Bf16Pair, has_bf16_products};
pub use causal::{CausalScratch, CausalShape, Rotation, RowStatistics};
pub use causal_backward::causal_attention_backward;
pub use causal_forward::causal_attention;
pub use cross_entropy::{cross_entropy, cross_entropy_backward};
pub use distillation::distillation;
pub use exp::exp;
pub use halves::{Float, round_to_bf16, widen};
pub use kv::{KvGrid, KvHeads, KvLayer, KvOverflow};
pub use kv_head::KvHeadMut;
pub use kv_run::KvRun;
pub use matmul::{MatmulScratch, PANEL_COLUMNS, PanelElement, TILE_ROWS, matmul_rows, pack_panel};
pub use matrix::Matrix;
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use norm_backward::{layer_norm_backward, rms_norm_backward};
pub use rotary::{rotate, rotate_back};
pub use softmax::{log_sum_exp, sum, sum_squares};

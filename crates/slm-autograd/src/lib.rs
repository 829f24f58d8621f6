//! Fused transformer operations with their own backward passes, for Burn's CPU backends.
//!
//! Burn composes a norm, an attention or a loss from many small operations. Each writes a tensor that the next one
//! reads, and many run on one thread. Here each is one pass over the data on all threads, forward and backward, by the
//! functions of `slm-cpu-ops`. Operations run in place when the buffer is uniquely owned: gradients reuse the memory of
//! the values they belong to.
//!
//! They exist for tensors in host memory (Flex and, with the feature `ndarray`, NdArray, with and without autodiff):
//! call [`is_supported`] first. On other devices a model uses Burn's operations.
//!
//! Results are bit-identical for any number of threads.
#![forbid(unsafe_code)]

mod attention;
mod distillation;
mod head_loss;
mod host;
mod kept_input;
mod linear;
mod loss;
mod matmul;
mod mlp;
#[cfg(feature = "ndarray")]
mod ndarray;
mod norm;
mod ops;
mod optimizer;
mod parallel;
mod precision;
mod record;
mod stored;

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor};

pub use crate::attention::{AttentionOptions, RotaryTable};
use crate::head_loss::HeadOptions;
pub use crate::host::{HostBackend, HostHalves, HostTensor};
pub use crate::kept_input::KeptInput;
pub use crate::matmul::{add_gram, matmul};
pub use crate::mlp::Gelu;
use crate::ops::FusedOps;
use crate::optimizer::OptimizerOps;
pub use crate::precision::Precision;
pub use slm_cpu_ops::{AdamWStep, Matrix};

/// Burn's NdArray device, in builds with the feature `ndarray`. Burn 0.22 deprecates it in favour of Flex.
pub fn ndarray_device() -> Option<Device> {
    #[cfg(feature = "ndarray")]
    return Some(ndarray::device());
    #[cfg(not(feature = "ndarray"))]
    None
}

/// The devices of this build whose tensors live in host memory, Flex first.
pub fn cpu_devices() -> Vec<Device> {
    [Some(Device::flex()), ndarray_device()].into_iter().flatten().collect()
}

/// Returns `true` if the operations of this crate run on tensors of `device`: on [`cpu_devices`], with or without
/// autodiff. Elsewhere they panic.
pub fn is_supported(device: &Device) -> bool {
    let device = if device.is_autodiff() { device.clone().inner() } else { device.clone() };
    device == Device::flex() || Some(device) == ndarray_device()
}

/// Returns `true` if a model on `device` computes with this crate, that is, if it is trained in host memory.
///
/// Without gradients it does not: `slm-model` has a faster path on slices. The remaining cases (mostly hooks) use
/// Burn's operations as on any other device, so that these are used and tested everywhere.
pub fn is_preferred(device: &Device) -> bool {
    device.is_autodiff() && is_supported(device)
}

/// Minimum number of rows for which packing the weight pays in a product without gradients.
const MANY_ROWS: usize = 32;

/// `y = x W^T`, the product of a linear layer. It is this crate's if that [is preferred](is_preferred), and for many
/// rows in host memory; otherwise Burn's.
///
/// # Shapes
/// Those of [`linear`].
pub fn linear_or_matmul(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let device = x.device();
    let many = x.dims()[0] >= MANY_ROWS && x.dtype() == burn::tensor::DType::F32;
    let fused = is_preferred(&device) || (many && is_supported(&device));
    if fused { linear(x, weight) } else { x.matmul(weight.transpose()) }
}

/// `y = x W^T`, the product of a linear layer, in the [current precision](Precision::current).
///
/// # Shapes
/// - `x`: `[rows, in_features]`
/// - `weight`: `[out_features, in_features]`
/// - output: `[rows, out_features]`
///
/// # Panics
/// When the widths differ.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    check_product("linear", &x, &weight);
    Tensor::from_dispatch(Dispatch::linear(x.into_dispatch(), weight.into_dispatch(), Precision::current()))
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
///
/// # Shapes
/// - `x`, output: `[..., width]`
/// - `weight`: `[width]`
///
/// # Panics
/// When the widths differ.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    check_width("rms_norm", &x, &weight);
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps as f32))
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension, with the biased variance.
///
/// # Shapes
/// - `x`, output: `[..., width]`
/// - `weight`, `bias`: `[width]`
///
/// # Panics
/// When the widths differ.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    check_width("layer_norm", &x, &weight);
    check_width("layer_norm", &x, &bias);
    let (weight, bias) = (weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::layer_norm(x.into_dispatch(), weight, bias, eps as f32))
}

/// `silu(gate) * up`.
///
/// # Shapes
/// - `gate`, `up`, output: all the same
///
/// # Panics
/// When the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: shapes differ");
    Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch(), Precision::current()))
}

/// GELU of every element.
///
/// # Shapes
/// - `x`, output: the same
pub fn gelu<const D: usize>(x: Tensor<D>, kind: Gelu) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::gelu_of(x.into_dispatch(), kind, Precision::current()))
}

/// Causal self-attention of whole sequences at positions `0 .. len`:
/// `softmax(scale q K^T) V` for each head. Queries and keys are rotated first if the options say so.
///
/// No tensor of scores is written: the backward pass recomputes them.
///
/// # Shapes
/// - `q`, output: `[batch, len, heads * head_dim]`
/// - `k`, `v`: `[batch, len, kv_heads * head_dim]`
///
/// # Panics
/// When shapes and options do not fit.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, options: AttentionOptions) -> Tensor<3> {
    let AttentionOptions { heads, kv_heads, .. } = options;
    let [batch, len, width] = q.dims();
    let divides = kv_heads > 0 && heads.is_multiple_of(kv_heads) && heads > 0 && width.is_multiple_of(heads);
    assert!(divides, "attention: {heads} heads and {kv_heads} KV heads in a width of {width}");
    let expected = [batch, len, width / heads * kv_heads];
    assert!(k.dims() == expected && v.dims() == expected, "attention: keys and values must be {expected:?}");
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::causal_attention(q, k, v, options, Precision::current()))
}

/// Mean of `-log(softmax(logits)[target])` over all rows, in nats. NaN if any logit is NaN.
///
/// # Shapes
/// - `logits`: `[rows, classes]`
/// - `targets`: `[rows]`, each below `classes`
/// - output: `[1]`
///
/// # Panics
/// When there is no row, or a target is missing or out of range.
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    check_targets("cross_entropy", targets, rows, classes);
    Tensor::from_dispatch(Dispatch::cross_entropy(logits.into_dispatch(), Arc::from(targets)))
}

/// Mean over all rows of the Kullback-Leibler divergence of `softmax(logits)` from `softmax(teacher)`, in nats. NaN if
/// any logit is NaN. Only `logits` get gradients; the logits of the teacher are not kept.
///
/// # Shapes
/// - `logits`, `teacher`: `[rows, classes]`
/// - output: `[1]`
///
/// # Panics
/// When there is no row, or the shapes differ.
pub fn distillation(logits: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    let (shape, expected) = (logits.dims(), teacher.dims());
    assert!(shape == expected && shape[0] > 0, "distillation: logits {shape:?} and {expected:?}");
    Tensor::from_dispatch(Dispatch::distillation(logits.into_dispatch(), teacher.into_dispatch()))
}

/// [`cross_entropy`] of `x weight^T` in the [current precision](Precision::current), without all logits in memory: those of
/// at most `rows` rows exist at a time. Their gradients are computed in the forward pass.
///
/// # Shapes
/// - `x`: `[rows, in_features]`
/// - `weight`: `[classes, in_features]`
/// - `targets`: `[rows]`, each below `classes`
/// - output: `[1]`
///
/// # Panics
/// When shapes do not fit, there is no row, or a target is missing or out of range.
pub fn linear_cross_entropy(x: Tensor<2>, weight: Tensor<2>, targets: &[u32], rows: usize) -> Tensor<1> {
    let [count, classes] = check_product("linear_cross_entropy", &x, &weight);
    check_targets("linear_cross_entropy", targets, count, classes);
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_cross_entropy(x, weight, Arc::from(targets), head_options(rows)))
}

/// [`distillation`] of `x weight^T` from `teacher_x teacher_weight^T`, in the way of [`linear_cross_entropy`]. Only `x` and
/// `weight` get gradients.
///
/// # Shapes
/// - `x`: `[rows, in_features]`
/// - `weight`: `[classes, in_features]`
/// - `teacher`: input `[rows, width]` and weight `[classes, width]`
/// - output: `[1]`
///
/// # Panics
/// When shapes do not fit, or there is no row.
pub fn linear_distillation(
    x: Tensor<2>,
    weight: Tensor<2>,
    teacher: [Tensor<2>; 2],
    rows: usize,
) -> Tensor<1> {
    let shape = check_product("linear_distillation", &x, &weight);
    let [teacher_x, teacher_weight] = teacher;
    let expected = check_product("linear_distillation", &teacher_x, &teacher_weight);
    assert!(shape == expected && shape[0] > 0, "linear_distillation: outputs {shape:?} and {expected:?}");
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let (teacher_x, teacher_weight) = (teacher_x.into_dispatch(), teacher_weight.into_dispatch());
    let options = head_options(rows);
    Tensor::from_dispatch(Dispatch::linear_distillation(x, weight, teacher_x, teacher_weight, options))
}

/// A head in the current precision, without gradients.
fn head_options(rows: usize) -> HeadOptions {
    HeadOptions { rows, precision: Precision::current(), wanted: [false; 2] }
}

/// A step of AdamW: returns the updated values and their two moments. It reuses the memory of its inputs if nothing
/// else holds it.
///
/// The device must be one without autodiff that [is supported](is_supported).
///
/// # Shapes
/// - all: `[size]`
///
/// # Panics
/// When the sizes differ.
pub fn adamw(
    values: Tensor<1>,
    gradient: Tensor<1>,
    [moment_1, moment_2]: [Tensor<1>; 2],
    step: AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let size = values.dims();
    let fits = gradient.dims() == size && moment_1.dims() == size && moment_2.dims() == size;
    assert!(fits, "adamw: sizes differ");
    let [values, gradient] = [values, gradient].map(Tensor::into_dispatch);
    let [moment_1, moment_2] = [moment_1, moment_2].map(Tensor::into_dispatch);
    let (values, moment_1, moment_2) = Dispatch::adamw(values, gradient, moment_1, moment_2, step);
    (Tensor::from_dispatch(values), [moment_1, moment_2].map(Tensor::from_dispatch))
}

/// Sum of the squares of all elements, `[1]`.
///
/// The device must be one without autodiff that [is supported](is_supported).
pub fn sum_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::sum_squares(x.into_dispatch()))
}

/// Checks the operands of `x weight^T`, and returns its shape.
fn check_product(what: &str, x: &Tensor<2>, weight: &Tensor<2>) -> [usize; 2] {
    let ([rows, width], [out_features, expected]) = (x.dims(), weight.dims());
    assert_eq!(width, expected, "{what}: input of width {width} into a weight of width {expected}");
    [rows, out_features]
}

fn check_targets(what: &str, targets: &[u32], rows: usize, classes: usize) {
    assert!(rows == targets.len() && rows > 0, "{what}: {} targets for {rows} rows", targets.len());
    let known = targets.iter().all(|&target| (target as usize) < classes);
    assert!(known, "{what}: a target is not below {classes}");
}

fn check_width<const D: usize>(what: &str, x: &Tensor<D>, weight: &Tensor<1>) {
    let (width, [expected]) = (x.dims()[D - 1], weight.dims());
    assert_eq!(width, expected, "{what}: input of width {width}, weights for {expected}");
}

//! RMSNorm and LayerNorm over the last dimension.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;

use crate::host::{HostBackend, dims};
use crate::parallel;

/// Approximate number of values that a task normalizes. Sums over all rows are sums of the tasks' sums, in order, so
/// this number affects the last bits of the gradients of weights.
const TASK: usize = 1 << 14;

pub(crate) fn rms_forward<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    eps: f32,
) -> FloatTensor<B> {
    let weight = B::values(weight);
    rows::<B>(x, weight.len(), |x, out| slm_cpu_ops::rms_norm(x, weight, eps, out))
}

pub(crate) fn layer_forward<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &FloatTensor<B>,
    eps: f32,
) -> FloatTensor<B> {
    let (weight, bias) = (B::values(weight), B::values(bias));
    rows::<B>(x, weight.len(), |x, out| slm_cpu_ops::layer_norm(x, weight, bias, eps, out))
}

/// State: `x` and the weight, contiguous, and epsilon.
#[derive(Debug)]
pub(crate) struct RmsNormBackward;

impl<B: HostBackend> Backward<B, 2> for RmsNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, eps) = ops.state;
        let weight = B::values(&weight);
        let (by_x, [by_weight]) = rows_backward::<B, 1>(&x, grad, weight.len(), |x, grad, [by_weight]| {
            slm_cpu_ops::rms_norm_backward(x, weight, eps, grad, by_weight);
        });
        let [x_parent, weight_parent] = ops.parents;
        if let Some(parent) = weight_parent {
            grads.register::<B>(parent.id, B::from_values(by_weight, &[weight.len()]));
        }
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_x);
        }
    }
}

/// State: `x` and the weight, contiguous, and epsilon.
#[derive(Debug)]
pub(crate) struct LayerNormBackward;

impl<B: HostBackend> Backward<B, 3> for LayerNormBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, eps) = ops.state;
        let weight = B::values(&weight);
        let (by_x, [by_weight, by_bias]) =
            rows_backward::<B, 2>(&x, grad, weight.len(), |x, grad, [by_weight, by_bias]| {
                slm_cpu_ops::layer_norm_backward(x, weight, eps, grad, by_weight, by_bias);
            });
        let [x_parent, weight_parent, bias_parent] = ops.parents;
        for (parent, values) in [(weight_parent, by_weight), (bias_parent, by_bias)] {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, B::from_values(values, &[weight.len()]));
            }
        }
        if let Some(parent) = x_parent {
            grads.register::<B>(parent.id, by_x);
        }
    }
}

/// Values of a task, whole rows.
fn task_size(width: usize) -> usize {
    (TASK / width.max(1)).max(1) * width.max(1)
}

fn rows<B: HostBackend>(
    x: &FloatTensor<B>,
    width: usize,
    normalize: impl Fn(&[f32], &mut [f32]) + Sync,
) -> FloatTensor<B> {
    let values = B::values(x);
    let [out] = parallel::written(values.len(), task_size(width), |range, [out]: [&mut [f32]; 1]| {
        let rows = out.chunks_exact_mut(width).zip(values[range].chunks_exact(width));
        rows.for_each(|(out, x)| normalize(x, out));
    });
    B::from_values(out, &dims(x))
}

/// Gradient of `x`, in the memory of `grad`, and of `N` parameters.
fn rows_backward<B: HostBackend, const N: usize>(
    x: &FloatTensor<B>,
    grad: FloatTensor<B>,
    width: usize,
    backward: impl Fn(&[f32], &mut [f32], [&mut [f32]; N]) + Sync,
) -> (FloatTensor<B>, [Vec<f32>; N]) {
    let mut grad = B::own(grad);
    let task = task_size(width);
    let x = B::values(x);
    let tasks = B::owned_mut(&mut grad).chunks_mut(task).zip(x.chunks(task));
    let parts: Vec<[Vec<f32>; N]> = parallel::map(x.len(), tasks, |(grad, x)| {
        let mut sums = std::array::from_fn(|_| vec![0.0; width]);
        for (grad, x) in grad.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            backward(x, grad, sums.each_mut().map(Vec::as_mut_slice));
        }
        sums
    });
    let mut totals = std::array::from_fn(|_| vec![0.0; width]);
    for part in &parts {
        for (total, part) in totals.iter_mut().zip(part) {
            slm_cpu_ops::add(total, part);
        }
    }
    (grad, totals)
}

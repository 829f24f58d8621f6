//! The activation functions of an MLP.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;

use crate::host::{HostBackend, dims};
use crate::parallel;

/// Number of values that a task handles.
const TASK: usize = 1 << 14;

/// The form of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// With the error function.
    Exact,
    /// The approximation with the hyperbolic tangent.
    Tanh,
}

pub(crate) fn swiglu_forward<B: HostBackend>(gate: &FloatTensor<B>, up: &FloatTensor<B>) -> FloatTensor<B> {
    let (values, up) = (B::values(gate), B::values(up));
    let out = parallel::written(values.len(), TASK, |range, out| {
        slm_cpu_ops::swiglu_into(&values[range.clone()], &up[range], out);
    });
    B::from_values(out, &dims(gate))
}

pub(crate) fn gelu_forward<B: HostBackend>(x: &FloatTensor<B>, kind: Gelu) -> FloatTensor<B> {
    let values = B::values(x);
    let out = parallel::written(values.len(), TASK, |range, out| {
        out.copy_from_slice(&values[range]);
        match kind {
            Gelu::Exact => slm_cpu_ops::gelu(out),
            Gelu::Tanh => slm_cpu_ops::gelu_tanh(out),
        }
    });
    B::from_values(out, &dims(x))
}

/// State: gate and up, contiguous, whose memory the gradients reuse.
#[derive(Debug)]
pub(crate) struct SwigluBackward;

impl<B: HostBackend> Backward<B, 2> for SwigluBackward {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (gate, up) = ops.state;
        let (mut gate, mut up) = (B::own(gate), B::own(up));
        let values = B::values(&grad);
        let inputs = B::owned_mut(&mut gate).chunks_mut(TASK).zip(B::owned_mut(&mut up).chunks_mut(TASK));
        parallel::for_each(values.len(), inputs.zip(values.chunks(TASK)), |((gate, up), grad)| {
            slm_cpu_ops::swiglu_backward(gate, up, grad);
        });
        for (parent, grad) in ops.parents.into_iter().zip([gate, up]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

/// State: the input, contiguous, whose memory the gradient reuses.
#[derive(Debug)]
pub(crate) struct GeluBackward;

impl<B: HostBackend> Backward<B, 1> for GeluBackward {
    type State = (FloatTensor<B>, Gelu);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (x, kind) = ops.state;
        let mut x = B::own(x);
        let values = B::values(&grad);
        let tasks = B::owned_mut(&mut x).chunks_mut(TASK).zip(values.chunks(TASK));
        parallel::for_each(values.len(), tasks, |(x, grad)| match kind {
            Gelu::Exact => slm_cpu_ops::gelu_backward(x, grad),
            Gelu::Tanh => slm_cpu_ops::gelu_tanh_backward(x, grad),
        });
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, x);
        }
    }
}

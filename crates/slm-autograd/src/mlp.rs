//! The activation functions of an MLP.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;

use crate::host::HostBackend;
use crate::parallel;
use crate::stored::Stored;

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

pub(crate) fn swiglu_forward<B: HostBackend>(gate: &Stored<B>, up: &Stored<B>) -> FloatTensor<B> {
    let [out] = parallel::written(gate.len(), TASK, |range, [out]| {
        gate.widen(range.clone(), out);
        match up {
            Stored::F32(up) => slm_cpu_ops::swiglu(out, &B::values(up)[range]),
            Stored::Bf16(up, _) => slm_cpu_ops::swiglu(out, &up[range]),
        }
    });
    B::from_values(out, &gate.dims())
}

pub(crate) fn gelu_forward<B: HostBackend>(x: &Stored<B>, kind: Gelu) -> FloatTensor<B> {
    let [out] = parallel::written(x.len(), TASK, |range, [out]| {
        x.widen(range, out);
        match kind {
            Gelu::Exact => slm_cpu_ops::gelu(out),
            Gelu::Tanh => slm_cpu_ops::gelu_tanh(out),
        }
    });
    B::from_values(out, &x.dims())
}

/// State: gate and up.
#[derive(Debug)]
pub(crate) struct SwigluBackward;

impl<B: HostBackend> Backward<B, 2> for SwigluBackward {
    type State = (Stored<B>, Stored<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (gate, up) = ops.state;
        let values = B::values(&grad);
        let gradients = parallel::written(gate.len(), TASK, |range, [by_gate, by_up]| {
            gate.widen(range.clone(), by_gate);
            up.widen(range.clone(), by_up);
            slm_cpu_ops::swiglu_backward(by_gate, by_up, &values[range]);
        });
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, B::from_values(gradient, &gate.dims()));
            }
        }
    }
}

/// State: the input.
#[derive(Debug)]
pub(crate) struct GeluBackward;

impl<B: HostBackend> Backward<B, 1> for GeluBackward {
    type State = (Stored<B>, Gelu);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let (x, kind) = ops.state;
        let values = B::values(&grad);
        let [by_x] = parallel::written(x.len(), TASK, |range, [by_x]| {
            x.widen(range.clone(), by_x);
            match kind {
                Gelu::Exact => slm_cpu_ops::gelu_backward(by_x, &values[range]),
                Gelu::Tanh => slm_cpu_ops::gelu_tanh_backward(by_x, &values[range]),
            }
        });
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::from_values(by_x, &x.dims()));
        }
    }
}

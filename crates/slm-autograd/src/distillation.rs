//! The loss of a language model that learns from another.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;

use crate::host::{HostBackend, dims};
use crate::loss::{mean, scaled};
use crate::parallel;

/// The mean divergence, `[1]`, and its gradient with respect to each row, not yet divided by the number of rows, in the
/// memory of the logits.
pub(crate) fn forward<B: HostBackend>(
    logits: FloatTensor<B>,
    teacher: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let classes = dims(&logits)[1];
    let [mut logits, mut teacher] = [logits, teacher].map(B::own);
    let values = B::owned_mut(&mut logits);
    let count = values.len();
    let rows = values.chunks_exact_mut(classes).zip(B::owned_mut(&mut teacher).chunks_exact_mut(classes));
    let losses = parallel::map(count, rows, |(logits, teacher)| slm_cpu_ops::distillation(logits, teacher));
    (mean::<B>(&losses), logits)
}

/// State: the gradient with respect to each row.
#[derive(Debug)]
pub(crate) struct DistillationBackward;

impl<B: HostBackend> Backward<B, 1> for DistillationBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let factor = B::values(&grad)[0] / dims(&ops.state)[0] as f32;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, scaled::<B>(ops.state, factor));
        }
    }
}

//! The loss of a language model that learns from another.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;

use crate::host::{HostBackend, dims};
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
    // Summed in order, so that the number of threads changes nothing.
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    (B::from_values(vec![mean as f32], &[1]), logits)
}

/// State: the gradient with respect to each row.
#[derive(Debug)]
pub(crate) struct DistillationBackward;

impl<B: HostBackend> Backward<B, 1> for DistillationBackward {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let mut gradient = B::own(ops.state);
        let dims = dims(&gradient);
        let factor = B::values(&grad)[0] / dims[0] as f32;
        let rows = B::owned_mut(&mut gradient).chunks_exact_mut(dims[1]);
        parallel::for_each(dims[0] * dims[1], rows, |row| slm_cpu_ops::scale(row, factor));
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, gradient);
        }
    }
}

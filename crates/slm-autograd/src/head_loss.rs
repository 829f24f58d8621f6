//! A linear layer and the loss of its outputs as one operation, for heads with many more outputs than inputs.
//!
//! The outputs of all rows together would take more memory than everything else in a step. Here they exist for some rows at a
//! time: their gradients are computed at once, in the forward pass, and multiplied into those of the layer's input and
//! weight, which are small (the fused linear cross entropy of Liger Kernel, Hsu and others, 2024, arXiv:2410.10989).

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use slm_cpu_ops::{Bf16Pair, Matrix, TILE_ROWS};
use slm_runtime::zeros;

use crate::host::{HostBackend, dims};
use crate::loss::{mean, scaled};
use crate::matmul::{Element, Packed, pack};
use crate::parallel;
use crate::precision::Precision;

/// Settings for the computation of a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadOptions {
    /// Maximum number of rows whose outputs exist at a time, at least 1.
    pub(crate) rows: usize,
    /// Precision of the products.
    pub(crate) precision: Precision,
    /// Whether the gradients with respect to input and weight are wanted.
    pub(crate) wanted: [bool; 2],
}

/// The gradients with respect to input and weight.
type Gradient<B> = [Option<FloatTensor<B>>; 2];

/// The target that outputs are compared with.
pub(crate) enum Target<'a, B: HostBackend> {
    /// The index of the right output of each row.
    Classes(&'a [u32]),
    /// The outputs of another linear layer, by its input and weight.
    Teacher(FloatTensor<B>, FloatTensor<B>),
}

/// The mean loss of all rows, `[1]`, and its gradients with respect to `x` and `weight`. `weight` is released before memory
/// for its gradient is allocated.
///
/// # Shapes
/// - `x`: `[rows, in_features]`
/// - `weight`: `[out_features, in_features]`
pub(crate) fn forward<B: HostBackend>(
    x: &FloatTensor<B>,
    weight: FloatTensor<B>,
    target: Target<'_, B>,
    options: HeadOptions,
) -> (FloatTensor<B>, Gradient<B>) {
    match options.precision {
        Precision::F32 => forward_as::<B, f32>(x, weight, target, options),
        Precision::Bf16 => forward_as::<B, Bf16Pair>(x, weight, target, options),
    }
}

fn forward_as<B: HostBackend, E: Element>(
    x: &FloatTensor<B>,
    weight: FloatTensor<B>,
    target: Target<'_, B>,
    options: HeadOptions,
) -> (FloatTensor<B>, Gradient<B>) {
    let [rows, width] = [0, 1].map(|at| dims(x)[at]);
    let classes = dims(&weight)[0];
    let target = Prepared::<B, E>::new(target);
    let [by_x_wanted, by_weight_wanted] = options.wanted;
    let matrix = Matrix::new(B::values(&weight), classes, width);
    let head = pack::<E>(matrix.transpose(), false);
    let back = by_x_wanted.then(|| pack::<E>(matrix, false));
    drop(weight);
    let mut by_x = by_x_wanted.then(|| zeros(rows * width));
    let mut by_weight = by_weight_wanted.then(|| zeros(classes * width));
    let mut losses = Vec::with_capacity(rows);
    // As many rows in all parts but the last, and whole tiles: each part reads and writes the gradient of the weight.
    let most = options.rows.clamp(1, rows);
    let most = rows.div_ceil(rows.div_ceil(most)).next_multiple_of(TILE_ROWS).min(most);
    let mut logits = zeros(most * classes);
    let mut of_teacher = match target {
        Prepared::Classes(_) => Vec::new(),
        Prepared::Teacher(..) => zeros(most * classes),
    };
    let factor = 1.0 / rows as f32;
    for first in (0..rows).step_by(most) {
        let count = most.min(rows - first);
        let x = Matrix::new(&B::values(x)[first * width..][..count * width], count, width);
        let logits = &mut logits[..count * classes];
        head.multiply(x, false, false, logits);
        losses.extend(target.losses(first, classes, logits, &mut of_teacher, factor));
        let gradient = Matrix::new(logits, count, classes);
        if let (Some(back), Some(by_x)) = (&back, &mut by_x) {
            back.multiply(gradient, false, false, &mut by_x[first * width..][..count * width]);
        }
        if let Some(by_weight) = &mut by_weight {
            let x = pack::<E>(x, false);
            x.multiply(gradient.transpose(), first > 0, false, by_weight);
            x.give_back();
        }
    }
    head.give_back();
    let by_x = by_x.map(|values| B::from_values(values, &[rows, width]));
    let by_weight = by_weight.map(|values| B::from_values(values, &[classes, width]));
    (mean::<B>(&losses), [by_x, by_weight])
}

/// A target whose weight is packed.
enum Prepared<'a, B: HostBackend, E: Element> {
    Classes(&'a [u32]),
    Teacher(FloatTensor<B>, Packed<E>),
}

impl<'a, B: HostBackend, E: Element> Prepared<'a, B, E> {
    fn new(target: Target<'a, B>) -> Self {
        match target {
            Target::Classes(classes) => Self::Classes(classes),
            Target::Teacher(x, weight) => {
                let [classes, width] = [0, 1].map(|at| dims(&weight)[at]);
                Self::Teacher(x, pack(Matrix::new(B::values(&weight), classes, width).transpose(), false))
            }
        }
    }

    /// The losses of the rows from `first` on, whose outputs are `logits`. These are replaced by the gradients of the
    /// losses, times `factor`.
    fn losses(
        &self,
        first: usize,
        classes: usize,
        logits: &mut [f32],
        of_teacher: &mut [f32],
        factor: f32,
    ) -> Vec<f64> {
        let (work, count) = (logits.len(), logits.len() / classes);
        let rows = logits.chunks_exact_mut(classes);
        match self {
            Self::Classes(targets) => {
                parallel::map(work, rows.zip(&targets[first..]), |(logits, &target)| {
                    let loss = slm_cpu_ops::cross_entropy(logits, target as usize);
                    slm_cpu_ops::cross_entropy_backward(logits, target as usize, factor);
                    loss
                })
            }
            Self::Teacher(x, head) => {
                let width = dims(x)[1];
                let of_teacher = &mut of_teacher[..work];
                let x = Matrix::new(&B::values(x)[first * width..][..count * width], count, width);
                head.multiply(x, false, false, of_teacher);
                parallel::map(work, rows.zip(of_teacher.chunks_exact_mut(classes)), |(logits, teacher)| {
                    let loss = slm_cpu_ops::distillation(logits, teacher);
                    slm_cpu_ops::scale(logits, factor);
                    loss
                })
            }
        }
    }
}

/// State: the gradients of the loss.
#[derive(Debug)]
pub(crate) struct HeadLossBackward;

impl<B: HostBackend> Backward<B, 2> for HeadLossBackward {
    type State = Gradient<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = B::contiguous(grads.consume::<B>(&ops.node));
        let factor = B::values(&grad)[0];
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, scaled::<B>(gradient, factor));
            }
        }
    }
}

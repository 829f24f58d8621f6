//! The operations as Burn's dispatch sees them.
// burn 0.22 deprecates NdArray in favour of Flex; slm offers both while both exist.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::sync::Arc;

#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::Backward;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Flex, backend_extension};

use crate::attention::{self, AttentionBackward, AttentionOptions};
use crate::distillation::{self, DistillationBackward};
use crate::head_loss::{self, HeadLossBackward, HeadOptions, Target};
use crate::host::HostBackend;
use crate::kept_input::{KeptInput, Recipe};
use crate::linear::{self, LinearBackward};
use crate::loss::{self, CrossEntropyBackward};
use crate::mlp::{self, Gelu, GeluBackward, SwigluBackward};
use crate::norm::{self, LayerNormBackward, RmsNormBackward};
use crate::precision::Precision;
use crate::record;
use crate::stored::Stored;

/// Operations on tensors in host memory. The functions around them describe and check the shapes.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex, Autodiff)]
pub(crate) trait FusedOps: Backend {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self>;

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self>;

    fn gelu_of(x: FloatTensor<Self>, kind: Gelu, precision: Precision) -> FloatTensor<Self>;

    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        options: AttentionOptions,
        precision: Precision,
    ) -> FloatTensor<Self>;

    fn cross_entropy(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self>;

    fn distillation(logits: FloatTensor<Self>, teacher: FloatTensor<Self>) -> FloatTensor<Self>;

    fn linear_cross_entropy(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        options: HeadOptions,
    ) -> FloatTensor<Self>;

    fn linear_distillation(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        teacher_x: FloatTensor<Self>,
        teacher_weight: FloatTensor<Self>,
        options: HeadOptions,
    ) -> FloatTensor<Self>;
}

macro_rules! without_gradients {
    ($backend:ty) => {
        impl FusedOps for $backend {
            fn linear(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                precision: Precision,
            ) -> FloatTensor<Self> {
                linear::forward::<Self>(&Self::contiguous(x), &Self::contiguous(weight), precision)
            }

            fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
                norm::rms_forward::<Self>(&Self::contiguous(x), &Self::contiguous(weight), eps)
            }

            fn layer_norm(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                eps: f32,
            ) -> FloatTensor<Self> {
                let [x, weight, bias] = [x, weight, bias].map(Self::contiguous);
                norm::layer_forward::<Self>(&x, &weight, &bias, eps)
            }

            fn swiglu(
                gate: FloatTensor<Self>,
                up: FloatTensor<Self>,
                precision: Precision,
            ) -> FloatTensor<Self> {
                let [gate, up] = [gate, up].map(|x| Stored::<Self>::new(x, precision));
                mlp::swiglu_forward(&gate, &up)
            }

            fn gelu_of(x: FloatTensor<Self>, kind: Gelu, precision: Precision) -> FloatTensor<Self> {
                mlp::gelu_forward(&Stored::<Self>::new(x, precision), kind)
            }

            fn causal_attention(
                q: FloatTensor<Self>,
                k: FloatTensor<Self>,
                v: FloatTensor<Self>,
                options: AttentionOptions,
                precision: Precision,
            ) -> FloatTensor<Self> {
                let inputs = [q, k, v].map(|x| Stored::<Self>::new(x, precision).into_tensor());
                let (y, _) = attention::forward::<Self>(inputs, options);
                Stored::<Self>::new(y, precision).into_tensor()
            }

            fn cross_entropy(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self> {
                loss::forward::<Self>(logits, &targets).0
            }

            fn distillation(logits: FloatTensor<Self>, teacher: FloatTensor<Self>) -> FloatTensor<Self> {
                distillation::forward::<Self>(logits, teacher).0
            }

            fn linear_cross_entropy(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                targets: Arc<[u32]>,
                options: HeadOptions,
            ) -> FloatTensor<Self> {
                let [x, weight] = [x, weight].map(Self::contiguous);
                head_loss::forward(&x, weight, Target::<Self>::Classes(&targets), options).0
            }

            fn linear_distillation(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                teacher_x: FloatTensor<Self>,
                teacher_weight: FloatTensor<Self>,
                options: HeadOptions,
            ) -> FloatTensor<Self> {
                let [x, weight] = [x, weight].map(Self::contiguous);
                let [teacher_x, teacher_weight] = [teacher_x, teacher_weight].map(Self::contiguous);
                head_loss::forward(&x, weight, Target::<Self>::Teacher(teacher_x, teacher_weight), options).0
            }
        }
    };
}

without_gradients!(Flex);
#[cfg(feature = "ndarray")]
without_gradients!(NdArray);

impl<B: HostBackend + FusedOps, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        let (x_tracked, weight_tracked) = (x.is_tracked(), weight.is_tracked());
        let nodes = [x.node(), weight.node()];
        let [x, weight] = [x, weight].map(|tensor| B::contiguous(tensor.into_primitive()));
        let y = linear::forward::<B>(&x, &weight, precision);
        record!(
            C,
            LinearBackward(precision),
            nodes,
            y,
            (weight_tracked.then(|| KeptInput::new(x)), x_tracked.then_some(weight))
        )
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let tracked = x.is_tracked() || weight.is_tracked();
        let [x, weight] = [x, weight].map(|tensor| B::contiguous(tensor.into_primitive()));
        let y = output::<B>(tracked, Recipe::RmsNorm { x: x.clone(), weight: weight.clone(), eps });
        record!(C, RmsNormBackward, nodes, y, (x, weight, eps))
    }

    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let tracked = x.is_tracked() || weight.is_tracked() || bias.is_tracked();
        let [x, weight, bias] = [x, weight, bias].map(|tensor| B::contiguous(tensor.into_primitive()));
        let recipe = Recipe::LayerNorm { x: x.clone(), weight: weight.clone(), bias, eps };
        let y = output::<B>(tracked, recipe);
        record!(C, LayerNormBackward, nodes, y, (x, weight, eps))
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>, precision: Precision) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let tracked = gate.is_tracked() || up.is_tracked();
        let [gate, up] = [gate, up].map(|x| Stored::<B>::new(x.into_primitive(), precision));
        let y = output::<B>(tracked, Recipe::Swiglu { gate: gate.clone(), up: up.clone() });
        record!(C, SwigluBackward, nodes, y, (gate, up))
    }

    fn gelu_of(x: FloatTensor<Self>, kind: Gelu, precision: Precision) -> FloatTensor<Self> {
        let (nodes, tracked) = ([x.node()], x.is_tracked());
        let x = Stored::<B>::new(x.into_primitive(), precision);
        let y = output::<B>(tracked, Recipe::Gelu { x: x.clone(), kind });
        record!(C, GeluBackward, nodes, y, (x, kind))
    }

    fn causal_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        options: AttentionOptions,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let tracked = q.is_tracked() || k.is_tracked() || v.is_tracked();
        let inputs = [q, k, v].map(|x| Stored::<B>::new(x.into_primitive(), precision));
        let (y, state) = attention::forward::<B>(inputs.each_ref().map(Stored::tensor), options);
        let stored = Stored::<B>::new(y, precision);
        let y = output::<B>(tracked, Recipe::Stored(stored.clone()));
        record!(C, AttentionBackward, nodes, y, (inputs, stored, state))
    }

    fn cross_entropy(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self> {
        let nodes = [logits.node()];
        let (loss, softmax) = loss::forward::<B>(logits.into_primitive(), &targets);
        record!(C, CrossEntropyBackward, nodes, loss, (softmax, targets))
    }

    fn distillation(logits: FloatTensor<Self>, teacher: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [logits.node()];
        let (loss, gradient) = distillation::forward::<B>(logits.into_primitive(), teacher.into_primitive());
        record!(C, DistillationBackward, nodes, loss, gradient)
    }

    fn linear_cross_entropy(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        options: HeadOptions,
    ) -> FloatTensor<Self> {
        head_loss_with_gradients::<B, C>(x, weight, Target::Classes(&targets), options)
    }

    fn linear_distillation(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        teacher_x: FloatTensor<Self>,
        teacher_weight: FloatTensor<Self>,
        options: HeadOptions,
    ) -> FloatTensor<Self> {
        let [teacher_x, teacher_weight] =
            [teacher_x, teacher_weight].map(|tensor| B::contiguous(tensor.into_primitive()));
        head_loss_with_gradients::<B, C>(x, weight, Target::Teacher(teacher_x, teacher_weight), options)
    }
}

/// The output of a cheap operation, remembered if its gradient is wanted.
fn output<B: HostBackend>(tracked: bool, recipe: Recipe<B>) -> FloatTensor<B> {
    if tracked { recipe.compute_and_remember() } else { recipe.compute() }
}

fn head_loss_with_gradients<B: HostBackend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
    target: Target<'_, B>,
    options: HeadOptions,
) -> FloatTensor<Autodiff<B, C>> {
    let options = HeadOptions { wanted: [x.is_tracked(), weight.is_tracked()], ..options };
    let nodes = [x.node(), weight.node()];
    let [x, weight] = [x, weight].map(|tensor| B::contiguous(tensor.into_primitive()));
    let (loss, gradient) = head_loss::forward::<B>(&x, weight, target, options);
    record!(C, HeadLossBackward, nodes, loss, gradient)
}

//! The loss of a pass over one batch, and its gradients.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use slm_model::Transformer;

use crate::Result;
use crate::data::Batch;
use crate::loss::{cross_entropy, divergence, ids_tensor};

/// Maximum number of logits that are computed together, unless layers follow the batches: 40 MiB.
pub(crate) const LOGITS: usize = 10 << 20;

/// A pass of a model over one batch.
pub(crate) struct Pass<'a> {
    /// The model, with autodiff.
    pub(crate) model: &'a Transformer,
    /// The float model, without autodiff, whose outputs are the target; `None` to train on the tokens of the batch.
    pub(crate) teacher: Option<&'a Transformer>,
    pub(crate) batch: &'a Batch,
    pub(crate) batch_size: usize,
    /// Divisor of all gradients.
    pub(crate) divisor: f64,
}

impl Pass<'_> {
    /// Returns the loss, and adds its gradients to `sums`. `check` gets the loss before gradients of layers are
    /// computed.
    pub(crate) fn at_once(
        &self,
        sums: &mut GradientsAccumulator<Transformer>,
        check: impl Fn(f64) -> Result<()>,
    ) -> Result<f64> {
        let device = self.model.device();
        let logits = rows(self.model.forward(self.ids(&device)));
        let of_teacher = self.of_teacher().map(|(teacher, x)| rows(teacher.forward_head(x)));
        let loss = self.loss(logits, 0, of_teacher);
        let value = value(&loss)?;
        check(value)?;
        let gradients = loss.div_scalar(self.divisor).backward();
        sums.accumulate(self.model, GradientsParams::from_grads(gradients, self.model));
        Ok(value)
    }

    /// [`at_once`](Self::at_once) in less memory: the head is computed for at most `logits` logits (but at least those of one
    /// position) at a time, and all values of the model are kept for the last `kept` layers only. Of the layers before them
    /// the first pass keeps the hidden states in between, and each is recomputed for its gradients (gradient checkpointing,
    /// Chen and others, 2016, arXiv:1604.06174).
    ///
    /// The first pass through the layers that are recomputed runs without autodiff, so observers do not see it, and the head
    /// may see a part of the batch. So the result must not depend on observers.
    pub(crate) fn by_stages(
        &self,
        kept: usize,
        logits: usize,
        sums: &mut GradientsAccumulator<Transformer>,
        check: impl Fn(f64) -> Result<()>,
    ) -> Result<f64> {
        let model = self.model;
        let device = model.device();
        let layers = model.config().num_layers;
        let recomputed = layers.saturating_sub(kept);
        let plain = model.valid();
        let mut states = Vec::with_capacity(recomputed);
        let mut x = plain.embed(self.ids(&device.clone().inner()));
        for index in 0..recomputed {
            let next = plain.forward_layer(index, x.clone());
            states.push(std::mem::replace(&mut x, next));
        }
        drop(plain);
        let x = leaf(x);
        let y = (recomputed..layers).fold(x.clone(), |x, index| model.forward_layer(index, x));
        let (loss, gradient) = self.head(y.clone().inner(), logits, sums)?;
        check(loss)?;
        let mut gradient = self.back(x, y, gradient, sums);
        for (index, x) in states.into_iter().enumerate().rev() {
            let x = leaf(x);
            let y = model.forward_layer(index, x.clone());
            gradient = self.back(x, y, gradient, sums);
        }
        let embedded = model.embed(self.ids(&device));
        // Frozen or quantized tables have no gradients.
        if embedded.is_tracked() {
            let gradients = product(embedded, gradient).backward();
            sums.accumulate(model, GradientsParams::from_grads(gradients, model));
        }
        Ok(loss)
    }

    /// The gradient with respect to the leaf `x`, given that with respect to `y`, which was computed from it. Adds the
    /// gradients of the parameters between them to `sums`.
    fn back(
        &self,
        x: Tensor<3>,
        y: Tensor<3>,
        gradient: Tensor<3>,
        sums: &mut GradientsAccumulator<Transformer>,
    ) -> Tensor<3> {
        let mut gradients = product(y, gradient).backward();
        let Some(gradient) = x.grad_remove(&mut gradients) else {
            unreachable!("the output of a layer depends on its input")
        };
        sums.accumulate(self.model, GradientsParams::from_grads(gradients, self.model));
        gradient
    }

    /// The loss, and its gradient, divided by the divisor, with respect to the states `x` after the last layer,
    /// `[batch, len, hidden]`. Adds the gradients of norm and head to `sums`.
    fn head(
        &self,
        x: Tensor<3>,
        logits: usize,
        sums: &mut GradientsAccumulator<Transformer>,
    ) -> Result<(f64, Tensor<3>)> {
        let shape = x.dims();
        let most = (logits / self.model.config().vocab_size).max(1);
        let teacher = self.of_teacher();
        let x = leaf(x);
        if let Some(loss) = self.loss_of_product(x.clone(), &teacher, most) {
            let mean = value(&loss)?;
            let mut gradients = (loss / self.divisor).backward();
            let gradient = x.grad_remove(&mut gradients);
            sums.accumulate(self.model, GradientsParams::from_grads(gradients, self.model));
            return Ok((
                mean,
                gradient.unwrap_or_else(|| Tensor::zeros(shape, &self.model.device().inner())),
            ));
        }
        let (x, teacher) = (in_a_row(x.inner()), teacher.map(|(teacher, x)| (teacher, in_a_row(x))));
        let [_, positions, _] = x.dims();
        let (mut loss, mut by_x) = (0.0, Vec::new());
        for start in (0..positions).step_by(most) {
            let count = most.min(positions - start);
            let some = |x: &Tensor<3>| x.clone().narrow(1, start, count);
            let x = leaf(some(&x));
            let of_teacher = teacher.as_ref().map(|(teacher, x)| rows(teacher.forward_head(some(x))));
            let of_some = self.loss(rows(self.model.forward_head(x.clone())), start, of_teacher);
            let weight = count as f64 / positions as f64;
            loss += weight * value(&of_some)?;
            let mut gradients = (of_some * (weight / self.divisor)).backward();
            by_x.extend(x.grad_remove(&mut gradients));
            sums.accumulate(self.model, GradientsParams::from_grads(gradients, self.model));
        }
        Ok((loss, Tensor::cat(by_x, 1).reshape(shape)))
    }

    /// The mean loss of the states `x` after the last layer, by an operation that computes the logits of `most` positions at
    /// a time. `None` if the logits of the model or of its teacher are not a product alone.
    fn loss_of_product(
        &self,
        x: Tensor<3>,
        teacher: &Option<(&Transformer, Tensor<3>)>,
        most: usize,
    ) -> Option<Tensor<1>> {
        let of_teacher = match teacher {
            Some((teacher, x)) => Some(teacher.head_operands(x.clone())?.map(Tensor::from_inner)),
            None => None,
        };
        let [x, weight] = self.model.head_operands(x)?;
        Some(match of_teacher {
            Some(of_teacher) => slm_autograd::linear_distillation(x, weight, of_teacher, most),
            None => slm_autograd::linear_cross_entropy(x, weight, &self.batch.targets, most),
        })
    }

    /// The teacher and its hidden states for the batch, from which it computes logits.
    fn of_teacher(&self) -> Option<(&Transformer, Tensor<3>)> {
        self.teacher.map(|teacher| (teacher, self.states(teacher)))
    }

    /// The states of the batch after the last layer of `model`, `[batch, len, hidden]`.
    fn states(&self, model: &Transformer) -> Tensor<3> {
        let x = model.embed(self.ids(&model.device()));
        (0..model.config().num_layers).fold(x, |x, index| model.forward_layer(index, x))
    }

    /// Mean loss, `[1]`, of the positions of `logits`, which begin at `start`.
    fn loss(&self, logits: Tensor<2>, start: usize, of_teacher: Option<Tensor<2>>) -> Tensor<1> {
        match of_teacher {
            Some(of_teacher) => divergence(logits, of_teacher),
            None => {
                let count = logits.dims()[0];
                cross_entropy(logits, &self.batch.targets[start..start + count])
            }
        }
    }

    fn ids(&self, device: &Device) -> Tensor<2, Int> {
        ids_tensor(&self.batch.inputs, self.batch_size, device)
    }
}

/// A scalar whose gradient with respect to `y` is `gradient`.
fn product(y: Tensor<3>, gradient: Tensor<3>) -> Tensor<1> {
    (y * Tensor::from_inner(gradient)).sum()
}

/// A tensor with autodiff from which gradients are computed, with the values of `x`.
fn leaf(x: Tensor<3>) -> Tensor<3> {
    Tensor::from_inner(x).require_grad()
}

/// Joins all sequences to one.
fn in_a_row(x: Tensor<3>) -> Tensor<3> {
    let [batch, len, width] = x.dims();
    x.reshape([1, batch * len, width])
}

/// Logits of all positions, `[batch * len, vocab_size]`.
fn rows(logits: Tensor<3>) -> Tensor<2> {
    logits.flatten(0, 1)
}

fn value(loss: &Tensor<1>) -> Result<f64> {
    let values = slm_nn::to_vec_f32("loss", loss.clone().detach())?;
    Ok(values.first().copied().map_or(f64::NAN, f64::from))
}

//! The loss of a pass over one batch, and its gradients.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use slm_model::Transformer;

use crate::Result;
use crate::data::Batch;
use crate::loss::{cross_entropy, divergence, ids_tensor};

/// Maximum number of logits that [`Pass::by_stages`] computes at once: 64 MiB.
pub(crate) const LOGITS: usize = 1 << 24;

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

    /// [`at_once`](Self::at_once) with gradient checkpointing (Chen and others, 2016, arXiv:1604.06174): the first pass
    /// keeps only the hidden states between layers, and each layer is recomputed for its gradients. At most `logits`
    /// logits (but at least those of one position) are computed at a time, and they are never all kept.
    ///
    /// The first pass runs without autodiff, so observers do not see it and the result must not depend on them.
    pub(crate) fn by_stages(
        &self,
        logits: usize,
        sums: &mut GradientsAccumulator<Transformer>,
        check: impl Fn(f64) -> Result<()>,
    ) -> Result<f64> {
        let model = self.model;
        let device = model.device();
        let layers = model.config().num_layers;
        let plain = model.valid();
        let mut states = vec![plain.embed(self.ids(&device.clone().inner()))];
        for index in 0..layers {
            states.push(plain.forward_layer(index, states[index].clone()));
        }
        drop(plain);
        let (loss, mut gradient) = match states.pop() {
            Some(x) => self.head(x, logits, sums)?,
            None => unreachable!("the states before the first layer are among them"),
        };
        check(loss)?;
        for (index, x) in states.into_iter().enumerate().rev() {
            let x = Tensor::from_inner(x).require_grad();
            let mut gradients = product(model.forward_layer(index, x.clone()), gradient).backward();
            gradient = match x.grad_remove(&mut gradients) {
                Some(gradient) => gradient,
                None => unreachable!("the output of a layer depends on its input"),
            };
            sums.accumulate(model, GradientsParams::from_grads(gradients, model));
        }
        let embedded = model.embed(self.ids(&device));
        // Frozen or quantized tables have no gradients.
        if embedded.is_tracked() {
            let gradients = product(embedded, gradient).backward();
            sums.accumulate(model, GradientsParams::from_grads(gradients, model));
        }
        Ok(loss)
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
        let x = in_a_row(x);
        let [_, positions, _] = x.dims();
        let teacher = self.of_teacher().map(|(teacher, x)| (teacher, in_a_row(x)));
        let most = (logits / self.model.config().vocab_size).max(1);
        let (mut loss, mut by_x) = (0.0, Vec::new());
        for start in (0..positions).step_by(most) {
            let count = most.min(positions - start);
            let some = |x: &Tensor<3>| x.clone().narrow(1, start, count);
            let x = Tensor::from_inner(some(&x)).require_grad();
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

    /// The teacher and its hidden states for the batch, from which it computes logits.
    fn of_teacher(&self) -> Option<(&Transformer, Tensor<3>)> {
        self.teacher.map(|teacher| {
            let x = teacher.embed(self.ids(&teacher.device()));
            (teacher, (0..teacher.config().num_layers).fold(x, |x, index| teacher.forward_layer(index, x)))
        })
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

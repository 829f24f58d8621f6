//! What a step minimizes.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};
use slm_model::Transformer;

use crate::data::Batch;

/// Mean cross entropy of a batch, a tensor of shape `[1]`.
pub(crate) fn batch_loss(
    model: &Transformer,
    batch: &Batch,
    batch_size: usize,
    device: &Device,
) -> Tensor<1> {
    let logits = batch_logits(model, batch, batch_size, device);
    if slm_fused::is_preferred(device) {
        return slm_fused::cross_entropy(logits, &batch.targets);
    }
    let log_probabilities = log_softmax(logits, 1);
    let targets = tensor(&batch.targets, batch_size, device);
    let rows = batch.targets.len();
    log_probabilities.gather(1, targets.reshape([rows, 1])).mean().neg()
}

/// Mean Kullback-Leibler divergence of the model's next-token distributions from the teacher's, in nats per token:
/// `sum_v p(v) (ln p(v) - ln q(v))` with the teacher's `p` and the model's `q` (Hinton and others, 2015,
/// arXiv:1503.02531, at temperature 1). A tensor of shape `[1]`.
pub(crate) fn distillation_loss(
    model: &Transformer,
    teacher: &Transformer,
    batch: &Batch,
    batch_size: usize,
    device: &Device,
) -> Tensor<1> {
    let of_teacher = batch_logits(teacher, batch, batch_size, &device.clone().inner());
    let rows = batch.inputs.len() as f64;
    let p = softmax(of_teacher.clone(), 1);
    let log_p = log_softmax(of_teacher, 1);
    let entropy = Tensor::<1>::from_inner((p.clone() * log_p).sum().div_scalar(rows));
    let log_q = log_softmax(batch_logits(model, batch, batch_size, device), 1);
    entropy - (log_q * Tensor::from_inner(p)).sum().div_scalar(rows)
}

/// Logits of every position of a batch, `[batch_size * length, vocab_size]`.
fn batch_logits(model: &Transformer, batch: &Batch, batch_size: usize, device: &Device) -> Tensor<2> {
    let logits = model.forward(tensor(&batch.inputs, batch_size, device));
    logits.reshape([batch.inputs.len(), model.config().vocab_size])
}

fn tensor(ids: &[u32], batch_size: usize, device: &Device) -> Tensor<2, Int> {
    let values: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_data(TensorData::new(values, [batch_size, ids.len() / batch_size]), device)
}

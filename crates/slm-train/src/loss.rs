//! The loss that a step minimizes.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Mean cross entropy of `logits`, `[rows, vocab_size]`, a tensor of shape `[1]`.
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let device = logits.device();
    if slm_autograd::is_preferred(&device) {
        return slm_autograd::cross_entropy(logits, targets);
    }
    let log_probabilities = log_softmax(logits, 1);
    let rows = targets.len();
    let targets = ids_tensor(targets, rows, &device);
    sum_in_order(log_probabilities.gather(1, targets)).div_scalar(rows as f64).neg()
}

/// Mean Kullback-Leibler divergence of next-token distributions from a teacher's, in nats per token:
/// `sum_v p(v) (ln p(v) - ln q(v))` with the `p` of `of_teacher` and the `q` of `logits`, both `[rows, vocab_size]` (Hinton and
/// others, 2015, arXiv:1503.02531, at temperature 1). A tensor of shape `[1]`.
pub(crate) fn divergence(logits: Tensor<2>, of_teacher: Tensor<2>) -> Tensor<1> {
    if slm_autograd::is_preferred(&logits.device()) {
        return slm_autograd::distillation(logits, Tensor::from_inner(of_teacher));
    }
    let rows = logits.dims()[0] as f64;
    let p = softmax(of_teacher.clone(), 1);
    let log_p = log_softmax(of_teacher, 1);
    let entropy = Tensor::<1>::from_inner(sum_in_order(p.clone() * log_p).div_scalar(rows));
    let log_q = log_softmax(logits, 1);
    entropy - sum_in_order(log_q * Tensor::from_inner(p)).div_scalar(rows)
}

/// Sum of all elements, `[1]`: first along the last dimension, then of these sums.
///
/// On a GPU `Tensor::sum` adds atomically, in the order in which threads finish, so the sum of the same values differs
/// from run to run. Sums along a dimension have a fixed order.
pub(crate) fn sum_in_order<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let size = tensor.shape().num_elements();
    let width = tensor.dims()[D - 1];
    let rows = tensor.reshape([size / width.max(1), width]).sum_dim(1);
    let count = rows.dims()[0];
    rows.reshape([1, count]).sum_dim(1).reshape([1])
}

/// Token ids of `rows` sequences, `[rows, len]`.
pub(crate) fn ids_tensor(ids: &[u32], rows: usize, device: &Device) -> Tensor<2, Int> {
    let values: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_data(TensorData::new(values, [rows, ids.len() / rows]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::all_devices;

    #[test]
    fn sums_have_an_order() {
        let values: Vec<f32> = (0..96 * 1024).map(|i| ((i * 7919) % 10_007) as f32 / 1e4 - 0.3).collect();
        let expected: f64 = values.iter().map(|&value| f64::from(value)).sum();
        for device in all_devices() {
            let tensor: Tensor<2> = Tensor::from_data(TensorData::new(values.clone(), [96, 1024]), &device);
            let sum = || sum_in_order(tensor.clone()).into_scalar::<f32>();
            let first = sum();
            assert!((f64::from(first) / expected - 1.0).abs() < 1e-5, "{device:?}: {first} {expected}");
            for _ in 0..20 {
                assert_eq!(sum().to_bits(), first.to_bits(), "{device:?}");
            }
        }
    }
}

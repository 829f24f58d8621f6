//! Tests of the losses against Burn's operations.

mod support;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use support::{close, devices, gradient, leaf, on_threads, values, wave};

#[test]
fn equals_burns_operations_and_their_gradient() {
    for device in devices() {
        for [rows, classes] in [[1, 2], [7, 5], [90, 333]] {
            let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7 % classes as u32).collect();
            let logits = leaf::<2>(wave([rows, classes], 31), &device);
            let other = leaf::<2>(wave([rows, classes], 31), &device);
            let loss = slm_autograd::cross_entropy(logits.clone(), &targets);
            let ids = targets.iter().map(|&target| i64::from(target)).collect::<Vec<_>>();
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, 1]), &device);
            let expected = log_softmax(other.clone(), 1).gather(1, ids).mean().neg();
            close("loss", &values(loss.clone()), &values(expected.clone()), 1e-6);
            // A factor, as in gradient accumulation.
            let (found, expected) = ((loss / 3.0).backward(), (expected / 3.0).backward());
            close("gradient", &gradient(&logits, &found), &gradient(&other, &expected), 1e-5);
            // The logits are overwritten only if nothing else holds them.
            assert_eq!(values(logits), values(other));
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for device in devices() {
        let [one, three] = on_threads(|| {
            let logits = leaf::<2>(wave([301, 70], 31), &device);
            let targets: Vec<u32> = (0..301).map(|i| i % 70).collect();
            let loss = slm_autograd::cross_entropy(logits.clone(), &targets);
            let gradients = loss.clone().backward();
            (values(loss), gradient(&logits, &gradients))
        });
        assert_eq!(one, three);
    }
}

#[test]
fn a_logit_that_is_not_a_number_shows() {
    for device in devices() {
        let mut data = vec![0.5f32; 12];
        data[7] = f32::NAN;
        let logits = Tensor::<2>::from_data(TensorData::new(data, [3, 4]), &device);
        assert!(values(slm_autograd::cross_entropy(logits, &[0, 1, 2]))[0].is_nan());
    }
}

#[test]
fn distillation_equals_burns_operations_and_their_gradient() {
    for device in devices() {
        for [rows, classes] in [[1, 2], [7, 5], [90, 333]] {
            let logits = leaf::<2>(wave([rows, classes], 31), &device);
            let other = leaf::<2>(wave([rows, classes], 31), &device);
            let teacher = Tensor::<2>::from_data(wave([rows, classes], 17), &device);
            let loss = slm_autograd::distillation(logits.clone(), teacher.clone());
            let log_p = log_softmax(teacher.clone(), 1);
            let terms = log_p.clone().exp() * (log_p - log_softmax(other.clone(), 1));
            let expected = terms.sum().div_scalar(rows as f64);
            close("loss", &values(loss.clone()), &values(expected.clone()), 1e-5);
            let (found, expected) = ((loss / 3.0).backward(), (expected / 3.0).backward());
            close("gradient", &gradient(&logits, &found), &gradient(&other, &expected), 1e-5);
            // Tensors that others hold are not overwritten.
            assert_eq!(values(logits), values(other));
            assert_eq!(teacher.into_data(), wave([rows, classes], 17));
        }
        let [one, three] = on_threads(|| {
            let logits = leaf::<2>(wave([301, 70], 31), &device);
            let teacher = Tensor::<2>::from_data(wave([301, 70], 17), &device);
            let loss = slm_autograd::distillation(logits.clone(), teacher);
            let gradients = loss.clone().backward();
            (values(loss), gradient(&logits, &gradients))
        });
        assert_eq!(one, three);
    }
}

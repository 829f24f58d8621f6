//! Tests of the losses against Burn's operations.

mod support;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
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

/// Operands of a head, `[rows, width]` and `[classes, width]`.
fn operands(rows: usize, classes: usize, step: usize, device: &Device) -> [Tensor<2>; 2] {
    [leaf::<2>(wave([rows, 9], step), device), leaf::<2>(wave([classes, 9], step + 2), device)]
}

#[test]
fn losses_of_a_head_in_runs_of_rows_are_those_of_all_its_outputs() {
    for device in devices() {
        for [rows, classes] in [[1, 2], [7, 5], [90, 333]] {
            let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7 % classes as u32).collect();
            let teacher = operands(rows, classes, 17, &device).map(Tensor::detach);
            for most in [1, 4, 1000] {
                let [x, weight] = operands(rows, classes, 31, &device);
                let [other_x, other_weight] = operands(rows, classes, 31, &device);
                let of_teacher = slm_autograd::linear(teacher[0].clone(), teacher[1].clone());
                let whole = || slm_autograd::linear(other_x.clone(), other_weight.clone());
                let pairs = [
                    (
                        slm_autograd::linear_cross_entropy(x.clone(), weight.clone(), &targets, most),
                        slm_autograd::cross_entropy(whole(), &targets),
                    ),
                    (
                        slm_autograd::linear_distillation(x.clone(), weight.clone(), teacher.clone(), most),
                        slm_autograd::distillation(whole(), of_teacher),
                    ),
                ];
                for (loss, expected) in pairs {
                    let what = format!("{rows} x {classes}, {most} rows at a time");
                    assert_eq!(values(loss.clone()), values(expected.clone()), "{what}");
                    let (found, expected) = ((loss / 3.0).backward(), (expected / 3.0).backward());
                    close(&what, &gradient(&x, &found), &gradient(&other_x, &expected), 1e-6);
                    close(&what, &gradient(&weight, &found), &gradient(&other_weight, &expected), 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_head_gets_only_the_gradients_that_are_wanted() {
    for device in devices() {
        let [x, weight] = operands(6, 11, 31, &device);
        let loss =
            slm_autograd::linear_cross_entropy(x.clone(), weight.clone().detach(), &[0, 1, 2, 3, 4, 10], 4);
        assert_eq!(gradient(&x, &loss.backward()).len(), 6 * 9);
        let loss =
            slm_autograd::linear_cross_entropy(x.clone().detach(), weight.clone(), &[0, 1, 2, 3, 4, 10], 4);
        let gradients = loss.backward();
        assert_eq!(gradient(&weight, &gradients).len(), 11 * 9);
        assert!(x.grad(&gradients).is_none());
    }
}

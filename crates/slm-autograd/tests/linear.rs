//! Tests of the product of a linear layer against Burn's.

mod support;

use burn::tensor::Tensor;
use slm_autograd::Precision;
use support::{changed, close, devices, gradient, leaf, on_threads, probe, rounded, values, wave};

#[test]
fn equals_burns_product_and_its_gradients() {
    for device in devices() {
        for [m, n, k] in [[1, 1, 1], [5, 7, 3], [64, 48, 300], [130, 33, 17]] {
            let make = || (leaf::<2>(wave([m, k], 31), &device), leaf::<2>(wave([n, k], 17), &device));
            let (x, w) = make();
            let y = slm_autograd::linear(x.clone(), w.clone());
            let (ex, ew) = make();
            let expected = ex.clone().matmul(ew.clone().transpose());
            close("y", &values(y.clone()), &values(expected.clone()), 1e-5);
            let (found, expected) = (probe(y).backward(), probe(expected).backward());
            close("dx", &gradient(&x, &found), &gradient(&ex, &expected), 1e-5);
            close("dw", &gradient(&w, &found), &gradient(&ew, &expected), 1e-5);
        }
    }
}

#[test]
fn views_and_constants_may_enter() {
    for device in devices() {
        let x = leaf::<2>(wave([20, 9], 31), &device);
        let constant = Tensor::<2>::from_data(wave([20, 6], 17), &device);
        let y = slm_autograd::linear(x.clone().transpose(), constant.clone().transpose());
        let expected = x.clone().transpose().matmul(constant.clone());
        close("y", &values(y.clone()), &values(expected.clone()), 1e-5);
        let (found, expected) = (probe(y).backward(), probe(expected).backward());
        close("dx", &gradient(&x, &found), &gradient(&x, &expected), 1e-5);
        assert!(constant.grad(&found).is_none());
    }
}

#[test]
fn operands_are_rounded_to_bf16_in_both_passes() {
    for device in devices() {
        for [m, n, k] in [[1, 1, 1], [5, 7, 3], [64, 48, 300]] {
            let uneven = |shape, step| changed(&leaf(wave(shape, step), &device), |value| value / 3.0);
            let (x, w) = (uneven([m, k], 31), uneven([n, k], 17));
            let weights = rounded(&uneven([m, n], 37)).detach();
            let y = Precision::Bf16.scope(|| slm_autograd::linear(x.clone(), w.clone()));
            assert_eq!(Precision::current(), Precision::F32);
            // The backward pass runs outside of the scope, and has its precision all the same.
            let found = (y.clone() * weights.clone()).sum().backward();
            let (ex, ew) = (rounded(&x), rounded(&w));
            let expected = ex.clone().matmul(ew.clone().transpose());
            close("y", &values(y), &values(expected.clone()), 1e-6);
            let expected = (expected * weights).sum().backward();
            close("dx", &gradient(&x, &found), &gradient(&ex, &expected), 1e-6);
            close("dw", &gradient(&w, &found), &gradient(&ew, &expected), 1e-6);
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for (device, precision) in devices()
        .into_iter()
        .flat_map(|device| [Precision::F32, Precision::Bf16].map(|it| (device.clone(), it)))
    {
        let [one, three] = on_threads(|| {
            let (x, w) = (leaf::<2>(wave([200, 70], 31), &device), leaf::<2>(wave([50, 70], 17), &device));
            let y = precision.scope(|| slm_autograd::linear(x.clone(), w.clone()));
            let gradients = probe(y.clone()).backward();
            (values(y), gradient(&x, &gradients), gradient(&w, &gradients))
        });
        assert_eq!(one, three);
    }
}

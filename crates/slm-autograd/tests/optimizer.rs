//! Tests of AdamW and norms against Burn's operations.

mod support;

use burn::optim::{AdamWConfig, Optimizer};
use burn::tensor::Tensor;
use slm_autograd::AdamWStep;
use support::{close, on_threads, values, wave};

const SIZES: [usize; 3] = [1, 37, 40_000];

#[test]
fn adamw_equals_burns() {
    for device in slm_autograd::cpu_devices() {
        for size in SIZES {
            let tensor = |step| Tensor::<1>::from_data(wave([size], step), &device);
            let config = AdamWConfig::new().with_beta_1(0.8).with_beta_2(0.95).with_epsilon(1e-6);
            let burns = config.with_weight_decay(0.1).build();
            let (mut expected, mut state) = (tensor(31), None);
            let mut found = tensor(31);
            let mut moments = [Tensor::zeros([size], &device), Tensor::zeros([size], &device)];
            for time in 1..=3 {
                let gradient = tensor(10 + time as usize);
                // Scaled as by clipping.
                (expected, state) = burns.step(0.01, expected, gradient.clone() * 0.5, state);
                let step = AdamWStep {
                    learning_rate: 0.01,
                    decay: 1.0 - 0.01 * 0.1,
                    beta_1: 0.8,
                    beta_2: 0.95,
                    epsilon: 1e-6,
                    gradient_scale: 0.5,
                    time,
                };
                (found, moments) = slm_autograd::adamw(found, gradient, moments, step);
            }
            let momentum = state.unwrap().momentum;
            let [first, second] = moments;
            close("values", &values(found), &values(expected), 1e-6);
            close("first moment", &values(first), &values(momentum.moment_1), 1e-6);
            close("second moment", &values(second), &values(momentum.moment_2), 1e-6);
        }
    }
}

#[test]
fn sums_of_squares_are_the_same_on_any_number_of_threads() {
    for device in slm_autograd::cpu_devices() {
        for size in SIZES {
            let x = Tensor::<2>::from_data(wave([size, 3], 31), &device);
            let [one, three] = on_threads(|| values(slm_autograd::sum_squares(x.clone())));
            assert_eq!(one, three);
            let expected: f64 = values(x.clone()).into_iter().map(|x| f64::from(x).powi(2)).sum();
            close("sum", &one, &[expected as f32], 1e-6);
        }
    }
}

//! The AdamW update of a parameter.

use crate::dispatch::vectorized;

/// Constants of one step of AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Factor of the values before the update: 1 minus learning rate times weight decay.
    pub decay: f32,
    /// Share of the first moment that is kept.
    pub beta_1: f32,
    /// Share of the second moment that is kept.
    pub beta_2: f32,
    /// Number added to the root of the second moment.
    pub epsilon: f32,
    /// Factor of the gradients: less than 1 if they are clipped.
    pub gradient_scale: f32,
    /// Number of this step, from 1 on, for the correction of the moments' bias towards zero.
    pub time: i32,
}

/// Updates values and their moments with the gradient of one step. Moments start as zeros.
///
/// # Panics
/// If the lengths differ.
pub fn adamw(
    step: &AdamWStep,
    values: &mut [f32],
    gradient: &[f32],
    moment_1: &mut [f32],
    moment_2: &mut [f32],
) {
    let len = values.len();
    let fits = len == gradient.len() && len == moment_1.len() && len == moment_2.len();
    assert!(fits, "adamw: lengths differ");
    let AdamWStep { learning_rate, decay, beta_1, beta_2, epsilon, gradient_scale, time } = *step;
    let (factor_1, factor_2) = (1.0 - beta_1, 1.0 - beta_2);
    let (correction_1, correction_2) = (1.0 - beta_1.powi(time), 1.0 - beta_2.powi(time));
    vectorized! {
        let moments = moment_1.iter_mut().zip(moment_2);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
            let gradient = gradient * gradient_scale;
            *first = *first * beta_1 + gradient * factor_1;
            *second = *second * beta_2 + gradient * gradient * factor_2;
            let update = (*first / correction_1) / ((*second / correction_2).sqrt() + epsilon);
            *value = *value * decay - update * learning_rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_in_f64() {
        let len = 37;
        let wave =
            |step: usize| -> Vec<f32> { (0..len).map(|i| ((i * step) % 19) as f32 / 9.0 - 1.0).collect() };
        let mut values = wave(7);
        let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
        let mut expected: Vec<[f64; 3]> = values.iter().map(|&value| [f64::from(value), 0.0, 0.0]).collect();
        for time in 1..=3 {
            let gradient = wave(10 + time as usize);
            let step = AdamWStep {
                learning_rate: 0.01,
                decay: 0.999,
                beta_1: 0.9,
                beta_2: 0.99,
                epsilon: 1e-3,
                gradient_scale: 0.5,
                time,
            };
            adamw(&step, &mut values, &gradient, &mut first, &mut second);
            for ([value, first, second], gradient) in expected.iter_mut().zip(&gradient) {
                let gradient = f64::from(*gradient) * 0.5;
                *first = *first * 0.9 + gradient * 0.1;
                *second = *second * 0.99 + gradient * gradient * 0.01;
                let (m, v) = (*first / (1.0 - 0.9f64.powi(time)), *second / (1.0 - 0.99f64.powi(time)));
                *value = *value * 0.999 - 0.01 * m / (v.sqrt() + 1e-3);
            }
        }
        for (i, [value, m, v]) in expected.into_iter().enumerate() {
            for (found, e) in [(values[i], value), (first[i], m), (second[i], v)] {
                assert!((f64::from(found) - e).abs() < 2e-6, "{i}: {found} {e}");
            }
        }
    }
}

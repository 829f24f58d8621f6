//! The loss of a model that learns from another.

use crate::dispatch::vectorized;
use crate::exp::exp_scalar;
use crate::lanes;

/// Values of a row that are summed in f32 before the sums are added in f64, so that thousands of terms lose no
/// precision.
const RUN: usize = 256;

/// Computes the Kullback-Leibler divergence `sum_v p(v) (ln p(v) - ln q(v))` in nats. `q` is the softmax of a row of
/// `student` logits, `p` that of a row of `teacher` logits. The student's row is replaced by its gradient, `q - p`; the
/// teacher's is overwritten with scratch values. The result is NaN if any logit is NaN.
///
/// # Panics
/// If the lengths differ.
pub fn distillation(student: &mut [f32], teacher: &mut [f32]) -> f64 {
    assert_eq!(student.len(), teacher.len(), "distillation: {} and {} classes", student.len(), teacher.len());
    vectorized! {
        let (student_max, teacher_max) = (lanes::max(student), lanes::max(teacher));
        let (mut student_total, mut teacher_total, mut product) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (student, teacher) in student.chunks_mut(RUN).zip(teacher.chunks_mut(RUN)) {
            let mut differences = [0.0_f32; RUN];
            for (difference, (s, t)) in differences.iter_mut().zip(student.iter().zip(teacher.iter())) {
                *difference = (t - teacher_max) - (s - student_max);
            }
            student.iter_mut().for_each(|s| *s = exp_scalar(*s - student_max));
            teacher.iter_mut().for_each(|t| *t = exp_scalar(*t - teacher_max));
            student_total += f64::from(lanes::sum(student));
            teacher_total += f64::from(lanes::sum(teacher));
            product += f64::from(lanes::dot(teacher, &differences[..teacher.len()]));
        }
        let (q_factor, p_factor) = ((1.0 / student_total) as f32, (1.0 / teacher_total) as f32);
        for (s, t) in student.iter_mut().zip(teacher.iter()) {
            *s = *s * q_factor - t * p_factor;
        }
        product / teacher_total - teacher_total.ln() + student_total.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_and_gradient_against_f64() {
        for len in [1usize, 5, 256, 1000] {
            let logits = |step: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * step) % 1009) as f32 / 60.0 - 9.0).collect()
            };
            let (student, teacher) = (logits(7919), logits(5003));
            let softmax = |logits: &[f32]| -> Vec<f64> {
                let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                logits.iter().map(|&x| f64::from(x).exp() / total).collect()
            };
            let (q, p) = (softmax(&student), softmax(&teacher));
            let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p.ln() - q.ln())).sum();
            let mut gradient = student.clone();
            let found = distillation(&mut gradient, &mut teacher.clone());
            assert!((found - expected).abs() < 1e-5 * (1.0 + expected), "{len}: {found} {expected}");
            for (found, (q, p)) in gradient.iter().zip(q.iter().zip(&p)) {
                assert!((f64::from(*found) - (q - p)).abs() < 1e-6, "{len}: {found} {}", q - p);
            }
        }
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let logits: Vec<f32> = (0..700).map(|i| ((i * 31) % 97) as f32 / 7.0).collect();
        let mut gradient = logits.clone();
        assert_eq!(distillation(&mut gradient, &mut logits.clone()), 0.0);
        assert!(gradient.iter().all(|value| *value == 0.0));
    }

    #[test]
    fn what_is_not_a_number_is_none_afterwards() {
        for bad in [f32::NAN, f32::INFINITY] {
            let (good, mut row) = (vec![0.5; 50], vec![0.5; 50]);
            row[40] = bad;
            assert!(distillation(&mut row.clone(), &mut good.clone()).is_nan(), "student {bad}");
            assert!(distillation(&mut good.clone(), &mut row).is_nan(), "teacher {bad}");
        }
    }
}

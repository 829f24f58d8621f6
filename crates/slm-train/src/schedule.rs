//! Learning rates: linear warm-up, then a cosine, from Burn's schedulers.

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;

use crate::{Error, Result, TrainingOptions};

/// The learning rate of each step, in order.
pub(crate) struct LrSchedule(ModuleLrScheduler);

impl LrSchedule {
    /// The schedule of a run after `done` steps.
    ///
    /// Step `i` of the warm-up has `(i + 1) / warmup_steps` of the highest rate, which the cosine starts with.
    pub(crate) fn new(options: &TrainingOptions, done: usize) -> Result<Self> {
        let (peak, warmup) = (options.learning_rate, options.warmup_steps);
        let cosine = CosineAnnealingLrSchedulerConfig::new(peak, options.steps.saturating_sub(warmup))
            .with_min_lr(options.min_learning_rate);
        let scheduler = if warmup == 0 {
            cosine.init()
        } else {
            let linear =
                LinearLrSchedulerConfig::new(peak / warmup as f64, peak, warmup.saturating_sub(1).max(1));
            SequentialLrSchedulerConfig::new(vec![linear.into(), cosine.into()], vec![warmup]).init()
        };
        let mut schedule = Self(scheduler.map_err(|detail| Error::Schedule { detail })?);
        for _ in 0..done {
            schedule.next_rate();
        }
        Ok(schedule)
    }

    /// The rate of the next step.
    pub(crate) fn next_rate(&mut self) -> f64 {
        self.0.step().base()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warmup_steps: usize, done: usize) -> Vec<f64> {
        let options = TrainingOptions {
            steps: 20,
            warmup_steps,
            learning_rate: 0.8,
            min_learning_rate: 0.2,
            ..TrainingOptions::default()
        };
        let mut schedule = LrSchedule::new(&options, done).unwrap();
        (done..20).map(|_| schedule.next_rate()).collect()
    }

    #[test]
    fn warm_up_is_linear_and_the_rest_a_cosine() {
        for warmup in [0, 1, 2, 8] {
            for (step, rate) in rates(warmup, 0).into_iter().enumerate() {
                let expected = if step < warmup {
                    0.8 * (step + 1) as f64 / warmup as f64
                } else {
                    let share = (step - warmup) as f64 / (20 - warmup) as f64;
                    0.2 + 0.3 * (1.0 + (std::f64::consts::PI * share).cos())
                };
                assert!((rate - expected).abs() < 1e-12, "warm-up {warmup}, step {step}: {rate} {expected}");
            }
        }
    }

    #[test]
    fn it_goes_on_where_it_stopped() {
        for done in [0, 3, 8, 15] {
            assert_eq!(rates(8, done), rates(8, 0)[done..]);
        }
    }
}

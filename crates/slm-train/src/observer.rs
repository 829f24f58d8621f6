//! What a run tells those who watch it.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// One optimizer step. Numbers are rounded to nine digits: more than they mean, and few enough to come back
/// from JSON exactly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: usize,
    /// Mean loss of the step's batches, in nats per token: cross entropy with the text, or, in distillation, the
    /// divergence from the float model.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Tokens predicted in the step.
    pub tokens: usize,
}

/// One validation. Numbers are rounded as in [`StepReport`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// Steps done.
    pub step: usize,
    /// Cross entropy on the held-out text, in nats per token.
    pub nll: f64,
    /// Its exponential.
    pub perplexity: f64,
    /// Tokens scored.
    pub tokens: usize,
}

/// Watches a run. Every method does nothing unless implemented.
pub trait TrainObserver {
    /// After an optimizer step that took `seconds`.
    fn on_step(&mut self, _report: &StepReport, _seconds: f64) {}

    /// After a validation.
    fn on_validation(&mut self, _report: &ValidationReport) {}

    /// After a checkpoint was written.
    fn on_checkpoint(&mut self, _step: usize, _dir: &Path) {}
}

/// Watches nothing.
impl TrainObserver for () {}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Metric {
    /// An optimizer step.
    Step(StepReport),
    /// A validation.
    Validation(ValidationReport),
}

/// `value` rounded to nine significant digits.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_numbers_come_back_from_json_exactly() {
        assert_eq!(rounded(0.969_255_240_119_596_4), 0.969_255_24);
        assert_eq!(rounded(0.0), 0.0);
        assert!(rounded(f64::NAN).is_nan());
        let mut value = 1.234_567_890_123_456_7e-12;
        while value < 1e12 {
            let short = rounded(value);
            assert!((short / value - 1.0).abs() < 1e-8);
            let metric =
                Metric::Validation(ValidationReport { step: 1, nll: short, perplexity: -short, tokens: 2 });
            let json = serde_json::to_string(&metric).unwrap();
            assert_eq!(serde_json::from_str::<Metric>(&json).unwrap(), metric, "{json}");
            value *= 1.37;
        }
    }
}

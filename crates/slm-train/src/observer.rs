//! The interface for observers of a run.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Report on one optimizer step. Its numbers survive JSON exactly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of steps done, including this one.
    pub step: usize,
    /// Mean loss of the step's batches, in nats per token: cross entropy with the text, or, in distillation, the
    /// divergence from the float model.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Number of tokens predicted in the step.
    pub tokens: usize,
}

/// Report on one validation. Its numbers survive JSON exactly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ValidationReport {
    /// Steps done.
    pub step: usize,
    /// Cross entropy on the held-out text, in nats per token.
    pub nll: f64,
    /// Perplexity: the exponential of `nll`.
    pub perplexity: f64,
    /// Number of scored tokens.
    pub tokens: usize,
}

/// Observes a run. By default every method does nothing.
pub trait TrainObserver {
    /// Called after an optimizer step that took `seconds`.
    fn on_step(&mut self, _report: &StepReport, _seconds: f64) {}

    /// Called after a validation.
    fn on_validation(&mut self, _report: &ValidationReport) {}

    /// Called after a checkpoint was written.
    fn on_checkpoint(&mut self, _step: usize, _dir: &Path) {}
}

/// Observes nothing.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_json_exactly() {
        let mut value = 1.234_567_890_123_456_7e-12;
        while value < 1e12 {
            let metric =
                Metric::Validation(ValidationReport { step: 1, nll: value, perplexity: -value, tokens: 2 });
            let json = serde_json::to_string(&metric).unwrap();
            assert_eq!(serde_json::from_str::<Metric>(&json).unwrap(), metric, "{json}");
            value *= 1.37;
        }
    }
}

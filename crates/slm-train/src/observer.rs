//! What a run tells those who watch it.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: usize,
    /// Mean cross entropy of the step's batches, in nats per token.
    pub loss: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Tokens predicted in the step.
    pub tokens: usize,
}

/// One validation.
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

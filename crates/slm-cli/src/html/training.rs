//! Curves of a training run.

use std::path::Path;

use slm_train::{Metric, training_metrics};

use super::Plot;
use super::svg::{Series, lines};
use crate::error::Result;

/// Plots the loss over the steps of the run that wrote the checkpoint at `dir`; `None` if there was no run, or one with
/// a single step.
pub(crate) fn training_curves(dir: &Path) -> Result<Option<Plot>> {
    let (mut steps, mut validations) = (Vec::new(), Vec::new());
    for metric in training_metrics(dir)? {
        match metric {
            Metric::Step(report) => steps.push((report.step as f64, report.loss)),
            Metric::Validation(report) => validations.push((report.step as f64, report.nll)),
        }
    }
    if steps.len().max(validations.len()) < 2 {
        return Ok(None);
    }
    let last = |points: &[(f64, f64)]| {
        points.last().map_or_else(|| "unknown".to_owned(), |point| format!("{:.4} nats per token", point.1))
    };
    let label = format!(
        "Loss over the steps of training: at the end {} on the training text and {} on the text held out",
        last(&steps),
        last(&validations)
    );
    let series = [
        Series { name: "training loss".to_owned(), points: steps, marked: false },
        Series { name: "validation".to_owned(), points: validations, marked: true },
    ];
    Ok(Some(Plot {
        title: "Training".to_owned(),
        caption: "Loss in nats per token. Line: batches of the training text (with distillation, the divergence from the float \
                  model). Rings: text held out."
            .to_owned(),
        svg: lines(&series, "step", &label),
    }))
}

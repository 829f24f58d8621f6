//! HTML reports of training runs.

use std::path::Path;

use slm_checkpoint::Checkpoint;
use slm_train::Precision;

use super::inspect;
use crate::context::Context;
use crate::error::Result;
use crate::html::{Chart, Fact, Page};

/// The result of a training run.
pub(super) struct RunPage<'a> {
    /// Name of the command.
    pub(super) command: &'a str,
    pub(super) checkpoint: &'a Path,
    /// The one-line result.
    pub(super) verdict: &'a str,
    pub(super) facts: Vec<Fact>,
    /// Perplexities by name.
    pub(super) quality: Vec<(&'a str, f64)>,
    /// The text on which they were measured.
    pub(super) measured_on: &'a str,
}

impl RunPage<'_> {
    /// Creates the page: the result, then the same content as for `slm inspect`: curves, layers, origin.
    pub(super) fn page(self, context: &Context) -> Result<Page> {
        let checkpoint = Checkpoint::open(self.checkpoint)?;
        let inspected = inspect::page(&checkpoint, context)?;
        let mut page =
            Page::new(format!("slm {}: {}", self.command, self.checkpoint.display()), self.verdict);
        page.facts = self.facts;
        if !self.quality.is_empty() {
            page.charts.push(Chart::of_perplexities(self.measured_on, &self.quality));
        }
        page.charts.extend(inspected.charts);
        page.plots = inspected.plots;
        page.tables = inspected.tables;
        page.layers = inspected.layers;
        page.lineage = inspected.facts;
        Ok(page)
    }
}

/// The fact of the precision of a run's matrix products.
pub(super) fn precision_fact(precision: Precision) -> Fact {
    let text = match precision {
        Precision::F32 => "FP32",
        Precision::Bf16 => "operands of matrix products BF16, the rest FP32",
    };
    fact("precision", text)
}

/// Creates a fact.
pub(super) fn fact(label: &str, text: impl Into<String>) -> Fact {
    Fact { label: label.to_owned(), text: text.into() }
}

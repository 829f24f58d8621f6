//! Evaluation of several checkpoints on the same texts: size against quality.

use std::path::PathBuf;

use serde::Serialize;

use super::choices::ChoicesResult;
use super::{EvalArgs, EvalResult, measure};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::{self, Cell, Fact, Mark, Page, Plot, SORT_NOTE, Table};
use crate::table;

/// Results of the checkpoints, in the order of the command line.
#[derive(Serialize)]
struct SeveralResult {
    checkpoints: Vec<CheckpointResult>,
}

#[derive(Serialize)]
struct CheckpointResult {
    checkpoint: PathBuf,
    #[serde(flatten)]
    result: EvalResult,
}

pub(super) fn run(args: &EvalArgs, context: &Context) -> Result<()> {
    // All checkpoints are opened first, so that a wrong name is reported at once.
    let opened = args.checkpoint.iter().map(|dir| context.open_to_load(dir));
    let opened = opened.collect::<Result<Vec<_>>>()?;
    if let Some((first, others)) = opened.split_first() {
        let differs = |other: &&slm_checkpoint::Checkpoint| other.tokenizer_json() != first.tokenizer_json();
        if let Some(other) = others.iter().find(differs) {
            return Err(Error::file(
                other.dir(),
                format!(
                    "its tokenizer is not that of {}: perplexities of different tokens cannot be compared; evaluate it by \
                     itself",
                    first.dir().display()
                ),
            ));
        }
    }
    let mut checkpoints = Vec::new();
    for (dir, checkpoint) in args.checkpoint.iter().zip(&opened) {
        let result = measure(args, checkpoint, context)?;
        checkpoints.push(CheckpointResult { checkpoint: dir.clone(), result });
    }
    let several = SeveralResult { checkpoints };
    context.output.headline(several.headline())?;
    let rows = several.checkpoints.iter().map(CheckpointResult::cells);
    context.output.say("")?;
    args.tables.table(&several.header(), rows, &context.output)?;
    for warning in several.checkpoints.iter().filter_map(|checkpoint| checkpoint.result.warning.as_ref()) {
        context.output.warning(warning)?;
    }
    args.html.write(&context.output, || Ok(several.page()))?;
    context.output.result(&several)
}

impl CheckpointResult {
    /// Perplexity, or accuracy if there are only questions.
    fn quality(&self) -> f64 {
        let accuracy = || self.result.choices.as_ref().map_or(f64::NAN, |choices| choices.accuracy());
        self.result.perplexity.unwrap_or_else(accuracy)
    }

    /// The columns after the name: header, value and text.
    fn columns(&self) -> Vec<(&'static str, f64, String)> {
        let result = &self.result;
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let mut columns =
            vec![("weights", self.result.weight_bytes as f64, table::bytes(self.result.weight_bytes))];
        let mut add = |name, value: Option<f64>, text: &dyn Fn(f64) -> String| {
            columns.extend(value.map(|value| (name, value, text(value))));
        };
        add("perplexity", result.perplexity, &|value| format!("{value:.4}"));
        add("bits per byte", result.bits_per_byte, &|value| format!("{value:.4}"));
        add("KL nats", result.divergence.map(|divergence| divergence.kl_mean), &|value| {
            format!("{value:.6}")
        });
        add("same top token", result.divergence.map(|divergence| divergence.top1_agreement), &percent);
        add("accuracy", result.choices.as_ref().map(ChoicesResult::accuracy), &percent);
        columns
    }

    /// The cells of a row with the header [`SeveralResult::header`].
    fn cells(&self) -> Vec<String> {
        let texts = self.columns().into_iter().map(|(_, _, text)| text);
        std::iter::once(self.checkpoint.display().to_string()).chain(texts).collect()
    }
}

impl SeveralResult {
    fn header(&self) -> Vec<&'static str> {
        let columns = self.checkpoints.first().map(CheckpointResult::columns).unwrap_or_default();
        std::iter::once("checkpoint").chain(columns.into_iter().map(|(name, ..)| name)).collect()
    }

    fn is_by_perplexity(&self) -> bool {
        self.checkpoints.first().is_some_and(|first| first.result.perplexity.is_some())
    }

    /// Names the checkpoint with the best quality and the smallest one.
    fn headline(&self) -> String {
        let (name, sign) = if self.is_by_perplexity() { ("perplexity", 1.0) } else { ("accuracy", -1.0) };
        let best =
            self.checkpoints.iter().min_by(|a, b| (sign * a.quality()).total_cmp(&(sign * b.quality())));
        // Of two of the same size, the better one.
        let smallest = self.checkpoints.iter().min_by(|a, b| {
            a.result
                .weight_bytes
                .cmp(&b.result.weight_bytes)
                .then((sign * a.quality()).total_cmp(&(sign * b.quality())))
        });
        let say = |checkpoint: &CheckpointResult| {
            format!(
                "{} ({name} {:.4}, {})",
                checkpoint.checkpoint.display(),
                checkpoint.quality(),
                table::bytes(checkpoint.result.weight_bytes)
            )
        };
        match (best, smallest) {
            (Some(best), Some(smallest)) if best.checkpoint == smallest.checkpoint => {
                format!("best and smallest of {}: {}", self.checkpoints.len(), say(best))
            }
            (Some(best), Some(smallest)) => format!("best: {}; smallest: {}", say(best), say(smallest)),
            _ => String::new(),
        }
    }

    fn page(&self) -> Page {
        let mut page =
            Page::new(format!("slm eval: {} checkpoints", self.checkpoints.len()), self.headline());
        if let Some(first) = self.checkpoints.first() {
            let result = &first.result;
            let fact = |label: &str, text: String| Fact { label: label.to_owned(), text };
            if result.tokens > 0 {
                let text = format!(
                    "{} tokens of {}, in windows of {}",
                    result.tokens, result.measured_on, result.window
                );
                page.facts.push(fact("measured on", text));
            }
            page.facts.push(fact("device", result.device.to_owned()));
        }
        let mark = |checkpoint: &CheckpointResult, value: f64| Mark {
            name: checkpoint.checkpoint.display().to_string(),
            bytes: checkpoint.result.weight_bytes,
            value,
        };
        let (what, better) = match self.is_by_perplexity() {
            true => ("perplexity", "lower is better"),
            false => ("accuracy", "higher is better"),
        };
        let marks: Vec<Mark> = self.checkpoints.iter().map(|each| mark(each, each.quality())).collect();
        page.plots.push(Plot {
            title: format!("Size against {what}"),
            caption: format!("Up: {what}; {better}. To the right: bytes of all weights."),
            svg: html::scatter(
                &marks,
                &format!("Size against {what} of each checkpoint; the table below has the numbers"),
            ),
        });
        let divergences: Vec<Mark> = self
            .checkpoints
            .iter()
            .filter_map(|each| Some(mark(each, each.result.divergence.as_ref()?.kl_mean)))
            .collect();
        if !divergences.is_empty() {
            page.plots.push(Plot {
                title: "Size against divergence".to_owned(),
                caption: "Up: mean KL divergence from the reference, in nats; lower is better.".to_owned(),
                svg: html::scatter(
                    &divergences,
                    "Size against KL divergence of each checkpoint; the table below has the numbers",
                ),
            });
        }
        let rows = self.checkpoints.iter().map(|checkpoint| {
            let name = Cell::text(checkpoint.checkpoint.display().to_string());
            let cells = checkpoint.columns().into_iter().map(|(_, value, text)| Cell::number(value, text));
            std::iter::once(name).chain(cells).collect()
        });
        page.tables.push(Table::new("Checkpoints", SORT_NOTE, &self.header(), rows));
        page
    }
}

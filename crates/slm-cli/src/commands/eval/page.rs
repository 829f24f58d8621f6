//! HTML report of an evaluation.

use std::path::Path;

use super::{EvalResult, words};
use crate::html::{Cell, Chart, Page, Table, facts, remark};

pub(super) fn page(result: &EvalResult, dir: &Path) -> Page {
    let report = words::report(result);
    let verdict = report.lines().next().unwrap_or_default().replace("  ", " ");
    let words: Vec<&str> = verdict.split_whitespace().collect();
    let mut page = Page::new(format!("slm eval: {}", dir.display()), words.join(" "));
    page.facts = facts(&report);
    page.facts.extend(result.warning.as_deref().map(remark));
    if let (Some(perplexity), Some(divergence)) = (result.perplexity, &result.divergence) {
        let bar =
            |label: &str, value: f64, digits: usize| (label.to_owned(), value, format!("{value:.digits$}"));
        page.charts.push(Chart::new(
            "Perplexity",
            "Lower is better.",
            vec![bar("reference", divergence.perplexity_reference, 4), bar("this checkpoint", perplexity, 4)],
        ));
        page.charts.push(Chart::new(
            "KL divergence from the reference",
            "In nats, over the positions of the texts: the mean, and what half, 90 % and 99 % of them stay below.",
            vec![
                bar("mean", divergence.kl_mean, 6),
                bar("median", divergence.kl_median, 6),
                bar("90 %", divergence.kl_p90, 6),
                bar("99 %", divergence.kl_p99, 6),
            ],
        ));
    }
    if !result.texts.is_empty() {
        let rows = result.texts.iter().map(|text| {
            vec![
                Cell::text(text.path.display().to_string()),
                Cell::number(text.perplexity, format!("{:.4}", text.perplexity)),
                Cell::number(text.tokens as f64, text.tokens.to_string()),
                text.divergence.map_or_else(
                    || Cell::text("-"),
                    |divergence| Cell::number(divergence.kl_mean, format!("{:.6}", divergence.kl_mean)),
                ),
            ]
        });
        page.tables.push(Table::new("Texts", "", &["text", "perplexity", "tokens", "KL nats"], rows));
    }
    page
}

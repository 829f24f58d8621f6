//! HTML report of an evaluation.

use std::path::Path;

use super::{EvalResult, words};
use crate::html::{Cell, Chart, Page, Table, facts, warning};

pub(super) fn page(result: &EvalResult, dir: &Path) -> Page {
    let report = words::report(result);
    let (verdict, rest) = report.split_once('\n').unwrap_or((&report, ""));
    let words: Vec<&str> = verdict.split_whitespace().collect();
    let mut page = Page::new(format!("slm eval: {}", dir.display()), words.join(" "));
    page.facts = facts(rest);
    page.facts.extend(result.warning.as_deref().map(warning));
    if let Some(other) = result.weight_bytes_reference {
        let sizes = [("reference", other), ("this checkpoint", result.weight_bytes)];
        page.charts.push(Chart::of_sizes(&sizes));
    }
    if let (Some(perplexity), Some(divergence)) = (result.perplexity, &result.divergence) {
        let bar = |label: &str, value: f64| (label.to_owned(), value, format!("{value:.6}"));
        let bars = [("reference", divergence.perplexity_reference), ("this checkpoint", perplexity)];
        let text = format!("{} tokens of {}", result.tokens, result.measured_on);
        page.charts.push(Chart::of_perplexities(&text, &bars));
        page.charts.push(Chart::new(
            "KL divergence from the reference, in nats",
            "Over the positions of the texts: the mean, and what half, 90 % and 99 % of them stay below.",
            vec![
                bar("mean", divergence.kl_mean),
                bar("median", divergence.kl_median),
                bar("90 %", divergence.kl_p90),
                bar("99 %", divergence.kl_p99),
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

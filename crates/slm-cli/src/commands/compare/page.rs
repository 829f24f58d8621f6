//! HTML report of a comparison.

use super::{CompareArgs, CompareResult, headline, summary};
use crate::html::{self, Cell, Chart, Page, Plot, Point, Table, facts, warning};

pub(super) fn page(result: &CompareResult, args: &CompareArgs) -> Page {
    let title = format!("slm compare: {} and {}", args.dir_a.display(), args.dir_b.display());
    let mut page = Page::new(title, headline(result));
    page.facts = facts(&summary(result, args));
    page.facts.extend(result.warning.as_deref().map(warning));
    page.charts.push(Chart::of_sizes(&[("A", result.weight_bytes_a), ("B", result.weight_bytes_b)]));
    let text = format!("{} tokens of {}", result.tokens, args.data.display());
    page.charts
        .push(Chart::of_perplexities(&text, &[("A", result.perplexity_a), ("B", result.perplexity_b)]));
    let points: Vec<Point> = result
        .layers
        .iter()
        .map(|layer| Point {
            name: layer.name.clone(),
            first: layer.own_sqnr_db,
            second: Some(layer.sqnr_db),
        })
        .collect();
    page.plots.push(Plot {
        title: "Error of the outputs by depth".to_owned(),
        caption: "Discs: a layer's own error, for the input that A gives it. Rings: the total error, with the \
                  error inherited from the layers before; errors accumulate through the depth."
            .to_owned(),
        svg: html::depth(&points, "Own and total SQNR of each layer's output in forward order, in dB; the table below has the numbers"),
    });
    let decibels = |value: f64| Cell::number(value, format!("{value:.2}"));
    let rows = result.layers.iter().map(|layer| {
        vec![
            Cell::text(&*layer.name),
            layer.own_sqnr_db.map_or_else(|| Cell::text("-"), decibels),
            decibels(layer.sqnr_db),
            Cell::number(layer.cosine, format!("{:.6}", layer.cosine)),
            Cell::number(layer.mean_abs_error, format!("{:.3e}", layer.mean_abs_error)),
            Cell::number(layer.max_abs_error, format!("{:.3e}", layer.max_abs_error)),
        ]
    });
    page.tables.push(Table::new("Outputs of the layers", html::SORT_NOTE, &super::HEADER, rows));
    page
}

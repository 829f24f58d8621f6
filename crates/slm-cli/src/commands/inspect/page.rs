//! HTML report of a checkpoint.

use slm_checkpoint::{Checkpoint, LayerMetadata};

use super::overview::CheckpointView;
use super::words;
use crate::commands::ptq::plot;
use crate::context::Context;
use crate::error::Result;
use crate::html::{self, Cell, Chart, Fact, Page, Table};
use crate::table::{self, range};

/// Explanation of the columns of the table of layers.
pub(in crate::commands) const TABLE_NOTE: &str = "Click a column's name to sort by it. SQNR: signal to quantization noise of the weights; clipped: share of the weights \
     outside the range of the codes; scale: distance between two codes.";

/// Facts about the checkpoint and its origin.
pub(in crate::commands) fn facts(checkpoint: &Checkpoint) -> Vec<Fact> {
    html::facts(&words::summary(&CheckpointView::new(checkpoint)))
}

/// Creates the page of a checkpoint.
pub(in crate::commands) fn page(checkpoint: &Checkpoint, context: &Context) -> Result<Page> {
    let view = &CheckpointView::new(checkpoint);
    let mut page = Page::new(format!("slm inspect: {}", checkpoint.dir().display()), words::headline(view));
    page.facts = facts(checkpoint);
    page.plots.extend(html::training_curves(checkpoint.dir())?);
    let Some(metadata) = view.quantization else {
        page.tables.push(tensors(view));
        return Ok(page);
    };
    let sum = |bytes: fn(&LayerMetadata) -> u64| metadata.records().map(bytes).sum::<u64>();
    let (before, after) = (sum(|layer| layer.bytes_before), sum(|layer| layer.bytes_after));
    let bar = |label: &str, bytes: u64| (label.to_owned(), bytes as f64, table::bytes(bytes));
    page.charts.push(Chart::new(
        "Size of the quantized layers",
        "",
        vec![bar("as 32-bit floats", before), bar("quantized", after)],
    ));
    page.plots.push(plot(metadata.records().map(|layer| (&*layer.name, layer.error.sqnr_db))));
    page.plots.extend(html::input_ranges(checkpoint));
    page.tables.push(Table::new(
        "Layers",
        TABLE_NOTE,
        &["layer", "SQNR dB", "clipped", "largest error", "scale", "zero point", "shape", "scheme", "bytes"],
        metadata.records().map(row),
    ));
    let bar = context.progress.bar("drawing layers", metadata.records().count());
    page.layers = html::layers(checkpoint, &|_| {
        bar.inc(1);
        context.interrupt.check()?;
        Ok(None)
    })?;
    bar.finish_and_clear();
    page.tables.push(tensors(view));
    Ok(page)
}

fn row(layer: &LayerMetadata) -> Vec<Cell> {
    let [rows, cols] = layer.shape;
    let zero = layer.zero_points.as_ref();
    vec![
        Cell::text(&*layer.name),
        Cell::number(layer.error.sqnr_db, format!("{:.2}", layer.error.sqnr_db)),
        Cell::number(layer.error.clipped_share, table::percent(layer.error.clipped_share)),
        Cell::number(layer.error.max_abs_error, format!("{:.3e}", layer.error.max_abs_error)),
        Cell::number(
            f64::from(layer.scales.max),
            range(table::scale(layer.scales.min), table::scale(layer.scales.max)),
        ),
        Cell::number(
            zero.map_or(0.0, |zero| f64::from(zero.max)),
            zero.map_or("0".to_owned(), |zero| range(zero.min.to_string(), zero.max.to_string())),
        ),
        Cell::number((rows * cols) as f64, format!("{rows}x{cols}")),
        Cell::text(layer.scheme.to_string()),
        Cell::number(layer.bytes_after as f64, table::bytes(layer.bytes_after)),
    ]
}

fn tensors(view: &CheckpointView<'_>) -> Table {
    let rows = view.tensors.iter().map(|tensor| {
        vec![
            Cell::text(&*tensor.name),
            Cell::text(&*tensor.dtype),
            Cell::text(format!("{:?}", tensor.shape)),
            Cell::number(tensor.bytes as f64, table::bytes(tensor.bytes)),
        ]
    });
    Table::new("Tensors of the file", "", &["tensor", "type", "shape", "bytes"], rows)
}

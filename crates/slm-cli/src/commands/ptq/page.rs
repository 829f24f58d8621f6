//! HTML report of `slm ptq`.

use slm_checkpoint::Checkpoint;

use super::report::{LayerResult, PtqResult};
use crate::commands::inspect;
use crate::error::Result;
use crate::html::{self, Cell, Chart, FloatWeights, Page, Plot, Point, Table, facts, remark, warning};
use crate::out_file::relative;
use crate::table::{self, range};

impl PtqResult {
    /// Creates the page. `checkpoint` is the quantized one, and `float` reads the weights from which it was made.
    pub(in crate::commands) fn page(&self, checkpoint: &Checkpoint, float: FloatWeights<'_>) -> Result<Page> {
        let mut page = Page::new(format!("slm ptq: {}", relative(&self.output).display()), self.headline());
        page.facts = facts(&self.summary());
        page.facts.extend(self.remarks().iter().map(|text| remark(text)));
        page.facts.extend(self.warning.as_deref().map(warning));
        let bar = |label: &str, bytes: u64| (label.to_owned(), bytes as f64, table::bytes(bytes));
        let sizes = &self.sizes;
        page.charts.push(Chart::new(
            "Size",
            "",
            vec![
                bar("whole model, float", sizes.model_before),
                bar("whole model, quantized", sizes.model_after),
                bar("linear layers, 32-bit floats", sizes.linear_before),
                bar("linear layers, quantized", sizes.linear_after),
            ],
        ));
        if let (Some(float), Some(quantized)) = (self.perplexity_float, self.perplexity_quantized) {
            let text = self.evaluated_on.as_deref().unwrap_or_default();
            let text = format!("{} tokens of {text}", self.evaluated_tokens);
            page.charts.push(Chart::of_perplexities(&text, &[("float", float), ("quantized", quantized)]));
        }
        page.plots.push(plot(self.layers.iter().map(|layer| (&*layer.name, layer.sqnr_db))));
        page.plots.extend(html::input_ranges(checkpoint));
        page.tables.push(Table::new(
            "Layers",
            inspect::TABLE_NOTE,
            &[
                "layer",
                "SQNR dB",
                "clipped",
                "scale",
                "zero point",
                "input",
                "shape",
                "scheme",
                "bytes",
                "kernel",
            ],
            self.layers.iter().map(LayerResult::html_row),
        ));
        page.layers = html::layers(checkpoint, float)?;
        page.lineage = inspect::facts(checkpoint);
        Ok(page)
    }
}

impl LayerResult {
    fn html_row(&self) -> Vec<Cell> {
        let [rows, cols] = self.shape;
        let input = self.activation.map_or_else(
            || self.input.to_string(),
            |activation| format!("{} / {}", table::scale(activation.scale), activation.zero_point),
        );
        vec![
            Cell::text(&*self.name),
            Cell::number(self.sqnr_db, format!("{:.2}", self.sqnr_db)),
            Cell::number(self.clipped_share, table::percent(self.clipped_share)),
            Cell::number(
                f64::from(self.scale_max),
                range(table::scale(self.scale_min), table::scale(self.scale_max)),
            ),
            Cell::number(
                f64::from(self.zero_point_max),
                range(self.zero_point_min.to_string(), self.zero_point_max.to_string()),
            ),
            Cell::text(input),
            Cell::number((rows * cols) as f64, format!("{rows}x{cols}")),
            Cell::text(&*self.scheme),
            Cell::number(self.bytes_after as f64, table::bytes(self.bytes_after as u64)),
            Cell::text(&*self.kernel),
        ]
    }
}

/// Plots the SQNR of the weights over the depth.
pub(in crate::commands) fn plot<'a>(layers: impl Iterator<Item = (&'a str, f64)>) -> Plot {
    let points: Vec<Point> =
        layers.map(|(name, db)| Point { name: name.to_owned(), first: Some(db), second: None }).collect();
    Plot {
        title: "SQNR of the weights by depth".to_owned(),
        caption: "Signal to quantization noise of each layer's weights: 40 dB is an error of 1 %, 20 dB one of 10 %.".to_owned(),
        svg: html::depth(&points, "SQNR of the weights of each layer in forward order, in dB; the table below has the numbers"),
    }
}

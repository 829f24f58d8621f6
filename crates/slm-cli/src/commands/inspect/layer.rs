//! One layer of a checkpoint in detail.

use serde::Serialize;
use slm_checkpoint::{Checkpoint, LayerMetadata};
use slm_quant_core::{ActivationQuant, Histogram, HistogramView, QParams, QuantizedMatrix};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::nearest::similar;
use crate::output::Output;
use crate::table::{self, TableArgs};

/// Number of bars in a histogram of values.
const HISTOGRAM_BINS: usize = 16;

/// Width of the longest bar, in columns, on a terminal with room for it.
const BAR: usize = 40;

/// Number of columns before a bar.
const BEFORE_BAR: usize = 34;

#[derive(Serialize)]
struct LayerView<'a> {
    name: &'a str,
    shape: [usize; 2],
    /// Storage of the weights.
    form: String,
    /// Quantization of the input.
    activation: Option<String>,
    /// All scales and zero points, by row, then group.
    qparams: Vec<QParams>,
    metadata: Option<&'a LayerMetadata>,
    /// Count of each code, lowest first.
    codes: Vec<CodeCount>,
    values: ValueView,
}

#[derive(Serialize)]
struct CodeCount {
    code: i8,
    count: u64,
}

#[derive(Serialize)]
struct ValueView {
    min: f32,
    max: f32,
    /// `[from, to, count]` of equal bins.
    histogram: Vec<(f32, f32, u64)>,
}

pub(super) fn run(checkpoint: &Checkpoint, name: &str, tables: TableArgs, context: &Context) -> Result<()> {
    // Also accepts the names in the table of tensors and those of Hugging Face.
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let name = name.strip_prefix("model.").filter(|name| name.contains("layers.")).unwrap_or(name);
    let weight = format!("{name}.weight");
    let (view, quantized) = if let Some((matrix, activation)) = checkpoint.read_quantized(name)? {
        let view = LayerView {
            name,
            shape: [matrix.rows(), matrix.cols()],
            form: matrix.scheme().to_string(),
            activation: Some(describe(activation)),
            qparams: (0..matrix.scales().len()).map(|index| matrix.qparams(index)).collect(),
            metadata: checkpoint.metadata().and_then(|metadata| metadata.layer(name)),
            codes: count_codes(&matrix),
            values: values(&matrix.dequantize())?,
        };
        (view, true)
    } else if let Some(&[rows, cols]) = checkpoint.tensors().shape(&weight) {
        let view = LayerView {
            name,
            shape: [rows, cols],
            form: "f32".to_owned(),
            activation: None,
            qparams: Vec::new(),
            metadata: None,
            codes: Vec::new(),
            values: values(&checkpoint.tensors().read_f32(&weight)?)?,
        };
        (view, false)
    } else {
        return Err(unknown_layer(checkpoint, name));
    };
    say(&view, quantized, tables, context)?;
    context.output.result(&view)
}

fn unknown_layer(checkpoint: &Checkpoint, name: &str) -> Error {
    let layers = checkpoint.tensor_names().iter().filter_map(|tensor| tensor.split(".weight").next());
    let mut layers: Vec<_> = layers.filter(|layer| *layer != name).collect();
    layers.dedup();
    let hint = match nearest(&layers, name) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => {
            let shown = layers.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            format!("its layers are {shown}, ...; slm inspect DIR --tensors lists all of them")
        }
    };
    Error::file(checkpoint.dir(), format!("no layer is called {name:?}; {hint}"))
}

/// The layer that was probably meant by `name`: the first one that ends with it, such as layers.0.mlp.down_proj for
/// down_proj, or else the most similar one.
fn nearest<'a>(layers: &[&'a str], name: &str) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let end = format!(".{name}");
    let ends = layers.iter().copied().find(|layer| format!(".{layer}").ends_with(&end));
    ends.or_else(|| similar(&name, layers.iter().map(|&layer| (layer, layer))).first().copied())
}

fn describe(activation: ActivationQuant) -> String {
    match activation {
        ActivationQuant::Float => "float (weight-only)".to_owned(),
        ActivationQuant::Dynamic(granularity) => format!("dynamic, 8-bit, one scale per {granularity}"),
        ActivationQuant::Static(QParams { scale, zero_point }) => {
            format!("static, 8-bit, scale {}, zero point {zero_point}", table::scale(scale))
        }
    }
}

fn count_codes(matrix: &QuantizedMatrix) -> Vec<CodeCount> {
    let range = matrix.scheme().range();
    let mut counts = vec![0; (range.steps() + 1) as usize];
    for row in 0..matrix.rows() {
        for col in 0..matrix.cols() {
            counts[(i32::from(matrix.code(row, col)) - range.quant_min()) as usize] += 1;
        }
    }
    let lowest = range.quant_min() as i8;
    (lowest..=i8::MAX).zip(counts).map(|(code, count)| CodeCount { code, count }).collect()
}

fn values(values: &[f32]) -> Result<ValueView> {
    let mut histogram = Histogram::default();
    histogram.observe(values)?;
    let HistogramView { min, max, counts } = histogram.view(HISTOGRAM_BINS)?;
    let width = (max - min) / counts.len() as f32;
    let edge = |index: usize| min + width * index as f32;
    let bins = counts.into_iter().enumerate().map(|(i, count)| (edge(i), edge(i + 1), count));
    Ok(ValueView { min, max, histogram: bins.collect() })
}

fn say(view: &LayerView<'_>, quantized: bool, tables: TableArgs, context: &Context) -> Result<()> {
    let [rows, cols] = view.shape;
    context.output.headline(format!("{}: {rows} outputs x {cols} inputs, {}", view.name, view.form))?;
    if let Some(activation) = &view.activation {
        let observed = view.metadata.and_then(|metadata| metadata.observed_input);
        let observed = observed
            .map_or_else(String::new, |[min, max]| format!("; {min:.4} to {max:.4} in the calibration text"));
        context.output.say(format!("input: {activation}{observed}"))?;
    }
    if let Some(metadata) = view.metadata {
        context.output.say(format!(
            "SQNR {:.2} dB, largest error {:.3e}, {} clipped, {} -> {}",
            metadata.error.sqnr_db,
            metadata.error.max_abs_error,
            table::percent(metadata.error.clipped_share),
            table::bytes(metadata.bytes_before),
            table::bytes(metadata.bytes_after),
        ))?;
    }
    if quantized {
        say_qparams(view, tables, &context.output)?;
    }
    let most = view.values.histogram.iter().map(|bin| bin.2).fold(1, u64::max) as f64;
    let room = context.output.width().map_or(BAR, |width| width.saturating_sub(BEFORE_BAR));
    let longest = room.min(BAR);
    context.output.say(format!("\nvalues from {:.5} to {:.5}:", view.values.min, view.values.max))?;
    for (from, to, count) in &view.values.histogram {
        let bar = "#".repeat((*count as f64 / most * longest as f64).round() as usize);
        context.output.say(format!("{from:>10.4} .. {to:>8.4} {count:>9} {bar}"))?;
    }
    Ok(())
}

/// Prints scales and zero points, one row of the weight per line.
fn say_qparams(view: &LayerView<'_>, tables: TableArgs, output: &Output) -> Result<()> {
    let rows = if view.qparams.len() == 1 { 1 } else { view.shape[0] };
    let groups = view.qparams.len().div_ceil(rows);
    let shown = tables.shown(rows, output);
    let more = if shown < rows { " (--all shows every row)" } else { "" };
    output.say(format!("\nscale and zero point, by row, then group{more}:"))?;
    let lines = view.qparams.chunks(groups).take(shown).enumerate().map(|(row, params)| {
        let of = |p: &QParams| format!("{} / {}", table::scale(p.scale), p.zero_point);
        format!("{row:<6}  {}", params.iter().map(of).collect::<Vec<_>>().join("  "))
    });
    lines.into_iter().try_for_each(|line| if tables.wide() { output.lines(&line) } else { output.say(line) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_was_probably_meant_is_found() {
        let layers =
            ["embed_tokens", "layers.0.mlp.up_proj", "layers.0.mlp.down_proj", "layers.1.mlp.down_proj"];
        for (name, expected) in [
            ("down_proj", Some("layers.0.mlp.down_proj")),
            ("mlp.down_proj", Some("layers.0.mlp.down_proj")),
            ("1.mlp.down_proj", Some("layers.1.mlp.down_proj")),
            ("layers.1.mlp.down", Some("layers.1.mlp.down_proj")),
            ("Layers.0.MLP.up_proj", Some("layers.0.mlp.up_proj")),
            ("n_proj", None),
            ("wte", None),
        ] {
            assert_eq!(nearest(&layers, name), expected, "{name}");
        }
    }
}

//! Plots of the quantized layers of a checkpoint.

use slm_checkpoint::{Checkpoint, LayerMetadata};
use slm_quant_core::{ActivationQuant, Bits, QParams, QuantizedMatrix};

use super::svg::{self, Bars};
use super::{LayerFigures, Plot};
use crate::error::Result;
use crate::table;

/// Number of bars in a histogram.
const BINS: usize = 64;
/// Maximum number of cells in a map of scales, vertically and horizontally.
const CELLS: (usize, usize) = (16, 48);
/// Number of 8-bit codes between two grid lines; drawing all would fill the area.
const GRID_STEP: i32 = 16;

/// Reads the float weights of a layer from before quantization; `None` if they are not available.
pub(crate) type FloatWeights<'a> = &'a dyn Fn(&LayerMetadata) -> Result<Option<Vec<f32>>>;

/// Creates histogram, scales and input range of every quantized layer. With the float weights, histograms also show
/// clipping.
pub(crate) fn layers(checkpoint: &Checkpoint, float: FloatWeights<'_>) -> Result<Vec<LayerFigures>> {
    let Some(metadata) = checkpoint.metadata() else { return Ok(Vec::new()) };
    let mut figures = Vec::new();
    for layer in metadata.records() {
        if let Some((matrix, input)) = checkpoint.read_quantized(&layer.name)? {
            let input = describe_input(input, observed(layer));
            let figure = match float(layer)? {
                Some(weights) => of(layer, &matrix, input, &weights, true),
                None => of(layer, &matrix, input, &matrix.dequantize(), false),
            };
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// Plots the representable input range of every static layer, next to the range observed in calibration.
pub(crate) fn input_ranges(checkpoint: &Checkpoint) -> Option<Plot> {
    let metadata = checkpoint.metadata()?;
    let layers: Vec<svg::Range> = metadata
        .layers
        .iter()
        .filter_map(|layer| {
            let (kept, observed) = (input_range(layer.activation?), observed(layer));
            Some(svg::Range { name: layer.name.clone(), kept, observed })
        })
        .collect();
    if layers.is_empty() {
        return None;
    }
    let others = metadata.layers.len() - layers.len();
    let rest = match others {
        0 => String::new(),
        1 => " One layer is left out: its range is computed from each input.".to_owned(),
        _ => format!(" {others} layers are left out: their ranges are computed from each input."),
    };
    let seen = match layers.iter().any(|layer| layer.observed.is_some()) {
        true => " Thin lines: the extremes observed in the calibration text.",
        false => "",
    };
    Some(Plot {
        title: "Activation ranges by depth".to_owned(),
        caption: format!(
            "Bars: the range kept, which the 8-bit codes of each layer's input reach; inputs beyond it are clipped.{seen} Beyond \
             0.1 the axis is logarithmic.{rest}"
        ),
        svg: svg::ranges(
            &layers,
            "Range of the input of each layer in forward order, on a logarithmic axis; the layers below have the numbers",
        ),
    })
}

/// The smallest and largest input of a layer in calibration.
fn observed(layer: &LayerMetadata) -> Option<(f64, f64)> {
    layer.observed_input.map(|[min, max]| (f64::from(min), f64::from(max)))
}

/// The smallest and largest value that 8-bit activation codes represent.
fn input_range(QParams { scale, zero_point }: QParams) -> (f64, f64) {
    let value = |code: i32| f64::from(scale) * f64::from(code - zero_point);
    (value(0), value(255))
}

fn of(
    layer: &LayerMetadata,
    matrix: &QuantizedMatrix,
    input: String,
    weights: &[f32],
    is_float: bool,
) -> LayerFigures {
    let bars = bars(matrix, weights, is_float);
    let scales: Vec<f64> = matrix.scales().to_f32().into_iter().map(|scale| f64::from(scale.abs())).collect();
    let largest = (0..scales.len()).max_by(|&a, &b| scales[a].total_cmp(&scales[b])).unwrap_or(0);
    let grid = grid(matrix, largest);
    let used = used_codes(matrix);
    let range = matrix.scheme().range();
    let (min, max) = (bars.min, bars.max);
    let label = format!("Histogram of the weights of {}, from {min:.4} to {max:.4}", layer.name);
    let (scale_map, scale_note) = scale_map(layer, matrix, &scales, largest);
    let before = if is_float { "before they were quantized" } else { "as their codes give them" };
    let [rows, cols] = layer.shape;
    LayerFigures {
        name: layer.name.clone(),
        summary: format!(
            "{rows}x{cols}, {}, SQNR {:.2} dB, {} -> {}",
            layer.scheme,
            layer.error.sqnr_db,
            table::bytes(layer.bytes_before),
            table::bytes(layer.bytes_after)
        ),
        values: format!(
            "Weights {before}, from {min:.5} to {max:.5}; heights are roots of counts. {used} of {} codes are used; {} of the \
             float weights were clipped.",
            range.steps() + 1,
            table::percent(layer.error.clipped_share)
        ),
        histogram: svg::histogram(&bars, &grid, &label),
        scales: scale_map,
        scale_note,
        input,
    }
}

/// Describes the quantization of a layer's input.
fn describe_input(input: ActivationQuant, observed: Option<(f64, f64)>) -> String {
    match input {
        ActivationQuant::Float => "Input: float.".to_owned(),
        ActivationQuant::Dynamic(granularity) => {
            format!("Input: 8-bit, the range computed from each {granularity}.")
        }
        ActivationQuant::Static(qparams) => {
            let (low, high) = input_range(qparams);
            let (scale, zero_point) = (table::scale(qparams.scale), qparams.zero_point);
            let observed = observed.map_or_else(String::new, |(least, greatest)| {
                format!(" Observed in calibration: from {least:.4} to {greatest:.4}.")
            });
            format!(
                "Input: 8-bit, kept from {low:.4} to {high:.4}, scale {scale}, zero point {zero_point}.{observed}"
            )
        }
    }
}

/// Creates the map of the scales and its description; for a single scale, only the description.
fn scale_map(
    layer: &LayerMetadata,
    matrix: &QuantizedMatrix,
    scales: &[f64],
    largest: usize,
) -> (String, String) {
    if let [scale] = scales {
        return (String::new(), format!("One scale: {}", table::scale(*scale as f32)));
    }
    let rows = matrix.rows();
    let groups = scales.len().div_ceil(rows.max(1));
    let (values, down, across) = reduced(scales, rows, groups);
    let low = scales.iter().copied().fold(f64::INFINITY, f64::min);
    let per_row = if groups == 1 { String::new() } else { format!(" by {groups} groups") };
    let note = format!(
        "{} scales: {rows} rows{per_row}, from {} (faint) to {} (strong)",
        scales.len(),
        table::scale(low as f32),
        table::scale(scales[largest] as f32)
    );
    (svg::heat_map(&values, down, across, &format!("Scales of {}", layer.name)), note)
}

/// Creates the histogram of `weights`. With `is_float`, it also counts the values that the scales of `matrix` clip.
fn bars(matrix: &QuantizedMatrix, weights: &[f32], is_float: bool) -> Bars {
    let (min, max) = weights
        .iter()
        .filter(|weight| weight.is_finite())
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &weight| (min.min(weight), max.max(weight)));
    let (min, max) = if min <= max { (f64::from(min), f64::from(max)) } else { (0.0, 0.0) };
    let bins_per_unit = if max > min { BINS as f64 / (max - min) } else { 0.0 };
    let bin = |weight: f32| (((f64::from(weight) - min) * bins_per_unit) as usize).min(BINS - 1);
    let mut counts = vec![0; BINS];
    weights.iter().for_each(|&weight| counts[bin(weight)] += 1);
    let mut clipped = Vec::new();
    if is_float {
        clipped = vec![0; BINS];
        let (range, cols, width) =
            (matrix.scheme().range(), matrix.cols().max(1), matrix.group_width().max(1));
        for (row, weights) in weights.chunks(cols).enumerate().take(matrix.rows()) {
            for (group, weights) in weights.chunks(width).enumerate() {
                let QParams { scale, zero_point } = matrix.qparams(matrix.scale_index(row, group));
                // More than half a step beyond the outermost codes.
                let first = scale * ((range.quant_min() - zero_point) as f32 - 0.5);
                let last = scale * ((range.quant_max() - zero_point) as f32 + 0.5);
                let (low, high) = (first.min(last), first.max(last));
                for &weight in weights.iter().filter(|weight| !(low..=high).contains(*weight)) {
                    clipped[bin(weight)] += 1;
                }
            }
        }
    }
    Bars { min, max, counts, clipped }
}

/// Values of the grid lines for the scale `index`: those of all 4-bit codes, or of every [`GRID_STEP`]th 8-bit code.
fn grid(matrix: &QuantizedMatrix, index: usize) -> Vec<f64> {
    let range = matrix.scheme().range();
    let qparams = matrix.qparams(index);
    let step = if matrix.scheme().bits == Bits::Int4 { 1 } else { GRID_STEP };
    let codes = (0..=range.steps()).step_by(step as usize).map(|code| range.quant_min() + code);
    codes.map(|code| f64::from(qparams.scale) * f64::from(code - qparams.zero_point)).collect()
}

/// Number of distinct codes in use.
fn used_codes(matrix: &QuantizedMatrix) -> usize {
    let mut seen = [false; 256];
    for row in 0..matrix.rows() {
        for col in 0..matrix.cols() {
            seen[usize::from(matrix.code(row, col) as u8)] = true;
        }
    }
    seen.iter().filter(|seen| **seen).count()
}

/// Reduces a map to a size that can be drawn, with the largest value in each cell. A column of values becomes a row.
fn reduced(values: &[f64], rows: usize, cols: usize) -> (Vec<f64>, usize, usize) {
    let (rows, cols) = if cols == 1 { (1, rows) } else { (rows, cols) };
    let (down, across) = (rows.min(CELLS.0), cols.min(CELLS.1));
    let mut cells = vec![0.0_f64; down * across];
    for row in 0..rows {
        for col in 0..cols {
            let cell = &mut cells[(row * down / rows) * across + col * across / cols];
            *cell = cell.max(values[row * cols + col]);
        }
    }
    (cells, down, across)
}

#[cfg(test)]
mod tests {
    use slm_quant_core::{Granularity, QuantScheme, Scales, quantize_matrix_with};

    use super::*;

    #[test]
    fn what_is_clipped_is_counted_where_it_lies() {
        let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerChannel);
        // Steps of 1 in the first row, whose range is -8 to 7, and of 2 in the second.
        let weights = [-9.0, 0.0, 7.4, 7.6, -9.0, 0.0, 7.4, 14.0];
        let matrix = quantize_matrix_with(&weights, 2, 4, scheme, Scales::F32(vec![1.0, 2.0]), None).unwrap();
        let float = bars(&matrix, &weights, true);
        assert_eq!((float.min, float.max, float.counts.iter().sum::<u64>()), (-9.0, 14.0, 8));
        assert_eq!(float.clipped.iter().sum::<u64>(), 2);
        assert_eq!((float.counts[0], float.clipped[0]), (2, 1));
        let codes = bars(&matrix, &matrix.dequantize(), false);
        assert_eq!((codes.min, codes.max, codes.clipped.len()), (-8.0, 14.0, 0));
    }

    #[test]
    fn maps_are_small_and_keep_the_largest() {
        let values: Vec<f64> = (0..300 * 100).map(f64::from).collect();
        let (cells, down, across) = reduced(&values, 300, 100);
        assert_eq!((down, across), CELLS);
        assert_eq!(cells.iter().copied().fold(0.0, f64::max), 29_999.0);
        assert_eq!(cells[0], 18.0 * 100.0 + 2.0);
        let (cells, down, across) = reduced(&values[..7], 7, 1);
        assert_eq!((cells.len(), down, across), (7, 1, 7));
    }
}

//! Pictures of the quantized layers of a checkpoint.

use slm_checkpoint::{Checkpoint, LayerMetadata};
use slm_quant_core::{Bits, Histogram, QuantizedMatrix};

use super::{LayerFigures, svg};
use crate::error::Result;
use crate::table;

/// Bars of a histogram.
const BINS: usize = 64;
/// Most cells of a map of scales, down and across.
const CELLS: (usize, usize) = (12, 48);
/// Codes between two lines of the grid with 8 bits, where all would be a surface.
const GRID_STEP: i32 = 16;

/// Histogram and scales of every quantized layer.
pub(crate) fn layers(checkpoint: &Checkpoint) -> Result<Vec<LayerFigures>> {
    let Some(metadata) = checkpoint.metadata() else { return Ok(Vec::new()) };
    let mut figures = Vec::new();
    for layer in metadata.records() {
        if let Some((matrix, _)) = checkpoint.read_quantized(&layer.name)? {
            figures.push(of(layer, &matrix)?);
        }
    }
    Ok(figures)
}

fn of(layer: &LayerMetadata, matrix: &QuantizedMatrix) -> Result<LayerFigures> {
    let mut histogram = Histogram::default();
    histogram.observe(&matrix.dequantize())?;
    let view = histogram.view(BINS)?;
    let scales: Vec<f64> = matrix.scales().to_f32().into_iter().map(f64::from).collect();
    let largest = (0..scales.len()).max_by(|&a, &b| scales[a].total_cmp(&scales[b])).unwrap_or(0);
    let grid = grid(matrix, largest);
    let used = used_codes(matrix);
    let range = matrix.scheme().range();
    let (min, max) = (f64::from(view.min), f64::from(view.max));
    let label = format!("Histogram of the weights of {}, from {min:.4} to {max:.4}", layer.name);
    let rows = if scales.len() == 1 { 1 } else { matrix.rows() };
    let groups = scales.len().div_ceil(rows.max(1));
    let (scale_map, scale_note) = match scales.len() {
        1 => (String::new(), format!("One scale: {}", table::scale(scales[0] as f32))),
        count => {
            let (values, down, across) = reduced(&scales, rows, groups);
            let label = format!("Scales of {}", layer.name);
            let low = scales.iter().copied().fold(f64::INFINITY, f64::min);
            let note = format!(
                "{count} scales, {rows} rows by {groups}, from {} (light) to {} (dark)",
                table::scale(low as f32),
                table::scale(scales[largest] as f32)
            );
            (svg::heat_map(&values, down, across, &label), note)
        }
    };
    Ok(LayerFigures {
        name: layer.name.clone(),
        summary: format!(
            "{}x{}, {}, SQNR {:.2} dB, {} -> {}",
            layer.shape[0],
            layer.shape[1],
            layer.scheme,
            layer.error.sqnr_db,
            table::bytes(layer.bytes_before),
            table::bytes(layer.bytes_after)
        ),
        histogram: svg::histogram(&view.counts, min, max, &grid, &label),
        values: format!(
            "Weights from {min:.5} to {max:.5} (heights are roots of counts). {used} of {} codes are used, and {} of the float \
             weights were clipped.",
            range.steps() + 1,
            table::percent(layer.error.clipped_share)
        ),
        scales: scale_map,
        scale_note,
    })
}

/// Values of the codes under the scale of this index.
fn grid(matrix: &QuantizedMatrix, index: usize) -> Vec<f64> {
    let range = matrix.scheme().range();
    let qparams = matrix.qparams(index);
    let step = if matrix.scheme().bits == Bits::Int4 { 1 } else { GRID_STEP };
    let codes = (0..=range.steps() as i32).step_by(step as usize).map(|code| range.quant_min() + code);
    codes.map(|code| f64::from(qparams.scale) * f64::from(code - qparams.zero_point)).collect()
}

/// How many different codes there are.
fn used_codes(matrix: &QuantizedMatrix) -> usize {
    let mut seen = [false; 256];
    for row in 0..matrix.rows() {
        for col in 0..matrix.cols() {
            seen[usize::from(matrix.code(row, col) as u8)] = true;
        }
    }
    seen.iter().filter(|seen| **seen).count()
}

/// The largest value of each cell of a map that is small enough to be drawn; a column of values becomes a line.
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
    use super::*;

    #[test]
    fn maps_are_small_and_keep_the_largest() {
        let values: Vec<f64> = (0..300 * 100).map(f64::from).collect();
        let (cells, down, across) = reduced(&values, 300, 100);
        assert_eq!((down, across), CELLS);
        assert_eq!(cells.iter().copied().fold(0.0, f64::max), 29_999.0);
        assert_eq!(cells[0], 24.0 * 100.0 + 2.0);
        let (cells, down, across) = reduced(&values[..7], 7, 1);
        assert_eq!((cells.len(), down, across), (7, 1, 7));
    }
}

//! Maps of scales.

use std::fmt::Write as _;

use super::{WIDTH, svg};

/// Number of shades in a map.
const SHADES: usize = 6;
/// Maximum width of a cell.
const CELL: f64 = 14.0;
/// Height of a cell.
const ROW: usize = 8;
/// Height of a map with a single row, which would be too thin otherwise.
const ONLY_ROW: usize = 24;

/// Draws a map of `rows` times `cols` values, with the largest value in the strongest shade.
pub(in crate::html) fn heat_map(values: &[f64], rows: usize, cols: usize, label: &str) -> String {
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), &value| (low.min(value), high.max(value)));
    let shade = |value: f64| match high > low {
        true => (((value - low) / (high - low) * (SHADES - 1) as f64).round()) as usize,
        false => 0,
    };
    let cell = (WIDTH / cols.max(1) as f64).min(CELL);
    let height = if rows == 1 { ONLY_ROW } else { ROW };
    let mut paths = vec![String::new(); SHADES];
    for row in 0..rows {
        let mut col = 0;
        while col < cols {
            let here = shade(values[row * cols + col]);
            let run = (col..cols).take_while(|&next| shade(values[row * cols + next]) == here).count();
            let _ = write!(
                paths[here],
                "M{:.0} {}h{:.0}v{height}h-{2:.0}z",
                col as f64 * cell,
                row * height,
                run as f64 * cell
            );
            col += run;
        }
    }
    let mut content = "<g class=\"cells\">".to_owned();
    for (index, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let opacity = 0.08 + 0.92 * index as f64 / (SHADES - 1) as f64;
        let _ = write!(content, "<path opacity=\"{opacity:.2}\" d=\"{path}\"/>");
    }
    content += "</g>";
    svg((rows * height) as f64, label, &content)
}

//! Histograms of weights.

use std::fmt::Write as _;

use super::{WIDTH, short, svg};

/// Counts of equal bins between two values.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::html) struct Bars {
    pub(in crate::html) min: f64,
    pub(in crate::html) max: f64,
    pub(in crate::html) counts: Vec<u64>,
    /// Number of clipped values in each bin; empty if unknown.
    pub(in crate::html) clipped: Vec<u64>,
}

/// Draws a histogram with lines at `grid`. Clipped values are highlighted.
pub(in crate::html) fn histogram(bars: &Bars, grid: &[f64], label: &str) -> String {
    const HEIGHT: f64 = 156.0;
    const BOTTOM: f64 = 130.0;
    let Bars { min, max, counts, clipped } = bars;
    let (min, max) = (*min, *max);
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let width = WIDTH / counts.len().max(1) as f64;
    let path = |counts: &[u64]| {
        let mut path = String::new();
        for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // Square roots, so that the tails are visible.
            let height = ((*count as f64 / most).sqrt() * (BOTTOM - 5.0)).max(1.0);
            let _ =
                write!(path, "M{:.1} {BOTTOM}v-{height:.0}h{width:.1}v{height:.0}z", index as f64 * width);
        }
        path
    };
    let mut lines = String::new();
    for value in grid.iter().filter(|value| (min..=max).contains(*value) && max > min) {
        let _ = write!(lines, "M{:.1} 0V{BOTTOM}", (value - min) / (max - min) * WIDTH);
    }
    let clipped = match path(clipped) {
        path if path.is_empty() => path,
        path => format!("<path class=\"clipped\" d=\"{path}\"/>"),
    };
    let content = format!(
        "<path class=\"bar\" d=\"{}\"/>{clipped}<path class=\"grid\" d=\"{lines}\"/>\
         <text x=\"0\" y=\"150\">{}</text><text x=\"{WIDTH}\" y=\"150\" text-anchor=\"end\">{}</text>",
        path(counts),
        short(min),
        short(max)
    );
    svg(HEIGHT, label, &content)
}

//! Pictures as inline SVG, in colours that the page's style gives.

use std::fmt::Write as _;

/// Width of the pictures.
const WIDTH: f64 = 720.0;

/// A layer in a plot over the depth.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) name: String,
    /// In dB, drawn as a disc.
    pub(crate) first: Option<f64>,
    /// In dB, drawn as a ring.
    pub(crate) second: Option<f64>,
}

/// A picture with a label for those who do not see it.
fn svg(height: f64, label: &str, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{}\">{content}</svg>",
        escaped(label)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Decibels of each layer in forward order.
pub(crate) fn depth(points: &[Point], label: &str) -> String {
    const HEIGHT: f64 = 260.0;
    const LEFT: f64 = 50.0;
    const BOTTOM: f64 = 230.0;
    let values =
        || points.iter().flat_map(|point| [point.first, point.second]).flatten().filter(|db| db.is_finite());
    let highest = (values().fold(10.0, f64::max) / 10.0).ceil() * 10.0;
    let lowest = (values().fold(0.0, f64::min) / 10.0).floor() * 10.0;
    let y = |db: f64| BOTTOM - (db.clamp(lowest, highest) - lowest) / (highest - lowest) * (BOTTOM - 15.0);
    let x =
        |index: usize| LEFT + 10.0 + index as f64 * (WIDTH - LEFT - 25.0) / (points.len().max(2) - 1) as f64;
    let mut content = String::new();
    let mut line = lowest;
    while line <= highest {
        let _ = write!(
            content,
            "<path class=\"axis\" d=\"M{LEFT} {0:.1}H{WIDTH}\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{line} dB</text>",
            y(line),
            LEFT - 5.0,
            y(line) + 4.0
        );
        line += 10.0;
    }
    for (index, point) in points.iter().enumerate() {
        let name = escaped(&point.name);
        for (value, class, radius) in [(point.first, "one", 3), (point.second, "two", 4)] {
            let Some(db) = value.filter(|db| !db.is_nan()) else { continue };
            let _ = write!(
                content,
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"><title>{name}: {db:.2} dB</title></circle>",
                x(index),
                y(db)
            );
        }
    }
    let _ = write!(content, "<text x=\"{LEFT}\" y=\"{}\">first layer</text>", HEIGHT - 8.0);
    let _ =
        write!(content, "<text x=\"{WIDTH}\" y=\"{}\" text-anchor=\"end\">last layer</text>", HEIGHT - 8.0);
    svg(HEIGHT, label, &content)
}

/// A histogram of counts between `min` and `max`, with lines at `grid`.
pub(super) fn histogram(counts: &[u64], min: f64, max: f64, grid: &[f64], label: &str) -> String {
    const HEIGHT: f64 = 150.0;
    const BOTTOM: f64 = 130.0;
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let width = WIDTH / counts.len().max(1) as f64;
    let mut bars = String::new();
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        // Roots, so that the tails are seen.
        let height = ((*count as f64 / most).sqrt() * (BOTTOM - 5.0)).max(1.0);
        let _ = write!(bars, "M{:.1} {BOTTOM}v-{height:.0}h{width:.1}v{height:.0}z", index as f64 * width);
    }
    let mut lines = String::new();
    for value in grid.iter().filter(|value| (min..=max).contains(*value) && max > min) {
        let _ = write!(lines, "M{:.1} 0V{BOTTOM}", (value - min) / (max - min) * WIDTH);
    }
    let content = format!(
        "<path class=\"bar\" d=\"{bars}\"/><path class=\"grid\" d=\"{lines}\"/>\
         <text x=\"0\" y=\"146\">{min:.4}</text><text x=\"{WIDTH}\" y=\"146\" text-anchor=\"end\">{max:.4}</text>"
    );
    svg(HEIGHT, label, &content)
}

/// Shades of a map.
const SHADES: usize = 6;

/// A map of `rows` times `cols` values, the largest darkest.
pub(super) fn heat_map(values: &[f64], rows: usize, cols: usize, label: &str) -> String {
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), &value| (low.min(value), high.max(value)));
    let shade = |value: f64| match high > low {
        true => (((value - low) / (high - low) * (SHADES - 1) as f64).round()) as usize,
        false => 0,
    };
    let cell = (WIDTH / cols.max(1) as f64).min(14.0);
    let height = rows as f64 * 8.0;
    let mut paths = vec![String::new(); SHADES];
    for row in 0..rows {
        let mut col = 0;
        while col < cols {
            let here = shade(values[row * cols + col]);
            let run = (col..cols).take_while(|&next| shade(values[row * cols + next]) == here).count();
            let _ = write!(
                paths[here],
                "M{:.0} {}h{:.0}v8h-{2:.0}z",
                col as f64 * cell,
                row * 8,
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
    svg(height, label, &content)
}

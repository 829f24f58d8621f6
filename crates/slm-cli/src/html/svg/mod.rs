//! Plots as inline SVG, in the colours of the page's style.

mod axes;
mod blocks;
mod depth;
mod heat_map;
mod histogram;
mod lines;
mod ranges;
mod scatter;

pub(crate) use depth::{Point, depth};
pub(super) use heat_map::heat_map;
pub(super) use histogram::{Bars, histogram};
pub(crate) use lines::{Series, lines};
pub(crate) use ranges::{Range, ranges};
pub(crate) use scatter::{Mark, scatter};

/// Width of the plots.
const WIDTH: f64 = 720.0;

/// Wraps a plot in an `svg` element with a label for screen readers.
fn svg(height: f64, label: &str, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{}\">{content}</svg>",
        escaped(label)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Formats a number with as many digits as fit into a label.
fn short(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".to_owned(),
        1e-3..1e5 => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        for (value, text) in
            [(0.0, "0"), (1.5, "1.5"), (-20.0, "-20"), (0.002, "0.002"), (1e-7, "1e-7"), (3e8, "3e8")]
        {
            assert_eq!(short(value), text);
        }
    }
}

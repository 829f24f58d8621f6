//! Plots of input ranges over the depth of a model.

use std::fmt::Write as _;

use super::axes::{Axis, Frame};
use super::blocks::{draw_blocks, index_axis};
use super::{escaped, short, svg};

/// The ranges of a layer's input, each from the smallest to the largest value.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) name: String,
    /// Range of the codes.
    pub(crate) kept: (f64, f64),
    /// Range in the calibration text, if known.
    pub(crate) observed: Option<(f64, f64)>,
}

impl Range {
    fn ends(&self) -> impl Iterator<Item = f64> + use<> {
        let of = |(low, high): (f64, f64)| [low, high];
        of(self.kept).into_iter().chain(self.observed.into_iter().flat_map(of))
    }
}

/// Values closer to zero than this are drawn linearly, others logarithmically.
const LINEAR: f64 = 0.1;

/// Transforms a value for an axis that shows ranges of very different sizes.
fn bent(value: f64) -> f64 {
    value.signum() * (value.abs() / LINEAR).ln_1p() / std::f64::consts::LN_10
}

/// Draws ranges of layers in forward order.
pub(crate) fn ranges(ranges: &[Range], label: &str) -> String {
    let ends = ranges.iter().flat_map(Range::ends).filter(|value| value.is_finite());
    let largest = ends.map(f64::abs).fold(1.0, f64::max);
    let tens: Vec<f64> = (0..=12).map(|power| 10.0_f64.powi(power)).collect();
    let top = tens.iter().copied().find(|ten| *ten >= largest).unwrap_or(largest);
    let positive: Vec<f64> = tens.into_iter().filter(|ten| *ten <= top).collect();
    let values: Vec<f64> =
        positive.iter().rev().map(|ten| -ten).chain([0.0]).chain(positive.iter().copied()).collect();
    let frame = Frame {
        x: index_axis(ranges.len()),
        y: Axis { low: bent(-top), high: bent(top), ticks: values.iter().copied().map(bent).collect() },
        height: 300.0,
    };
    let name = |place: f64| {
        let nearest =
            values.iter().min_by(|a, b| (bent(**a) - place).abs().total_cmp(&(bent(**b) - place).abs()));
        nearest.map_or_else(String::new, |value| short(*value))
    };
    let mut content = frame.draw_y(name);
    for (index, range) in ranges.iter().enumerate() {
        let x = frame.place_x(index as f64);
        let line = |(low, high): (f64, f64)| {
            format!("M{x:.1} {:.1}V{:.1}", frame.place_y(bent(high)), frame.place_y(bent(low)))
        };
        let mut title = format!("{}: kept {:.4} to {:.4}", escaped(&range.name), range.kept.0, range.kept.1);
        let mut lines = String::new();
        if let Some(observed) = range.observed {
            let _ = write!(title, ", observed {:.4} to {:.4}", observed.0, observed.1);
            let _ = write!(lines, "<path class=\"observed\" d=\"{}\"/>", line(observed));
        }
        let _ = write!(lines, "<path class=\"range\" d=\"{}\"/>", line(range.kept));
        let _ = write!(content, "<g><title>{title}</title>{lines}</g>");
    }
    content += &draw_blocks(&frame, &ranges.iter().map(|range| &*range.name).collect::<Vec<_>>());
    svg(frame.height, label, &content)
}

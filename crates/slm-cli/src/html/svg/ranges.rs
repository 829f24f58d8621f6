//! Ranges of inputs over the depth of a model.

use std::fmt::Write as _;

use super::axes::{Axis, Frame};
use super::depth::index_axis;
use super::{escaped, short, svg};

/// The values that the codes of a layer's input reach.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) name: String,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Values nearer to zero than this are drawn to scale, others by their logarithm.
const LINEAR: f64 = 0.1;

/// The place of a value on an axis on which ranges of very different sizes are seen.
fn bent(value: f64) -> f64 {
    value.signum() * (value.abs() / LINEAR).ln_1p() / std::f64::consts::LN_10
}

/// Ranges of layers in forward order.
pub(crate) fn ranges(ranges: &[Range], label: &str) -> String {
    let ends = ranges.iter().flat_map(|range| [range.low, range.high]).filter(|value| value.is_finite());
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
        let (top, bottom) = (frame.place_y(bent(range.high)), frame.place_y(bent(range.low)));
        let _ = write!(
            content,
            "<path class=\"range\" d=\"M{:.1} {top:.1}V{bottom:.1}\"><title>{}: {:.4} to {:.4}</title></path>",
            frame.place_x(index as f64),
            escaped(&range.name),
            range.low,
            range.high
        );
    }
    content += &frame.ends("first layer", "last layer");
    svg(frame.height, label, &content)
}

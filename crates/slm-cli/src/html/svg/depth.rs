//! Plots of decibels over the depth of a model.

use std::fmt::Write as _;

use super::axes::{Axis, Frame};
use super::{escaped, svg};

/// A layer in a plot over the depth.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) name: String,
    /// First value in dB, drawn as a disc.
    pub(crate) first: Option<f64>,
    /// Second value in dB, drawn as a ring.
    pub(crate) second: Option<f64>,
}

/// Plots decibels of each layer in forward order.
pub(crate) fn depth(points: &[Point], label: &str) -> String {
    let values = points.iter().flat_map(|point| [point.first, point.second]).flatten();
    let frame = Frame {
        x: index_axis(points.len()),
        y: Axis::of(values.filter(|db| db.is_finite()).chain([0.0, 10.0]), 4),
        height: 280.0,
    };
    let mut content = frame.draw_y(|db| format!("{db} dB"));
    for (index, point) in points.iter().enumerate() {
        let name = escaped(&point.name);
        for (value, class, radius) in [(point.first, "one", 3), (point.second, "two", 4)] {
            let Some(db) = value.filter(|db| !db.is_nan()) else { continue };
            let _ = write!(
                content,
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"><title>{name}: {db:.2} dB</title></circle>",
                frame.place_x(index as f64),
                frame.place_y(db)
            );
        }
    }
    content += &frame.ends("first layer", "last layer");
    svg(frame.height, label, &content)
}

/// Creates the axis of `count` layers in forward order.
pub(super) fn index_axis(count: usize) -> Axis {
    Axis { low: -0.5, high: count.max(1) as f64 - 0.5, ticks: Vec::new() }
}

//! Plots of decibels over the depth of a model.

use std::fmt::Write as _;

use super::axes::{Axis, Frame};
use super::blocks::{draw_blocks, index_axis};
use super::{WIDTH, escaped, svg};

/// Distance from a point to the baseline of its name.
const BELOW_POINT: f64 = 26.0;

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
    content += &name_of_lowest(points, &frame);
    content += &draw_blocks(&frame, &points.iter().map(|point| &*point.name).collect::<Vec<_>>());
    svg(frame.height, label, &content)
}

/// Writes the name of the layer with the lowest value below it.
fn name_of_lowest(points: &[Point], frame: &Frame) -> String {
    let lowest = |point: &Point| {
        point.first.into_iter().chain(point.second).filter(|db| db.is_finite()).reduce(f64::min)
    };
    let named =
        points.iter().enumerate().filter_map(|(index, point)| Some((index, lowest(point)?, &point.name)));
    let Some((index, db, name)) = named.min_by(|a, b| a.1.total_cmp(&b.1)) else { return String::new() };
    let x = frame.place_x(index as f64);
    let anchor = if x > WIDTH / 2.0 { "end" } else { "start" };
    let y = frame.place_y(db) + BELOW_POINT;
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(name))
}

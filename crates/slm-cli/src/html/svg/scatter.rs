//! Plots of size against quality.

use std::fmt::Write as _;

use super::axes::{Axis, Frame};
use super::{WIDTH, escaped, short, svg};
use crate::table;

/// A checkpoint in a plot of size against quality.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) value: f64,
}

/// Draws quality over size in megabytes, with names.
pub(crate) fn scatter(marks: &[Mark], label: &str) -> String {
    let megabytes = |mark: &Mark| mark.bytes as f64 / 1e6;
    let frame = Frame {
        x: Axis::of(marks.iter().map(megabytes).chain([0.0]), 6),
        y: Axis::of(marks.iter().map(|mark| mark.value), 5),
        height: 340.0,
    };
    let mut content = frame.draw("MB of weights", short, short);
    for mark in marks.iter().filter(|mark| mark.value.is_finite()) {
        let (x, y) = (frame.place_x(megabytes(mark)), frame.place_y(mark.value));
        // Names in the right half are placed to the left of their mark.
        let (anchor, shift) = if x > WIDTH / 2.0 { ("end", -9.0) } else { ("start", 9.0) };
        let name = escaped(&mark.name);
        let _ = write!(
            content,
            "<circle class=\"one\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{name}: {}, {}</title></circle>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
            table::bytes(mark.bytes),
            short(mark.value),
            x + shift,
            y + 4.0
        );
    }
    svg(frame.height, label, &content)
}

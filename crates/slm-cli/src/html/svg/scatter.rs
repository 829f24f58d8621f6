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

/// Size of a letter and of a line of text on a narrow screen, where they are largest.
const LETTER: f64 = 12.0;
const LINE: f64 = 22.0;

/// The place of a name.
struct Label {
    left: f64,
    right: f64,
    y: f64,
}

impl Label {
    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && (self.y - other.y).abs() < LINE
    }
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
    let mut taken: Vec<Label> = Vec::new();
    for mark in marks.iter().filter(|mark| mark.value.is_finite()) {
        let (x, y) = (frame.place_x(megabytes(mark)), frame.place_y(mark.value));
        // Names in the right half are placed to the left of their mark.
        let (anchor, shift) = if x > WIDTH / 2.0 { ("end", -9.0) } else { ("start", 9.0) };
        let width = textwrap::core::display_width(&mark.name) as f64 * LETTER;
        let left = if anchor == "end" { x + shift - width } else { x + shift };
        let mut label = Label { left, right: left + width, y };
        while taken.iter().any(|other| label.overlaps(other)) {
            label.y += LINE;
        }
        let name = escaped(&mark.name);
        let _ = write!(
            content,
            "<circle class=\"one\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{name}: {}, {}</title></circle>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>",
            table::bytes(mark.bytes),
            short(mark.value),
            x + shift,
            label.y + 4.0
        );
        taken.push(label);
    }
    svg(frame.height, label, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_overlap() {
        let mark = |name: &str, bytes, value| Mark { name: name.to_owned(), bytes, value };
        let marks =
            [mark("int4-a", 1_000_000, 2.0), mark("int4-b", 1_000_000, 2.001), mark("float", 4_000_000, 1.9)];
        let picture = scatter(&marks, "");
        let heights: Vec<f64> = ["int4-a", "int4-b"]
            .iter()
            .filter_map(|name| {
                let end = picture.find(&format!(">{name}</text>"))?;
                let start = picture[..end].rfind(" y=\"")? + 4;
                picture[start..].split('"').next()?.parse().ok()
            })
            .collect();
        assert!((heights[0] - heights[1]).abs() >= 20.0, "{heights:?}");
    }
}

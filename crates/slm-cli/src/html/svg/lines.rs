//! Curves.

use std::fmt::Write as _;

use super::axes::{Axis, Frame};
use super::{escaped, short, svg};

/// Maximum number of points in a curve; more would not be visible.
const POINTS: usize = 400;

/// A curve: points from left to right.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Marks each point.
    pub(crate) marked: bool,
}

/// Draws up to two curves over the same axes, in different colours. The horizontal axis has whole numbers.
pub(crate) fn lines(series: &[Series], x_name: &str, label: &str) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let frame = Frame {
        x: Axis::of_whole(points().map(|point| point.0), 6),
        y: Axis::of(points().map(|point| point.1), 5),
        height: 300.0,
    };
    let mut content = frame.draw(x_name, short, short);
    for (series, class) in series.iter().zip(["curve-one", "curve-two"]) {
        let every = series.points.len().div_ceil(POINTS).max(1);
        let last = series.points.len().saturating_sub(1);
        let shown = series
            .points
            .iter()
            .enumerate()
            .filter(|(index, point)| (index % every == 0 || *index == last) && point.1.is_finite());
        let mut path = String::new();
        for (_, (x, y)) in shown.clone() {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", frame.place_x(*x), frame.place_y(*y));
        }
        let _ = write!(content, "<path class=\"{class}\" d=\"{path}\"/>");
        for (_, (x, y)) in shown.filter(|_| series.marked) {
            let _ = write!(
                content,
                "<circle class=\"two\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}: {} at {}</title></circle>",
                frame.place_x(*x),
                frame.place_y(*y),
                escaped(&series.name),
                short(*y),
                short(*x)
            );
        }
    }
    svg(frame.height, label, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_thinned_and_keep_their_end() {
        let points: Vec<(f64, f64)> = (0..5000).map(|step| (f64::from(step), 5.0)).collect();
        let series = [
            Series { name: "loss".into(), points, marked: false },
            Series { name: "<b>".into(), points: vec![(0.0, 4.0), (4999.0, f64::INFINITY)], marked: true },
        ];
        let picture = lines(&series, "step", "Loss");
        assert!(picture.matches('L').count() < POINTS + 10, "{}", picture.len());
        assert!(picture.contains("&lt;b&gt;: 4 at 0") && !picture.contains("inf"), "{picture}");
    }
}

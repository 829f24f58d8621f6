//! Axes with a few round numbers.

use std::fmt::Write as _;

use super::{WIDTH, escaped};

/// Space for the numbers of the vertical axis.
const LEFT: f64 = 84.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 14.0;
/// Space for the numbers and the name of the horizontal axis.
const BELOW: f64 = 50.0;

/// A range of values and the round numbers in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// Creates an axis from the smallest to the largest of `values`, extended to round numbers, with about `count`
    /// intervals.
    pub(super) fn of(values: impl Iterator<Item = f64>, count: usize) -> Self {
        Self::with_steps_from(0.0, values, count)
    }

    /// [`Axis::of`] for whole numbers.
    pub(super) fn of_whole(values: impl Iterator<Item = f64>, count: usize) -> Self {
        Self::with_steps_from(1.0, values, count)
    }

    fn with_steps_from(least: f64, values: impl Iterator<Item = f64>, count: usize) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = match high > low {
            true => (low, high),
            false if low.is_finite() => (low - low.abs().max(1.0) / 2.0, low + low.abs().max(1.0) / 2.0),
            false => (0.0, 1.0),
        };
        let rough = (high - low) / count as f64;
        let magnitude = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * magnitude >= rough * 0.999);
        let step = (step.unwrap_or(10.0) * magnitude).max(least);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let ticks = (0..=(last - first) as usize).map(|index| (first + index as f64) * step).collect();
        Self { low: first * step, high: last * step, ticks }
    }

    fn share(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The area in which values are drawn.
pub(super) struct Frame {
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) height: f64,
}

impl Frame {
    pub(super) fn place_x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (RIGHT - LEFT)
    }

    pub(super) fn place_y(&self, value: f64) -> f64 {
        let bottom = self.height - BELOW;
        bottom - self.y.share(value) * (bottom - TOP)
    }

    /// Draws lines and numbers of both axes, and the name of the horizontal one.
    pub(super) fn draw(&self, name: &str, x: impl Fn(f64) -> String, y: impl Fn(f64) -> String) -> String {
        let mut content = self.draw_y(y);
        let bottom = self.height - BELOW;
        for &tick in &self.x.ticks {
            // Labels at the ends must not reach beyond the axis, where the numbers of the other one are.
            let anchor = match tick {
                tick if tick >= self.x.high => "end",
                tick if tick <= self.x.low => "start",
                _ => "middle",
            };
            let _ = write!(
                content,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                self.place_x(tick),
                bottom + 20.0,
                escaped(&x(tick))
            );
        }
        let _ = write!(
            content,
            "<text x=\"{RIGHT}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            self.height - 6.0,
            escaped(name)
        );
        content
    }

    /// Draws lines and numbers of the vertical axis.
    pub(super) fn draw_y(&self, label: impl Fn(f64) -> String) -> String {
        let mut content = String::new();
        for &tick in &self.y.ticks {
            let y = self.place_y(tick);
            let _ = write!(
                content,
                "<path class=\"axis\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                escaped(&label(tick))
            );
        }
        content
    }

    /// Draws a label below a place on the horizontal axis, from there to the right.
    pub(super) fn below(&self, x: f64, label: &str) -> String {
        let y = self.height - BELOW + 22.0;
        format!("<text x=\"{:.1}\" y=\"{y:.1}\">{}</text>", self.place_x(x), escaped(label))
    }

    /// Draws labels below both ends of the horizontal axis.
    pub(super) fn ends(&self, first: &str, last: &str) -> String {
        let y = self.height - BELOW + 22.0;
        format!(
            "<text x=\"{LEFT}\" y=\"{y:.1}\">{}</text><text x=\"{RIGHT}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
            escaped(first),
            escaped(last)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        let axis = Axis::of([1.73, 9.2, f64::NAN].into_iter(), 5);
        assert_eq!((axis.low, axis.high), (0.0, 10.0));
        assert_eq!(axis.ticks, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        for (low, high) in [(0.0, 1e-9), (-3.0, 1e12), (5.0, 5.0), (1e300, 1e301)] {
            let axis = Axis::of([low, high].into_iter(), 4);
            assert!(axis.low <= low && axis.high >= high && axis.ticks.len() <= 8, "{axis:?}");
        }
        assert_eq!(Axis::of(std::iter::empty(), 4).ticks, [0.0, 0.5, 1.0]);
        assert_eq!(Axis::of_whole([1.0, 4.0].into_iter(), 6).ticks, [1.0, 2.0, 3.0, 4.0]);
    }
}

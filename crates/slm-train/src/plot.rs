//! The plot of a run, `loss.svg`.

use std::fmt::Write as _;

use crate::Metric;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Most points of a line; more would not be seen.
const POINTS: usize = 900;
const LOSS: &str = "#1f77b4";
const VALIDATION: &str = "#d62728";

type Point = (f64, f64);

/// Training loss and validation cross entropy over steps, as an SVG document; none before there are two points.
pub(crate) fn loss_svg(metrics: &[Metric]) -> Option<String> {
    let mut steps = Vec::new();
    let mut validations = Vec::new();
    for metric in metrics {
        match metric {
            Metric::Step(report) => steps.push((report.step as f64, report.loss)),
            Metric::Validation(report) => validations.push((report.step as f64, report.nll)),
        }
    }
    let every = steps.len().div_ceil(POINTS).max(1);
    let steps: Vec<Point> = steps.into_iter().step_by(every).collect();
    let all = || steps.iter().chain(&validations);
    if all().count() < 2 {
        return None;
    }
    let low = all().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = all().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let margin = ((high - low) * 0.05).max(1e-6);
    let last = all().map(|point| point.0).fold(1.0, f64::max);
    let axes = Axes { last, low: low - margin, high: high + margin };
    Some(axes.document(&steps, &validations))
}

/// What the edges of the plot stand for: steps from 0 to `last`, nats per token from `low` to `high`.
struct Axes {
    last: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn x(&self, step: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * step / self.last
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / (self.high - self.low)
    }

    fn document(&self, steps: &[Point], validations: &[Point]) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for tick in ticks(0.0, self.last) {
            let x = self.x(tick);
            line(&mut svg, (x, TOP), (x, HEIGHT - BOTTOM), "#e5e5e5");
            text(&mut svg, (x, HEIGHT - BOTTOM + 18.0), "middle", "black", &number(tick));
        }
        for tick in ticks(self.low, self.high) {
            let y = self.y(tick);
            line(&mut svg, (LEFT, y), (WIDTH - RIGHT, y), "#e5e5e5");
            text(&mut svg, (LEFT - 8.0, y + 4.0), "end", "black", &number(tick));
        }
        line(&mut svg, (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM), "black");
        line(&mut svg, (LEFT, TOP), (LEFT, HEIGHT - BOTTOM), "black");
        text(&mut svg, (WIDTH / 2.0, HEIGHT - 12.0), "middle", "black", "step");
        text(&mut svg, (8.0, 20.0), "start", "black", "nats per token");
        text(&mut svg, (WIDTH / 2.0, 20.0), "end", LOSS, "training loss");
        text(&mut svg, (WIDTH / 2.0 + 30.0, 20.0), "start", VALIDATION, "validation cross entropy");
        self.curve(&mut svg, steps, LOSS);
        self.curve(&mut svg, validations, VALIDATION);
        for &(step, value) in validations {
            let (x, y) = (self.x(step), self.y(value));
            // Writing to a string cannot fail.
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{VALIDATION}\"/>");
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn curve(&self, svg: &mut String, points: &[Point], color: &str) {
        let points: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", self.x(point.0), self.y(point.1))).collect();
        let points = points.join(" ");
        let _ = writeln!(svg, "<polyline fill=\"none\" stroke=\"{color}\" points=\"{points}\"/>");
    }
}

fn line(svg: &mut String, from: Point, to: Point, color: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: Point, anchor: &str, color: &str, content: &str) {
    let (x, y) = at;
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{content}</text>"
    );
}

/// Four to ten round numbers from `low` to `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|&step| step >= rough);
    let step = step.unwrap_or(rough);
    let mut tick = (low / step).ceil() * step;
    let mut all = Vec::new();
    while tick <= high {
        all.push(tick);
        tick += step;
    }
    all
}

/// A number without digits that only rounding put there.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StepReport, ValidationReport};

    #[test]
    fn a_run_is_drawn_and_an_empty_one_is_not() {
        assert_eq!(loss_svg(&[]), None);
        let mut metrics: Vec<Metric> = (1..=3000)
            .map(|step| {
                let loss = 5.0 / step as f64;
                Metric::Step(StepReport { step, loss, learning_rate: 0.1, grad_norm: 1.0, tokens: 8 })
            })
            .collect();
        metrics.push(Metric::Validation(ValidationReport {
            step: 3000,
            nll: 1.0,
            perplexity: 2.7,
            tokens: 8,
        }));
        let svg = loss_svg(&metrics).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(">training loss<") && svg.contains(">3000<"), "{svg}");
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 1));
        assert!(svg.len() < 30_000, "{}", svg.len());
        // Every coordinate lies within the picture.
        for number in svg.split(['"', ',', ' ']).filter_map(|part| part.parse::<f64>().ok()) {
            assert!((0.0..=WIDTH).contains(&number), "{number}");
        }
    }

    #[test]
    fn ticks_are_round() {
        let shown = |low, high| ticks(low, high).into_iter().map(number).collect::<Vec<_>>();
        assert_eq!(shown(0.0, 300.0), ["0", "100", "200", "300"]);
        assert_eq!(shown(1.37, 1.52), ["1.4", "1.45", "1.5"]);
        assert_eq!(shown(-0.02, 0.05), ["-0.02", "0", "0.02", "0.04"]);
    }
}

//! The plot of a run, `loss.svg`.

use plotters::prelude::*;

use crate::Metric;

const SIZE: (u32, u32) = (900, 480);
/// Maximum number of points of a line; more would not be visible.
const POINTS: usize = 900;
const LOSS: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(214, 39, 40);

type Point = (f64, f64);
type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// Training loss and validation cross entropy over steps, as an SVG document; `None` if there are fewer than two
/// points.
///
/// # Errors
///
/// The message of the drawing library.
pub(crate) fn loss_svg(metrics: &[Metric]) -> Result<Option<String>, String> {
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
    if steps.len() + validations.len() < 2 {
        return Ok(None);
    }
    let mut svg = String::new();
    draw(&mut svg, &steps, &validations).map_err(|error| error.to_string())?;
    Ok(Some(svg))
}

fn draw<'a>(svg: &'a mut String, steps: &[Point], validations: &[Point]) -> Result<(), DrawError<'a>> {
    let all = || steps.iter().chain(validations);
    let low = all().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = all().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let margin = ((high - low) * 0.05).max(1e-6);
    let last = all().map(|point| point.0).fold(1.0, f64::max);

    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("step")
        .y_desc("nats per token")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .draw()?;
    let mut curve = |points: &[Point], color: RGBColor, label: &str| {
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), color))?;
        line.label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        Ok::<_, DrawError<'a>>(())
    };
    curve(steps, LOSS, "training loss")?;
    curve(validations, VALIDATION, "validation cross entropy")?;
    chart.draw_series(validations.iter().map(|&point| Circle::new(point, 3, VALIDATION.filled())))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StepReport, ValidationReport};

    #[test]
    fn a_run_is_drawn_and_an_empty_one_is_not() {
        assert_eq!(loss_svg(&[]), Ok(None));
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
        let svg = loss_svg(&metrics).unwrap().unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(svg.contains("training loss") && svg.contains("3000"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.len() < 40_000, "{}", svg.len());
    }

    #[test]
    fn a_loss_that_never_changes_is_drawn() {
        let metric = |step| {
            Metric::Step(StepReport { step, loss: 2.0, learning_rate: 0.1, grad_norm: 1.0, tokens: 8 })
        };
        let svg = loss_svg(&[metric(1), metric(2)]).unwrap().unwrap();
        assert!(svg.contains("<polyline") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}

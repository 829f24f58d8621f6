//! `slm sensitivity`

mod measure;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use slm_ptq::plan_transformer;

pub(super) use self::measure::{SensitivityText, Unit, UnitResult, measure, sensitivity_config, units};
use crate::commands::scheme_args::MeasuredSchemeArgs;
use crate::context::Context;
use crate::error::Result;
use crate::html::{Cell, Chart, HtmlArgs, Page, SORT_NOTE, Table, facts};
use crate::table::{self, Ranking, Row, TableArgs};
use crate::text::WindowArgs;

/// Maximum number of bars in the chart of a page.
const CHART: usize = 30;
/// Possible widths of the longest bar in columns; the first one that fits is used.
const BARS: [usize; 3] = [30, 20, 10];
/// Minimum width of the terminal in columns for each of these bar widths.
const WIDTHS: [usize; 3] = [150, 120, 0];

/// Rank layers by the effect of quantizing each on its own on a model's predictions.
///
/// One layer, or all layers of one kind, is quantized at a time while all others stay float. The ranking is by the mean
/// Kullback-Leibler divergence of the predictions from the float model's, largest first, next to the bytes that it saves
/// and to nats per gigabyte saved: layers with the most of these should get more bits first. Nothing is written. The
/// float logits of the text are kept in memory: 4 bytes for each token of the text and of the vocabulary.
#[derive(Debug, Args)]
pub(crate) struct SensitivityArgs {
    /// Float checkpoint
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Text, or texts or token ids as JSON or JSON Lines
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    scheme: MeasuredSchemeArgs,
    /// Layers quantized at a time: all of one kind, such as down_proj, or one
    #[arg(long, value_enum, default_value_t = Unit::Kind)]
    by: Unit,
    #[command(flatten)]
    windows: WindowArgs,
    /// Use only the first N tokens of the text
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
    #[command(flatten)]
    html: HtmlArgs,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Serialize)]
struct SensitivityResult {
    tokens: usize,
    perplexity_float: f64,
    quantization_type: String,
    /// Results, largest divergence first.
    units: Vec<UnitResult>,
    device: &'static str,
    seconds: f64,
}

pub(crate) fn run(args: &SensitivityArgs, context: &Context) -> Result<()> {
    let start = Instant::now();
    args.html.prepare()?;
    let checkpoint = context.open_checkpoint(&args.checkpoint)?;
    checkpoint.require_float()?;
    let config = sensitivity_config(&args.scheme)?;
    let plan = plan_transformer(&checkpoint.config().model, &config)?;
    SensitivityText::with(&checkpoint, &args.data, &args.windows, args.max_tokens, context, |model, text| {
        let units = units(&plan, args.by);
        let bar = context.progress.bar("quantizing one at a time", units.len());
        let mut results = Vec::with_capacity(units.len());
        for (name, layers) in units {
            context.interrupt.check()?;
            results.push(measure(name, layers, model, &config, text)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        results.sort_by(|a, b| b.kl_mean.total_cmp(&a.kl_mean));
        let (tokens, perplexity_float) = text.float_perplexity(model)?;
        let result = SensitivityResult {
            tokens,
            perplexity_float,
            quantization_type: config.quantization_type.to_string(),
            units: results,
            device: context.device_name,
            seconds: start.elapsed().as_secs_f64(),
        };
        say(&result, args, context)?;
        args.html.write(&context.output, || Ok(page(&result, args)))?;
        context.output.result(&result)
    })
}

/// Names the most sensitive unit.
fn headline(result: &SensitivityResult) -> String {
    let Some(worst) = result.units.first() else { return "no layer can be quantized".to_owned() };
    format!(
        "{} suffers most: alone in {} it moves the predictions by {:.6} nats (KL divergence) and saves {}",
        worst.name,
        worst.scheme,
        worst.kl_mean,
        table::bytes(worst.bytes_saved)
    )
}

/// One line for each fact.
fn summary(result: &SensitivityResult, args: &SensitivityArgs) -> String {
    let mut summary = format!(
        "float perplexity  {:.4}\n\
         measured on       {} tokens of {}\n\
         activations       {}\n\
         time              {:.1} s on {}\n\
         bytes saved       compared with 32-bit floats",
        result.perplexity_float,
        result.tokens,
        args.data.display(),
        result.quantization_type,
        result.seconds,
        result.device
    );
    if let Some(dearest) = result.units.iter().max_by(|a, b| a.nats_per_gb().total_cmp(&b.nats_per_gb())) {
        let UnitResult { name, .. } = dearest;
        summary += &format!(
            "\nwhat to do        {name} costs most for what it saves, {:.2} nats per GB: give it more bits first, \
             with --layer '*{name}=int8:channel' or --skip '*{name}' in slm ptq, then the one with the next most",
            dearest.nats_per_gb()
        );
    }
    summary
}

/// Creates the page.
fn page(result: &SensitivityResult, args: &SensitivityArgs) -> Page {
    let mut page = Page::new(format!("slm sensitivity: {}", args.checkpoint.display()), headline(result));
    page.facts = facts(&summary(result, args));
    let worst = &result.units[..result.units.len().min(CHART)];
    let title = match worst.len() < result.units.len() {
        true => format!("KL divergence of the worst {CHART}, in nats"),
        false => "KL divergence, in nats".to_owned(),
    };
    let bars = |of: fn(&UnitResult) -> (f64, String)| {
        let bar = |unit: &UnitResult| {
            let (value, text) = of(unit);
            (unit.name.clone(), value, text)
        };
        worst.iter().map(bar).collect::<Vec<_>>()
    };
    let note = "How far the predictions move when this alone is quantized.";
    page.charts.push(Chart::new(&title, note, bars(|unit| (unit.kl_mean, format!("{:.6}", unit.kl_mean)))));
    let saved = bars(|unit| (unit.bytes_saved as f64, table::bytes(unit.bytes_saved)));
    page.charts.push(Chart::new("Bytes saved by the same", "Compared with 32-bit floats.", saved));
    let rows = result.units.iter().map(|unit| {
        vec![
            Cell::text(&*unit.name),
            Cell::number(unit.kl_mean, format!("{:.6}", unit.kl_mean)),
            Cell::number(unit.bytes_saved as f64, table::bytes(unit.bytes_saved)),
            Cell::number(unit.nats_per_gb(), format!("{:.2}", unit.nats_per_gb())),
            Cell::number(unit.perplexity, format!("{:.4}", unit.perplexity)),
            Cell::number(unit.top1_agreement, format!("{:.2} %", unit.top1_agreement * 100.0)),
            Cell::number(unit.layers as f64, unit.layers.to_string()),
            Cell::text(&*unit.scheme),
        ]
    });
    page.tables.push(Table::new(
        "Quantized alone",
        SORT_NOTE,
        &[
            "quantized alone",
            "KL nats",
            "saved",
            "nats per GB saved",
            "perplexity",
            "same top token",
            "layers",
            "scheme",
        ],
        rows,
    ));
    page
}

fn say(result: &SensitivityResult, args: &SensitivityArgs, context: &Context) -> Result<()> {
    let output = &context.output;
    output.headline(headline(result))?;
    output.say(format!("\n{}", summary(result, args)))?;
    let largest = result.units.first().map_or(0.0, |unit| unit.kl_mean).max(f64::MIN_POSITIVE);
    let columns = output.width().unwrap_or(usize::MAX);
    let bar = BARS.into_iter().zip(WIDTHS).find(|(_, least)| columns >= *least).map_or(0, |(bar, _)| bar);
    let rows = result.units.iter().map(|unit| {
        let length = (unit.kl_mean / largest * bar as f64).round() as usize;
        let cells = vec![
            unit.name.clone(),
            format!("{:.6}", unit.kl_mean),
            table::bytes(unit.bytes_saved),
            format!("{:.2}", unit.nats_per_gb()),
            format!("{:.4}", unit.perplexity),
            format!("{:.2} %", unit.top1_agreement * 100.0),
            format!("{:<bar$}", "#".repeat(length)),
            unit.scheme.clone(),
        ];
        Row { badness: unit.kl_mean, cells }
    });
    let ranking = Ranking {
        what: if args.by == Unit::Kind { "kinds of layers" } else { "layers" },
        by: "the KL divergence of the predictions (`slm explain kl`)",
        note: "",
        header: &["quantized alone", "KL nats", "saved", "nats/GB", "perplexity", "same top", "", "scheme"],
        rows: rows.collect(),
        last: None,
    };
    args.tables.show(ranking, output)
}

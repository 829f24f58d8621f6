//! `slm sensitivity`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use slm_model::{Divergence, EvalWindow, Transformer, window_logits};
use slm_ptq::{LayerReport, Plan, PlannedLayer, PtqConfig, convert, plan_transformer};
use slm_quant_core::QuantizationType;
use slm_train::QuantizationConfig;

use crate::commands::scheme_args::SchemeArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::{Cell, Chart, HtmlArgs, Page, Table, facts};
use crate::table::{self, Ranking, Row, TableArgs};
use crate::text::{Limit, Tokens, WindowArgs, tokenizer};

/// Bars of a chart in a page.
const CHART: usize = 30;
/// Widths of the longest bar, of which the first is taken that fits.
const BARS: [usize; 3] = [30, 20, 10];
/// Columns of the terminal from which on the bar has each of these widths.
const WIDTHS: [usize; 3] = [140, 110, 0];

/// Rank layers by what quantizing each alone does to the predictions of a model.
///
/// One layer, or all layers of one kind, is quantized at a time while all others stay float. The ranking is by the mean
/// Kullback-Leibler divergence of the predictions from the float model's, largest first, next to the bytes that it saves.
/// Nothing is written. The float logits of the text are kept in memory: 4 bytes for each token of the text and of the
/// vocabulary.
#[derive(Debug, Args)]
pub(crate) struct SensitivityArgs {
    /// Float checkpoint
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// UTF-8 text file
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// What is quantized at a time: all layers of one kind, such as down_proj, or one layer
    #[arg(long, value_enum, default_value_t = Unit::Kind)]
    by: Unit,
    #[command(flatten)]
    windows: WindowArgs,
    /// Use no more than the first N tokens of the text
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
    #[command(flatten)]
    html: HtmlArgs,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Unit {
    /// All layers whose names end alike
    Kind,
    /// One layer
    Layer,
}

#[derive(Serialize)]
struct SensitivityResult {
    tokens: usize,
    perplexity_float: f64,
    quantization_type: String,
    /// Largest divergence first.
    units: Vec<UnitResult>,
    device: &'static str,
    seconds: f64,
}

#[derive(Serialize)]
struct UnitResult {
    /// Name of the layer, or of the kind.
    name: String,
    layers: usize,
    scheme: String,
    /// Nats.
    kl_mean: f64,
    perplexity: f64,
    top1_agreement: f64,
    bytes_saved: u64,
}

pub(crate) fn run(args: &SensitivityArgs, context: &Context) -> Result<()> {
    let start = Instant::now();
    args.html.prepare()?;
    let checkpoint = context.open_checkpoint(&args.checkpoint)?;
    checkpoint.require_float()?;
    let config = config(args)?;
    let plan = plan_transformer(&checkpoint.config().model, &config)?;
    let windowing = args.windows.windowing(&checkpoint)?;
    let limit = Limit { option: "--max-tokens", tokens: args.max_tokens };
    let vocab_size = checkpoint.config().model.vocab_size;
    let tokens = Tokens::read(&tokenizer(&checkpoint)?, &args.data, limit.tokens, vocab_size, context)?;
    tokens.check_length(&args.data, &windowing, limit)?;
    let ids: Vec<Vec<u32>> = tokens.windows(&windowing).into_iter().filter(|ids| ids.len() >= 2).collect();
    let windows = ids.iter().map(|ids| EvalWindow { ids, first_scored: 1 }).collect();
    let mut model = checkpoint.load_model(&context.device)?;
    // So that a tied head can be quantized like every other layer.
    model.untie_head();
    let text = Text { windows, float: Vec::new() }.with_float(&model, context)?;
    let units = units(&plan, args.by);
    let bar = context.progress.bar("quantizing one at a time", units.len());
    let mut results = Vec::with_capacity(units.len());
    for (name, layers) in units {
        context.interrupt.check()?;
        results.push(measure(name, layers, &model, &config, &text)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    results.sort_by(|a, b| b.kl_mean.total_cmp(&a.kl_mean));
    let (tokens, perplexity_float) = text.float_perplexity(&model)?;
    let result = SensitivityResult {
        tokens,
        perplexity_float,
        quantization_type: config.quantization_type.to_string(),
        units: results,
        device: context.device_name,
        seconds: start.elapsed().as_secs_f64(),
    };
    args.html.write(|| Ok(page(&result, args)))?;
    say(&result, args, context)?;
    context.output.result(&result)
}

fn config(args: &SensitivityArgs) -> Result<PtqConfig> {
    let mut config = QuantizationConfig {
        quantization_type: QuantizationType::WeightOnly,
        ..QuantizationConfig::default()
    };
    args.scheme.apply(&mut config)?;
    if config.quantization_type == QuantizationType::Static {
        return Err(Error::Usage(
            "--type static: ranges of activations are those of a whole quantized model; use weight-only or dynamic"
                .to_owned(),
        ));
    }
    Ok(config.ptq())
}

/// What is quantized at a time, by name.
fn units(plan: &Plan, by: Unit) -> Vec<(String, Vec<PlannedLayer>)> {
    let mut units: BTreeMap<String, Vec<PlannedLayer>> = BTreeMap::new();
    for layer in &plan.layers {
        let name = match by {
            Unit::Layer => &*layer.name,
            Unit::Kind => layer.name.rsplit('.').next().unwrap_or(&layer.name),
        };
        units.entry(name.to_owned()).or_default().push(layer.clone());
    }
    units.into_iter().collect()
}

/// The windows of the text, and the float model's logits of each.
struct Text<'a> {
    windows: Vec<EvalWindow<'a>>,
    float: Vec<Vec<f32>>,
}

impl Text<'_> {
    fn with_float(mut self, model: &Transformer, context: &Context) -> Result<Self> {
        let bar = context.progress.bar("float model", self.windows.len());
        for window in &self.windows {
            context.interrupt.check()?;
            self.float.push(window_logits(model, window.ids)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(self)
    }

    fn divergence(
        &self,
        vocab_size: usize,
        mut logits: impl FnMut(usize) -> Result<Vec<f32>>,
    ) -> Result<Divergence> {
        let mut divergence = Divergence::default();
        for (index, (window, float)) in self.windows.iter().zip(&self.float).enumerate() {
            divergence.observe(float, &logits(index)?, *window, vocab_size)?;
        }
        Ok(divergence)
    }

    fn float_perplexity(&self, model: &Transformer) -> Result<(usize, f64)> {
        let same = self.divergence(model.config().vocab_size, |index| Ok(self.float[index].clone()))?;
        Ok(same.summary().map_or((0, f64::NAN), |summary| (summary.tokens, summary.perplexity)))
    }
}

fn measure(
    name: String,
    layers: Vec<PlannedLayer>,
    float: &Transformer,
    config: &PtqConfig,
    text: &Text<'_>,
) -> Result<UnitResult> {
    let count = layers.len();
    let plan = Plan { layers, skipped: Vec::new(), embedding: None };
    let mut model = float.clone();
    let reports = convert(&mut model, &plan, config, None, &mut |_: &LayerReport| {})?;
    let divergence = text
        .divergence(model.config().vocab_size, |index| Ok(window_logits(&model, text.windows[index].ids)?))?;
    let summary =
        divergence.summary().ok_or_else(|| Error::Usage("the text has no token to score".to_owned()))?;
    let mut schemes: Vec<String> = reports.iter().map(|report| report.scheme.to_string()).collect();
    schemes.dedup();
    let saved = |report: &LayerReport| report.bytes_before.saturating_sub(report.bytes_after) as u64;
    Ok(UnitResult {
        name,
        layers: count,
        scheme: schemes.join(", "),
        kl_mean: summary.mean,
        perplexity: summary.perplexity,
        top1_agreement: summary.top1_agreement,
        bytes_saved: reports.iter().map(saved).sum(),
    })
}

/// The unit that suffers most.
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
    format!(
        "float perplexity  {:.4}\n\
         measured on       {} tokens of {}\n\
         activations       {}\n\
         time              {:.1} s on {}\n\
         bytes saved       compared with 32-bit floats\n\
         what to do        --skip or --layer NAME=int8:channel in slm ptq for those that cost much and save little",
        result.perplexity_float,
        result.tokens,
        args.data.display(),
        result.quantization_type,
        result.seconds,
        result.device
    )
}

/// The report as a page.
fn page(result: &SensitivityResult, args: &SensitivityArgs) -> Page {
    let mut page = Page::new(format!("slm sensitivity: {}", args.checkpoint.display()), headline(result));
    page.facts = facts(&summary(result, args));
    let worst = &result.units[..result.units.len().min(CHART)];
    let title = match worst.len() < result.units.len() {
        true => format!("KL divergence of the worst {CHART}"),
        false => "KL divergence".to_owned(),
    };
    let bars = |of: fn(&UnitResult) -> (f64, String)| {
        let bar = |unit: &UnitResult| {
            let (value, text) = of(unit);
            (unit.name.clone(), value, text)
        };
        worst.iter().map(bar).collect::<Vec<_>>()
    };
    let note = "In nats: how far the predictions move when this alone is quantized.";
    page.charts.push(Chart::new(&title, note, bars(|unit| (unit.kl_mean, format!("{:.6}", unit.kl_mean)))));
    let saved = bars(|unit| (unit.bytes_saved as f64, table::bytes(unit.bytes_saved)));
    page.charts.push(Chart::new("Bytes saved by the same", "Compared with 32-bit floats.", saved));
    let rows = result.units.iter().map(|unit| {
        vec![
            Cell::text(&*unit.name),
            Cell::number(unit.kl_mean, format!("{:.6}", unit.kl_mean)),
            Cell::number(unit.perplexity, format!("{:.4}", unit.perplexity)),
            Cell::number(unit.top1_agreement, format!("{:.2} %", unit.top1_agreement * 100.0)),
            Cell::number(unit.bytes_saved as f64, table::bytes(unit.bytes_saved)),
            Cell::number(unit.layers as f64, unit.layers.to_string()),
            Cell::text(&*unit.scheme),
        ]
    });
    page.tables.push(Table {
        title: "Quantized alone".to_owned(),
        note: "A click on a column's name sorts by it.".to_owned(),
        columns: ["quantized alone", "KL nats", "perplexity", "same top token", "saved", "layers", "scheme"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    });
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
            format!("{:.4}", unit.perplexity),
            format!("{:.2} %", unit.top1_agreement * 100.0),
            table::bytes(unit.bytes_saved),
            format!("{:<bar$}", "#".repeat(length)),
            unit.scheme.clone(),
        ];
        Row { badness: unit.kl_mean, cells }
    });
    let ranking = Ranking {
        what: if args.by == Unit::Kind { "kinds of layers" } else { "layers" },
        by: "the KL divergence of the predictions (`slm explain kl`)",
        note: "",
        header: &["quantized alone", "KL nats", "perplexity", "same top", "saved", "", "scheme"],
        rows: rows.collect(),
    };
    args.tables.show(ranking, output)
}

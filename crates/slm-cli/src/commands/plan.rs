//! `slm plan`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgGroup, Args};
use serde::Serialize;
use slm_model::LM_HEAD;
use slm_ptq::{CheckpointQuantizer, Choice, LayerRule, LayerScheme, PlannedLayer, PtqConfig, Rotate, assign};
use slm_store::shell_word;

use super::sensitivity::{SensitivityText, Unit, UnitResult, measure, sensitivity_config, units};
use crate::commands::scheme_args::MeasuredSchemeArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::OutFile;
use crate::table::{self, Ranking, Row, TableArgs};
use crate::text::WindowArgs;

/// Propose a scheme for each layer, so that the model fits a given size and its predictions change least.
///
/// Each layer, or kind of layer, is quantized on its own in each of the --choices, as slm sensitivity does it. Of the
/// assignments within the size, the one with the smallest sum of divergences is chosen. The result is a [quantization]
/// section for slm ptq --config, on standard output or in the file --out. At the end the divergence of the whole model
/// is measured, with rounding to nearest and min-max ranges; slm ptq does better with a calibration text.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("limit").args(["target_size", "bits_per_weight"]).required(true))]
pub(crate) struct PlanArgs {
    /// Float checkpoint
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Text to measure divergences on, or texts or token ids as JSON or JSON Lines
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Maximum size of the weights on disk, embedding and norms included, such as 60MB, 57MiB or 60000000
    #[arg(long, value_name = "SIZE", value_parser = size)]
    target_size: Option<u64>,
    /// Maximum average number of bits per weight of the linear layers, scales included, instead of a size
    #[arg(long, value_name = "BITS", value_parser = bits_per_weight)]
    bits_per_weight: Option<f64>,
    /// Schemes to choose from, with commas between them
    #[arg(
        long,
        value_name = "SCHEMES",
        value_delimiter = ',',
        default_value = "int4:group:32,int8:channel,float"
    )]
    choices: Vec<LayerScheme>,
    #[command(flatten)]
    scheme: MeasuredSchemeArgs,
    /// Layers that share a scheme: all of one kind, such as down_proj, or each on its own
    #[arg(long, value_enum, default_value_t = Unit::Kind)]
    by: Unit,
    #[command(flatten)]
    windows: WindowArgs,
    /// Use only the first N tokens of the text
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
    /// File to write the [quantization] section to, instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    tables: TableArgs,
}

impl PlanArgs {
    /// Prepares to write --out, if it is given.
    fn file(&self) -> Result<Option<(&Path, OutFile)>> {
        let file = |path| Ok((path, OutFile::create(path, self.overwrite)?));
        self.out.as_deref().map(file).transpose()
    }
}

#[derive(Serialize)]
struct PlanResult {
    target_bytes: u64,
    bytes: u64,
    bits_per_weight: f64,
    /// Sum of the divergences of the units, each quantized alone, in nats.
    kl_sum: f64,
    /// Divergence with all units in their schemes, in nats.
    kl_mean: f64,
    perplexity: f64,
    perplexity_float: f64,
    tokens: usize,
    /// Units, largest divergence first.
    units: Vec<PlannedUnit>,
    /// Size in bytes of what is in no unit and stays float: embedding, norms, biases and skipped layers.
    float_bytes: u64,
    /// The section for `slm ptq --config`.
    config: String,
    seconds: f64,
}

#[derive(Serialize)]
struct PlannedUnit {
    name: String,
    layers: usize,
    scheme: String,
    kl_mean: f64,
    bytes: u64,
}

/// A measurement of one unit in one scheme.
struct Measured {
    scheme: LayerScheme,
    choice: Choice,
}

pub(crate) fn run(args: &PlanArgs, context: &Context) -> Result<()> {
    let start = Instant::now();
    // Reserved before the measurements, which take minutes.
    let file = args.file()?;
    let checkpoint = context.open_checkpoint(&args.checkpoint)?;
    checkpoint.require_float()?;
    let mut config = sensitivity_config(&args.scheme)?;
    // Divergences are measured without rotation.
    config.rotate = Rotate::Off;
    let quantizer = CheckpointQuantizer::new(&checkpoint, config.clone())?;
    let planned = quantizer.plan();
    let fixed = quantizer.float_bytes()?;
    let weights: u64 = planned.layers.iter().map(|layer| layer.shape.iter().product::<usize>() as u64).sum();
    let budget = match (args.target_size, args.bits_per_weight) {
        (Some(bytes), _) => bytes.checked_sub(fixed).ok_or_else(|| too_small(bytes, fixed))?,
        (None, bits) => (bits.unwrap_or_default() * weights as f64 / 8.0) as u64,
    };
    let tied = checkpoint.config().model.tie_word_embeddings;
    SensitivityText::with(&checkpoint, &args.data, &args.windows, args.max_tokens, context, |model, text| {
        let units = units(planned, args.by);
        let quantized = args.choices.iter().filter(|choice| **choice != LayerScheme::Float).count();
        let bar = context.progress.bar("quantizing one at a time", units.len() * quantized);
        let mut measured = Vec::with_capacity(units.len());
        for (_, layers) in &units {
            let mut choices = Vec::with_capacity(args.choices.len());
            for &scheme in &args.choices {
                context.interrupt.check()?;
                let is_tied_head = tied && layers.iter().all(|layer| layer.name == LM_HEAD);
                let float: u64 =
                    layers.iter().map(|layer| 4 * layer.shape.iter().product::<usize>() as u64).sum();
                let choice = match scheme.over(config.scheme) {
                    // A tied head that stays float shares the embedding's bytes.
                    None => Choice { bytes: if is_tied_head { 0 } else { float }, cost: 0.0 },
                    Some(scheme) => {
                        let config = PtqConfig { scheme, layers: Vec::new(), ..config.clone() };
                        let result = measure(String::new(), layers.clone(), model, &config, text)?;
                        bar.inc(1);
                        Choice { bytes: float - result.bytes_saved, cost: result.kl_mean }
                    }
                };
                choices.push(Measured { scheme, choice });
            }
            measured.push(choices);
        }
        bar.finish_and_clear();
        let choices: Vec<Vec<Choice>> =
            measured.iter().map(|unit| unit.iter().map(|measured| measured.choice).collect()).collect();
        let slices: Vec<&[Choice]> = choices.iter().map(Vec::as_slice).collect();
        let smallest: u64 =
            choices.iter().filter_map(|unit| unit.iter().map(|choice| choice.bytes).min()).sum();
        let assignment =
            assign(&slices, budget).ok_or_else(|| too_small(budget + fixed, smallest + fixed))?;

        if measured.iter().zip(&assignment).all(|(unit, &index)| unit[index].scheme == LayerScheme::Float) {
            return Err(Error::Usage(format!(
                "the size of {} holds the float model: there is nothing to quantize; give a smaller one",
                table::bytes(budget + fixed)
            )));
        }
        let mut rules = Vec::with_capacity(units.len());
        let mut chosen = Vec::with_capacity(units.len());
        for (((name, layers), measured), index) in units.iter().zip(&measured).zip(assignment) {
            let Measured { scheme, choice } = &measured[index];
            rules.push(LayerRule { pattern: pattern(name, args.by, layers.len()), scheme: *scheme });
            chosen.push(PlannedUnit {
                name: name.clone(),
                layers: layers.len(),
                scheme: scheme
                    .over(config.scheme)
                    .map_or_else(|| "float".to_owned(), |scheme| scheme.to_string()),
                kl_mean: choice.cost,
                bytes: choice.bytes,
            });
        }
        chosen.sort_by(|a, b| b.kl_mean.total_cmp(&a.kl_mean).then(b.bytes.cmp(&a.bytes)));
        let together = PtqConfig { layers: rules.clone(), ..config.clone() };
        let layers = planned.layers.iter().filter(|layer| !is_float(&rules, units.as_slice(), &layer.name));
        let UnitResult { kl_mean, perplexity, .. } =
            measure(String::new(), layers.cloned().collect(), model, &together, text)?;
        let (tokens, perplexity_float) = text.float_perplexity(model)?;
        let layer_bytes: u64 = chosen.iter().map(|unit| unit.bytes).sum();
        let result = PlanResult {
            target_bytes: budget + fixed,
            bytes: layer_bytes + fixed,
            bits_per_weight: layer_bytes as f64 * 8.0 / weights.max(1) as f64,
            kl_sum: chosen.iter().map(|unit| unit.kl_mean).sum(),
            kl_mean,
            perplexity,
            perplexity_float,
            tokens,
            units: chosen,
            float_bytes: fixed,
            config: section(&config, &rules),
            seconds: start.elapsed().as_secs_f64(),
        };
        say(&result, args, file, context)?;
        context.output.result(&result)
    })
}

/// Returns `true` if `layer` is in a unit that stays float. Rules and units must be in the same order.
fn is_float(rules: &[LayerRule], units: &[(String, Vec<PlannedLayer>)], layer: &str) -> bool {
    let of_layer =
        units.iter().zip(rules).find(|((_, layers), _)| layers.iter().any(|other| other.name == layer));
    of_layer.is_some_and(|(_, rule)| rule.scheme == LayerScheme::Float)
}

/// Returns the pattern that matches the layers of a unit.
fn pattern(name: &str, by: Unit, layers: usize) -> String {
    match by {
        Unit::Kind if name != LM_HEAD || layers > 1 => format!("*.{name}"),
        _ => name.to_owned(),
    }
}

fn too_small(target: u64, least: u64) -> Error {
    Error::Usage(format!(
        "a size of {} is too small: the smallest of the choices comes to {}; give a larger one, or smaller --choices",
        table::bytes(target),
        table::bytes(least)
    ))
}

/// Formats the [quantization] section. The most common scheme needs no rule.
fn section(config: &PtqConfig, rules: &[LayerRule]) -> String {
    let mut text = format!(
        "[quantization]\nquantization_mode = \"ptq\"\nquantization_type = \"{}\"\nquantization_bits = {}\ngranularity = \
         \"{}\"\nmapping = \"{}\"\nscale_dtype = \"{}\"\nrotate = \"off\"\n",
        config.quantization_type,
        config.scheme.bits.count(),
        config.scheme.granularity,
        config.scheme.mapping,
        config.scheme.scale_dtype,
    );
    for rule in rules {
        text += &format!(
            "\n[[quantization.layers]]\npattern = \"{}\"\nscheme = \"{}\"\n",
            rule.pattern, rule.scheme
        );
    }
    text
}

fn say(
    result: &PlanResult,
    args: &PlanArgs,
    file: Option<(&Path, OutFile)>,
    context: &Context,
) -> Result<()> {
    let output = &context.output;
    output.headline(format!(
        "{} of {}: the predictions move by {:.6} nats (KL divergence)",
        table::bytes(result.bytes),
        table::bytes(result.target_bytes),
        result.kl_mean
    ))?;
    output.say(format!(
        "\nbits a weight  {:.3} in linear layers, scales included\n\
         perplexity     {:.4}, float {:.4}, on {} tokens of {}\n\
         alone          divergences of the units add up to {:.6} nats\n\
         time           {:.1} s",
        result.bits_per_weight,
        result.perplexity,
        result.perplexity_float,
        result.tokens,
        args.data.display(),
        result.kl_sum,
        result.seconds
    ))?;
    let rows = result.units.iter().map(|unit| Row {
        badness: unit.kl_mean,
        cells: vec![
            unit.name.clone(),
            unit.scheme.clone(),
            format!("{:.6}", unit.kl_mean),
            table::bytes(unit.bytes),
        ],
    });
    let ranking = Ranking {
        what: if args.by == Unit::Kind { "kinds of layers" } else { "layers" },
        by: "the KL divergence of the predictions (`slm explain kl`)",
        note: "",
        header: &["unit", "scheme", "KL nats alone", "size"],
        rows: rows.collect(),
        last: Some(
            ["embedding, norms", "float", "", &table::bytes(result.float_bytes)].map(str::to_owned).to_vec(),
        ),
    };
    args.tables.show(ranking, output)?;
    match file {
        Some((path, file)) => {
            file.write(&result.config)?;
            output.say(format!(
                "\nwrote {}; to quantize by it, give slm ptq --config {}",
                path.display(),
                shell_word(path)
            ))
        }
        None => output.say(format!("\n{}", result.config)),
    }
}

/// Parses a number of bytes with a unit.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("use a number with B, kB, MB, GB, KiB, MiB or GiB, such as 60MB".to_owned()),
    };
    match digits.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number * factor < 1e18 => Ok((number * factor) as u64),
        _ => Err("it must be a number above 0, such as 60MB".to_owned()),
    }
}

fn bits_per_weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(bits) if bits > 0.0 && bits <= 32.0 => Ok(bits),
        _ => Err("it must be above 0 and at most 32, such as 4.5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("60MB", 60_000_000), ("1.5 GiB", 1_610_612_736), ("7", 7), ("2kb", 2000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "-1", "0", "nan", "60XB", "1e300"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(
            bits_per_weight("4.5").is_ok() && bits_per_weight("0").is_err() && bits_per_weight("33").is_err()
        );
    }
}

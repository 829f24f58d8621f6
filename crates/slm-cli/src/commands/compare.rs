//! `slm compare`

mod factors;
mod page;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::{Checkpoint, TransformRecord};
use slm_model::{TensorSource, Transformer, window_logits};
use slm_ptq::{ChannelFactors, LayerComparison, TransformedSource, Transforms};

use crate::commands::ptq::grade;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::HtmlArgs;
use crate::json::{number, optional_number};
use crate::limits::DIFFERENT;
use crate::seen_text;
use crate::table::{self, Ranking, Row, TableArgs};
use crate::text::{Limit, Tokens, WindowArgs, tokenizer};

/// Compare two checkpoints layer by layer on a text.
///
/// Both run on the same tokens. The report has the divergence of the predictions, and for every linear layer the
/// distance of B's output from A's: the layer's own error, for the input that it has in A, and the whole error, with
/// the part inherited from the layers before. Usually A is the float model and B a quantized one. If B was rotated
/// before it was quantized, A is rotated in the same way first; where channels were smoothed or equalized, the factors
/// are taken out.
///
/// The verdict is that of `slm ptq` on the perplexity, but no better than WORSE if the mean KL divergence is 0.1 nats or
/// more (`slm explain kl`).
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The reference
    dir_a: PathBuf,
    /// The checkpoint to compare with it
    dir_b: PathBuf,
    /// Text, or texts or token ids as JSON or JSON Lines
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    windows: WindowArgs,
    /// Use only the first N tokens of the text, and read no further
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_tokens: usize,
    #[command(flatten)]
    html: HtmlArgs,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Serialize)]
struct CompareResult {
    /// Size in bytes of all tensors of A, and of B.
    weight_bytes_a: u64,
    weight_bytes_b: u64,
    tokens: usize,
    perplexity_a: f64,
    perplexity_b: f64,
    /// Mean Kullback-Leibler divergence of B's predictions from A's, in nats.
    kl_divergence: f64,
    /// Share of positions where both find the same token most likely.
    top1_agreement: f64,
    max_abs_logit_difference: f64,
    layers: Vec<LayerResult>,
    /// Warning about the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

#[derive(Serialize)]
struct LayerResult {
    name: String,
    /// SQNR of the output, including the inherited error.
    #[serde(serialize_with = "number")]
    sqnr_db: f64,
    /// SQNR of the output for the reference's input; `None` if two quantized models were transformed differently.
    #[serde(serialize_with = "optional_number")]
    own_sqnr_db: Option<f64>,
    #[serde(serialize_with = "number")]
    cosine: f64,
    max_abs_error: f64,
    mean_abs_error: f64,
}

pub(crate) fn run(args: &CompareArgs, context: &Context) -> Result<()> {
    args.html.prepare()?;
    let (checkpoint_a, checkpoint_b) =
        (context.open_to_load(&args.dir_a)?, context.open_to_load(&args.dir_b)?);
    let windowing = args.windows.windowing(&checkpoint_a)?;
    let limit = Limit { option: "--max-tokens", tokens: args.max_tokens };
    let vocab_size = checkpoint_a.config().model.vocab_size;
    let tokens = Tokens::read(&tokenizer(&checkpoint_a)?, &args.data, limit.tokens, vocab_size, context)?;
    tokens.check_length(&args.data, &windowing, limit)?;
    let transforms =
        checkpoint_b.metadata().and_then(|metadata| metadata.lineage.transforms).unwrap_or_default();
    let Reference { model: mut model_a, factors } =
        load_reference(&checkpoint_a, &checkpoint_b, transforms, context)?;
    let comparable = factors.is_some();
    let mut model_b = context.load_model(&checkpoint_b)?;
    if model_a.config().vocab_size != model_b.config().vocab_size {
        return Err(Error::file(
            &args.dir_b,
            format!(
                "vocab_size is {}, that of {} is {}; only models with one vocabulary can be compared",
                model_b.config().vocab_size,
                args.dir_a.display(),
                model_a.config().vocab_size
            ),
        ));
    }
    untie_like_each_other(&mut model_a, &mut model_b);
    let mut layers = LayerComparison::new(&model_a, &model_b)?.with_factors(factors.unwrap_or_default());
    let mut predictions = Predictions::default();
    let windows = tokens.windows(&windowing);
    let bar = context.progress.bar("comparing", windows.len());
    for chunk in windows.iter().filter(|chunk| chunk.len() >= 2) {
        context.interrupt.check()?;
        let (a, b) = layers.observe(
            &mut model_a,
            &mut model_b,
            |model: &Transformer| window_logits(model, chunk).map_err(Error::from),
            |model: &Transformer| window_logits(model, chunk).map_err(Error::from),
        )?;
        predictions.observe(&a, &b, chunk, model_a.config().vocab_size);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let sizes = [checkpoint_a.weight_bytes(), checkpoint_b.weight_bytes()];
    let mut result = result(sizes, predictions, layers, comparable);
    for checkpoint in [&checkpoint_b, &checkpoint_a] {
        if result.warning.is_none() {
            result.warning = seen_text::warning(checkpoint, [&*args.data])?;
        }
    }
    say(&result, args, context)?;
    args.html.write(&context.output, || Ok(page::page(&result, args)))?;
    context.output.result(&result)
}

/// The model that the other one is compared with.
struct Reference {
    model: Transformer,
    /// Factors between its channels and those of the other model; `None` if they are unknown.
    factors: Option<BTreeMap<String, ChannelFactors>>,
}

/// Loads the reference and rotates it like the other model. The outputs of layers then differ only by factors and
/// quantization.
fn load_reference(
    checkpoint: &Checkpoint,
    other: &Checkpoint,
    changes: TransformRecord,
    context: &Context,
) -> Result<Reference> {
    let own = checkpoint.metadata().and_then(|metadata| metadata.lineage.transforms).unwrap_or_default();
    if checkpoint.is_quantized() {
        let factors = (own == changes).then(BTreeMap::new);
        return Ok(Reference { model: context.load_model(checkpoint)?, factors });
    }
    let rotation = changes.rotation_seed.map(|seed| Transforms::rotation(checkpoint, seed)).transpose()?;
    let model = match &rotation {
        Some(rotation) => {
            let _spinner = context.progress.spinner("rotating the reference");
            let mut tensors = TransformedSource::new(checkpoint, rotation);
            Transformer::from_tensors(rotation.model(), &mut tensors, &context.device)?
        }
        None => context.load_model(checkpoint)?,
    };
    let TransformRecord { smoothing_strength, equalized_mlps, equalized_norms, .. } = changes;
    if smoothing_strength.is_none() && equalized_mlps.is_none() && equalized_norms.is_none() {
        return Ok(Reference { model, factors: Some(BTreeMap::new()) });
    }
    let norm = |name: &str| match (&rotation, checkpoint.tensors().shape(name)) {
        (_, None) => Ok(None),
        (Some(rotation), Some(shape)) => TransformedSource::new(checkpoint, rotation)
            .take_f32(name, shape)
            .map(Some)
            .map_err(|source| slm_model::Error::Source { name: name.to_owned(), source }.into()),
        (None, Some(_)) => Ok(Some(checkpoint.tensors().read_f32(name)?)),
    };
    let _spinner = context.progress.spinner("finding the factors of channels");
    let factors = factors::between(&model, &norm, other)?;
    Ok(Reference { model, factors: Some(factors) })
}

/// Unties both heads if one of them is a quantized copy, so that both models have the same layers.
fn untie_like_each_other(a: &mut Transformer, b: &mut Transformer) {
    if a.head_is_tied() != b.head_is_tied() {
        a.untie_head();
        b.untie_head();
    }
}

fn result(
    [weight_bytes_a, weight_bytes_b]: [u64; 2],
    predictions: Predictions,
    layers: LayerComparison,
    comparable: bool,
) -> CompareResult {
    let scored = predictions.scored as f64;
    let layers = layers.finish().into_iter().map(|layer| LayerResult {
        sqnr_db: layer.error.sqnr_db(),
        own_sqnr_db: comparable.then(|| layer.own_error.sqnr_db()),
        cosine: layer.error.cosine(),
        max_abs_error: layer.error.max_abs_error(),
        mean_abs_error: layer.error.mean_abs_error(),
        name: layer.name,
    });
    CompareResult {
        weight_bytes_a,
        weight_bytes_b,
        tokens: predictions.scored,
        perplexity_a: (predictions.nll_a / scored).exp(),
        perplexity_b: (predictions.nll_b / scored).exp(),
        kl_divergence: predictions.divergence / scored,
        top1_agreement: predictions.agreed as f64 / scored,
        max_abs_logit_difference: predictions.max_difference,
        layers: layers.collect(),
        warning: None,
    }
}

impl CompareResult {
    /// Rise of the perplexity as a share of A's.
    fn rise(&self) -> f64 {
        self.perplexity_b / self.perplexity_a - 1.0
    }
}

/// Columns of the table of layers.
const HEADER: [&str; 6] = ["layer output", "own dB", "total dB", "cosine", "mean |error|", "max |error|"];

/// The verdict on B. Predictions may be far from A's even if the perplexity is similar.
fn headline(result: &CompareResult) -> String {
    let rise = result.rise();
    let grade = match grade(rise) {
        "GOOD" if result.kl_divergence >= DIFFERENT => "WORSE",
        grade => grade,
    };
    format!(
        "{grade}: KL divergence {:.6} nats, same most likely token at {:.2} % of positions, perplexity {:+.2} %",
        result.kl_divergence,
        result.top1_agreement * 100.0,
        rise * 100.0
    )
}

/// One line for each fact.
fn summary(result: &CompareResult, args: &CompareArgs) -> String {
    let depth =
        depth(&result.layers).map_or_else(String::new, |depth| format!("\ndepth             {depth}"));
    format!(
        "A                 {}\n\
         B                 {}\n\
         weights           {} (A), {} (B, {:.4}x)\n\
         perplexity        {:.4} (A), {:.4} (B, {:+.2} %)\n\
         measured on       {} tokens of {}\n\
         logits            differ by {:.4} at most{depth}",
        args.dir_a.display(),
        args.dir_b.display(),
        table::bytes(result.weight_bytes_a),
        table::bytes(result.weight_bytes_b),
        result.weight_bytes_b as f64 / result.weight_bytes_a.max(1) as f64,
        result.perplexity_a,
        result.perplexity_b,
        result.rise() * 100.0,
        result.tokens,
        args.data.display(),
        result.max_abs_logit_difference,
    )
}

fn say(result: &CompareResult, args: &CompareArgs, context: &Context) -> Result<()> {
    context.output.headline(headline(result))?;
    context.output.say(format!("\n{}", summary(result, args)))?;
    let decibels = |value: f64| format!("{value:.2}");
    let rows = result.layers.iter().map(|layer| Row {
        badness: -layer.own_sqnr_db.unwrap_or(layer.sqnr_db),
        cells: vec![
            layer.name.clone(),
            layer.own_sqnr_db.map_or_else(|| "-".to_owned(), decibels),
            decibels(layer.sqnr_db),
            format!("{:.6}", layer.cosine),
            format!("{:.3e}", layer.mean_abs_error),
            format!("{:.3e}", layer.max_abs_error),
        ],
    });
    let ranking = Ranking {
        what: "layers",
        by: "their own error",
        note: "own dB: for the input that A gives the layer; total dB: with the error inherited from the layers before",
        header: &HEADER,
        rows: rows.collect(),
        last: None,
    };
    args.tables.show(ranking, &context.output)?;
    if result.layers.iter().any(|layer| layer.own_sqnr_db.is_none()) {
        context.output.say(
            "\nA and B were rotated, smoothed or equalized in different ways before they were quantized. Their layers \
             compute other things, and only the predictions can be compared: take the float model for A.",
        )?;
    }
    result.warning.iter().try_for_each(|warning| context.output.warning(warning))
}

/// Describes how the error grows with depth; `None` for a model with fewer than two blocks.
fn depth(layers: &[LayerResult]) -> Option<String> {
    let mut blocks: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for layer in layers.iter().filter(|layer| layer.sqnr_db.is_finite()) {
        let index = layer.name.strip_prefix("layers.").and_then(|rest| rest.split('.').next());
        if let Some(index) = index.and_then(|index| index.parse().ok()) {
            blocks.entry(index).or_default().push(layer.sqnr_db);
        }
    }
    let means: Vec<(usize, f64)> = blocks
        .into_iter()
        .map(|(index, values)| (index, values.iter().sum::<f64>() / values.len() as f64))
        .collect();
    let (first, last) = (means.first()?, means.last().filter(|_| means.len() > 1)?);
    let middle = &means[means.len() / 2];
    let mut shown = vec![first];
    if middle.0 != first.0 && middle.0 != last.0 {
        shown.push(middle);
    }
    shown.push(last);
    let shown: Vec<String> =
        shown.into_iter().map(|(index, mean)| format!("{mean:.1} dB in block {index}")).collect();
    Some(format!("errors accumulate: the outputs have {} on average", shown.join(", ")))
}

/// Sums over the scored positions.
#[derive(Default)]
struct Predictions {
    scored: usize,
    nll_a: f64,
    nll_b: f64,
    divergence: f64,
    agreed: usize,
    max_difference: f64,
}

impl Predictions {
    fn observe(&mut self, a: &[f32], b: &[f32], ids: &[u32], vocab_size: usize) {
        let rows = a.chunks_exact(vocab_size).zip(b.chunks_exact(vocab_size));
        for ((a, b), &target) in rows.zip(&ids[1..]) {
            let (log_a, log_b) = (log_softmax(a), log_softmax(b));
            self.scored += 1;
            self.nll_a -= log_a[target as usize];
            self.nll_b -= log_b[target as usize];
            self.divergence += log_a.iter().zip(&log_b).map(|(a, b)| a.exp() * (a - b)).sum::<f64>();
            self.agreed += usize::from(argmax(a) == argmax(b));
            let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
            self.max_difference = differences.fold(self.max_difference, f64::max);
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = || logits.iter().map(|&logit| f64::from(logit) - f64::from(max));
    let log_total = shifted().map(f64::exp).sum::<f64>().ln();
    shifted().map(|logit| logit - log_total).collect()
}

fn argmax(logits: &[f32]) -> Option<usize> {
    let better = |best: Option<usize>, i: usize| match best {
        Some(best) if logits[best] >= logits[i] => Some(best),
        _ => Some(i),
    };
    (0..logits.len()).fold(None, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_sees_what_perplexity_does_not() {
        let verdict = |perplexity_b: f64, kl_divergence: f64| {
            let result = CompareResult {
                weight_bytes_a: 4,
                weight_bytes_b: 1,
                tokens: 100,
                perplexity_a: 20.0,
                perplexity_b,
                kl_divergence,
                top1_agreement: 0.9,
                max_abs_logit_difference: 1.0,
                layers: Vec::new(),
                warning: None,
            };
            headline(&result).split(':').next().unwrap().to_owned()
        };
        assert_eq!(verdict(20.1, 0.005), "GOOD");
        assert_eq!(verdict(19.3, 0.117), "WORSE");
        assert_eq!(verdict(21.5, 0.005), "WORSE");
        assert_eq!(verdict(60.0, 0.117), "BROKEN");
    }
}

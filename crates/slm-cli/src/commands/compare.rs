//! `slm compare`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::{Checkpoint, TransformRecord};
use slm_model::{Transformer, window_logits};
use slm_ptq::{LayerComparison, TransformedSource, Transforms};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::json::number;
use crate::table::table;
use crate::text::{Limit, Tokens, WindowArgs, tokenizer};

/// Compare two checkpoints layer by layer on a text.
///
/// Both run on the same tokens; for every linear layer it shows how far the output of B is from that of A, and
/// for the model the divergence of the predictions. Usually A is the float model and B a quantized one. If B was rotated
/// before it was quantized, A is rotated in the same way first.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The reference
    dir_a: PathBuf,
    /// The checkpoint to judge
    dir_b: PathBuf,
    /// Text, or texts or token ids as JSON or JSON Lines
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    windows: WindowArgs,
    /// Use no more than the first N tokens of the text, and read no more of it
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_tokens: usize,
}

#[derive(Serialize)]
struct CompareResult {
    tokens: usize,
    perplexity_a: f64,
    perplexity_b: f64,
    /// Mean Kullback-Leibler divergence of B's predictions from A's, in nats.
    kl_divergence: f64,
    /// Share of positions where both find the same token most likely.
    top1_agreement: f64,
    max_abs_logit_difference: f64,
    layers: Vec<LayerResult>,
}

#[derive(Serialize)]
struct LayerResult {
    name: String,
    #[serde(serialize_with = "number")]
    sqnr_db: f64,
    #[serde(serialize_with = "number")]
    cosine: f64,
    max_abs_error: f64,
    mean_abs_error: f64,
}

pub(crate) fn run(args: &CompareArgs, context: &Context) -> Result<()> {
    let (checkpoint_a, checkpoint_b) =
        (context.open_to_load(&args.dir_a)?, context.open_to_load(&args.dir_b)?);
    let windowing = args.windows.windowing(&checkpoint_a)?;
    let limit = Limit { option: "--max-tokens", tokens: args.max_tokens };
    let vocab_size = checkpoint_a.config().model.vocab_size;
    let tokens = Tokens::read(&tokenizer(&checkpoint_a)?, &args.data, limit.tokens, vocab_size)?;
    tokens.check_length(&args.data, &windowing, limit)?;
    let transforms =
        checkpoint_b.metadata().and_then(|metadata| metadata.lineage.transforms).unwrap_or_default();
    let mut model_a = load_reference(&checkpoint_a, transforms, context)?;
    let mut model_b = checkpoint_b.load_model(&context.device)?;
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
    let mut layers = LayerComparison::new(&model_a, &model_b)?;
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
    let result = result(predictions, layers);
    say(&result, args, context)?;
    if transforms.smoothing_strength.is_some() || transforms.equalized_mlps.is_some() {
        context.output.say(
            "B was smoothed before it was quantized: the outputs of its v_proj and up_proj are those of A divided by \
             factors, so that their rows above say nothing.",
        )?;
    }
    context.output.result(&result)
}

/// The reference, rotated as the model was that it is compared with: the outputs of layers are then the same but for
/// quantization.
fn load_reference(
    checkpoint: &Checkpoint,
    transforms: TransformRecord,
    context: &Context,
) -> Result<Transformer> {
    match transforms.rotation_seed {
        Some(seed) if !checkpoint.is_quantized() => {
            let rotation = Transforms::rotation(checkpoint, seed)?;
            let mut tensors = TransformedSource::new(checkpoint, &rotation);
            Ok(Transformer::from_tensors(rotation.model(), &mut tensors, &context.device)?)
        }
        _ => Ok(checkpoint.load_model(&context.device)?),
    }
}

/// A tied head is no layer, but its quantized copy is: untied, both models name the same layers.
fn untie_like_each_other(a: &mut Transformer, b: &mut Transformer) {
    if a.head_is_tied() != b.head_is_tied() {
        a.untie_head();
        b.untie_head();
    }
}

fn result(predictions: Predictions, layers: LayerComparison) -> CompareResult {
    let scored = predictions.scored as f64;
    let layers = layers.finish().into_iter().map(|layer| LayerResult {
        sqnr_db: layer.error.sqnr_db(),
        cosine: layer.error.cosine(),
        max_abs_error: layer.error.max_abs_error(),
        mean_abs_error: layer.error.mean_abs_error(),
        name: layer.name,
    });
    CompareResult {
        tokens: predictions.scored,
        perplexity_a: (predictions.nll_a / scored).exp(),
        perplexity_b: (predictions.nll_b / scored).exp(),
        kl_divergence: predictions.divergence / scored,
        top1_agreement: predictions.agreed as f64 / scored,
        max_abs_logit_difference: predictions.max_difference,
        layers: layers.collect(),
    }
}

fn say(result: &CompareResult, args: &CompareArgs, context: &Context) -> Result<()> {
    let rows = result.layers.iter().map(|layer| {
        vec![
            layer.name.clone(),
            format!("{:.2}", layer.sqnr_db),
            format!("{:.6}", layer.cosine),
            format!("{:.3e}", layer.mean_abs_error),
            format!("{:.3e}", layer.max_abs_error),
        ]
    });
    let header = ["layer output", "SQNR dB", "cosine", "mean |error|", "max |error|"];
    context.output.say(table(&header, rows))?;
    context.output.say(format!(
        "\nperplexity {:.4} (A: {}) and {:.4} (B: {}) over {} tokens\nKL divergence {:.6} nats, same most \
         likely token at {:.2} % of positions, largest logit difference {:.4}",
        result.perplexity_a,
        args.dir_a.display(),
        result.perplexity_b,
        args.dir_b.display(),
        result.tokens,
        result.kl_divergence,
        result.top1_agreement * 100.0,
        result.max_abs_logit_difference,
    ))
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

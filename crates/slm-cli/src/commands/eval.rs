//! `slm eval`

mod bits;
mod choices;
mod page;
mod reference;
mod several;
mod words;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::Checkpoint;
use slm_model::{
    DivergenceSummary, EvalWindow, KvCacheType, Transformer, strided_windows, window_logits, window_nlls,
};

use self::bits::{TextLength, bits_per_byte};
use self::choices::ChoicesResult;
use self::reference::Reference;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::HtmlArgs;
use crate::seen_text;
use crate::table::TableArgs;
use crate::text::{Limit, Tokens, WindowArgs, Windowing, evaluate_with_progress, tokenizer};

/// Measure how well a checkpoint predicts texts, and how far its predictions are from those of another.
///
/// Perplexity: a text is tokenized without special tokens and cut into windows that do not overlap. Each window is
/// evaluated separately, and all its tokens but the first are scored; a last, shorter window counts too. With --bos each
/// begins with the beginning-of-sequence token, and all its tokens are scored. Each sequence of token ids is cut
/// separately. With --stride S, windows overlap and begin S tokens apart; every token is scored once, with at least
/// window - S tokens before it. Bits per byte are the same loss per byte of the text, which does not depend on the tokenizer.
///
/// With --reference, usually the float model: the Kullback-Leibler divergence of the predicted distributions from the
/// reference's, in nats (mean, median, percentiles, largest), the share of positions where both find the same token
/// most likely, and the root mean square of the change of the right token's probability.
///
/// With --choices, multiple-choice questions as lm-evaluation-harness counts them: a choice is scored by the
/// log-likelihood of its tokens after the context; accuracy is the share of questions whose answer scores highest,
/// length-normalized accuracy the same by score per character of the choice.
///
/// Several checkpoints (--checkpoint A --checkpoint B) are measured one after the other, and shown in one table and,
/// with --html, as a plot of size against quality.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Checkpoint directory, float or quantized (may be repeated: each is measured, size against quality)
    #[arg(long, value_name = "DIR", required = true)]
    checkpoint: Vec<PathBuf>,
    /// Text, or texts or token ids as JSON or JSON Lines (may be repeated: each is measured, and all together)
    #[arg(long, value_name = "FILE", required_unless_present = "choices")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    windows: WindowArgs,
    /// Tokens from the beginning of one window to that of the next, at most a window [default: a window]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Use only the first N tokens of each text, and read no further
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Checkpoint whose predictions are the reference, usually the float model
    #[arg(long, value_name = "DIR", requires = "data")]
    reference: Option<PathBuf>,
    /// Also compare the reference with itself computed by Burn's operations: the divergence due to float rounding
    #[arg(long, requires = "reference")]
    noise_floor: bool,
    /// Multiple-choice questions as JSON Lines: {"context": text, "choices": [texts], "answer": index from 0 or text}
    #[arg(long, value_name = "FILE")]
    choices: Option<PathBuf>,
    /// Type in which keys and values are stored: f32, or f16, int8 or int4 to measure their effect in generation
    #[arg(long, value_name = "TYPE", default_value_t = KvCacheType::F32)]
    kv_cache: KvCacheType,
    #[command(flatten)]
    html: HtmlArgs,
    #[command(flatten)]
    tables: TableArgs,
}

#[derive(Serialize)]
struct EvalResult {
    /// Size in bytes of all tensors of the checkpoint, and of the reference.
    weight_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_bytes_reference: Option<u64>,
    /// Perplexity over all texts, as are the fields below; `None` without a text.
    perplexity: Option<f64>,
    /// Mean negative log-likelihood in nats per token.
    nll: Option<f64>,
    /// The same loss in bits per byte of text; `None` if the text is given as token ids.
    bits_per_byte: Option<f64>,
    /// Total negative log-likelihood of all scored tokens, in nats.
    total_nll: f64,
    tokens: usize,
    /// Names of the texts.
    #[serde(skip)]
    measured_on: String,
    windows: usize,
    window: usize,
    /// True if each window began with the beginning-of-sequence token.
    bos: bool,
    /// Distance between the starts of two windows in tokens; `None` if windows do not overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    stride: Option<usize>,
    /// Results of each text, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    texts: Vec<TextResult>,
    /// Divergence from the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    divergence: Option<DivergenceView>,
    /// Divergence of the reference from itself on the other CPU device.
    #[serde(skip_serializing_if = "Option::is_none")]
    noise_floor: Option<DivergenceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<ChoicesResult>,
    /// Warning about the texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    device: &'static str,
    seconds: f64,
}

#[derive(Serialize)]
struct TextResult {
    path: PathBuf,
    perplexity: f64,
    bits_per_byte: Option<f64>,
    total_nll: f64,
    tokens: usize,
    windows: usize,
    divergence: Option<DivergenceView>,
}

impl TextResult {
    /// Mean negative log-likelihood in nats per token.
    fn nll(&self) -> f64 {
        self.total_nll / self.tokens as f64
    }
}

/// [`DivergenceSummary`] as JSON.
#[derive(Debug, Clone, Copy, Serialize)]
struct DivergenceView {
    tokens: usize,
    kl_mean: f64,
    kl_median: f64,
    kl_p90: f64,
    kl_p99: f64,
    kl_max: f64,
    top1_agreement: f64,
    rms_probability_change: f64,
    perplexity_reference: f64,
}

impl From<DivergenceSummary> for DivergenceView {
    fn from(summary: DivergenceSummary) -> Self {
        Self {
            tokens: summary.tokens,
            kl_mean: summary.mean,
            kl_median: summary.median,
            kl_p90: summary.p90,
            kl_p99: summary.p99,
            kl_max: summary.max,
            top1_agreement: summary.top1_agreement,
            rms_probability_change: summary.rms_probability_change,
            perplexity_reference: summary.perplexity_reference,
        }
    }
}

pub(crate) fn run(args: &EvalArgs, context: &Context) -> Result<()> {
    args.html.prepare()?;
    let [dir] = &args.checkpoint[..] else { return several::run(args, context) };
    let checkpoint = context.open_to_load(dir)?;
    let result = measure(args, &checkpoint, context)?;
    words::say(&result, context)?;
    args.html.write(&context.output, || Ok(page::page(&result, dir)))?;
    context.output.result(&result)
}

/// Measures one checkpoint.
fn measure(args: &EvalArgs, checkpoint: &Checkpoint, context: &Context) -> Result<EvalResult> {
    let windowing = args.windows.windowing(checkpoint)?;
    let window = windowing.len;
    let stride = args.stride.unwrap_or(window);
    if !(1..=window).contains(&stride) {
        return Err(Error::Usage(format!(
            "--stride {stride}: windows of {window} tokens take a stride of 1 to {window}"
        )));
    }
    let warning = seen_text::warning(checkpoint, args.data.iter().map(PathBuf::as_path))?;
    let tokenizer = tokenizer(checkpoint)?;
    let limit = Limit { option: "--max-tokens", tokens: args.max_tokens.unwrap_or(usize::MAX) };
    let texts = args.data.iter().map(|path| {
        let tokens =
            Tokens::read(&tokenizer, path, limit.tokens, checkpoint.config().model.vocab_size, context)?;
        tokens.check_length(path, &windowing, limit)?;
        Ok((path.as_path(), TextLength::of(&tokens), Window::of(&tokens, &windowing, stride)?))
    });
    let texts: Vec<(&Path, TextLength, Vec<Window>)> = texts.collect::<Result<_>>()?;
    let mut model = context.load_model(checkpoint)?;
    model.set_kv_cache_type(args.kv_cache);
    let mut reference = match &args.reference {
        Some(dir) => Some(Reference::load(dir, checkpoint, args.noise_floor, context)?),
        None => None,
    };
    let start = Instant::now();
    let mut results = Vec::new();
    for (path, length, windows) in &texts {
        let mut result = match &mut reference {
            None if stride == window => whole(path, &model, windows, context)?,
            None => strided(path, &model, windows, context)?,
            Some(reference) => reference.compare(path, &model, windows, context)?,
        };
        result.bits_per_byte = bits_per_byte([(result.nll(), *length)]);
        results.push(result);
    }
    let choices = match &args.choices {
        Some(path) => Some(choices::run(path, checkpoint, &tokenizer, &model, context)?),
        None => None,
    };
    let sum = |count: fn(&TextResult) -> usize| results.iter().map(count).sum::<usize>();
    let (tokens, total_nll) =
        (sum(|text| text.tokens), results.iter().map(|text| text.total_nll).sum::<f64>());
    let nll = (tokens > 0).then(|| total_nll / tokens as f64);
    Ok(EvalResult {
        weight_bytes: checkpoint.weight_bytes(),
        weight_bytes_reference: reference.as_ref().map(Reference::weight_bytes),
        perplexity: nll.map(f64::exp),
        nll,
        bits_per_byte: bits_per_byte(
            results.iter().zip(&texts).map(|(result, (_, length, _))| (result.nll(), *length)),
        ),
        total_nll,
        tokens,
        measured_on: names(&args.data),
        windows: sum(|text| text.windows),
        window,
        bos: !windowing.prefix.is_empty(),
        stride: (stride != window).then_some(stride),
        divergence: reference.as_ref().and_then(|reference| reference.total()),
        noise_floor: reference.as_ref().and_then(|reference| reference.noise()),
        texts: if results.len() > 1 { results } else { Vec::new() },
        choices,
        warning,
        device: context.device_name,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Names the texts, or counts them if they are many.
fn names(texts: &[PathBuf]) -> String {
    match texts.len() {
        0..=3 => texts.iter().map(|text| text.display().to_string()).collect::<Vec<_>>().join(", "),
        count => format!("{count} texts"),
    }
}

/// A window with the prefix of its text.
struct Window {
    ids: Vec<u32>,
    first_scored: usize,
}

impl Window {
    /// The windows of `tokens`, which begin `stride` tokens apart.
    fn of(tokens: &Tokens, windowing: &Windowing, stride: usize) -> Result<Vec<Self>> {
        if stride == windowing.len {
            let windows = tokens.windows(windowing).into_iter().filter(|ids| ids.len() >= 2);
            return Ok(windows.map(|ids| Self { ids, first_scored: 1 }).collect());
        }
        let (prefix, mut windows) = (&windowing.prefix, Vec::new());
        for ids in tokens.sequences.iter().filter(|ids| ids.len() >= 2) {
            for (index, window) in strided_windows(ids, windowing.len, stride)?.into_iter().enumerate() {
                // After a prefix, the first token of a text is scored too.
                let first = if index == 0 && !prefix.is_empty() { 0 } else { window.first_scored };
                let ids = [prefix, window.ids].concat();
                windows.push(Self { ids, first_scored: prefix.len() + first });
            }
        }
        Ok(windows)
    }

    fn view(&self) -> EvalWindow<'_> {
        EvalWindow { ids: &self.ids, first_scored: self.first_scored }
    }
}

/// Evaluates windows that do not overlap.
fn whole(path: &Path, model: &Transformer, windows: &[Window], context: &Context) -> Result<TextResult> {
    let windows: Vec<Vec<u32>> = windows.iter().map(|window| window.ids.clone()).collect();
    let evaluation = evaluate_with_progress(context, "evaluating", model, &windows)?;
    Ok(TextResult {
        path: path.to_owned(),
        perplexity: evaluation.perplexity(),
        bits_per_byte: None,
        total_nll: evaluation.nll,
        tokens: evaluation.tokens,
        windows: evaluation.window_nll.len(),
        divergence: None,
    })
}

/// Evaluates windows that overlap.
fn strided(path: &Path, model: &Transformer, windows: &[Window], context: &Context) -> Result<TextResult> {
    let (mut total_nll, mut tokens) = (0.0, 0);
    each_window(windows, context, |window| {
        let logits = window_logits(model, window.ids)?;
        let nlls = window_nlls(&logits, window, model.config().vocab_size)?;
        total_nll += nlls.iter().sum::<f64>();
        tokens += nlls.len();
        Ok(())
    })?;
    let perplexity = (total_nll / tokens as f64).exp();
    Ok(TextResult {
        path: path.to_owned(),
        perplexity,
        bits_per_byte: None,
        total_nll,
        tokens,
        windows: windows.len(),
        divergence: None,
    })
}

/// Calls `run` with every window, under a progress bar.
fn each_window(
    windows: &[Window],
    context: &Context,
    mut run: impl FnMut(EvalWindow<'_>) -> Result<()>,
) -> Result<()> {
    let bar = context.progress.bar("evaluating", windows.len());
    for window in windows {
        context.interrupt.check()?;
        run(window.view())?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Rejects two checkpoints with different vocabularies.
fn check_vocabularies(a: &Checkpoint, b: &Checkpoint) -> Result<()> {
    let (ours, theirs) = (a.config().model.vocab_size, b.config().model.vocab_size);
    match ours == theirs {
        true => Ok(()),
        false => Err(Error::file(
            b.dir(),
            format!(
                "vocab_size is {theirs}, that of {} is {ours}; only models with one vocabulary can be compared",
                a.dir().display()
            ),
        )),
    }
}

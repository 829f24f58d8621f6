//! `slm sample`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use slm_model::Sampler;
use slm_text::ids_to_json;

use crate::commands::sampling_args::SamplingArgs;
use crate::context::Context;
use crate::drawing::{DEFAULT_BATCH_SIZE, Sizes, draw_sequences, first_token, text_of};
use crate::error::{Error, Result};
use crate::numbers::count;
use crate::out_file::OutFile;
use crate::text::tokenizer;

/// Sample text from a model's own distribution, without any data.
///
/// Each sequence begins with the tokenizer's beginning-of-sequence token, or else its end-of-text token, and continues
/// beyond the end of a text with the next. Sequence i is drawn with seed S + i, with any number of threads. On the CPU
/// it is the same with any --batch-size. A FILE.json gets token ids, as `slm qat --data` and `slm logits` read them;
/// any other file gets text.
#[derive(Debug, Args)]
pub(crate) struct SampleArgs {
    /// Checkpoint directory
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Sequences to draw
    #[arg(long, value_name = "N", value_parser = count(10_000_000))]
    sequences: usize,
    /// Tokens of each sequence, the first included [default: as many as the model has positions]
    #[arg(long, value_name = "N")]
    length: Option<usize>,
    /// 1 draws from the model's own distribution; lower is less varied
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    temperature: f64,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Sequences that one thread draws at a time; threads draw batches in parallel
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BATCH_SIZE, value_parser = count(65_536))]
    batch_size: usize,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace an existing file at --out
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct SampleResult<'a> {
    output: &'a Path,
    sequences: usize,
    length: usize,
    tokens: usize,
    seconds: f64,
    tokens_per_second: f64,
    device: &'static str,
}

pub(crate) fn run(args: &SampleArgs, context: &Context) -> Result<()> {
    let start = std::time::Instant::now();
    args.sampling.options(args.temperature, 0)?;
    let out = OutFile::create(&args.out, args.overwrite)?;
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let first = first_token(&checkpoint)?;
    let model = context.load_model(&checkpoint)?;
    let most = model.config().max_position_embeddings;
    let length = args.length.unwrap_or(most);
    if !(2..=most).contains(&length) {
        return Err(Error::Usage(format!("--length {length}: this model takes 2 to {most} tokens")));
    }
    let sizes = Sizes { sequences: args.sequences, length, batch_size: args.batch_size };
    let sampler = |index| Ok(Sampler::new(args.sampling.options(args.temperature, index)?)?);
    let sequences = draw_sequences(&model, first, sizes, sampler, context)?;
    let content = if args.out.extension().is_some_and(|extension| extension == "json") {
        ids_to_json(&args.out, sequences)?
    } else {
        text_of(&sequences, &tokenizer(&checkpoint)?)?.into_bytes()
    };
    out.write(content)?;
    let tokens = args.sequences * length;
    let seconds = start.elapsed().as_secs_f64();
    context.output.headline(format!(
        "{} sequences of {length} tokens in {} ({:.0} tokens/s)",
        args.sequences,
        args.out.display(),
        tokens as f64 / seconds
    ))?;
    context.output.result(&SampleResult {
        output: &args.out,
        sequences: args.sequences,
        length,
        tokens,
        seconds,
        tokens_per_second: tokens as f64 / seconds,
        device: context.device_name,
    })
}

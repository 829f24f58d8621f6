//! `slm sample`

use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor, TensorData};
use clap::Args;
use serde::Serialize;
use slm_model::{CpuBatch, CpuEngine, Sampler, SequenceId, Transformer};
use slm_text::ids_to_json;

use crate::commands::sampling_args::SamplingArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::numbers::count;
use crate::out_file::OutFile;
use crate::text::tokenizer;
use crate::workers;

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
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count(65_536))]
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
    let info = &checkpoint.config().tokenizer;
    let first = info.bos_token_id.or_else(|| info.eos_token_ids.first().copied()).ok_or_else(|| {
        let detail =
            "the tokenizer has neither a beginning-of-sequence nor an end-of-text token to begin with";
        Error::file(&args.checkpoint, detail)
    })?;
    let model = context.load_model(&checkpoint)?;
    let most = model.config().max_position_embeddings;
    let length = args.length.unwrap_or(most);
    if !(2..=most).contains(&length) {
        return Err(Error::Usage(format!("--length {length}: this model takes 2 to {most} tokens")));
    }
    let bar = context.progress.bar("sampling", args.sequences * length);
    let batches = args.sequences.div_ceil(args.batch_size);
    // On a device with its own memory, one batch at a time is enough.
    let workers = if slm_nn::on_cpu(&context.device) { rayon::current_num_threads() } else { 1 };
    let drawn = workers::run(batches, workers, |batch| {
        let from = batch * args.batch_size;
        let samplers = (from..args.sequences.min(from + args.batch_size))
            .map(|index| Ok(Sampler::new(args.sampling.options(args.temperature, index as u64)?)?))
            .collect::<Result<Vec<_>>>()?;
        let rows = samplers.len() as u64;
        let on_position = || {
            bar.inc(rows);
            context.interrupt.check()
        };
        match CpuEngine::supports(&model) {
            true => draw_on_cpu(&model, samplers, first, length, on_position),
            false => draw(&model, samplers, first, length, on_position),
        }
    })?;
    let sequences: Vec<Vec<u32>> = drawn.into_iter().flatten().collect();
    bar.finish_and_clear();
    let content = if args.out.extension().is_some_and(|extension| extension == "json") {
        ids_to_json(&args.out, sequences)?
    } else {
        let tokenizer = tokenizer(&checkpoint)?;
        let texts = sequences.iter().map(|ids| tokenizer.decode(ids));
        texts.collect::<Result<Vec<_>, _>>()?.join("\n").into_bytes()
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

/// Draws one sequence for each sampler with a [`CpuBatch`], all beginning with `first`. `on_position` is called after
/// each position.
fn draw_on_cpu(
    model: &Transformer,
    mut samplers: Vec<Sampler>,
    first: u32,
    length: usize,
    mut on_position: impl FnMut() -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    let mut batch = CpuBatch::new(model)?;
    let ids: Vec<SequenceId> = samplers.iter().map(|_| batch.add(length)).collect::<Result<_, _>>()?;
    let mut sequences = vec![vec![first]; samplers.len()];
    let vocab_size = model.config().vocab_size;
    for _ in 1..length {
        for &id in &ids {
            // Sequences that outgrow the range of their rotation angles are recomputed.
            if model.check_growth(batch.len(id), batch.len(id) + 1).is_err() {
                batch.truncate(id, 0);
            }
        }
        let new = ids.iter().zip(&sequences).map(|(&id, sequence)| (id, &sequence[batch.len(id)..]));
        let new: Vec<(SequenceId, &[u32])> = new.collect();
        let logits = batch.forward_last(&new)?.chunks(vocab_size);
        for ((sampler, sequence), logits) in samplers.iter_mut().zip(&mut sequences).zip(logits) {
            sequence.push(sampler.sample(logits)?);
        }
        on_position()?;
    }
    Ok(sequences)
}

/// Draws one sequence for each sampler, all beginning with `first`. `on_position` is called after each position.
fn draw(
    model: &Transformer,
    mut samplers: Vec<Sampler>,
    first: u32,
    length: usize,
    mut on_position: impl FnMut() -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    let batch = samplers.len();
    let mut sequences = vec![vec![first]; batch];
    let mut cache = model.new_cache(batch, length);
    for _ in 1..length {
        // Sequences that outgrow the range of their rotation angles are recomputed.
        if model.check_growth(cache.len(), cache.len() + 1).is_err() {
            cache.truncate(0);
        }
        let held = cache.len();
        let new: Vec<i64> = sequences.iter().flat_map(|ids| &ids[held..]).map(|&id| i64::from(id)).collect();
        let shape = [batch, new.len() / batch];
        let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(new, shape), &model.device());
        let logits = slm_nn::to_vec_f32("logits", model.forward_last(ids, &mut cache))
            .map_err(slm_train::Error::from)?;
        let vocab_size = model.config().vocab_size;
        for ((sampler, ids), logits) in samplers.iter_mut().zip(&mut sequences).zip(logits.chunks(vocab_size))
        {
            ids.push(sampler.sample(logits)?);
        }
        on_position()?;
    }
    Ok(sequences)
}

//! Text that a model draws from its own distribution.

use burn::tensor::{Int, Tensor, TensorData};
use slm_checkpoint::Checkpoint;
use slm_model::{CpuBatch, CpuEngine, Sampler, SequenceId, Transformer};
use slm_text::Tokenizer;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::workers;

/// Number of sequences that one thread draws at a time by default.
pub(crate) const DEFAULT_BATCH_SIZE: usize = 16;

/// Number and length of sequences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) sequences: usize,
    /// Number of tokens of each sequence, the first included.
    pub(crate) length: usize,
    /// Number of sequences that one thread draws at a time; threads draw batches in parallel.
    pub(crate) batch_size: usize,
}

/// The token that sequences begin with: the beginning-of-sequence token, or else the first end-of-text token.
pub(crate) fn first_token(checkpoint: &Checkpoint) -> Result<u32> {
    let info = &checkpoint.config().tokenizer;
    info.bos_token_id.or_else(|| info.eos_token_ids.first().copied()).ok_or_else(|| {
        let detail =
            "the tokenizer has neither a beginning-of-sequence nor an end-of-text token to begin with";
        Error::file(checkpoint.dir(), detail)
    })
}

/// The text of sequences, one after the other on lines of their own.
pub(crate) fn text_of(sequences: &[Vec<u32>], tokenizer: &Tokenizer) -> Result<String> {
    let texts = sequences.iter().map(|ids| tokenizer.decode(ids));
    Ok(texts.collect::<std::result::Result<Vec<_>, _>>()?.join("\n"))
}

/// Draws sequences that begin with `first`, sequence i with `sampler(i)`. On the CPU the result depends neither on the
/// number of threads nor on the batch size.
pub(crate) fn draw_sequences(
    model: &Transformer,
    first: u32,
    sizes: Sizes,
    sampler: impl Fn(u64) -> Result<Sampler> + Sync,
    context: &Context,
) -> Result<Vec<Vec<u32>>> {
    let Sizes { sequences, length, batch_size } = sizes;
    let bar = context.progress.bar("sampling", sequences * length);
    let batches = sequences.div_ceil(batch_size);
    // On a device with its own memory, one batch at a time is enough.
    let workers = if slm_nn::on_cpu(&context.device) { rayon::current_num_threads() } else { 1 };
    let drawn = workers::run(batches, workers, |batch| {
        let from = batch * batch_size;
        let samplers = (from..sequences.min(from + batch_size)).map(|index| sampler(index as u64));
        let samplers = samplers.collect::<Result<Vec<_>>>()?;
        let rows = samplers.len() as u64;
        let on_position = || {
            bar.inc(rows);
            context.interrupt.check()
        };
        match CpuEngine::supports(model) {
            true => draw_on_cpu(model, samplers, first, length, on_position),
            false => draw(model, samplers, first, length, on_position),
        }
    })?;
    bar.finish_and_clear();
    Ok(drawn.into_iter().flatten().collect())
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

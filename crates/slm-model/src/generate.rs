//! Generation, one token at a time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::cpu::PassTimes;
use crate::error::{Error, Result};
use crate::sampler::{Sampler, SamplingOptions};
use crate::session::{InferencePath, InferenceSession};
use crate::transformer::Transformer;

/// Options of generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Maximum number of new tokens.
    pub max_new_tokens: usize,
    /// Choice of each token.
    pub sampling: SamplingOptions,
    /// Ids that end the text, such as the tokenizer's end-of-sequence token.
    pub stop_ids: Vec<u32>,
}

/// Generated tokens, and statistics of their generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOutput {
    /// The new ids, without the prompt and without the id that ended the text.
    pub ids: Vec<u32>,
    /// Reason for the end.
    pub stop: StopReason,
    /// Tokens of the prompt that were not computed, because a [`Generator`] had them in its cache.
    pub prompt_reused: usize,
    /// Time for the prompt, up to the choice of the first new token.
    pub prompt_time: Duration,
    /// Time for the passes after that, each over one token and up to the choice of the next.
    pub decode_time: Duration,
    /// Number of those passes: `decode_passes / decode_time` is the decoding speed.
    pub decode_passes: usize,
    /// Path of the computation.
    pub path: InferencePath,
    /// Breakdown of the time of the prompt's pass; `None` unless the path is [`InferencePath::Cpu`].
    pub prompt_profile: Option<PassTimes>,
    /// The same for the passes after it.
    pub decode_profile: Option<PassTimes>,
}

impl GenerateOutput {
    /// Computed tokens per second, for a prompt of `tokens` tokens; 0 if no time passed.
    pub fn prompt_tokens_per_second(&self, tokens: usize) -> f64 {
        per_second(tokens.saturating_sub(self.prompt_reused), self.prompt_time)
    }

    /// New tokens per second, counting those that took a pass; 0 if none did.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.decode_passes, self.decode_time)
    }
}

fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// Reason for the end of generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// `max_new_tokens` were generated.
    MaxNewTokens,
    /// One of `stop_ids` was chosen.
    StopId(u32),
    /// The caller asked to stop.
    Interrupted,
}

/// Continues `prompt`: one pass over the prompt, then one pass per token with a KV cache.
///
/// See [`Generator::generate`], which keeps the cache for the next prompt.
///
/// # Errors
/// As [`Generator::generate`].
pub fn generate(
    model: &Transformer,
    prompt: &[u32],
    options: &GenerateOptions,
    on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<GenerateOutput> {
    Generator { model, session: None, keeps: false }.generate(prompt, options, on_token)
}

/// Minimum capacity of a [`Generator`], if the model has that many positions.
const ROOM: usize = 1024;

/// Generation from prompts with a common beginning, such as the turns of a conversation.
///
/// Keys and values of the last sequence are kept. The common beginning of a new prompt is not recomputed.
///
/// ```
/// use std::ops::ControlFlow;
/// use slm_model::{GenerateOptions, Generator, ModelConfig, SamplingOptions, Transformer};
///
/// let config = ModelConfig::new(64, 16, 32, 1, 2, 32);
/// let model = Transformer::new(&config, 0, &burn::tensor::Device::flex())?;
/// let options =
///     GenerateOptions { max_new_tokens: 3, sampling: SamplingOptions::default(), stop_ids: vec![] };
/// let mut generator = Generator::new(&model);
/// let first = generator.generate(&[1, 2, 3], &options, |_| ControlFlow::Continue(()))?;
/// let next = [&[1, 2, 3], &first.ids[..], &[4, 5]].concat();
/// let second = generator.generate(&next, &options, |_| ControlFlow::Continue(()))?;
/// // The last new token was chosen and never run.
/// assert_eq!(second.prompt_reused, 3 + 2);
/// # Ok::<(), slm_model::Error>(())
/// ```
pub struct Generator<'a> {
    model: &'a Transformer,
    session: Option<InferenceSession<'a>>,
    /// `true` if a new cache has room for growing prompts.
    keeps: bool,
}

impl std::fmt::Debug for Generator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

impl<'a> Generator<'a> {
    /// A generator with an empty cache.
    pub fn new(model: &'a Transformer) -> Self {
        Self { model, session: None, keeps: true }
    }

    /// Number of positions that the cache has room for; grows as needed.
    pub fn capacity(&self) -> usize {
        self.session.as_ref().map_or(0, InferenceSession::capacity)
    }

    /// Continues `prompt`: one pass over the new part of the prompt, then one pass per token.
    ///
    /// `on_token` gets each new token as soon as it is chosen, except an id that ends the text. If it returns
    /// [`ControlFlow::Break`], the generation ends after that token, which still counts.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenId`], [`Error::Sampling`], [`Error::TooManyPositions`] when prompt and
    /// new tokens do not fit into the model's positions, [`Error::NotFinite`] when the model yields NaN.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<GenerateOutput> {
        let model = self.model;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        model.check_ids(prompt)?;
        let mut sampler = Sampler::new(options.sampling.clone())?;
        sampler.observe_prompt(prompt);
        // The last new token is only chosen, never run.
        let positions = prompt.len().saturating_add(options.max_new_tokens.saturating_sub(1));
        model.check_positions(positions)?;
        let mut output = GenerateOutput {
            ids: Vec::new(),
            stop: StopReason::MaxNewTokens,
            prompt_reused: 0,
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
            decode_passes: 0,
            path: model.inference_path(),
            prompt_profile: None,
            decode_profile: None,
        };
        if options.max_new_tokens == 0 {
            return Ok(output);
        }
        // A session whose pass fails is not kept.
        let mut session = match self.session.take() {
            Some(session) if session.capacity() >= positions => session,
            _ => {
                // Cached positions do not move into a larger cache.
                let room = if self.keeps { positions.saturating_mul(2).max(ROOM) } else { positions };
                InferenceSession::new(model, room.min(model.config().max_position_embeddings))?
            }
        };
        let clock = Instant::now();
        let (reused, logits) = session.forward_rest(prompt)?;
        let mut id = sampler.sample(&logits)?;
        output.prompt_time = clock.elapsed();
        output.prompt_reused = reused;
        output.prompt_profile = session.take_times();
        loop {
            if options.stop_ids.contains(&id) {
                output.stop = StopReason::StopId(id);
                break;
            }
            output.ids.push(id);
            if on_token(id).is_break() {
                output.stop = StopReason::Interrupted;
                break;
            }
            if output.ids.len() == options.max_new_tokens {
                break;
            }
            let clock = Instant::now();
            id = sampler.sample(&session.forward_last(&[id])?)?;
            output.decode_time += clock.elapsed();
            output.decode_passes += 1;
        }
        output.decode_profile = session.take_times();
        self.session = Some(session);
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{configs, cpu_devices};
    use burn::tensor::Device;

    fn options(max_new_tokens: usize) -> GenerateOptions {
        GenerateOptions { max_new_tokens, sampling: SamplingOptions::default(), stop_ids: vec![] }
    }

    #[test]
    fn greedy_equals_running_everything_again_for_each_token() {
        for device in cpu_devices() {
            for (name, config) in configs() {
                let model = Transformer::new(&config, 3, &device).unwrap();
                let mut ids = vec![7, 3, 11];
                let output = generate(&model, &ids, &options(9), |_| ControlFlow::Continue(())).unwrap();
                assert_eq!(output.decode_passes, 8);
                for &next in &output.ids {
                    let logits = crate::window_logits(&model, &ids).unwrap();
                    let last = &logits[logits.len() - config.vocab_size..];
                    let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    assert!(best - last[next as usize] < 1e-6, "{name}");
                    ids.push(next);
                }
            }
        }
    }

    #[test]
    fn what_prompts_have_in_common_is_not_computed_again_and_changes_nothing() {
        for device in cpu_devices() {
            for (name, config) in configs() {
                let model = Transformer::new(&config, 3, &device).unwrap();
                let mut generator = Generator::new(&model);
                let go = |_| ControlFlow::Continue(());
                let first = generator.generate(&[7, 3, 11], &options(6), go).unwrap();
                assert_eq!(first.prompt_reused, 0);
                // The next turn, an edited turn, another conversation, and the same again.
                let turn = [&[7, 3, 11], &first.ids[..], &[1, 2]].concat();
                let edited = [&turn[..6], &[9, 9, 9, 9]].concat();
                let prompts = [&turn[..], &edited, &[4, 4, 4], &[4, 4, 4], &[4]];
                for (prompt, most) in prompts.into_iter().zip([8, 6, 0, 2, 0]) {
                    let output = generator.generate(prompt, &options(9), go).unwrap();
                    let alone = generate(&model, prompt, &options(9), go).unwrap();
                    assert_eq!(output.ids, alone.ids, "{name}: {prompt:?}");
                    assert!(output.prompt_reused <= most, "{name}: {prompt:?}");
                    // Positions that a longer sequence rotates by other angles are recomputed.
                    if config.max_position_embeddings <= 64 && !name.contains("longrope") {
                        assert_eq!(output.prompt_reused, most, "{name}: {prompt:?}");
                    }
                }
                assert!(generator.capacity() >= 9);
            }
        }
    }

    #[test]
    fn stops_for_each_reason() {
        let model = Transformer::new(&configs()[0].1, 3, &Device::flex()).unwrap();
        let mut seen = Vec::new();
        let all = generate(&model, &[1], &options(6), |id| {
            seen.push(id);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((all.stop, &all.ids), (StopReason::MaxNewTokens, &seen));
        assert_eq!(all.ids.len(), 6);

        let broken = generate(&model, &[1], &options(6), |_| ControlFlow::Break(())).unwrap();
        assert_eq!((broken.stop, &broken.ids[..]), (StopReason::Interrupted, &all.ids[..1]));

        let stop_id = all.ids[2];
        let first = all.ids.iter().position(|&id| id == stop_id).unwrap();
        let stopping = GenerateOptions { stop_ids: vec![stop_id], ..options(6) };
        let stopped = generate(&model, &[1], &stopping, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((stopped.stop, &stopped.ids[..]), (StopReason::StopId(stop_id), &all.ids[..first]));

        assert!(generate(&model, &[1], &options(0), |_| ControlFlow::Continue(())).unwrap().ids.is_empty());
    }

    #[test]
    fn bad_input_is_refused() {
        let config = &configs()[0].1;
        let model = Transformer::new(config, 3, &Device::flex()).unwrap();
        let run = |prompt: &[u32], n| generate(&model, prompt, &options(n), |_| ControlFlow::Continue(()));
        assert!(matches!(run(&[], 1), Err(Error::EmptyPrompt)));
        assert!(matches!(run(&[1, 50], 1), Err(Error::TokenId { index: 1, id: 50, vocab_size: 50 })));
        assert!(matches!(run(&[1; 64], 2), Err(Error::TooManyPositions { needed: 65, max: 64 })));
        assert!(matches!(run(&[1], usize::MAX), Err(Error::TooManyPositions { .. })));
        assert_eq!(run(&[1; 64], 1).unwrap().ids.len(), 1);
    }
}

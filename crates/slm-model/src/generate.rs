//! Generation, one token at a time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::cpu::PassTimes;
use crate::error::{Error, Result};
use crate::sampler::{Sampler, SamplingOptions};
use crate::session::{InferencePath, InferenceSession};
use crate::transformer::Transformer;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Maximum number of new tokens.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub sampling: SamplingOptions,
    /// Ids that end the text, such as the tokenizer's end-of-sequence token.
    pub stop_ids: Vec<u32>,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOutput {
    /// The new ids, without the prompt and without the id that ended the text.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop: StopReason,
    /// Time for the prompt, up to the choice of the first new token.
    pub prompt_time: Duration,
    /// Time for the passes after that, each over one token and up to the choice of the next.
    pub decode_time: Duration,
    /// Number of those passes: `decode_passes / decode_time` is the decoding speed.
    pub decode_passes: usize,
    /// How the passes were computed.
    pub path: InferencePath,
    /// What the prompt's pass spent its time on; only known on [`InferencePath::Cpu`].
    pub prompt_profile: Option<PassTimes>,
    /// The same for the passes after it.
    pub decode_profile: Option<PassTimes>,
}

impl GenerateOutput {
    /// Tokens of a prompt of `tokens` tokens per second; 0 where no time passed.
    pub fn prompt_tokens_per_second(&self, tokens: usize) -> f64 {
        per_second(tokens, self.prompt_time)
    }

    /// New tokens per second, of those that took a pass; 0 where none did.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.decode_passes, self.decode_time)
    }
}

fn per_second(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// Why generation ended.
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
/// `on_token` gets each new token as soon as it is chosen, except an id that ends the text; by
/// [`ControlFlow::Break`] it ends the generation, and the token it was given still counts.
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::TokenId`], [`Error::Sampling`], [`Error::TooManyPositions`] when prompt and
/// new tokens do not fit into the model's positions, [`Error::NotFinite`] when the model yields NaN.
pub fn generate(
    model: &Transformer,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<GenerateOutput> {
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
    let mut session = InferenceSession::new(model, positions)?;
    let clock = Instant::now();
    let mut id = sampler.sample(&session.forward_last(prompt)?)?;
    output.prompt_time = clock.elapsed();
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
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{configs, devices};

    fn options(max_new_tokens: usize) -> GenerateOptions {
        GenerateOptions { max_new_tokens, sampling: SamplingOptions::default(), stop_ids: vec![] }
    }

    #[test]
    fn greedy_equals_running_everything_again_for_each_token() {
        for device in devices() {
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
    fn stops_for_each_reason() {
        let model = Transformer::new(&configs()[0].1, 3, &devices()[1]).unwrap();
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
        let model = Transformer::new(config, 3, &devices()[1]).unwrap();
        let run = |prompt: &[u32], n| generate(&model, prompt, &options(n), |_| ControlFlow::Continue(()));
        assert!(matches!(run(&[], 1), Err(Error::EmptyPrompt)));
        assert!(matches!(run(&[1, 50], 1), Err(Error::TokenId { index: 1, id: 50, vocab_size: 50 })));
        assert!(matches!(run(&[1; 64], 2), Err(Error::TooManyPositions { needed: 65, max: 64 })));
        assert!(matches!(run(&[1], usize::MAX), Err(Error::TooManyPositions { .. })));
        assert_eq!(run(&[1; 64], 1).unwrap().ids.len(), 1);
    }
}

//! The state of a request while it is decoded.

use std::sync::Arc;
use std::time::Instant;

use slm_model::{Sampler, SequenceId};
use slm_text::{StopTexts, TextStream, Tokenizer};
use tokio::sync::mpsc::UnboundedSender;

use crate::api::Wanted;

/// A request that is ready to be decoded.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) prompt: Vec<u32>,
    /// Maximum number of new tokens; prompt and new tokens together fit the model's context.
    pub(crate) new_tokens: usize,
    pub(crate) wanted: Wanted,
    pub(crate) stop_ids: Arc<[u32]>,
    /// True if the answer may continue the prompt's last word or line.
    pub(crate) continues_prompt: bool,
    /// Time at which the answer is cut off.
    pub(crate) deadline: Instant,
    /// Channel to the client. Closed when the client has disconnected.
    pub(crate) events: UnboundedSender<Event>,
}

/// An event of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The next token. Its text may come with a later one, or be held back because it may be the start of a stop text.
    Token { text: String, logprob: Option<TokenLogprob> },
    /// The end: the rest of the text, and the number of tokens.
    Done { text: String, reason: FinishReason, tokens: usize },
    /// The answer cannot be finished.
    Failed(String),
}

/// Reason for the end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// The model ended the answer, or a stop text was found.
    Stop,
    /// The answer has reached its maximum number of tokens.
    Length,
}

impl FinishReason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// The log-probability of a token and those of the most likely alternatives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenLogprob {
    pub(crate) id: u32,
    pub(crate) logprob: f32,
    /// Alternatives, most likely first.
    pub(crate) top: Vec<(u32, f32)>,
}

impl TokenLogprob {
    /// Computes the log-probability of `id` from the model's raw logits, before penalties, temperature and filters.
    pub(crate) fn new(logits: &[f32], id: u32, top: usize) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
        let log_sum = sum.ln() as f32 + max;
        let logprob = |id: u32| logits.get(id as usize).map_or(f32::NEG_INFINITY, |logit| logit - log_sum);
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let by_likelihood = |a: &u32, b: &u32| logprob(*b).total_cmp(&logprob(*a)).then(a.cmp(b));
        let top = top.min(ids.len());
        if top > 0 {
            ids.select_nth_unstable_by(top - 1, by_likelihood);
        }
        ids.truncate(top);
        ids.sort_by(by_likelihood);
        Self { id, logprob: logprob(id), top: ids.into_iter().map(|id| (id, logprob(id))).collect() }
    }
}

/// State of an answer after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More tokens follow.
    Running,
    /// The answer has ended.
    Finished,
    /// The client has disconnected.
    Abandoned,
}

/// Number of prompt ids that the text decoder sees before the first new one.
const CONTEXT: usize = 16;

/// Reason why an answer cannot be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Model(#[from] slm_model::Error),
    #[error(transparent)]
    Text(#[from] slm_text::Error),
}

/// A request that is being decoded.
pub(crate) struct Active<'t> {
    pub(crate) job: Job,
    pub(crate) sequence: SequenceId,
    sampler: Sampler,
    /// Text decoder; `None` once the text has ended.
    stream: Option<TextStream<'t>>,
    stops: StopTexts,
    /// Ids of the prompt and the new tokens.
    pub(crate) ids: Vec<u32>,
    /// Number of `ids` that the model has processed.
    pub(crate) fed: usize,
    new: usize,
}

impl<'t> Active<'t> {
    /// Creates the state of a request; `ids` starts with the prompt.
    pub(crate) fn new(job: Job, sequence: SequenceId, tokenizer: &'t Tokenizer) -> Result<Self, Failed> {
        let mut sampler = Sampler::new(job.wanted.sampling.clone())?;
        sampler.observe_prompt(&job.prompt);
        let mut stream = tokenizer.stream();
        if job.continues_prompt {
            // With this context, a leading space of the first new word is decoded as a space.
            for &id in &job.prompt[job.prompt.len().saturating_sub(CONTEXT)..] {
                stream.push(id)?;
            }
        }
        let stops = StopTexts::new(job.wanted.stops.iter().cloned());
        let ids = job.prompt.clone();
        Ok(Self { job, sequence, sampler, stream: Some(stream), stops, ids, fed: 0, new: 0 })
    }

    /// Returns the next ids to feed to the model, at most `most`.
    pub(crate) fn next_ids(&self, most: usize) -> &[u32] {
        &self.ids[self.fed..][..most.min(self.ids.len() - self.fed)]
    }

    /// Chooses the next token from the logits of the last one, and sends it.
    pub(crate) fn advance(&mut self, logits: &[f32]) -> Progress {
        self.try_advance(logits).unwrap_or_else(|error| {
            self.send(Event::Failed(error.to_string()));
            Progress::Finished
        })
    }

    fn try_advance(&mut self, logits: &[f32]) -> Result<Progress, Failed> {
        let id = self.sampler.sample(logits)?;
        if self.job.stop_ids.contains(&id) {
            return self.finish(FinishReason::Stop);
        }
        self.ids.push(id);
        self.new += 1;
        let logprob = self.job.wanted.logprobs.map(|top| TokenLogprob::new(logits, id, top));
        let piece = self.stream.as_mut().map(|stream| stream.push(id)).transpose()?.unwrap_or_default();
        let (text, stopped) = self.stops.push(&piece);
        if !self.send(Event::Token { text, logprob }) {
            return Ok(Progress::Abandoned);
        }
        if stopped.is_some() {
            self.send(Event::Done { text: String::new(), reason: FinishReason::Stop, tokens: self.new });
            return Ok(Progress::Finished);
        }
        match self.new >= self.job.new_tokens {
            true => self.finish(FinishReason::Length),
            false => Ok(Progress::Running),
        }
    }

    /// Ends the answer because its time is over.
    pub(crate) fn expire(&mut self) {
        if let Err(error) = self.finish(FinishReason::Length) {
            self.send(Event::Failed(error.to_string()));
        }
    }

    /// Sends the text that is still held back, and the end.
    fn finish(&mut self, reason: FinishReason) -> Result<Progress, Failed> {
        let rest = self.stream.take().map(TextStream::finish).transpose()?.unwrap_or_default();
        let (mut text, stopped) = self.stops.push(&rest);
        let reason = if stopped.is_some() { FinishReason::Stop } else { reason };
        if stopped.is_none() {
            text += &std::mem::replace(&mut self.stops, StopTexts::new([])).finish();
        }
        self.send(Event::Done { text, reason, tokens: self.new });
        Ok(Progress::Finished)
    }

    /// Sends an event. Returns `false` when the client has disconnected.
    pub(crate) fn send(&self, event: Event) -> bool {
        self.job.events.send(event).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let logits = [1.0_f32, 3.0, 2.0, 3.0];
        let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let found = TokenLogprob::new(&logits, 2, 3);
        assert!((found.logprob - (2.0_f32.exp() / sum).ln()).abs() < 1e-6);
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!(found.top[2].1, found.logprob);
        assert!(TokenLogprob::new(&logits, 0, 0).top.is_empty());
        assert_eq!(TokenLogprob::new(&logits, 0, 9).top.len(), 4);
    }
}

//! Simple English stories from a stochastic grammar of known entropy.
//!
//! A story is written by a probabilistic program: every choice (a name, a number, a turn of phrase) is drawn with a
//! known probability, and the probability of a story is the product over its choices. A [`Story`] holds the negative
//! logarithm of that product, so the mean of [`Story::nats`] over stories is an unbiased estimate of the entropy of the
//! corpus: no model of any size can have a lower expected loss. Divided by the number of tokens of the same text, it is
//! the limit per token.
//!
//! **Exact or bound?** The product belongs to one derivation of the text. If a text had a second derivation, it would
//! be more likely than the product, and `nats` would only be an upper bound of `-ln p(text)`. [`log_probability`]
//! decides this: it enumerates every derivation of a given text. The grammar is written so that there is exactly one,
//! and the tests check that for a sample of stories, so `nats` is exact.
//!
//! **Per token.** The limit holds for a model that sees the story from its first word. A model that is evaluated on
//! fixed windows sees some stories from the middle, misses their beginning, and cannot reach the limit.
//!
//! **File format.** UTF-8 (only ASCII characters). Paragraphs end with a newline; every story is followed by a line
//! with only [`END_OF_TEXT`].

mod choices;
mod exact;
mod plot;
mod scenes;
mod template;
mod words;
mod world;

use std::io::{self, Write};

use crate::END_OF_TEXT;
use choices::{Drawn, Teller};

pub use exact::{LogProbability, log_probability};

/// One story and its information content.
#[derive(Debug, Clone, PartialEq)]
pub struct Story {
    /// Paragraphs, each ending with a newline.
    pub text: String,
    /// `-ln` of the probability of its choices, in nats (divide by `ln 2` for bits).
    pub nats: f64,
    /// Number of choices that were not forced.
    pub choices: usize,
}

/// Returns story `index` of the corpus with the seed `seed`. Stories are independent of one another, and each depends
/// only on these two numbers: neither on the platform nor on the number of stories.
pub fn story(seed: u64, index: u64) -> Story {
    let mut drawn = Drawn::new(seed, index);
    let mut teller = Teller::new(&mut drawn);
    plot::tell(&mut teller);
    teller.into_story()
}

/// The endless sequence of the stories of one seed.
#[derive(Debug, Clone)]
pub struct Corpus {
    seed: u64,
    next: u64,
}

/// Result of [`Corpus::write`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CorpusSummary {
    /// Number of stories.
    pub stories: u64,
    /// Size in bytes, including separators.
    pub bytes: u64,
    /// Total information in nats. Separators add none, because they are certain.
    pub nats: f64,
}

impl CorpusSummary {
    /// Nats per byte of the file: the lowest expected loss per byte of any model.
    pub fn nats_per_byte(&self) -> f64 {
        self.nats / self.bytes as f64
    }

    /// Nats per story.
    pub fn nats_per_story(&self) -> f64 {
        self.nats / self.stories as f64
    }
}

impl Corpus {
    /// Creates the corpus of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    /// Writes the next `stories` stories, each followed by a separator line.
    ///
    /// # Errors
    /// The errors of `out`.
    pub fn write(&mut self, stories: u64, out: &mut dyn Write) -> io::Result<CorpusSummary> {
        let mut summary = CorpusSummary { stories, bytes: 0, nats: 0.0 };
        for story in self.take(usize::try_from(stories).map_err(io::Error::other)?) {
            writeln!(out, "{}{END_OF_TEXT}", story.text)?;
            summary.bytes += (story.text.len() + END_OF_TEXT.len() + 1) as u64;
            summary.nats += story.nats;
        }
        out.flush()?;
        Ok(summary)
    }

    /// Returns the next `stories` stories as the text of a file.
    pub fn text(&mut self, stories: usize) -> String {
        self.take(stories).map(|story| format!("{}{END_OF_TEXT}\n", story.text)).collect()
    }
}

impl Iterator for Corpus {
    type Item = Story;

    fn next(&mut self) -> Option<Story> {
        let story = story(self.seed, self.next);
        self.next = self.next.checked_add(1)?;
        Some(story)
    }
}

#[cfg(test)]
mod tests;

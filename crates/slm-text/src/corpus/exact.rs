//! The exact probability of a text, by enumeration of its derivations.

use super::choices::{Oracle, Teller};
use super::plot;

/// Probability that the grammar generates a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogProbability {
    /// `-ln p(text)` in nats, over all derivations.
    pub nats: f64,
    /// Number of derivations. If it is 1, [`Story::nats`](super::Story::nats) is exact.
    pub derivations: usize,
}

/// Computes `-ln p(text)` of one story as [`story`](super::story) returns it. Returns `None` for a text that the
/// grammar cannot generate.
///
/// It generates the story again and again with other choices, in depth-first order, and abandons a branch at the first
/// byte that differs from `text`. Choices are made just before their text is written, so branches end early, and the
/// search takes thousands of attempts instead of `e^nats`.
pub fn log_probability(text: &str) -> Option<LogProbability> {
    let mut search = Search { target: text, script: Vec::new(), position: 0, alive: true };
    let mut probability = 0.0;
    let mut derivations = 0;
    loop {
        search.position = 0;
        search.alive = true;
        let mut teller = Teller::new(&mut search);
        plot::tell(&mut teller);
        let told = teller.into_story();
        if search.alive && told.text.len() == text.len() {
            probability += (-told.nats).exp();
            derivations += 1;
        }
        if !search.next_branch() {
            break;
        }
    }
    (derivations > 0).then(|| LogProbability { nats: -probability.ln(), derivations })
}

/// An oracle that follows a script, extends it with first options, and notices when the text deviates.
struct Search<'a> {
    target: &'a str,
    /// Index chosen and number of options, for every choice made while the text agreed.
    script: Vec<(usize, usize)>,
    position: usize,
    alive: bool,
}

impl Search<'_> {
    /// Advances to the next script in depth-first order. Returns `false` at the end.
    fn next_branch(&mut self) -> bool {
        while let Some((chosen, options)) = self.script.pop() {
            if chosen + 1 < options {
                self.script.push((chosen + 1, options));
                return true;
            }
        }
        false
    }
}

impl Oracle for Search<'_> {
    fn choose(&mut self, weights: &[u32]) -> usize {
        if !self.alive {
            return 0;
        }
        if self.position == self.script.len() {
            self.script.push((0, weights.len()));
        }
        self.position += 1;
        self.script[self.position - 1].0
    }

    fn wrote(&mut self, offset: usize, piece: &str) {
        self.alive = self.alive && self.target.get(offset..).is_some_and(|rest| rest.starts_with(piece));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::story;

    #[test]
    fn every_sampled_story_has_one_derivation() {
        for index in 0..60 {
            let story = story(11, index);
            let exact = log_probability(&story.text).unwrap();
            assert_eq!(exact.derivations, 1, "{}", story.text);
            assert!((exact.nats - story.nats).abs() < 1e-9 * story.nats, "{}", story.text);
        }
    }

    #[test]
    fn a_text_that_is_no_story_has_no_probability() {
        let story = story(11, 0);
        assert_eq!(log_probability(""), None);
        assert_eq!(log_probability("The committee adjourned at noon.\n"), None);
        assert_eq!(log_probability(&story.text[..story.text.len() - 1]), None);
        assert_eq!(log_probability(&format!("{} ", story.text)), None);
    }
}

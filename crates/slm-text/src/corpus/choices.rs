//! Random choices of a story and the counting of their probability.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Story;

/// Source of the choices of a story, which also receives the text.
pub(super) trait Oracle {
    /// Returns an index below `weights.len()`. The weights must be positive; the probability of an index is its share
    /// of their sum.
    fn choose(&mut self, weights: &[u32]) -> usize;

    /// Called after `piece` was appended to the story at byte `offset`.
    fn wrote(&mut self, _offset: usize, _piece: &str) {}
}

/// Choices drawn at random.
pub(super) struct Drawn(ChaCha8Rng);

impl Drawn {
    pub(super) fn new(seed: u64, index: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        Self(rng)
    }

    /// Draws uniformly below `total` by rejection, so that the stated probabilities are exact and a corpus does not
    /// depend on the sampling code of a library.
    fn below(&mut self, total: u64) -> u64 {
        let usable = u64::MAX - u64::MAX % total;
        loop {
            let bits = self.0.next_u64();
            if bits < usable {
                return bits % total;
            }
        }
    }
}

impl Oracle for Drawn {
    fn choose(&mut self, weights: &[u32]) -> usize {
        let total = weights.iter().map(|&weight| u64::from(weight)).sum();
        let mut at = self.below(total);
        for (index, &weight) in weights.iter().enumerate() {
            match at.checked_sub(u64::from(weight)) {
                Some(rest) => at = rest,
                None => return index,
            }
        }
        unreachable!("a number below the sum of the weights falls into one of them")
    }
}

/// Tells a story: makes choices with an [`Oracle`], counts their probability, and collects the text.
pub(super) struct Teller<'a> {
    oracle: &'a mut dyn Oracle,
    text: String,
    nats: f64,
    choices: usize,
}

impl<'a> Teller<'a> {
    pub(super) fn new(oracle: &'a mut dyn Oracle) -> Self {
        Self { oracle, text: String::new(), nats: 0.0, choices: 0 }
    }

    pub(super) fn into_story(self) -> Story {
        Story { text: self.text, nats: self.nats, choices: self.choices }
    }

    /// Draws an index with probability proportional to its weight. Every choice of a story goes through this method.
    pub(super) fn weighted(&mut self, weights: &[u32]) -> usize {
        if weights.len() < 2 {
            return 0;
        }
        let index = self.oracle.choose(weights);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        self.nats += (total / f64::from(weights[index])).ln();
        self.choices += 1;
        index
    }

    /// Draws a uniform index below `count`.
    pub(super) fn index(&mut self, count: usize) -> usize {
        const ONES: [u32; 64] = [1; 64];
        match ONES.get(..count) {
            Some(weights) => self.weighted(weights),
            None => self.weighted(&vec![1; count]),
        }
    }

    /// Draws one of `options`.
    pub(super) fn pick<'o, T>(&mut self, options: &'o [T]) -> &'o T {
        &options[self.index(options.len())]
    }

    /// Draws a number from `low` to `high`, inclusive.
    pub(super) fn number(&mut self, low: usize, high: usize) -> usize {
        low + self.index(high - low + 1)
    }

    /// Returns `true` with probability `1 / (1 + against)`.
    pub(super) fn once_in(&mut self, against: u32) -> bool {
        self.weighted(&[1, against]) == 0
    }

    /// Draws one of `options` and removes it from them.
    pub(super) fn take<T>(&mut self, options: &mut Vec<T>) -> T {
        let index = self.index(options.len());
        options.remove(index)
    }

    /// Appends a piece of text unchanged.
    pub(super) fn write(&mut self, piece: &str) {
        self.oracle.wrote(self.text.len(), piece);
        self.text.push_str(piece);
    }

    /// Appends a space unless the next sentence opens a paragraph.
    pub(super) fn space(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.write(" ");
        }
    }

    /// Ends the paragraph.
    pub(super) fn paragraph(&mut self) {
        self.write("\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_probabilities() {
        let mut drawn = Drawn::new(3, 0);
        let mut counts = [0_u32; 3];
        for _ in 0..40_000 {
            counts[drawn.choose(&[1, 4, 3])] += 1;
        }
        // Standard deviations are below 100.
        for (count, expected) in counts.into_iter().zip([5_000, 20_000, 15_000]) {
            assert!(count.abs_diff(expected) < 500, "{counts:?}");
        }
    }

    #[test]
    fn nats_add_up_and_forced_choices_are_free() {
        let mut drawn = Drawn::new(3, 1);
        let mut teller = Teller::new(&mut drawn);
        teller.index(1);
        assert_eq!((teller.nats, teller.choices), (0.0, 0));
        teller.index(8);
        teller.number(3, 6);
        teller.index(100);
        assert!((teller.nats - 3200_f64.ln()).abs() < 1e-12);
        let before = teller.nats;
        let yes = teller.once_in(3);
        let expected = if yes { 4_f64.ln() } else { (4_f64 / 3.0).ln() };
        assert!((teller.nats - before - expected).abs() < 1e-12);
        assert_eq!(teller.choices, 4);
    }
}

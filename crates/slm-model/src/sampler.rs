//! Choice of the next token from logits.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Options for drawing tokens. Penalties change the logits first; then temperature, `top_k`, `top_p` and `min_p` apply
/// in this order, as in Hugging Face's generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divisor of the logits. 0 always takes the most likely token. Default: 0.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens can be drawn. Default: all.
    pub top_k: Option<usize>,
    /// Only the fewest most likely tokens whose probabilities reach `top_p` can be drawn (Holtzman and others,
    /// 2020). Default: 1, all.
    pub top_p: f64,
    /// Only tokens at least `min_p` times as likely as the most likely token can be drawn. Default: 0, all.
    pub min_p: f64,
    /// Positive logits of tokens in the prompt or among the drawn tokens are divided by it, and negative ones
    /// multiplied (Keskar and others, 2019). Default: 1, no penalty.
    pub repetition_penalty: f64,
    /// Subtracted once from the logits of tokens that were drawn. Default: 0.
    pub presence_penalty: f64,
    /// Subtracted from the logits of tokens that were drawn, once for each draw. Default: 0.
    pub frequency_penalty: f64,
    /// Seed of the draws. Default: 0.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Sampling`] names the option and the remedy.
    pub fn validate(&self) -> Result<()> {
        let bad = |field, found: String, remedy| Err(Error::Sampling { field, found, remedy });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let remedy = "use 0 to always take the most likely token, or a positive number";
            return bad("temperature", self.temperature.to_string(), remedy);
        }
        if self.top_k == Some(0) {
            return bad("top_k", "0".into(), "use 1 or more, or leave it out to allow every token");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p.to_string(), "use a number above 0 and at most 1");
        }
        if !(0.0..1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p.to_string(), "use 0 to allow every token, or a number below 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0) {
            let remedy = "use 1 for no penalty, or a number somewhat above it, such as 1.1";
            return bad("repetition_penalty", self.repetition_penalty.to_string(), remedy);
        }
        for (field, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !(-100.0..=100.0).contains(&penalty) {
                return bad(field, penalty.to_string(), "use 0 for no penalty, or a number up to 2");
            }
        }
        Ok(())
    }

    fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Draws tokens. The same options and the same logits give the same tokens on every machine and device.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    rng: ChaCha8Rng,
    /// `e^((logit - max) / temperature)` of each token, kept for its memory.
    weights: Vec<f32>,
    /// Number of times that each token was drawn; 0 for one of the prompt.
    seen: BTreeMap<u32, u32>,
}

/// Number of tokens whose weights are summed together, so that a draw need not walk through all tokens.
const RUN: usize = 256;

impl Sampler {
    /// A sampler at the start of its seed's draws.
    ///
    /// # Errors
    /// [`Error::Sampling`] for an option out of its range.
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.validate()?;
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Ok(Self { options, rng, weights: Vec::new(), seen: BTreeMap::new() })
    }

    /// Records the tokens of the prompt, which `repetition_penalty` counts.
    pub fn observe_prompt(&mut self, ids: &[u32]) {
        if self.options.penalizes() {
            for &id in ids {
                self.seen.entry(id).or_default();
            }
        }
    }

    /// Draws the next token. Among equal logits the lower id counts as more likely.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a logit is NaN or `+inf`, or none is above `-inf`.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        if !self.options.penalizes() {
            return self.draw(logits);
        }
        let id = self.draw(&self.penalized(logits))?;
        *self.seen.entry(id).or_default() += 1;
        Ok(id)
    }

    fn penalized(&self, logits: &[f32]) -> Vec<f32> {
        let options = &self.options;
        let mut logits = logits.to_vec();
        for (&id, &count) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let factor = options.repetition_penalty as f32;
            *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
            let once = if count > 0 { options.presence_penalty } else { 0.0 };
            *logit -= (once + f64::from(count) * options.frequency_penalty) as f32;
        }
        logits
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32> {
        let best = argmax(logits)?;
        if self.options.temperature == 0.0 {
            return Ok(best as u32);
        }
        let max = logits[best];
        // Within f32, so that 0 / 0 and inf / inf cannot come up.
        let temperature = (self.options.temperature as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
        self.weights.clear();
        self.weights.extend(logits.iter().map(|logit| (logit - max) / temperature));
        slm_cpu_ops::exp(&mut self.weights);
        match self.candidates(logits, max) {
            Some(ids) => {
                let total = self.sum_of(&ids);
                let left = self.rng.random::<f64>() * total;
                Ok(self.walk(ids.iter().copied(), left))
            }
            None => Ok(self.draw_from_all()),
        }
    }

    /// The tokens that the filters leave, most likely first; `None` if they leave all.
    fn candidates(&self, logits: &[f32], max: f32) -> Option<Vec<u32>> {
        let top_k = self.options.top_k.filter(|&k| k < logits.len());
        let top_p = self.options.top_p;
        let mut ids = match top_k {
            Some(k) => likeliest(logits, max, |ids| ids.len() >= k),
            None if top_p < 1.0 => {
                let target = top_p * self.sums().iter().sum::<f64>();
                likeliest(logits, max, |ids| self.sum_of(ids) >= target)
            }
            None if self.options.min_p > 0.0 => {
                likeliest(logits, max, |ids| ids.iter().any(|&id| self.weight(id) < self.options.min_p))
            }
            None => return None,
        };
        ids.truncate(top_k.unwrap_or(ids.len()));
        if top_p < 1.0 {
            let total = match top_k {
                Some(_) => self.sum_of(&ids),
                None => self.sums().iter().sum(),
            };
            let mut reached = 0.0;
            let fewest = ids.iter().take_while(|&&id| {
                let more = reached < top_p * total;
                reached += self.weight(id);
                more
            });
            let fewest = fewest.count();
            ids.truncate(fewest);
        }
        // The most likely token has weight 1.
        ids.retain(|&id| self.weight(id) >= self.options.min_p);
        Some(ids)
    }

    fn weight(&self, id: u32) -> f64 {
        f64::from(self.weights[id as usize])
    }

    fn sum_of(&self, ids: &[u32]) -> f64 {
        ids.iter().map(|&id| self.weight(id)).sum()
    }

    /// Sums of runs of weights.
    fn sums(&self) -> Vec<f64> {
        self.weights.chunks(RUN).map(|run| f64::from(slm_cpu_ops::sum(run))).collect()
    }

    fn draw_from_all(&mut self) -> u32 {
        let sums = self.sums();
        let mut left = self.rng.random::<f64>() * sums.iter().sum::<f64>();
        // The last run with a positive sum takes the remainder that rounding leaves.
        let last = sums.iter().rposition(|&sum| sum > 0.0).unwrap_or(0);
        let mut run = 0;
        while run < last && left >= sums[run] {
            left -= sums[run];
            run += 1;
        }
        let end = self.weights.len().min((run + 1) * RUN);
        self.walk((run * RUN) as u32..end as u32, left)
    }

    /// The token at which the sum of weights passes `left`. Rounding of sums can leave a remainder; it belongs to the
    /// last token that can be drawn at all.
    fn walk(&self, ids: impl Iterator<Item = u32>, mut left: f64) -> u32 {
        let mut drawn = 0;
        for id in ids {
            let weight = self.weight(id);
            if weight > 0.0 {
                drawn = id;
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
        }
        drawn
    }
}

/// Ids in descending order of their logits, equal ones in ascending order: at least as many as `enough` accepts, or
/// all. Only ids near the largest logit are sorted.
fn likeliest(logits: &[f32], max: f32, enough: impl Fn(&[u32]) -> bool) -> Vec<u32> {
    let mut distance = 4.0;
    loop {
        let above = |id: &u32| logits[*id as usize] >= max - distance;
        let mut ids: Vec<u32> = (0..logits.len() as u32).filter(above).collect();
        if ids.len() == logits.len() || enough(&ids) {
            let logit = |id: u32| logits[id as usize];
            ids.sort_unstable_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
            return ids;
        }
        distance *= 2.0;
    }
}

/// Index of the largest logit, the first among equals.
fn argmax(logits: &[f32]) -> Result<usize> {
    slm_cpu_ops::argmax(logits).ok_or_else(|| {
        let unusable = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
        let (at, value) = match logits.iter().position(unusable) {
            Some(id) => (format!("token id {id}"), logits[id]),
            None => ("every token id".to_owned(), f32::NEG_INFINITY),
        };
        Error::NotFinite { what: "logit", at, value: value.into() }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(temperature: f64, top_k: Option<usize>, top_p: f64, seed: u64) -> Sampler {
        Sampler::new(SamplingOptions { temperature, top_k, top_p, seed, ..SamplingOptions::default() })
            .unwrap()
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let mut greedy = sampler(0.0, None, 1.0, 0);
        assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
        assert_eq!(greedy.sample(&[f32::NEG_INFINITY, -1.0]).unwrap(), 1);
    }

    #[test]
    fn logits_that_mean_nothing_are_errors() {
        for logits in [&[1.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 2], &[]] {
            for temperature in [0.0, 1.0] {
                let error = sampler(temperature, None, 1.0, 0).sample(logits).unwrap_err();
                assert!(matches!(error, Error::NotFinite { .. }), "{error}");
            }
        }
    }

    #[test]
    fn options_out_of_range_are_named() {
        let defaults = SamplingOptions::default;
        for (field, options) in [
            ("temperature", SamplingOptions { temperature: -1.0, ..defaults() }),
            ("temperature", SamplingOptions { temperature: f64::NAN, ..defaults() }),
            ("top_k", SamplingOptions { top_k: Some(0), ..defaults() }),
            ("top_p", SamplingOptions { top_p: 0.0, ..defaults() }),
            ("top_p", SamplingOptions { top_p: 1.1, ..defaults() }),
            ("min_p", SamplingOptions { min_p: 1.0, ..defaults() }),
            ("min_p", SamplingOptions { min_p: -0.1, ..defaults() }),
            ("repetition_penalty", SamplingOptions { repetition_penalty: 0.0, ..defaults() }),
            ("presence_penalty", SamplingOptions { presence_penalty: f64::NAN, ..defaults() }),
            ("frequency_penalty", SamplingOptions { frequency_penalty: f64::INFINITY, ..defaults() }),
        ] {
            let message = Sampler::new(options).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let temperature = 1.5;
        let weights = logits.map(|l| (f64::from(l) / temperature).exp());
        let total: f64 = weights.iter().sum();
        let mut sampler = sampler(temperature, None, 1.0, 42);
        let mut counts = [0.0; 4];
        for _ in 0..20_000 {
            counts[sampler.sample(&logits).unwrap() as usize] += 1.0 / 20_000.0;
        }
        for (count, weight) in counts.iter().zip(weights) {
            // Four standard deviations of a share of 20,000 draws are at most 0.0142.
            assert!((count - weight / total).abs() < 0.0142, "{counts:?}");
        }
    }

    #[test]
    fn top_p_keeps_the_token_that_reaches_it() {
        // Probabilities 0.5, 0.3, 0.2: 0.5 is reached by the first alone, 0.6 needs the second.
        let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
        let drawn = |top_p| {
            let mut sampler = sampler(1.0, None, top_p, 1);
            (0..500).map(|_| sampler.sample(&logits).unwrap()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(drawn(0.45).len(), 1);
        assert_eq!(drawn(0.6).len(), 2);
        assert_eq!(drawn(1.0).len(), 3);
    }

    #[test]
    fn penalties_change_the_logits_of_what_was_seen() {
        let logits = [2.0f32, -2.0, 1.0, 0.5];
        let options = SamplingOptions::default();
        // The prompt counts only for repetition.
        let mut repetition =
            Sampler::new(SamplingOptions { repetition_penalty: 4.0, ..options.clone() }).unwrap();
        repetition.observe_prompt(&[0, 1]);
        assert_eq!(repetition.penalized(&logits), [0.5, -8.0, 1.0, 0.5]);
        assert_eq!([0; 2].map(|_| repetition.sample(&logits).unwrap()), [2, 0]);
        assert_eq!(repetition.penalized(&logits), [0.5, -8.0, 0.25, 0.5]);
        let mut presence =
            Sampler::new(SamplingOptions { presence_penalty: 1.25, ..options.clone() }).unwrap();
        presence.observe_prompt(&[0]);
        assert_eq!([0; 3].map(|_| presence.sample(&logits).unwrap()), [0, 2, 0]);
        assert_eq!(presence.penalized(&logits), [0.75, -2.0, -0.25, 0.5]);
        let mut frequency = Sampler::new(SamplingOptions { frequency_penalty: 0.75, ..options }).unwrap();
        assert_eq!([0; 4].map(|_| frequency.sample(&logits).unwrap()), [0, 0, 2, 0]);
        assert_eq!(frequency.penalized(&logits), [-0.25, -2.0, 0.25, 0.5]);
    }

    #[test]
    fn min_p_keeps_what_is_near_the_likeliest() {
        let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
        let drawn = |min_p, top_k| {
            let options = SamplingOptions { temperature: 1.0, min_p, top_k, seed: 1, ..Default::default() };
            let mut sampler = Sampler::new(options).unwrap();
            (0..500).map(|_| sampler.sample(&logits).unwrap()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(drawn(0.3, None).len(), 3);
        assert_eq!(drawn(0.5, None).len(), 2);
        assert_eq!(drawn(0.9, None).len(), 1);
        assert_eq!(drawn(0.3, Some(2)).len(), 2);
    }

    /// With a vocabulary of many runs, and every filter: the token drawn is the one whose share of the distribution
    /// function, computed plainly in f64, holds the drawn number.
    #[test]
    fn draws_follow_a_plain_computation() {
        let logits: Vec<f32> = (0..3000).map(|i| ((i * 7919) % 3001) as f32 / 200.0 - 7.0).collect();
        for seed in 0..60 {
            for (top_k, top_p) in [(None, 1.0), (Some(40), 1.0), (None, 0.9), (Some(700), 0.8), (None, 0.1)] {
                let temperature = 0.5 + f64::from(seed as u32 % 4);
                let drawn = sampler(temperature, top_k, top_p, seed).sample(&logits).unwrap() as usize;
                let weight = |id: usize| (f64::from(logits[id]) / temperature).exp();
                let mut ids: Vec<usize> = (0..logits.len()).collect();
                if top_k.is_some() || top_p < 1.0 {
                    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
                }
                ids.truncate(top_k.unwrap_or(ids.len()));
                let all: f64 = ids.iter().map(|&id| weight(id)).sum();
                let mut reached = 0.0;
                ids.retain(|&id| {
                    let kept = reached < top_p * all;
                    reached += weight(id);
                    kept
                });
                let total: f64 = ids.iter().map(|&id| weight(id)).sum();
                let number = ChaCha8Rng::seed_from_u64(seed).random::<f64>();
                let place = ids.iter().position(|&id| id == drawn).expect("a token that the filters leave");
                let before = ids[..place].iter().map(|&id| weight(id)).sum::<f64>() / total;
                let after = before + weight(drawn) / total;
                assert!(before - 1e-5 <= number && number <= after + 1e-5, "{number} in {before}..{after}");
            }
        }
    }

    proptest! {
        #[test]
        fn drawn_tokens_are_among_the_top_k(
            logits in prop::collection::vec(-5.0f32..5.0, 1..40), k in 1usize..45, seed in any::<u64>(),
            temperature in 0.1f64..3.0, top_p in 0.05f64..=1.0,
        ) {
            let id = sampler(temperature, Some(k), top_p, seed).sample(&logits).unwrap() as usize;
            let above = logits.iter().enumerate().filter(|&(i, &l)| l > logits[id] || (l == logits[id] && i < id));
            prop_assert!(above.count() < k);
        }

        #[test]
        fn top_k_of_one_is_greedy(
            logits in prop::collection::vec(-5i8..5, 1..40), seed in any::<u64>(), temperature in 0.1f64..3.0,
        ) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let greedy = sampler(0.0, None, 1.0, 0).sample(&logits).unwrap();
            prop_assert_eq!(sampler(temperature, Some(1), 1.0, seed).sample(&logits).unwrap(), greedy);
            prop_assert_eq!(sampler(temperature, None, 1e-9, seed).sample(&logits).unwrap(), greedy);
        }

        #[test]
        fn a_seed_gives_the_same_draws(
            logits in prop::collection::vec(-5.0f32..5.0, 1..40), seed in any::<u64>(),
        ) {
            let draw = || {
                let mut sampler = sampler(1.0, Some(20), 0.9, seed);
                (0..10).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
            };
            prop_assert_eq!(draw(), draw());
        }

        #[test]
        fn a_token_without_probability_is_never_drawn(
            allowed in prop::collection::vec(any::<bool>(), 1..20), seed in any::<u64>(),
        ) {
            prop_assume!(allowed.iter().any(|&a| a));
            let logits: Vec<f32> = allowed.iter().map(|&a| if a { 0.0 } else { f32::NEG_INFINITY }).collect();
            let id = sampler(1.0, None, 1.0, seed).sample(&logits).unwrap();
            prop_assert!(allowed[id as usize]);
        }
    }
}

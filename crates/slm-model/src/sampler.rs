//! Choosing the next token from logits.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How tokens are drawn. The filters apply in the order temperature, `top_k`, `top_p`, as in Hugging Face's
/// generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Logits are divided by it. 0 takes the most likely token always. Default: 0.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens can be drawn. Default: all.
    pub top_k: Option<usize>,
    /// Only the fewest most likely tokens whose probabilities reach `top_p` can be drawn (Holtzman and others,
    /// 2020). Default: 1, all.
    pub top_p: f64,
    /// Seed of the draws. Default: 0.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: 1.0, seed: 0 }
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
            let remedy = "use 0 for the most likely token always, or a positive number";
            return bad("temperature", self.temperature.to_string(), remedy);
        }
        if self.top_k == Some(0) {
            return bad("top_k", "0".into(), "use 1 or more, or leave it out to allow every token");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p.to_string(), "use a number above 0 and at most 1");
        }
        Ok(())
    }
}

/// Draws tokens: the same options and the same logits give the same tokens on every machine and device.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the start of its seed's draws.
    ///
    /// # Errors
    /// [`Error::Sampling`] for an option out of its range.
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.validate()?;
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Ok(Self { options, rng })
    }

    /// The next token. Among equal logits the lower id counts as the more likely one.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a logit is NaN or `+inf`, or none is above `-inf`.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let best = argmax(logits)?;
        if self.options.temperature == 0.0 {
            return Ok(best as u32);
        }
        let max = f64::from(logits[best]);
        let weight = |id: usize| ((f64::from(logits[id]) - max) / self.options.temperature).exp();
        let mut candidates: Vec<(usize, f64)> = (0..logits.len()).map(|id| (id, weight(id))).collect();
        let order =
            |a: &(usize, f64), b: &(usize, f64)| logits[b.0].total_cmp(&logits[a.0]).then(a.0.cmp(&b.0));
        if let Some(k) = self.options.top_k.filter(|&k| k < candidates.len()) {
            candidates.select_nth_unstable_by(k, order);
            candidates.truncate(k);
        }
        // Sorted also where only top_k is set: the sum below must not depend on the order selection left.
        if self.options.top_k.is_some() || self.options.top_p < 1.0 {
            candidates.sort_unstable_by(order);
        }
        let mut total: f64 = candidates.iter().map(|c| c.1).sum();
        if self.options.top_p < 1.0 {
            let target = self.options.top_p * total;
            let mut reached = 0.0;
            let fewest = candidates.iter().take_while(|c| {
                let more = reached < target;
                reached += c.1;
                more
            });
            let fewest = fewest.count();
            candidates.truncate(fewest);
            total = candidates.iter().map(|c| c.1).sum();
        }
        let mut left = self.rng.random::<f64>() * total;
        for &(id, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(id as u32);
            }
        }
        // Rounding of the sum can leave a remainder; it belongs to the last token that can be drawn at all.
        Ok(candidates.iter().rfind(|c| c.1 > 0.0).map_or(best, |c| c.0) as u32)
    }
}

/// Index of the largest logit, the first among equals.
fn argmax(logits: &[f32]) -> Result<usize> {
    slm_ops::argmax(logits).ok_or_else(|| {
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
        Sampler::new(SamplingOptions { temperature, top_k, top_p, seed }).unwrap()
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

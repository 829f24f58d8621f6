//! Measures of the difference between the predictions of two models.

use slm_cpu_ops::log_sum_exp;

use crate::error::{Error, Result};

/// Part of a text that runs through a model as one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalWindow<'a> {
    /// The tokens of the window.
    pub ids: &'a [u32],
    /// Index in `ids` of the first token that is scored, at least 1. The tokens before it are its context.
    pub first_scored: usize,
}

/// Cuts `ids` into windows of `window` tokens that begin `stride` tokens apart, and scores every token once, with as much
/// context as its window has.
///
/// With `stride == window` windows do not overlap, and the first token of each is not scored, as in
/// [`evaluate`](crate::evaluate). With a smaller stride a window scores the tokens that the previous one did not reach:
/// its last `stride` tokens, each with at least `window - stride` tokens of context. The first window scores all its
/// tokens but the first. A shorter last window counts. This is the strided evaluation of Hugging Face's guide to
/// perplexity.
///
/// # Errors
/// [`Error::TooFewTokens`] for a window or text of fewer than two tokens, or a stride of 0 or above the window.
pub fn strided_windows(ids: &[u32], window: usize, stride: usize) -> Result<Vec<EvalWindow<'_>>> {
    for (what, found) in [("the window", window), ("the text", ids.len())] {
        if found < 2 {
            return Err(Error::TooFewTokens { what, found });
        }
    }
    if stride == 0 || stride > window {
        return Err(Error::Stride { stride, window });
    }
    let mut windows = Vec::new();
    // End of the scored tokens.
    let (mut start, mut scored) = (0, 0);
    while scored < ids.len() {
        let end = ids.len().min(start + window);
        let first_scored = (scored - start).max(1);
        if first_scored < end - start {
            windows.push(EvalWindow { ids: &ids[start..end], first_scored });
        }
        scored = end;
        start += stride;
    }
    Ok(windows)
}

/// Differences of the predictions of a model from those of a reference, position by position.
#[derive(Debug, Clone, Default)]
pub struct Divergence {
    /// Kullback-Leibler divergence of each position.
    kl: Vec<f64>,
    agreed: usize,
    /// Sum of the squared changes of the right token's probability.
    squared_change: f64,
    nll_reference: f64,
    nll: f64,
}

/// Summary statistics of a [`Divergence`]. KL divergences are `sum over tokens of p (ln p - ln q)` in nats, where p is
/// the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DivergenceSummary {
    /// Number of positions.
    pub tokens: usize,
    /// Mean KL divergence.
    pub mean: f64,
    /// Median KL divergence.
    pub median: f64,
    /// 90th percentile of the KL divergence.
    pub p90: f64,
    /// 99th percentile of the KL divergence.
    pub p99: f64,
    /// Largest KL divergence.
    pub max: f64,
    /// Share (0 to 1) of positions at which the most likely token is the same.
    pub top1_agreement: f64,
    /// Root mean square of the change of the right token's probability, 0 to 1.
    pub rms_probability_change: f64,
    /// Perplexity of the reference.
    pub perplexity_reference: f64,
    /// Perplexity of the model.
    pub perplexity: f64,
}

impl Divergence {
    /// Adds the scored positions of one window, whose logits are `reference` and `logits`, row by row.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where one of them is NaN.
    pub fn observe(
        &mut self,
        reference: &[f32],
        logits: &[f32],
        window: EvalWindow<'_>,
        vocab_size: usize,
    ) -> Result<()> {
        let rows = reference.chunks_exact(vocab_size).zip(logits.chunks_exact(vocab_size));
        let targets = window.ids.iter().skip(1);
        for (index, ((p, q), &target)) in rows.zip(targets).enumerate().skip(window.first_scored - 1) {
            let (total_p, total_q) = (log_sum_exp(p), log_sum_exp(q));
            let log_p = |token: usize| f64::from(p[token]) - total_p;
            let log_q = |token: usize| f64::from(q[token]) - total_q;
            let kl: f64 =
                (0..vocab_size).map(|token| log_p(token).exp() * (log_p(token) - log_q(token))).sum();
            let target = target as usize;
            if !(kl.is_finite() && log_q(target).is_finite() && log_p(target).is_finite()) {
                let at = format!("position {index} of a window");
                return Err(Error::NotFinite { what: "KL divergence", at, value: kl });
            }
            // Rounding can make the divergence of equal predictions a little negative.
            self.kl.push(kl.max(0.0));
            self.agreed += usize::from(slm_cpu_ops::argmax(p) == slm_cpu_ops::argmax(q));
            self.squared_change += (log_q(target).exp() - log_p(target).exp()).powi(2);
            self.nll_reference -= log_p(target);
            self.nll -= log_q(target);
        }
        Ok(())
    }

    /// Adds the positions of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.kl.extend_from_slice(&other.kl);
        self.agreed += other.agreed;
        self.squared_change += other.squared_change;
        self.nll_reference += other.nll_reference;
        self.nll += other.nll;
    }

    /// Summed negative log-likelihood in nats of the right tokens, by the model.
    pub fn nll(&self) -> f64 {
        self.nll
    }

    /// The statistics; `None` before any position was observed.
    pub fn summary(&self) -> Option<DivergenceSummary> {
        let mut sorted = self.kl.clone();
        sorted.sort_by(f64::total_cmp);
        let tokens = sorted.len();
        let count = tokens as f64;
        // The smallest value that at least this share of all values does not exceed.
        let quantile = |share: f64| sorted.get(((share * count).ceil() as usize).max(1) - 1).copied();
        Some(DivergenceSummary {
            tokens,
            mean: sorted.iter().sum::<f64>() / count,
            median: quantile(0.5)?,
            p90: quantile(0.9)?,
            p99: quantile(0.99)?,
            max: *sorted.last()?,
            top1_agreement: self.agreed as f64 / count,
            rms_probability_change: (self.squared_change / count).sqrt(),
            perplexity_reference: (self.nll_reference / count).exp(),
            perplexity: (self.nll / count).exp(),
        })
    }
}

/// Negative log-likelihoods in nats of the scored tokens of one window, whose logits are `logits`, row by row.
///
/// # Errors
/// [`Error::NotFinite`] where one is not.
pub fn window_nlls(logits: &[f32], window: EvalWindow<'_>, vocab_size: usize) -> Result<Vec<f64>> {
    let rows = logits.chunks_exact(vocab_size).zip(window.ids.iter().skip(1));
    rows.enumerate()
        .skip(window.first_scored - 1)
        .map(|(index, (row, &target))| {
            let nll = log_sum_exp(row) - f64::from(row[target as usize]);
            match nll.is_finite() {
                true => Ok(nll),
                false => {
                    let at = format!("position {index} of a window");
                    Err(Error::NotFinite { what: "loss", at, value: nll })
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once() {
        let ids: Vec<u32> = (0..29).collect();
        for (window, stride) in [(8, 8), (8, 4), (8, 1), (8, 7), (40, 40), (40, 3), (2, 1)] {
            let windows = strided_windows(&ids, window, stride).unwrap();
            let scored: Vec<u32> =
                windows.iter().flat_map(|window| window.ids[window.first_scored..].to_vec()).collect();
            let expected: Vec<u32> = match stride == window {
                // The first token of each window is not scored if windows do not overlap.
                true => ids.iter().copied().filter(|id| !(*id as usize).is_multiple_of(window)).collect(),
                false => ids[1..].to_vec(),
            };
            assert_eq!(scored, expected, "{window} {stride}");
            assert!(windows.iter().all(|w| w.ids.len() <= window));
            let context = windows.iter().skip(1).map(|window| window.first_scored).min();
            assert!(context.is_none_or(|context| context >= (window - stride).max(1)), "{window} {stride}");
        }
        for (window, stride) in [(8, 0), (8, 9), (1, 1)] {
            assert!(strided_windows(&ids, window, stride).is_err());
        }
        assert!(strided_windows(&ids[..1], 8, 8).is_err());
    }

    #[test]
    fn divergences_by_hand() {
        // p = (1/2, 1/4, 1/4), then q = (1/4, 1/2, 1/4) and q = p.
        let p = [2.0_f32.ln(), 0.0, 0.0];
        let q = [0.0, 2.0_f32.ln(), 0.0];
        let reference = [p, p, p].concat();
        let logits = [q, p, p].concat();
        let window = EvalWindow { ids: &[0, 0, 1], first_scored: 1 };
        let mut divergence = Divergence::default();
        assert_eq!(divergence.summary(), None);
        divergence.observe(&reference, &logits, window, 3).unwrap();
        let found = divergence.summary().unwrap();
        let kl = 0.5 * 2.0_f64.ln() - 0.25 * 2.0_f64.ln();
        assert_eq!(found.tokens, 2);
        assert!((found.mean - kl / 2.0).abs() < 1e-7 && (found.max - kl).abs() < 1e-7, "{found:?}");
        assert!(found.median < 1e-9 && (found.p90 - kl).abs() < 1e-7);
        assert_eq!(found.top1_agreement, 0.5);
        assert!((found.rms_probability_change - (0.0625_f64 / 2.0).sqrt()).abs() < 1e-7);
        assert!((found.perplexity_reference - (8.0_f64).sqrt()).abs() < 1e-6);
        // In a window whose first two tokens are context, only the last token is scored.
        let mut last = Divergence::default();
        last.observe(&reference, &logits, EvalWindow { first_scored: 2, ..window }, 3).unwrap();
        assert_eq!(last.summary().unwrap().tokens, 1);
        assert!(last.summary().unwrap().max < 1e-9);
        let nlls = window_nlls(&logits, window, 3).unwrap();
        assert!((nlls[0] - 4.0_f64.ln()).abs() < 1e-6 && (nlls[1] - 4.0_f64.ln()).abs() < 1e-6);
        last.merge(&divergence);
        assert_eq!(last.summary().unwrap().tokens, 3);
        let broken = [f32::NAN; 9];
        assert!(Divergence::default().observe(&reference, &broken, window, 3).is_err());
    }
}

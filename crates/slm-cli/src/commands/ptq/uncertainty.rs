//! Uncertainty of the difference of two perplexities.

use slm_model::Evaluation;

/// Number of standard errors on each side of an estimate for a 95 % confidence interval.
pub(super) const CONFIDENCE: f64 = 1.96;

/// Number of windows below which the uncertainty itself is unreliable.
pub(super) const FEW_WINDOWS: usize = 8;

/// Rise of the perplexity from one evaluation to another of the same windows, as a share.
pub(in crate::commands) struct Rise {
    pub(in crate::commands) share: f64,
    /// Half-width of the 95 % confidence interval; `None` for a single window.
    pub(in crate::commands) margin: Option<f64>,
}

impl Rise {
    pub(in crate::commands) fn between(
        before: &Evaluation,
        after: &Evaluation,
        windows: &[Vec<u32>],
    ) -> Self {
        let ratio = after.perplexity() / before.perplexity();
        let margin = standard_error(before, after, windows).map(|error| ratio * CONFIDENCE * error);
        Self { share: ratio - 1.0, margin }
    }
}

/// Standard error of the difference in mean negative log-likelihood (nats per token) between two evaluations of the
/// same windows, estimated from the differences between windows, weighted by their numbers of tokens. `None` for fewer
/// than two windows.
///
/// The losses of the two models on a window are correlated, so the estimate uses their differences.
pub(super) fn standard_error(
    float: &Evaluation,
    quantized: &Evaluation,
    windows: &[Vec<u32>],
) -> Option<f64> {
    let tokens =
        windows.iter().map(|window| window.len().saturating_sub(1) as f64).filter(|&tokens| tokens > 0.0);
    let mean = quantized.mean_nll() - float.mean_nll();
    let losses = quantized.window_nll.iter().zip(&float.window_nll);
    let squares =
        losses.zip(tokens).map(|((quantized, float), tokens)| (quantized - float - mean * tokens).powi(2));
    let count = float.window_nll.len() as f64;
    let variance = squares.sum::<f64>() * count / (count - 1.0);
    (count >= 2.0).then(|| variance.sqrt() / float.tokens as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(window_nll: &[f64]) -> Evaluation {
        Evaluation {
            nll: window_nll.iter().sum(),
            tokens: 10 * window_nll.len(),
            window_nll: window_nll.to_vec(),
        }
    }

    #[test]
    fn it_is_that_of_the_mean_of_the_differences() {
        let windows = vec![vec![0; 11]; 4];
        let float = evaluation(&[10.0, 20.0, 30.0, 40.0]);
        let same_everywhere = evaluation(&[11.0, 21.0, 31.0, 41.0]);
        assert!(standard_error(&float, &same_everywhere, &windows).unwrap() < 1e-12);
        // Differences per window of 0, 2, 0, 2: their standard deviation is sqrt(4 / 3), and that of the mean is half
        // of it.
        let quantized = evaluation(&[10.0, 22.0, 30.0, 42.0]);
        let found = standard_error(&float, &quantized, &windows).unwrap();
        assert!((found - (4.0_f64 / 3.0).sqrt() / 2.0 / 10.0).abs() < 1e-12, "{found}");
        let one = evaluation(&[10.0]);
        assert_eq!(standard_error(&one, &one, &windows[..1]), None);
    }
}

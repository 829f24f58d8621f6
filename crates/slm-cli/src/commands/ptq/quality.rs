//! The verdict of `slm ptq` on the quality of what it made, in words.

use serde::Serialize;
use slm_model::Evaluation;

use super::uncertainty::{CONFIDENCE, standard_error};

/// Rise of the perplexity from which on a model counts as worse than it should be.
pub(super) const TOLERATED_RISE: f64 = 0.05;
/// Perplexity relative to that of the float model from which on a model counts as broken.
const BROKEN: f64 = 2.0;
/// Tokens below which a text says little, whatever its windows say.
const FEW_TOKENS: usize = 2048;
/// Uncertainty of the rise from which on a text is too short, where the rise itself is no larger.
const TOLERATED_MARGIN: f64 = 0.01;

/// The verdict in a word on a rise of the perplexity, as a share of the float model's.
pub(in crate::commands) fn grade(rise: f64) -> &'static str {
    match rise {
        _ if rise.is_nan() || rise >= BROKEN - 1.0 => "BROKEN",
        _ if rise > TOLERATED_RISE => "WORSE",
        _ => "GOOD",
    }
}

/// The perplexities of both models on one text, compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Quality {
    /// The text, as the user would find it.
    text: String,
    tokens: usize,
    /// Rise of the perplexity as a share of the float one.
    pub(super) rise: f64,
    /// Half the width of the interval that holds the rise with 95 % confidence: 1.96 standard errors of the mean over
    /// windows of the difference in loss. None for one window.
    margin: Option<f64>,
    /// True if the text is too short to tell how good the model is.
    too_short: bool,
    /// The verdict in words.
    pub(super) verdict: String,
}

impl Quality {
    /// `windows` are those of both evaluations, and `text` what they are of.
    pub(super) fn new(
        float: &Evaluation,
        quantized: &Evaluation,
        windows: &[Vec<u32>],
        text: String,
    ) -> Self {
        let ratio = quantized.perplexity() / float.perplexity();
        let (rise, tokens) = (ratio - 1.0, quantized.tokens);
        let margin = standard_error(float, quantized, windows).map(|error| ratio * CONFIDENCE * error);
        let unsure = margin.is_none_or(|margin| margin > rise.abs().max(TOLERATED_MARGIN));
        let too_short = tokens < FEW_TOKENS || unsure;
        let within = margin.map_or(String::new(), |margin| format!(" (± {:.2} %)", margin * 100.0));
        let grade = grade(rise);
        let percent = rise.abs() * 100.0;
        let mut verdict = match grade {
            "BROKEN" => format!("{grade}: perplexity is {ratio:.1}x the float model's"),
            "WORSE" => format!("{grade}: perplexity is {percent:.2} %{within} above the float model's"),
            _ if rise < 0.0 => format!("{grade}: perplexity is {percent:.2} %{within} below float"),
            _ => format!("{grade}: within {percent:.2} %{within} of float"),
        };
        verdict += &format!(", on {tokens} tokens of {text}");
        if too_short {
            verdict += "\nThis text is too short to tell: give a longer one with --eval, of ten thousand tokens or more.";
        }
        Self { text, tokens, rise, margin, too_short, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(window_nll: Vec<f64>, tokens: usize) -> Evaluation {
        Evaluation { nll: window_nll.iter().sum(), tokens, window_nll }
    }

    fn verdict(nll: f64, spread: f64, windows: usize) -> Quality {
        let float = evaluation(vec![300.0; windows], 100 * windows);
        let quantized: Vec<f64> =
            (0..windows).map(|index| nll + if index % 2 == 0 { spread } else { -spread }).collect();
        let all = vec![vec![0; 101]; windows];
        Quality::new(&float, &evaluation(quantized, 100 * windows), &all, "t.txt".to_owned())
    }

    #[test]
    fn verdicts_say_what_the_numbers_mean() {
        let good = verdict(300.4, 0.1, 40);
        assert!(good.verdict.starts_with("GOOD: within 0.40 % (± 0.0"), "{}", good.verdict);
        assert!(good.verdict.ends_with("on 4000 tokens of t.txt"), "{}", good.verdict);
        assert!(verdict(299.0, 0.1, 40).verdict.contains("below float"));
        assert!(verdict(310.0, 0.1, 40).verdict.starts_with("WORSE: perplexity is 10.5"));
        let broken = verdict(470.0, 1.0, 40);
        assert!(broken.verdict.starts_with("BROKEN: perplexity is 5.5x"), "{}", broken.verdict);
        assert!(verdict(f64::NAN, 0.0, 40).verdict.starts_with("BROKEN"));
    }

    #[test]
    fn a_text_that_cannot_tell_is_named_so() {
        for quality in [verdict(300.4, 0.1, 10), verdict(300.4, 30.0, 40), verdict(300.4, 0.0, 3)] {
            assert!(quality.too_short && quality.verdict.contains("too short to tell"), "{quality:?}");
        }
        assert!(!verdict(300.4, 0.1, 40).too_short);
        // A rise far above what the windows leave open is one, though they differ.
        assert!(!verdict(400.0, 60.0, 40).too_short);
    }
}

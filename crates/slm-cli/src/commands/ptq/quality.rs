//! The verdict of `slm ptq` on the quality of the quantized model.

use serde::Serialize;
use slm_model::Evaluation;

use super::uncertainty::{CONFIDENCE, standard_error};

/// Rise of the perplexity, as a share, above which a model counts as worse.
pub(super) const TOLERATED_RISE: f64 = 0.05;
/// Ratio of the perplexity to the float model's above which a model counts as broken.
const BROKEN: f64 = 2.0;
/// Number of tokens below which a text is too short for a verdict.
const FEW_TOKENS: usize = 2048;
/// Uncertainty of the rise above which a text counts as too short, unless the rise is larger.
const TOLERATED_MARGIN: f64 = 0.01;

/// Returns the verdict for a known rise of the perplexity, given as a share of the float model's.
pub(in crate::commands) fn grade(rise: f64) -> &'static str {
    match rise {
        _ if rise.is_nan() || rise >= BROKEN - 1.0 => "BROKEN",
        _ if rise > TOLERATED_RISE => "WORSE",
        _ => "GOOD",
    }
}

/// Comparison of the perplexities of both models on one text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Quality {
    /// Description of the text.
    text: String,
    tokens: usize,
    /// Rise of the perplexity as a share of the float one.
    pub(super) rise: f64,
    /// Half-width of the 95 % confidence interval of the rise: 1.96 standard errors of the mean difference in loss over
    /// windows. `None` for a single window.
    margin: Option<f64>,
    /// True if the text is too short for a verdict.
    too_short: bool,
    /// The verdict in words.
    pub(super) verdict: String,
}

impl Quality {
    /// Compares two evaluations. `windows` are those of both, and `text` describes their source.
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
        let grade = match grade(rise) {
            "GOOD" if too_short => "UNCLEAR",
            "WORSE" if unsure => "UNCLEAR",
            grade => grade,
        };
        let percent = rise.abs() * 100.0;
        let mut verdict = match grade {
            "BROKEN" => format!("{grade}: perplexity is {ratio:.1}x the float model's"),
            "UNCLEAR" => format!("{grade}: perplexity is {:+.2} %{within} from float", rise * 100.0),
            "WORSE" => format!("{grade}: perplexity is {percent:.2} %{within} above the float model's"),
            _ if rise < 0.0 => format!("{grade}: perplexity is {percent:.2} %{within} below float"),
            _ => format!("{grade}: within {percent:.2} %{within} of float"),
        };
        verdict += &format!(", on {tokens} tokens of {text}");
        if too_short {
            verdict += "\nThe text is too short to tell: give a longer one with --eval, of ten thousand tokens or more.";
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
        let short = [
            verdict(300.4, 0.1, 10),
            verdict(300.4, 30.0, 40),
            verdict(300.4, 0.0, 3),
            verdict(310.0, 90.0, 40),
        ];
        for quality in short {
            assert!(quality.too_short && quality.verdict.contains("too short to tell"), "{quality:?}");
            assert!(quality.verdict.starts_with("UNCLEAR: perplexity is +"), "{quality:?}");
        }
        // A clear result is reported for a short text, too.
        assert!(verdict(310.0, 0.1, 10).verdict.starts_with("WORSE"));
        assert!(verdict(470.0, 1.0, 10).verdict.starts_with("BROKEN"));
        assert!(!verdict(300.4, 0.1, 40).too_short);
        // A rise far above the uncertainty is reported, even if the windows differ.
        assert!(!verdict(400.0, 60.0, 40).too_short);
    }
}

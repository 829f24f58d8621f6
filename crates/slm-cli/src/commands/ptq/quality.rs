//! The verdict of `slm ptq` on the quality of the quantized model.

use serde::Serialize;
use slm_model::Evaluation;

use super::uncertainty::Rise;
use crate::limits::{BROKEN, FEW_TOKENS, TOLERATED_RISE};

/// Length in tokens above which no text is recommended.
const MOST_TOKENS: f64 = 1e6;

/// Returns the verdict for a known rise of the perplexity, given as a share of the float model's.
pub(in crate::commands) fn grade(rise: f64) -> &'static str {
    match rise {
        _ if rise.is_nan() || rise >= BROKEN - 1.0 => "BROKEN",
        _ if rise > TOLERATED_RISE => "WORSE",
        _ => "GOOD",
    }
}

/// Returns the verdict for a model that there is none to compare with, and what to do if it is BROKEN. Guessing without
/// looking at the text costs `ln(vocab_size)` nats per token.
pub(in crate::commands) fn grade_alone(nll: f64, vocab_size: usize) -> (&'static str, String) {
    if nll < (vocab_size as f64).ln() {
        return ("TRAINED", String::new());
    }
    let reason = format!(
        "; that is no better than guessing among the {vocab_size} tokens of the vocabulary: train for more steps, or with \
         another learning rate"
    );
    ("BROKEN", reason)
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
        let Rise { share: rise, margin } = Rise::between(float, quantized, windows);
        let tokens = quantized.tokens;
        let bounds = margin.map(|margin| (rise - margin, rise + margin));
        let is_open = bounds.is_none_or(|(least, most)| least <= TOLERATED_RISE && most > TOLERATED_RISE);
        let grade = match grade(rise) {
            "BROKEN" => "BROKEN",
            "WORSE" if !is_open => "WORSE",
            "GOOD" if !is_open && tokens >= FEW_TOKENS && rise >= -TOLERATED_RISE => "GOOD",
            _ => "UNCLEAR",
        };
        let too_short = grade == "UNCLEAR" && rise >= -TOLERATED_RISE;
        let plus_minus = margin.map_or(String::new(), |margin| format!(" ± {:.2} %", margin * 100.0));
        let perplexity = format!("perplexity {:+.2} %{plus_minus} against float", rise * 100.0);
        let mut verdict = match grade {
            "BROKEN" if !float.perplexity().is_finite() => {
                format!("{grade}: the float model itself has no finite perplexity")
            }
            "BROKEN" => format!("{grade}: perplexity is {:.1}x the float model's", rise + 1.0),
            _ => format!("{grade}: {perplexity}"),
        };
        verdict += &format!(", on {tokens} tokens of {text}");
        if too_short {
            verdict += &format!("\nThe text is too short to tell: {}.", longer(rise, margin, tokens));
        } else if grade == "UNCLEAR" {
            verdict += "\nThe model has changed, though the text suits it better: see `slm compare`.";
        }
        Self { text, tokens, rise, margin, too_short, verdict }
    }
}

/// Advice on a text that decides whether the rise is tolerable.
fn longer(rise: f64, margin: Option<f64>, tokens: usize) -> String {
    let distance = (TOLERATED_RISE - rise).abs();
    // The margin shrinks with the root of the length.
    let factor = margin.map_or(f64::INFINITY, |margin| (margin / distance).powi(2));
    let needed = (tokens as f64 * factor).max(FEW_TOKENS as f64);
    match needed < MOST_TOKENS {
        true => format!("give one of about {:.0} tokens with --eval", (needed / 1000.0).ceil() * 1000.0),
        false => "give a longer one with --eval, of ten thousand tokens or more".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(window_nll: Vec<f64>, tokens: usize) -> Evaluation {
        Evaluation { nll: window_nll.iter().sum(), tokens, window_nll }
    }

    #[test]
    fn a_model_alone_is_broken_if_guessing_is_as_good() {
        let chance = 300f64.ln();
        assert_eq!(grade_alone(chance - 0.01, 300), ("TRAINED", String::new()));
        for nll in [chance, chance + 0.01, f64::INFINITY, f64::NAN] {
            let (grade, reason) = grade_alone(nll, 300);
            assert_eq!(grade, "BROKEN", "{nll}");
            assert!(reason.contains("the 300 tokens"), "{reason}");
        }
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
        assert!(good.verdict.starts_with("GOOD: perplexity +0.40 % ± 0.0"), "{}", good.verdict);
        assert!(good.verdict.ends_with("on 4000 tokens of t.txt"), "{}", good.verdict);
        assert!(verdict(299.0, 0.1, 40).verdict.starts_with("GOOD: perplexity -1.00 % ± 0.0"));
        assert!(verdict(310.0, 0.1, 40).verdict.starts_with("WORSE: perplexity +10.5"));
        let changed = verdict(280.0, 0.1, 40);
        assert!(
            changed.verdict.starts_with("UNCLEAR: perplexity -18.1") && !changed.too_short,
            "{changed:?}"
        );
        assert!(changed.verdict.contains("slm compare"), "{changed:?}");
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
            assert!(quality.verdict.starts_with("UNCLEAR: perplexity +"), "{quality:?}");
        }
        // A clear result is reported for a short text, too.
        assert!(verdict(310.0, 0.1, 10).verdict.starts_with("WORSE"));
        assert!(verdict(470.0, 1.0, 10).verdict.starts_with("BROKEN"));
        assert!(!verdict(300.4, 0.1, 40).too_short);
        // A rise far above the uncertainty is reported, even if the windows differ.
        assert!(!verdict(400.0, 60.0, 40).too_short);
        // So is one whose whole interval is tolerable. Twice as far from the limit, a quarter of the text is enough.
        assert!(verdict(300.4, 5.0, 40).verdict.starts_with("GOOD"), "{:?}", verdict(300.4, 5.0, 40));
        assert_eq!(longer(0.01, Some(0.08), 4000), "give one of about 16000 tokens with --eval");
        assert_eq!(longer(0.01, Some(0.02), 1000), "give one of about 2000 tokens with --eval");
        assert!(longer(0.05, Some(0.01), 4000).contains("longer") && longer(0.0, None, 9).contains("longer"));
    }
}

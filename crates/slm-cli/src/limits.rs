//! Limits of the verdicts.

/// Rise of the perplexity, as a share of the float model's, up to which a quantized model is GOOD.
pub(crate) const TOLERATED_RISE: f64 = 0.05;

/// Ratio of the perplexity to the float model's from which a model is BROKEN.
pub(crate) const BROKEN: f64 = 2.0;

/// Number of tokens below which a text is too short for a verdict of GOOD.
pub(crate) const FEW_TOKENS: usize = 2000;

/// Mean divergence in nats from which predictions are those of a different model.
pub(crate) const DIFFERENT: f64 = 0.1;

/// Change of the perplexity, as a share, up to which fine-tuning has left a model UNCHANGED.
pub(crate) const NEGLIGIBLE: f64 = 0.005;

/// Replaces `{TOLERATED_RISE}` and the like in a text by the limits, as people write them.
pub(crate) fn filled_in(text: &str) -> String {
    let percent = |share: f64| format!("{} %", share * 100.0);
    [
        ("{TOLERATED_RISE}", percent(TOLERATED_RISE)),
        ("{BROKEN}", format!("{BROKEN}x")),
        ("{FEW_TOKENS}", FEW_TOKENS.to_string()),
        ("{DIFFERENT}", format!("{DIFFERENT} nats")),
        ("{NEGLIGIBLE}", percent(NEGLIGIBLE)),
    ]
    .iter()
    .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory;

    use super::*;
    use crate::args::Arguments;

    /// Helps and pages that are written by hand agree with the limits.
    #[test]
    fn the_limits_are_the_same_in_every_text() {
        let program = Arguments::command();
        let help = |name: &str| program.find_subcommand(name).unwrap().get_long_about().unwrap().to_string();
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/quantization.md"));
        let page = page.unwrap();
        let row = page.lines().find(|line| line.starts_with("| verdict |")).unwrap();
        for (text, parts) in [
            (help("ptq"), &["a rise of more than {TOLERATED_RISE}", "twice the float model's or more"][..]),
            (help("compare"), &["is {DIFFERENT} or more"]),
            (
                row.replace("2,000", "2000"),
                &[
                    "rises by more than {TOLERATED_RISE}",
                    "at least twice",
                    "fewer than {FEW_TOKENS} tokens",
                    "falls by more than {TOLERATED_RISE}",
                    "is {DIFFERENT} or more",
                ],
            ),
        ] {
            for part in parts {
                let part = filled_in(part);
                assert!(text.contains(&part), "{part:?} is not in {text}");
            }
        }
        assert_eq!(filled_in("twice is {BROKEN}"), "twice is 2x");
        assert_eq!(filled_in("{NEGLIGIBLE}, {TOLERATED_RISE}"), "0.5 %, 5 %");
    }
}

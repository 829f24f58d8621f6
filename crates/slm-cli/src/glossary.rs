//! The glossary of quantization: the source of `slm explain` and of docs/glossary.md.

mod terms;

use crate::{limits, nearest};
pub(crate) use terms::TERMS;

/// A term and its explanation.
pub(crate) struct Term {
    /// The term as a heading.
    pub(crate) name: &'static str,
    /// Other names, in lower case.
    pub(crate) aliases: &'static [&'static str],
    /// Paragraphs, separated by an empty line. Lines that begin with four spaces are shown unchanged. Limits of verdicts
    /// are written as their names, such as `{TOLERATED_RISE}`.
    text: &'static str,
}

impl Term {
    /// The explanation.
    pub(crate) fn text(&self) -> String {
        limits::filled_in(self.text)
    }
}

/// Finds the term that `text` names: by its name, an alias, or a unique prefix.
pub(crate) fn find(text: &str) -> Option<&'static Term> {
    let plain = |name: &str| name.trim().to_lowercase().replace(['_', '-'], " ");
    let text = plain(text);
    let is = |name: &str| plain(name) == text;
    let named = TERMS.iter().find(|term| is(term.name));
    let aliased = || TERMS.iter().find(|term| term.aliases.iter().any(|alias| is(alias)));
    let mut begun = TERMS.iter().filter(|term| plain(term.name).starts_with(&text));
    named.or_else(aliased).or_else(|| match (begun.next(), begun.next()) {
        (Some(term), None) => Some(term),
        _ => None,
    })
}

/// Returns the names most similar to `text`.
pub(crate) fn similar(text: &str) -> Vec<&'static str> {
    let named = TERMS
        .iter()
        .flat_map(|term| std::iter::once(&term.name).chain(term.aliases).map(|name| (*name, term.name)));
    let mut names = Vec::new();
    for name in nearest::similar(text, named) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.truncate(3);
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_keys;

    #[test]
    fn terms_are_found_by_every_name() {
        let mut names: Vec<String> = TERMS.iter().map(|term| term.name.to_lowercase()).collect();
        let sorted = {
            let mut sorted = names.clone();
            sorted.sort();
            sorted
        };
        assert_eq!(names, sorted, "not in alphabetical order");
        for term in TERMS {
            assert_eq!(find(term.name).map(|found| found.name), Some(term.name));
            for alias in term.aliases {
                assert_eq!(find(alias).map(|found| found.name), Some(term.name), "{alias}");
                assert_eq!(*alias, alias.to_lowercase());
                names.push((*alias).to_owned());
            }
            let text = term.text();
            assert!(text.len() > 60 && text.ends_with('.') && !text.contains(['{', '}']), "{}", term.name);
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands for two terms");
        for (text, name) in [
            ("Zero_Point", "zero point"),
            ("DB", "SQNR"),
            ("Per Channel", "channel"),
            ("perp", "perplexity"),
            ("Held out", "held-out text"),
            ("tied", "tied head"),
            ("WORSE", "verdict"),
        ] {
            assert_eq!(find(text).map(|term| term.name), Some(name), "{text}");
        }
        assert!(find("s").is_none() && find("").is_none());
        assert_eq!(similar("perplexitty"), ["perplexity"]);
    }

    /// Keys of training runs are terms, and so are the words of their reports.
    #[test]
    fn keys_of_training_are_terms() {
        let sections = ["training", "qat", "finetune"];
        let keys = config_keys::all().filter(|(section, _)| sections.contains(&section.name));
        let unknown: Vec<&str> = keys.map(|(_, key)| key.name).filter(|key| find(key).is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        for word in
            ["warm-up", "batch", "accumulation", "gradient clipping", "validation window", "lr", "epoch"]
        {
            assert!(find(word).is_some(), "{word}");
        }
    }

    /// The decibel table matches the definition.
    #[test]
    fn the_rules_of_thumb_are_right() {
        let sqnr = find("sqnr").unwrap().text;
        for (decibels, percent) in
            [(50.0, "0.3 %"), (40.0, "1 %"), (30.0, "3 %"), (20.0, "10 %"), (10.0, "32 %"), (0.0, "100 %")]
        {
            let error = 100.0 * 10.0_f64.powf(-decibels / 20.0);
            let shown: f64 = percent.trim_end_matches(" %").parse().unwrap();
            assert!((error / shown - 1.0).abs() < 0.06, "{decibels} dB is {error} %");
            assert!(sqnr.contains(&format!("{decibels} dB   {percent}")), "{decibels} dB");
        }
        // Noise orthogonal to the signal: cos = 1 / sqrt(1 + e^2).
        let cosine = find("cosine").unwrap().text;
        for (shown, decibels) in [(0.9999_f64, 37.0), (0.999, 27.0), (0.99, 17.0)] {
            let error = (1.0 / (shown * shown) - 1.0).sqrt();
            assert!((-20.0 * error.log10() - decibels).abs() < 0.5, "{shown}");
            assert!(cosine.contains(&format!("{shown} is {decibels} dB")), "{shown}");
        }
    }
}

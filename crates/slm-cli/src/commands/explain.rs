//! `slm explain`

use clap::Args;
use serde::Serialize;

use crate::config_keys;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::glossary::{self, TERMS, Term};
use crate::output::Output;
use crate::terminal::wrapped;
use crate::words::Suggesting;

/// Width of an explanation in columns if the output is not a terminal.
const WIDTH: usize = 80;

/// Explain a term of quantization, with rules of thumb.
///
/// Without a term it lists all terms. docs/glossary.md has them on one page.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Term or several, such as sqnr, scale, 'zero point', perplexity, kl, gptq or group [default: list all]
    #[arg(value_parser = Suggesting(names()), hide_possible_values = true)]
    term: Vec<String>,
}

/// Names of all terms, each as one word, in lower case, as shells compare them with what was typed.
fn names() -> Vec<String> {
    TERMS.iter().map(|term| term.name.to_lowercase().replace(' ', "-")).collect()
}

#[derive(Serialize)]
struct Explanation {
    term: &'static str,
    also: &'static [&'static str],
    text: String,
}

impl From<&Term> for Explanation {
    fn from(term: &Term) -> Self {
        Self { term: term.name, also: term.aliases, text: term.text() }
    }
}

#[derive(Serialize)]
struct ExplainResult {
    terms: Vec<Explanation>,
}

pub(crate) fn run(args: &ExplainArgs, context: &Context) -> Result<()> {
    let output = &context.output;
    if args.term.is_empty() {
        let names: Vec<&str> = TERMS.iter().map(|term| term.name).collect();
        output.headline(format!("slm explain TERM, of: {}", names.join(", ")))?;
        return output.result(&ExplainResult { terms: TERMS.iter().map(Explanation::from).collect() });
    }
    let terms = terms(&args.term)?;
    for (index, term) in terms.iter().enumerate() {
        if index > 0 {
            output.stream("\n")?;
        }
        explain(term, output)?;
    }
    output.result(&ExplainResult { terms: terms.into_iter().map(Explanation::from).collect() })
}

/// Finds the term that `words` name together, or else the term that each of them names.
fn terms(words: &[String]) -> Result<Vec<&'static Term>> {
    let text = words.join(" ");
    let together = glossary::find(&text).map(|term| vec![term]);
    let each = || words.iter().map(|word| glossary::find(word)).collect();
    together.or_else(each).ok_or_else(|| {
        let key = text.replace(['-', ' '], "_");
        let similar = glossary::similar(&text);
        let hint = if !config_keys::find(&key).is_empty() {
            format!("; slm config explain {key} explains the key of a config")
        } else if similar.is_empty() {
            "; slm explain lists the terms it knows".to_owned()
        } else {
            format!("; did you mean {}?", similar.join(", "))
        };
        Error::Usage(format!("no term {text:?} is known{hint}"))
    })
}

fn explain(term: &Term, output: &Output) -> Result<()> {
    output.headline(term.name)?;
    let width = output.width().unwrap_or(WIDTH);
    output.stream(&format!("\n{}\n", wrapped(&term.text(), Some(width))))?;
    if term.aliases.is_empty() {
        return Ok(());
    }
    let aliases = format!("Also: {}", term.aliases.join(", "));
    output.stream(&format!("\n{}\n", wrapped(&aliases, Some(width))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_term_or_several() {
        let names = |words: &[&str]| -> Option<Vec<&str>> {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            terms(&words).ok().map(|terms| terms.into_iter().map(|term| term.name).collect())
        };
        assert_eq!(names(&["zero", "point"]), Some(vec!["zero point"]));
        assert_eq!(names(&["awq", "GPTQ"]), Some(vec!["AWQ", "GPTQ"]));
        assert_eq!(names(&["awq", "colour"]), None);
    }
}

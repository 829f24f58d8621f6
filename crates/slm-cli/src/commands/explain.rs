//! `slm explain`

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::glossary::{self, TERMS, Term};
use crate::terminal::wrapped;

/// Width of an explanation in columns if the output is not a terminal.
const WIDTH: usize = 80;

/// Explain a term of quantization, with rules of thumb.
///
/// Without a term it lists all terms. docs/glossary.md has them on one page.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Term, such as sqnr, scale, 'zero point', perplexity, kl, gptq or group [default: list all]
    term: Vec<String>,
}

#[derive(Serialize)]
struct Explanation {
    term: &'static str,
    also: &'static [&'static str],
    text: &'static str,
}

impl From<&Term> for Explanation {
    fn from(term: &Term) -> Self {
        Self { term: term.name, also: term.aliases, text: term.text }
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
    let text = args.term.join(" ");
    let term = glossary::find(&text).ok_or_else(|| {
        let similar = glossary::similar(&text);
        let hint = match similar.is_empty() {
            true => "; slm explain lists the terms it knows".to_owned(),
            false => format!("; did you mean {}?", similar.join(", ")),
        };
        Error::Usage(format!("no term {text:?} is known{hint}"))
    })?;
    output.headline(term.name)?;
    let width = output.width().unwrap_or(WIDTH);
    output.stream(&format!("\n{}\n", wrapped(term.text, Some(width))))?;
    if !term.aliases.is_empty() {
        output.stream(&format!(
            "\n{}\n",
            wrapped(&format!("Also: {}", term.aliases.join(", ")), Some(width))
        ))?;
    }
    output.result(&ExplainResult { terms: vec![term.into()] })
}

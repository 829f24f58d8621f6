//! The text to continue, and its token ids.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use slm_text::{Prompt, Tokenizer, read_plain};

use crate::context::Context;
use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct PromptArgs {
    /// Text to continue; it may begin with a dash, and - alone reads it from standard input, as does a pipe without
    /// --prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// File with the text to continue (- for standard input); a line end at its end is not part of the text
    #[arg(long, value_name = "FILE", conflicts_with = "prompts")]
    prompt_file: Option<PathBuf>,
    /// File with several prompts (- for standard input), a JSON object in each line: {"prompt": "Once", "max_tokens":
    /// 16}, and optionally temperature, seed, stop and id. Each is answered by a line of JSON
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
}

/// The prompts as given.
pub(super) enum Prompts {
    One(String),
    /// Prompts as JSON Lines.
    Lines {
        path: PathBuf,
        text: String,
    },
}

impl PromptArgs {
    /// Returns `true` if the prompts are JSON Lines.
    pub(super) fn is_lines(&self) -> bool {
        self.prompts.is_some()
    }

    /// Reads the prompts.
    pub(super) fn read(&self, context: &Context) -> Result<Prompts> {
        let stdin = || {
            let _waiting = context.interrupt.while_waiting();
            read_plain(Path::new("standard input"), io::stdin())
        };
        if let Some(path) = &self.prompts {
            return Ok(match path == Path::new("-") {
                true => Prompts::Lines { path: "standard input".into(), text: stdin()? },
                false => Prompts::Lines { path: path.clone(), text: read_file(path)? },
            });
        }
        let mut text = match (&self.prompt, &self.prompt_file) {
            (Some(prompt), _) if prompt != "-" => return Ok(Prompts::One(prompt.clone())),
            (None, Some(path)) if path != Path::new("-") => read_file(path)?,
            (None, None) if io::stdin().is_terminal() => {
                return Err(Error::Usage(
                    "no prompt: give one with --prompt TEXT or --prompt-file FILE, several with --prompts FILE, or pipe \
                     one in"
                        .to_owned(),
                ));
            }
            _ => stdin()?,
        };
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(Prompts::One(text))
    }
}

fn read_file(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|source| slm_text::Error::Read { path: path.to_owned(), source })?;
    Ok(read_plain(path, file)?)
}

/// Encodes a prompt with the tokenizer's special tokens, without duplicating a beginning-of-sequence token that the
/// prompt spells out.
pub(super) fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let Prompt { ids, doubled } = tokenizer.encode_prompt(prompt)?;
    if doubled {
        tracing::warn!(
            "the prompt spells out the beginning-of-sequence token that the tokenizer adds; it is there once, not twice"
        );
    }
    if ids.is_empty() {
        return Err(Error::Usage(
            "the prompt has no tokens; give at least one word to begin with, such as --prompt Once"
                .to_owned(),
        ));
    }
    Ok(ids)
}

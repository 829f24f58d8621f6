//! The text to continue, and its token ids.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use slm_text::{Prompt, Tokenizer, read_plain};

use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct PromptArgs {
    /// Text to continue; it may begin with a dash, and - alone reads it from standard input, as does a pipe without
    /// --prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// File with the text to continue (- for standard input); one line end at its end is no part of it
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
}

impl PromptArgs {
    /// The text.
    pub(super) fn read(&self) -> Result<String> {
        let stdin = || read_plain(Path::new("standard input"), io::stdin());
        let mut text = match (&self.prompt, &self.prompt_file) {
            (Some(prompt), _) if prompt != "-" => return Ok(prompt.clone()),
            (None, Some(path)) if path != Path::new("-") => {
                let file = File::open(path)
                    .map_err(|source| slm_text::Error::Read { path: path.clone(), source })?;
                read_plain(path, file)?
            }
            (None, None) if io::stdin().is_terminal() => {
                return Err(Error::Usage(
                    "no prompt: give one with --prompt TEXT or --prompt-file FILE, or pipe it in".to_owned(),
                ));
            }
            _ => stdin()?,
        };
        if text.ends_with('\n') {
            text.pop();
        }
        Ok(text)
    }
}

/// Ids of a prompt, with what the tokenizer puts around it; a beginning-of-sequence token that is spelled out as well is
/// there once.
pub(super) fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let Prompt { ids, doubled } = tokenizer.encode_prompt(prompt)?;
    if doubled {
        tracing::warn!(
            "the prompt spells out the beginning-of-sequence token that the tokenizer adds; it is there once, not twice"
        );
    }
    if ids.is_empty() {
        return Err(Error::Usage(
            "--prompt: the prompt has no tokens; give at least one word to begin with".to_owned(),
        ));
    }
    Ok(ids)
}

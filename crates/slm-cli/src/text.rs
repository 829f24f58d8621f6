//! Texts as token ids of a checkpoint's tokenizer.

use std::path::Path;

use clap::Args;
use slm_checkpoint::Checkpoint;
use slm_model::{Evaluation, Transformer, evaluate_windows, windows};
use slm_text::{Data, Tokenizer};

use crate::context::Context;
use crate::error::{Error, Result};

/// Default number of tokens in a window; fewer if the model has fewer positions.
pub(crate) const DEFAULT_WINDOW: usize = 256;

/// Loads the tokenizer of a checkpoint.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    let path = checkpoint.tokenizer_path().ok_or_else(|| {
        Error::file(
            checkpoint.dir(),
            "the checkpoint has no tokenizer.json, which is needed to read text; copy the one that the \
             model was trained with into the model's directory, and import it again",
        )
    })?;
    let json = checkpoint.tokenizer_json().unwrap_or_default();
    let origin = path.display().to_string();
    let json = std::str::from_utf8(json).map_err(|error| Error::file(&path, error))?;
    Ok(Tokenizer::from_json(json, &origin)?)
}

/// Returns the name of the file of a text, which is recorded where a checkpoint comes from; `None` for standard input.
/// The directories above it may be private.
pub(crate) fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str().filter(|name| *name != "-")
}

/// Options for cutting a text into windows.
#[derive(Debug, Args)]
pub(crate) struct WindowArgs {
    /// Tokens per window [default: 256, or the model's positions if fewer]
    #[arg(long)]
    window: Option<usize>,
    /// Put the beginning-of-sequence token in front of each window, as other tools do; the window's first token is then
    /// scored too [default: only text]
    #[arg(long)]
    bos: bool,
}

/// Windows of a text.
#[derive(Debug, Clone)]
pub(crate) struct Windowing {
    /// Number of text tokens in each window.
    pub(crate) len: usize,
    /// Ids before the text tokens of each window.
    pub(crate) prefix: Vec<u32>,
}

impl WindowArgs {
    /// Returns the windowing: the requested one, or the default limited by the model's positions.
    pub(crate) fn windowing(&self, checkpoint: &Checkpoint) -> Result<Windowing> {
        self.of(checkpoint.config().model.max_position_embeddings, || {
            let prefix = tokenizer(checkpoint)?.prefix()?;
            let bos = checkpoint.config().tokenizer.bos_token_id;
            Ok(if prefix.is_empty() { bos.into_iter().collect() } else { prefix })
        })
    }

    /// [`WindowArgs::windowing`] for a model of `positions`; `prefix` returns the ids before a text.
    pub(crate) fn of(
        &self,
        positions: usize,
        prefix: impl FnOnce() -> Result<Vec<u32>>,
    ) -> Result<Windowing> {
        let prefix = if self.bos { prefix()? } else { Vec::new() };
        if self.bos && prefix.is_empty() {
            return Err(Error::Usage(
                "--bos: this model has no beginning-of-sequence token; leave the option out".to_owned(),
            ));
        }
        let most = positions.saturating_sub(prefix.len());
        let len = match self.window {
            None => DEFAULT_WINDOW.min(most),
            Some(window) if (2..=most).contains(&window) => window,
            Some(window) => {
                let bos = if self.bos { " behind the beginning-of-sequence token" } else { "" };
                return Err(Error::Usage(format!(
                    "--window {window}: this model takes windows of 2 to {most} tokens{bos}"
                )));
            }
        };
        Ok(Windowing { len, prefix })
    }
}

/// Sequences of token ids; a text is one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) sequences: Vec<Vec<u32>>,
    /// Length in bytes of the text that these tokens encode; `None` if only its ids are known.
    pub(crate) text_bytes: Option<usize>,
}

impl Tokens {
    /// Tokens of which only the ids are known.
    pub(crate) fn of(sequences: Vec<Vec<u32>>) -> Self {
        Self { sequences, text_bytes: None }
    }

    /// Reads at most `limit` tokens from a file of text or token ids, for a model of `vocab_size` tokens.
    pub(crate) fn read(
        tokenizer: &Tokenizer,
        path: &Path,
        limit: usize,
        vocab_size: usize,
        context: &Context,
    ) -> Result<Self> {
        let start = std::time::Instant::now();
        // Standard input and other pipes have no size.
        let size = std::fs::metadata(path).map_or(0, |file| file.len());
        let bar = match size {
            0 => context.progress.spinner("reading the text"),
            size => context.progress.bytes("reading the text", size),
        };
        let _waiting = context.interrupt.while_reading(path);
        let tokens = match Data::open(path)? {
            Data::Text(reader) => {
                let encoded =
                    reader.encode_watched(tokenizer, limit, &mut |read| bar.set_position(read as u64))?;
                Self { sequences: vec![encoded.ids], text_bytes: Some(encoded.bytes) }
            }
            Data::Ids(ids) => {
                slm_train::check_sequences(path, &ids, vocab_size)?;
                Self::of(ids).limited(limit)
            }
        };
        bar.finish_and_clear();
        tracing::info!(
            "{}: {} tokens read in {:.2} s",
            path.display(),
            tokens.len(),
            start.elapsed().as_secs_f64()
        );
        Ok(tokens)
    }

    /// Keeps the first `limit` tokens.
    pub(crate) fn limited(self, limit: usize) -> Self {
        let (mut sequences, mut left) = (self.sequences, limit);
        for ids in &mut sequences {
            ids.truncate(left);
            left -= ids.len();
        }
        sequences.retain(|ids| !ids.is_empty());
        Self::of(sequences)
    }

    /// Total number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// Cuts each sequence into windows.
    pub(crate) fn windows(&self, windowing: &Windowing) -> Vec<Vec<u32>> {
        self.sequences.iter().flat_map(|ids| windows(ids, windowing.len, &windowing.prefix)).collect()
    }

    /// Rejects fewer tokens than a window, whose perplexity would be meaningless. `limit` is the option that cut them,
    /// if any.
    pub(crate) fn check_length(&self, path: &Path, windowing: &Windowing, limit: Limit<'_>) -> Result<()> {
        let needed = if self.sequences.len() == 1 { windowing.len } else { 2 };
        limit.check(needed)?;
        match self.len() {
            found if found < needed => Err(too_short(path, found, needed)),
            _ => Ok(()),
        }
    }
}

/// Returns the error for a text with too few tokens for a window.
pub(crate) fn too_short(path: &Path, found: usize, needed: usize) -> Error {
    Error::file(
        path,
        format!(
            "the text is {found} tokens long, shorter than a window of {needed}; use a longer text or a smaller \
             --window"
        ),
    )
}

/// An option that limits the number of tokens read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit<'a> {
    pub(crate) option: &'a str,
    pub(crate) tokens: usize,
}

impl Limit<'_> {
    /// Rejects a limit below `needed` tokens, which would make any text too short.
    pub(crate) fn check(&self, needed: usize) -> Result<()> {
        let Self { option, tokens } = self;
        if *tokens < needed {
            return Err(Error::Usage(format!(
                "{option} {tokens}: less than a window of {needed} tokens; use {needed} or more, or a smaller --window"
            )));
        }
        Ok(())
    }
}

/// Evaluates a model with a progress bar.
pub(crate) fn evaluate_with_progress(
    context: &Context,
    what: &str,
    model: &Transformer,
    windows: &[Vec<u32>],
) -> Result<Evaluation> {
    let start = std::time::Instant::now();
    let bar = context.progress.bar(what, windows.len());
    let evaluation = evaluate_windows(model, windows, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        context.interrupt.check()
    })?;
    bar.finish_and_clear();
    tracing::info!(
        "{what}: {:.4} over {} tokens in {} windows, {:.2} s",
        evaluation.perplexity(),
        evaluation.tokens,
        evaluation.window_nll.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(evaluation)
}

//! Texts as token ids of a checkpoint's tokenizer.

use std::path::Path;

use slm_checkpoint::Checkpoint;
use slm_model::{Evaluation, ModelConfig, Transformer, try_evaluate};
use slm_text::{Tokenizer, read_text};

use crate::context::Context;
use crate::error::{Error, Result};

/// Tokens in a window unless the user says otherwise, as far as the model has positions.
pub(crate) const DEFAULT_WINDOW: usize = 256;

/// The tokenizer of a checkpoint.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    let path = checkpoint.tokenizer_path().ok_or_else(|| {
        Error::file(
            checkpoint.dir(),
            "the checkpoint has no tokenizer.json, which is needed to read text; copy the one the model was \
             trained with beside config.json before importing it",
        )
    })?;
    let json = checkpoint.tokenizer_json().unwrap_or_default();
    let origin = path.display().to_string();
    let json = std::str::from_utf8(json).map_err(|error| Error::file(&path, error))?;
    Ok(Tokenizer::from_json(json, &origin)?)
}

/// Token ids of a text file, without special tokens.
pub(crate) fn read_ids(tokenizer: &Tokenizer, path: &Path) -> Result<Vec<u32>> {
    Ok(tokenizer.encode(&read_text(path)?)?)
}

/// The window to use: what was asked for, or the default as far as the model has positions.
pub(crate) fn window(asked: Option<usize>, config: &ModelConfig) -> Result<usize> {
    let most = config.max_position_embeddings;
    match asked {
        None => Ok(DEFAULT_WINDOW.min(most)),
        Some(window) if (2..=most).contains(&window) => Ok(window),
        Some(window) => {
            Err(Error::Usage(format!("--window {window}: this model takes windows of 2 to {most} tokens")))
        }
    }
}

/// Refuses a text that does not fill one window, whose perplexity would mean little.
pub(crate) fn check_length(path: &Path, ids: &[u32], window: usize) -> Result<()> {
    if ids.len() < window {
        return Err(Error::file(
            path,
            format!(
                "the text is {} tokens long, shorter than a window of {window}; use a longer text or a \
                 smaller --window",
                ids.len()
            ),
        ));
    }
    Ok(())
}

/// Evaluates with a progress bar.
pub(crate) fn evaluate_with_progress(
    context: &Context,
    what: &str,
    model: &Transformer,
    ids: &[u32],
    window: usize,
) -> Result<Evaluation> {
    let bar = context.progress.bar(what, ids.len().div_ceil(window));
    let evaluation = try_evaluate(model, ids, window, |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        context.interrupt.check()
    })?;
    bar.finish_and_clear();
    Ok(evaluation)
}

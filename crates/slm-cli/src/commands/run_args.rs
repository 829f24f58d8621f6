//! What runs that begin from a checkpoint have in common: their text, their output, and what they are measured on.

use std::path::{Path, PathBuf};

use clap::Args;
use slm_checkpoint::Checkpoint;
use slm_text::read_text;
use slm_train::{Corpus, Sequences, Trainer, TrainingConfig};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::text::{check_length, read_ids};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// UTF-8 text to train on, or a FILE.json of token ids, such as `slm sample` writes
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Text for the perplexities [default: the part of --data that is held out]
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Most tokens to evaluate on
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    eval_tokens: usize,
    /// Tokens in a window of the evaluation [default: 256, or the model's positions if fewer]
    #[arg(long)]
    pub(super) window: Option<usize>,
    /// Checkpoint directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Resume the run in --out
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace a checkpoint that is at --out already
    #[arg(long)]
    overwrite: bool,
}

impl RunArgs {
    /// Makes sure that there is a run to resume, where one is asked for.
    pub(super) fn check(&self) -> Result<()> {
        if self.resume && !self.out.exists() {
            return Err(Error::file(&self.out, "there is no run to resume; start it without --resume"));
        }
        Ok(())
    }

    /// Reads what is trained on.
    pub(super) fn data(&self, config: &TrainingConfig) -> Result<Data> {
        Data::read(&self.data, config.model.vocab_size)
    }

    /// Starts the run, or resumes it.
    pub(super) fn trainer(
        &self,
        config: TrainingConfig,
        data: &Data,
        start: Option<&Checkpoint>,
        context: &Context,
    ) -> Result<Trainer> {
        Ok(if self.resume {
            Trainer::resume(config, data.corpus(), start, &context.device, &self.out)?
        } else {
            Trainer::start(config, data.corpus(), start, &context.device, &self.out, self.overwrite)?
        })
    }

    /// The tokens that all perplexities are measured on: those of a file, or what the run holds out.
    pub(super) fn held_out(&self, trainer: &Trainer, window: usize) -> Result<Vec<u32>> {
        let mut ids = match &self.eval {
            Some(path) => {
                let ids = read_ids(&trainer.data().tokenizer, path)?;
                check_length(path, &ids, window)?;
                ids
            }
            None => trainer.data().validation.clone(),
        };
        ids.truncate(self.eval_tokens);
        Ok(ids)
    }
}

/// What is trained on, as read from a file.
pub(super) enum Data {
    Text(String),
    Sequences(Sequences),
}

impl Data {
    fn read(path: &Path, vocab_size: usize) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "json") {
            Ok(Self::Sequences(Sequences::read(path, vocab_size)?))
        } else {
            Ok(Self::Text(read_text(path)?))
        }
    }

    fn corpus(&self) -> Corpus<'_> {
        match self {
            Self::Text(text) => Corpus::Text(text),
            Self::Sequences(sequences) => Corpus::Sequences(sequences),
        }
    }
}

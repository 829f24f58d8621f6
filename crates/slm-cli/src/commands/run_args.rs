//! Arguments of runs that start from a checkpoint: training text, output, and evaluation text.

use std::path::{Path, PathBuf};

use clap::Args;
use slm_text::Data as DataFile;
use slm_train::{Corpus, Sequences, Start, Trainer, TrainingConfig};

use super::run_output_args::RunOutputArgs;
use crate::context::Context;
use crate::error::Result;
use crate::text::{Limit, Tokens, WindowArgs, Windowing};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Text to train on, or texts or token ids as JSON or JSON Lines, such as `slm sample` writes
    #[arg(long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// Text for the perplexities [default: the part of --data that is held out]
    #[arg(long, value_name = "FILE")]
    eval: Option<PathBuf>,
    /// Maximum number of tokens to evaluate on
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    eval_tokens: usize,
    #[command(flatten)]
    pub(super) windows: WindowArgs,
    #[command(flatten)]
    pub(super) output: RunOutputArgs,
}

impl RunArgs {
    /// Reads the training data.
    pub(super) fn data(&self, config: &TrainingConfig, context: &Context) -> Result<Data> {
        Data::read(&self.data, config.model.vocab_size, context)
    }

    /// Starts the run, or resumes it.
    pub(super) fn trainer(
        &self,
        config: TrainingConfig,
        data: &Data,
        start: Start<'_>,
        context: &Context,
    ) -> Result<Trainer> {
        self.output.trainer(config, data, &self.data, start, context)
    }

    /// Returns the windowing of an evaluation.
    pub(super) fn windowing(&self, trainer: &Trainer) -> Result<Windowing> {
        self.windows
            .of(trainer.config().model.max_position_embeddings, || Ok(trainer.data().tokenizer.prefix()?))
    }

    /// Returns the windows on which all perplexities are measured: from a file, or from the held-out part of the run.
    pub(super) fn held_out(
        &self,
        trainer: &Trainer,
        windowing: &Windowing,
        context: &Context,
    ) -> Result<HeldOut> {
        let limit = Limit { option: "--eval-tokens", tokens: self.eval_tokens };
        let (tokens, part) = match &self.eval {
            Some(path) => {
                let vocab_size = trainer.config().model.vocab_size;
                let tokens =
                    Tokens::read(&trainer.data().tokenizer, path, limit.tokens, vocab_size, context)?;
                tokens.check_length(path, windowing, limit)?;
                (tokens, path.display().to_string())
            }
            None => {
                limit.check(2)?;
                let tokens = Tokens::of(vec![trainer.data().validation.clone()]).limited(limit.tokens);
                (tokens, format!("the end of {}", self.data.display()))
            }
        };
        Ok(HeldOut { windows: tokens.windows(windowing), part })
    }
}

/// Text on which perplexities are measured.
pub(super) struct HeldOut {
    pub(super) windows: Vec<Vec<u32>>,
    /// Description for users: the file, and which part of it.
    pub(super) part: String,
}

/// Training data, as read from a file.
pub(super) enum Data {
    Text(String),
    Sequences(Sequences),
}

impl Data {
    pub(super) fn read(path: &Path, vocab_size: usize, context: &Context) -> Result<Self> {
        let _waiting = context.interrupt.while_reading(path);
        Ok(match DataFile::open(path)? {
            DataFile::Ids(ids) => Self::Sequences(Sequences::new(path, ids, vocab_size)?),
            DataFile::Text(reader) => Self::Text(reader.read_to_end()?),
        })
    }

    pub(super) fn corpus(&self) -> Corpus<'_> {
        match self {
            Self::Text(text) => Corpus::Text(text),
            Self::Sequences(sequences) => Corpus::Sequences(sequences),
        }
    }
}

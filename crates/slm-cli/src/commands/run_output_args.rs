//! Arguments of training runs: the checkpoint that a run writes or resumes, and its settings.

use std::path::{Path, PathBuf};

use clap::Args;
use slm_checkpoint::OutputLock;
use slm_train::{Setting, Start, Trainer, TrainingConfig, reserve_run};

use super::run_args::Data;
use crate::commands::setting_args::SettingArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::HtmlArgs;
use crate::text::file_name;

#[derive(Debug, Args)]
pub(super) struct RunOutputArgs {
    /// Checkpoint directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    settings: SettingArgs,
    /// Resume the run in --out; it may be given more steps
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace an existing checkpoint at --out
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub(super) html: HtmlArgs,
}

impl RunOutputArgs {
    /// Reserves the output before anything is read, and checks that the page can be written. A run to resume must exist.
    pub(super) fn reserve(&self) -> Result<Option<OutputLock>> {
        self.html.prepare()?;
        if !self.resume {
            return Ok(Some(reserve_run(&self.out, self.overwrite)?));
        }
        if self.out.exists() {
            return Ok(None);
        }
        Err(Error::file(&self.out, "there is no run to resume; start it without --resume"))
    }

    /// Values that override the config.
    pub(super) fn settings(&self) -> Vec<Setting> {
        self.settings.settings()
    }

    /// Starts the run on `data`, which was read from `text`, or resumes it.
    pub(super) fn trainer(
        &self,
        config: TrainingConfig,
        data: &Data,
        text: &Path,
        start: Start<'_>,
        context: &Context,
    ) -> Result<Trainer> {
        let _spinner = context.progress.spinner("preparing the run");
        slm_runtime::keep_freed_memory();
        let mut trainer = if self.resume {
            Trainer::resume(config, data.corpus(), start, &context.device, &self.out)?
        } else {
            Trainer::start(config, data.corpus(), start, &context.device, &self.out, self.overwrite)?
        };
        if let Some(name) = file_name(text) {
            trainer.name_text(name);
        }
        Ok(trainer)
    }
}

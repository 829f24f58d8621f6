//! `slm migrate`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_checkpoint::{FORMAT_VERSION, MIGRATIONS, migrate};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::relative;

/// Rewrite a checkpoint in the current version of the format.
///
/// Every command also reads old checkpoints, and converts them in memory. Without --out the checkpoint is replaced in
/// place, and a copy of the old one is kept next to it, called NAME.vVERSION-backup. A directory with a record that
/// Burn itself wrote (model.bpk or model.safetensors) and its config.json is version 0.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Checkpoint directory of any version
    dir: PathBuf,
    /// Checkpoint directory to write instead
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace an existing checkpoint at --out
    #[arg(long, requires = "out")]
    overwrite: bool,
}

#[derive(Serialize)]
struct MigrateResult {
    output: PathBuf,
    from: u32,
    to: u32,
    changes: Vec<&'static str>,
    backup: Option<PathBuf>,
}

pub(crate) fn run(args: &MigrateArgs, context: &Context) -> Result<()> {
    let spinner = context.progress.spinner("rewriting the checkpoint");
    let written = args.out.as_deref().unwrap_or(&args.dir);
    let report = migrate(&args.dir, args.out.as_deref(), args.overwrite, &context.open_options)
        .map_err(|error| Error::from(error).unwritten(written))?;
    drop(spinner);
    let steps = MIGRATIONS.iter().filter(|step| step.from >= report.from);
    let result = MigrateResult {
        output: report.path,
        from: report.from,
        to: FORMAT_VERSION,
        changes: steps.clone().map(|step| step.changes).collect(),
        backup: report.backup,
    };
    for step in steps {
        context.output.say(format!("version {} to {}: {}", step.from, step.to, step.changes))?;
    }
    let checkpoint = relative(&result.output).display();
    context.output.headline(match (&result.backup, args.out.is_some()) {
        (Some(backup), _) => format!("wrote {checkpoint}; what was there is in {}", backup.display()),
        (None, true) => format!("wrote {checkpoint}"),
        (None, false) => format!("{checkpoint} is already in the current format (version {FORMAT_VERSION})"),
    })?;
    context.output.result(&result)
}

//! `slm inspect`

mod layer;
mod overview;
mod page;
mod words;

use std::path::PathBuf;

use clap::Args;

use self::overview::CheckpointView;
pub(in crate::commands) use self::page::{TABLE_NOTE, facts, page};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::html::HtmlArgs;
use crate::table::TableArgs;

/// Describe a checkpoint, down to the scales and zero points of a layer.
///
/// First comes the model: architecture, parameters, scheme, activations, origin. Then come the quantized layers, on a
/// terminal the ten with the largest error. --tensors adds the tensors of the file, and --layer shows one layer in
/// full: scales, zero points and the histogram of its values.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Checkpoint directory, float or quantized
    dir: PathBuf,
    /// Show one layer in full, such as layers.0.self_attn.q_proj
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// Show the tensors of the file, too; an output to a file or a pipe always has them
    #[arg(long, conflicts_with = "layer")]
    tensors: bool,
    #[command(flatten)]
    html: HtmlArgs,
    #[command(flatten)]
    tables: TableArgs,
}

pub(crate) fn run(args: &InspectArgs, context: &Context) -> Result<()> {
    args.html.prepare()?;
    let checkpoint = context.open_checkpoint(&args.dir)?;
    if let Some(layer) = &args.layer {
        if args.html.is_wanted() {
            return Err(Error::Usage("--html: a page shows every layer; leave --layer out".to_owned()));
        }
        return layer::run(&checkpoint, layer, args.tables, context);
    }
    let view = CheckpointView::new(&checkpoint);
    let tensors = args.tensors || context.output.width().is_none();
    view.say(tensors, args.tables, context)?;
    args.html.write(&context.output, || page::page(&checkpoint, context))?;
    context.output.result(&view)
}

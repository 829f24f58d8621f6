//! `slm logits`

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use safetensors::Dtype;
use serde::Serialize;
use slm_checkpoint::{TensorFileWriter, TensorSpec};
use slm_model::window_logits;
use slm_text::parse_ids;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::OutFile;

/// Write the logits of given token ids to a safetensors file.
///
/// Reads {"ids": [[...], ...]} and writes one F32 tensor `logits.I` of shape [length, vocabulary] for each
/// sequence I. Each sequence starts at position 0.
#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// Checkpoint directory, float or quantized
    #[arg(long)]
    checkpoint: PathBuf,
    /// JSON file with the token ids
    #[arg(long, value_name = "FILE.json")]
    ids: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Replace an existing file at --out
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct LogitsResult {
    output: PathBuf,
    /// `[length, vocabulary]` of each sequence.
    shapes: Vec<[usize; 2]>,
    device: &'static str,
}

pub(crate) fn run(args: &LogitsArgs, context: &Context) -> Result<()> {
    let ids = parse_ids(&args.ids, &read(&args.ids, context)?)?;
    let file = OutFile::create(&args.out, args.overwrite)?;
    let checkpoint = context.open_to_load(&args.checkpoint)?;
    let model = context.load_model(&checkpoint)?;
    for (index, sequence) in ids.iter().enumerate() {
        let fits = model.check_ids(sequence).and_then(|()| model.check_positions(sequence.len()));
        fits.map_err(|error| Error::file(&args.ids, format!("ids[{index}]: {error}")))?;
    }
    let vocab_size = model.config().vocab_size;
    let shapes: Vec<_> = ids.iter().map(|sequence| [sequence.len(), vocab_size]).collect();
    let name = |index: usize| format!("logits.{index}");
    let specs: Vec<_> =
        shapes.iter().enumerate().map(|(i, shape)| TensorSpec::new(name(i), Dtype::F32, shape)).collect();

    let mut writer = TensorFileWriter::create(&file.path(), &specs)?;
    let bar = context.progress.bar("logits", ids.len());
    for (index, sequence) in ids.iter().enumerate() {
        context.interrupt.check().map_err(|error| error.unwritten(&args.out))?;
        writer.write_f32(&name(index), &window_logits(&model, sequence)?)?;
        bar.inc(1);
    }
    writer.finish()?;
    file.commit()?;
    bar.finish_and_clear();
    context.output.headline(format!("wrote {} tensors to {}", ids.len(), args.out.display()))?;
    context.output.result(&LogitsResult { output: args.out.clone(), shapes, device: context.device_name })
}

/// Reads a file, or standard input if `path` is `-`.
fn read(path: &Path, context: &Context) -> Result<Vec<u8>> {
    let read = if path == Path::new("-") {
        let _waiting = context.interrupt.while_waiting();
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    Ok(read.map_err(|source| slm_text::Error::Read { path: path.to_owned(), source })?)
}

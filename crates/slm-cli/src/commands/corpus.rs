//! `slm corpus`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use slm_text::corpus::Corpus;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::OutFile;
use crate::table;

/// Number of stories between two updates of the progress bar.
const CHUNK: u64 = 1000;

/// Write a corpus of simple stories of known entropy.
///
/// The stories come from a stochastic grammar: the summary gives their information in nats, which is the lowest loss
/// that any model can reach on them. The same seed gives the same stories.
#[derive(Debug, Args)]
pub(crate) struct CorpusArgs {
    /// Seed of the stories
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Number of stories
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    stories: u64,
    /// Text file to write
    #[arg(long)]
    out: PathBuf,
    /// Replace an existing file at --out
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct CorpusResult {
    output: PathBuf,
    seed: u64,
    stories: u64,
    bytes: u64,
    nats: f64,
    nats_per_story: f64,
    nats_per_byte: f64,
}

pub(crate) fn run(args: &CorpusArgs, context: &Context) -> Result<()> {
    if args.stories == 0 {
        return Err(Error::Usage("--stories 0: write at least one story".to_owned()));
    }
    let file = OutFile::create(&args.out, args.overwrite)?;
    let fail = |error: std::io::Error| Error::unwritable(&args.out, &error);
    let mut corpus = Corpus::new(args.seed);
    let bar = context.progress.bar("writing stories", args.stories as usize);
    let (mut nats, mut bytes, mut written) = (0.0, 0, 0);
    let mut out = BufWriter::new(File::create_new(file.path()).map_err(fail)?);
    while written < args.stories {
        context.interrupt.check().map_err(|error| error.unwritten(&args.out))?;
        let summary = corpus.write(CHUNK.min(args.stories - written), &mut out).map_err(fail)?;
        nats += summary.nats;
        bytes += summary.bytes;
        written += summary.stories;
        bar.set_position(written);
    }
    out.flush().map_err(fail)?;
    drop(out);
    file.commit()?;
    bar.finish_and_clear();
    let result = CorpusResult {
        output: args.out.clone(),
        seed: args.seed,
        stories: written,
        bytes,
        nats,
        nats_per_story: nats / written as f64,
        nats_per_byte: nats / bytes as f64,
    };
    context.output.headline(format!(
        "wrote {} stor{} ({}) to {}; no model can reach a loss below {:.1} nats per story, or {:.5} bits per byte, \
         which `slm eval` prints, too",
        result.stories,
        if result.stories == 1 { "y" } else { "ies" },
        table::bytes(result.bytes),
        result.output.display(),
        result.nats_per_story,
        result.nats_per_byte / std::f64::consts::LN_2
    ))?;
    context.output.result(&result)
}

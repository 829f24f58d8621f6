//! The `slm` program: train, import, quantize, evaluate, generate, inspect and compare small language models.
#![forbid(unsafe_code)]
// Doc comments on arguments are the help that users read, where brackets are no links.
#![allow(rustdoc::broken_intra_doc_links)]

mod args;
mod commands;
mod context;
mod device;
mod error;
mod interrupt;
mod json;
mod memory;
mod out_file;
mod output;
mod progress;
mod shipped;
mod table;
mod text;
mod workers;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;
use crate::context::Context;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome =
        Context::new(&arguments.global).and_then(|context| commands::run(arguments.command, &context));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, error::Error::OutputClosed) {
                eprintln!("error: {error}");
            }
            error.exit_code()
        }
    }
}

//! The `slm` program: train, import, quantize, evaluate, generate, inspect and compare small language models.
#![forbid(unsafe_code)]
// Doc comments on arguments are help texts, in which brackets are not links.
#![allow(rustdoc::broken_intra_doc_links)]

mod args;
mod chat_setup;
mod command_line;
mod commands;
mod config_keys;
mod context;
mod device;
#[cfg(test)]
mod docs;
mod drawing;
mod error;
mod examples;
mod glossary;
mod hints;
mod html;
mod interrupt;
mod json;
mod limits;
mod memory;
mod messages;
mod nearest;
mod numbers;
mod out_file;
mod output;
mod progress;
mod remedies;
mod seen_text;
mod shipped;
mod signals;
mod table;
mod terminal;
mod terminal_mode;
mod text;
mod transforms;
mod word_wrap;
mod words;
mod workers;

use std::io::Write;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use crate::args::Arguments;
use crate::context::Context;
use crate::error::Error;
use crate::output::Output;
use crate::terminal::{colours, stderr_width, stdout_width, wrapped};

fn main() -> ExitCode {
    let parsed =
        command_line::command().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return refused(error),
    };
    let json = arguments.global.json;
    let context = match Context::new(&arguments.global) {
        Ok(context) => context,
        Err(error) => return failed(&error, &Output::new(json, false)),
    };
    match commands::run(arguments.command, &context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, &context.output),
    }
}

/// Reports the error that ended a command.
fn failed(error: &Error, output: &Output) -> ExitCode {
    if !matches!(error, Error::OutputClosed) {
        eprintln!("{}", wrapped(&format!("error: {error}"), stderr_width()));
        // If it cannot be written, standard error and the exit code remain.
        let _ = output.error(error.kind(), &error.to_string(), error.code());
    }
    ExitCode::from(error.code())
}

/// Reports an invalid command line, or prints the requested help.
fn refused(error: clap::Error) -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    if !error.use_stderr() {
        // clap wraps everything except the usage.
        let help = wrapped(&error.render().to_string(), stdout_width());
        return match Output::new(false, false).stream(&help) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failed(&failure, &Output::new(false, false)),
        };
    }
    let error = hints::improved(error, &arguments);
    let text = error.render();
    let mut shown = numbers::in_words(&if colours() { text.ansi().to_string() } else { text.to_string() });
    if let (ErrorKind::MissingRequiredArgument, Some(example)) = (error.kind(), hints::example(&arguments)) {
        shown += &format!("\nFor example:\n{example}");
    }
    // The reader may have closed its end.
    let _ = std::io::stderr().write_all(wrapped(&shown, stderr_width()).as_bytes());
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let text = numbers::in_words(&error.render().to_string());
    let message = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
    let _ = Output::new(json, false).error("usage", message, error::USAGE);
    ExitCode::from(error::USAGE)
}

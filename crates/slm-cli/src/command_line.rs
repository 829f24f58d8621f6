//! The command line as users may write it.

use clap::{Arg, Command, CommandFactory};

use crate::args::Arguments;
use crate::words::in_any_case;

/// Returns the program's command line, in which values may be negative numbers, and words may be in any case.
pub(crate) fn command() -> Command {
    lenient(Arguments::command())
}

fn lenient(command: Command) -> Command {
    let command = command.mut_args(|argument| match argument.get_action().takes_values() {
        true => in_any_case(with_negative_numbers(argument)),
        false => argument,
    });
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, lenient))
}

/// Makes a number below 0 an invalid value, not an unknown option.
fn with_negative_numbers(argument: Arg) -> Arg {
    argument.allow_negative_numbers(true)
}

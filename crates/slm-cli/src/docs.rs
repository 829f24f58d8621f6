//! Documentation pages that are generated from the program, and the test that they are up to date. With SLM_BLESS=1 the
//! test writes them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::args::Arguments;
use crate::config_keys::{REQUIRED, SECTIONS, default};
use crate::glossary::TERMS;

const BLESS: &str = "SLM_BLESS";

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Compares a page with its expected content, or writes it.
#[track_caller]
fn is_current(name: &str, expected: &str) {
    let path = docs().join(name);
    if std::env::var_os(BLESS).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "docs/{name} is not what the program says, from line {:?} on: run `{BLESS}=1 cargo test -p slm-cli`",
        differs.map(|line| line + 1)
    );
}

/// Converts a help text to Markdown: indented lines become a code block, the rest paragraphs.
fn markdown(text: &str) -> String {
    let (mut page, mut in_code) = (String::new(), false);
    for line in text.lines() {
        let code = line.starts_with("  ");
        if code != in_code {
            page += if code { "\n```text\n" } else { "```\n" };
            in_code = code;
        }
        page += line.strip_prefix("  ").unwrap_or(line);
        page.push('\n');
    }
    if in_code {
        page += "```\n";
    }
    page
}

fn glossary() -> String {
    let mut page = "# Glossary\n\nThe vocabulary of quantization, with rules of thumb. `slm explain TERM` shows an entry in a terminal. \
                    This page is generated from the program.\n"
        .to_owned();
    for term in TERMS {
        let _ = write!(page, "\n## {}\n\n{}", term.name, markdown(&term.text()));
        if !term.aliases.is_empty() {
            let _ = write!(page, "\nAlso: {}.\n", term.aliases.join(", "));
        }
    }
    page
}

fn config() -> String {
    let mut page = "# Config files\n\nA config is a TOML file with the sections below. `slm config init COMMAND` writes one with every \
                    key, `slm config check FILE` checks one, and `slm config explain KEY` shows an entry of this page, which \
                    is generated from the program. [The command line](command-line.md#configs) explains how options \
                    change single values.\n"
        .to_owned();
    for section in SECTIONS {
        let _ = write!(
            page,
            "\n## `[{}]`\n\n{}\n\n| key | values | default | meaning |\n|---|---|---|---|\n",
            section.name, section.text
        );
        for key in section.keys {
            let default = match REQUIRED.contains(&(section.name, key.name)) {
                true => "must be given".to_owned(),
                false => default(section.name, key.name).map_or(String::new(), |value| format!("`{value}`")),
            };
            let _ = writeln!(page, "| `{}` | {} | {default} | {} |", key.name, key.values, key.text);
        }
    }
    page
}

/// Formats the line of an option or argument.
fn option(argument: &Arg) -> String {
    let names: Vec<String> = argument
        .get_short()
        .map(|short| format!("-{short}"))
        .into_iter()
        .chain(argument.get_long().map(|long| format!("--{long}")))
        .collect();
    let takes_value = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
    let values: Vec<String> =
        argument.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>")).collect();
    let mut name = names.join(", ");
    if takes_value {
        name = format!("{name} {}", values.join(" ")).trim().to_owned();
    }
    let mut line =
        format!("- `{name}`: {}", argument.get_help().map(ToString::to_string).unwrap_or_default());
    let is_listed = takes_value && !argument.is_hide_possible_values_set();
    let possible = if is_listed { argument.get_possible_values() } else { Vec::new() };
    let possible: Vec<_> = possible.iter().filter(|value| !value.is_hide_set()).collect();
    if !possible.is_empty() {
        let of = |value: &&clap::builder::PossibleValue| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        };
        line += &format!(". Values: {}", possible.iter().map(of).collect::<Vec<_>>().join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes_value && !defaults.is_empty() {
        line += &format!(" [default: {}]", defaults.join(", "));
    }
    line.replace('*', "\\*") + "\n"
}

fn command_page(command: &mut Command) -> String {
    let name = command.get_name().to_owned();
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let mut page = format!("# slm {name}\n\n{}\n```text\n{usage}\n```\n", markdown(&about));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        let about = below.get_long_about().or(below.get_about()).map(ToString::to_string).unwrap_or_default();
        let _ = write!(page, "\n## slm {name} {}\n\n{about}\n\n", below.get_name());
        for argument in
            below.get_arguments().filter(|argument| !argument.is_global_set() && argument.get_id() != "help")
        {
            page += &option(argument);
        }
    }
    let own =
        command.get_arguments().filter(|argument| !argument.is_global_set() && argument.get_id() != "help");
    let options: String = own.map(option).collect();
    if !options.is_empty() {
        let _ = write!(page, "\n## Options\n\n{options}");
    }
    if let Some(after) = command.get_after_help() {
        let _ =
            write!(page, "\n## Examples\n{}", markdown(after.to_string().trim_start_matches("Examples:\n")));
    }
    page += "\nOptions of every command are on the [page of all commands](README.md).\n";
    page
}

#[test]
fn the_glossary_is_current() {
    is_current("glossary.md", &glossary());
}

#[test]
fn the_page_of_config_keys_is_current() {
    is_current("config.md", &config());
}

#[test]
fn the_pages_of_commands_are_current() {
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let mut index = "# Commands\n\nA page for each command, generated from the program; `slm COMMAND --help` says the same.\n\n| command | \
                     what it does |\n|---|---|\n"
        .to_owned();
    let mut names = Vec::new();
    for command in program.get_subcommands_mut() {
        let name = command.get_name().to_owned();
        is_current(&format!("commands/{name}.md"), &command_page(command));
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(index, "| [{name}]({name}.md) | {about} |");
        names.push(format!("{name}.md"));
    }
    index += "\n## Options of every command\n\n";
    for argument in program.get_arguments().filter(|argument| argument.is_global_set()) {
        index += &option(argument);
    }
    is_current("commands/README.md", &index);
    // There is no page for a command that no longer exists.
    for entry in fs::read_dir(docs().join("commands")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || names.contains(&name), "docs/commands/{name} is of no command");
    }
}

//! `slm completions`

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use serde::Serialize;
use slm_store::NewDirs;

use crate::args::Arguments;
use crate::command_line;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::out_file::OutFile;

/// Print completions for a shell, or write manual pages.
///
/// Completions go to standard output. Shells look for them in ~/.local/share/bash-completion/completions/slm (bash), in
/// a file _slm in a directory of fpath (zsh), and in ~/.config/fish/completions/slm.fish (fish). `man` writes a page for
/// the program and one for each command to --out; man looks in ~/.local/share/man/man1.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell, or man for manual pages
    #[arg(value_enum)]
    target: Target,
    /// Directory for the manual pages, slm.1, slm-ptq.1 and so on
    #[arg(long, value_name = "DIR", required_if_eq("target", "man"))]
    out: Option<PathBuf>,
    /// Replace existing manual pages at --out
    #[arg(long, requires = "out")]
    overwrite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Bash
    Bash,
    /// Elvish
    Elvish,
    /// Fish
    Fish,
    /// PowerShell
    #[value(alias = "pwsh")]
    Powershell,
    /// Zsh
    Zsh,
    /// Manual pages
    Man,
}

#[derive(Serialize)]
struct CompletionsResult {
    output: Option<PathBuf>,
    /// Files that were written.
    files: Vec<String>,
    /// Completion script for a shell.
    script: Option<String>,
}

pub(crate) fn run(args: &CompletionsArgs, context: &Context) -> Result<()> {
    let shell = match args.target {
        Target::Bash => Shell::Bash,
        Target::Elvish => Shell::Elvish,
        Target::Fish => Shell::Fish,
        Target::Powershell => Shell::PowerShell,
        Target::Zsh => Shell::Zsh,
        Target::Man => {
            let Some(dir) = &args.out else {
                return Err(Error::Usage("slm completions man needs --out DIR".to_owned()));
            };
            let files = manual_pages(dir, args.overwrite)?;
            context.output.headline(format!("wrote {} manual pages to {}", files.len(), dir.display()))?;
            return context.output.result(&CompletionsResult {
                output: Some(dir.clone()),
                files,
                script: None,
            });
        }
    };
    if let Some(out) = &args.out {
        return Err(Error::Usage(format!(
            "--out {}: completions go to standard output; redirect it to a file",
            out.display()
        )));
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command_line::command(), "slm", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    context.output.stream(&script)?;
    context.output.result(&CompletionsResult { output: None, files: Vec::new(), script: Some(script) })
}

/// Writes a page for the program and one for each command: all of them or none, unless the system fails at the very end.
fn manual_pages(dir: &Path, overwrite: bool) -> Result<Vec<String>> {
    let _removed_if_empty = NewDirs::create(dir).map_err(|error| Error::unwritable(dir, &error))?;
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    collect_pages(&program, &mut pages);
    let mut files = Vec::new();
    for page in &pages {
        let path = dir.join(page.get_filename());
        let mut text = Vec::new();
        page.render(&mut text).map_err(|error| Error::file(&path, error))?;
        let file = OutFile::create(&path, overwrite)?;
        file.fill(text)?;
        files.push(file);
    }
    files.into_iter().try_for_each(OutFile::commit)?;
    Ok(pages.iter().map(Man::get_filename).collect())
}

/// Collects the pages of the commands below `command`, and its own.
fn collect_pages(command: &clap::Command, pages: &mut Vec<Man>) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect_pages(below, pages);
    }
    pages.push(Man::new(command.clone()));
}

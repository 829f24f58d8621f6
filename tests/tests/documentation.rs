//! Commands in the README, the documentation and the help run as printed.
//!
//! Blocks marked `sh` are run in order in a shell, each page in a new directory with `hf-model`, a model in the Hugging
//! Face layout, and `my-text.txt`. Every other line that begins with `slm` must at least be a valid command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use slm_tests::{Outcome, Sandbox, binary};

/// Size of `my-text.txt` in bytes.
const TEXT_BYTES: usize = 60_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Pages whose blocks are run.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let tutorials = fs::read_dir(root().join("docs/tutorials")).unwrap();
    pages.extend(
        tutorials
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "md")),
    );
    pages.sort();
    pages
}

/// All pages of the documentation.
fn all_pages() -> Vec<PathBuf> {
    fn visit(dir: &Path, pages: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, pages);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    visit(&root().join("docs"), &mut pages);
    pages
}

/// Returns the blocks of code of a page, with the language of each.
fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut blocks, mut open) = (Vec::new(), None::<(String, String)>);
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(word), None) => open = Some((word.trim().to_owned(), String::new())),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of code has no end");
    blocks
}

/// Returns the commands of a text: its lines, joined if they end in a backslash, without comments.
fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let commands = joined.lines().map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned());
    commands.filter(|line| line.starts_with("slm ")).collect()
}

/// A directory for running commands, with the program in the path.
fn directory() -> Sandbox {
    let sandbox = Sandbox::new();
    let model = root().join("models/stories");
    fs::create_dir_all(sandbox.path("bin")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(binary(), sandbox.path("bin/slm")).unwrap();
    let text = fs::read_to_string(root().join("data/held-out.txt")).unwrap();
    let short: String = text
        .split_inclusive('\n')
        .scan(0, |bytes, line| {
            *bytes += line.len();
            (*bytes < TEXT_BYTES).then_some(line)
        })
        .collect();
    sandbox.put("my-text.txt", short);
    sandbox.slm_with("export --format hf --out hf-model", &[model.to_str().unwrap()], &[]).success();
    sandbox
}

#[track_caller]
fn shell(sandbox: &Sandbox, script: &str) -> Outcome {
    let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-eu", "-c", script])
        .current_dir(sandbox.path(""))
        .env("PATH", path)
        // The program finds the checkout from which it was built by this variable.
        .env("CARGO_MANIFEST_DIR", root().join("crates/slm-cli"))
        .env_remove("SLM_KERNEL")
        .output()
        .unwrap();
    let outcome = Outcome::of(script, output);
    assert_eq!(outcome.code, Some(0), "{outcome}");
    outcome
}

#[cfg(unix)]
#[test]
fn pages_run_as_printed() {
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let blocks: Vec<String> =
            blocks(&page).into_iter().filter(|(word, _)| word == "sh").map(|(_, text)| text).collect();
        let count: usize = blocks.iter().map(|block| commands(block).len()).sum();
        let own = path.file_name().is_some_and(|name| name == "library.md");
        assert!(count >= 4 || own, "{}: {count} commands", path.display());
        let sandbox = directory();
        for block in blocks {
            shell(&sandbox, &block);
        }
    }
}

/// Largest relative difference between a number and the printed one: processors may sum floats in different orders.
const TOLERANCE: f64 = 0.02;

/// Returns `true` if two outputs are equal except for small differences in numbers.
fn agree(a: &str, b: &str) -> bool {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let number = |word: &str| word.trim_matches(|c: char| "(),%+".contains(c)).parse::<f64>().ok();
    let (a, b) = (words(a), words(b));
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| match (number(a), number(b)) {
            (Some(x), Some(y)) => (x - y).abs() <= TOLERANCE * x.abs().max(y.abs()).max(1.0),
            _ => a == b,
        })
}

/// Commands in blocks marked `console` begin with `$`, followed by their output. `SLM_BLESS=1` rewrites the output.
#[cfg(unix)]
#[test]
fn figures_in_the_page_of_mathematics_are_those_of_the_program() {
    let path = root().join("docs/mathematics.md");
    let page = fs::read_to_string(&path).unwrap();
    let sandbox = directory();
    let (mut renewed, mut figures) = (page.clone(), 0);
    for (word, block) in blocks(&page) {
        match &*word {
            "sh" => drop(shell(&sandbox, &block)),
            "console" => {
                let mut printed = String::new();
                for command in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
                    let output = shell(&sandbox, command);
                    printed += &format!("$ {command}\n{}", output.stdout.trim_start_matches('\n'));
                    figures += 1;
                }
                renewed =
                    renewed.replace(&format!("```console\n{block}```"), &format!("```console\n{printed}```"));
                let blesses = std::env::var_os("SLM_BLESS").is_some();
                assert!(blesses || agree(&block, &printed), "SLM_BLESS=1 renews:\n{block}is now\n{printed}");
            }
            _ => {}
        }
    }
    assert!(figures >= 12, "{figures}");
    if std::env::var_os("SLM_BLESS").is_some() {
        fs::write(path, renewed).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn examples_of_the_help_run() {
    let sandbox = directory();
    sandbox.put("prompts.jsonl", "{\"prompt\": \"Once\", \"max_tokens\": 4}\n");
    let setup = "slm import hf-model --out my-model -q
slm ptq --checkpoint my-model --calibration my-text.txt --calibration-tokens 2048 --eval-tokens 2048 --out my-model-int8 -q
slm export my-model --format gguf --out my-model.gguf -q";
    shell(&sandbox, setup);
    let help = sandbox.slm("--help").success().stdout;
    let (_, listed) = help.split_once("\nCommands:\n").unwrap();
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
    let (mut ran, mut programs) = (0, 0);
    for name in names.filter(|name| !["help", "chat", "serve"].contains(name)) {
        let help = sandbox.slm_with(&format!("{name} --help"), &[], &[("COLUMNS", "200")]).success().stdout;
        let (_, examples) =
            help.split_once("Examples:\n").unwrap_or_else(|| panic!("slm {name} has no examples"));
        programs += 1;
        if name == "ptq" {
            // The examples create this directory, which others need before.
            fs::remove_dir_all(sandbox.path("my-model-int8")).unwrap();
        }
        for command in commands(&examples.replace("\n      ", " ").replace("\\ ", " ")) {
            // The example runs as the complete command shown.
            shell(&sandbox, &command);
            ran += 1;
        }
    }
    assert!(programs >= 20 && ran >= 40, "{ran} examples of {programs} commands");
}

/// Returns `true` if a part of the command line is a placeholder.
fn is_a_pattern(command: &str) -> bool {
    command.split_whitespace().any(|word| {
        let word = word.trim_matches(|letter: char| !letter.is_alphanumeric());
        ["COMMAND", "TERM", "SHELL", "KEY", "N", "NAME"].contains(&word)
    }) || ["...", "[", "…"].iter().any(|part| command.contains(part))
}

#[test]
fn commands_in_the_documentation_are_commands() {
    let empty = Sandbox::new();
    let mut checked = 0;
    for path in all_pages() {
        let page = fs::read_to_string(&path).unwrap();
        let blocks = blocks(&page);
        let shells = blocks.iter().filter(|(word, _)| ["", "text", "sh"].contains(&word.as_str()));
        for command in shells.flat_map(|(_, text)| commands(text)) {
            // Operators of the shell end the arguments of the program.
            let line = command.split([';', '|', '>', '<']).next().unwrap_or_default();
            let words = shell_words(line.trim_start_matches("slm "));
            let long = ["serve", "chat", "bench", "corpus"].contains(&words[0].as_str());
            if is_a_pattern(&command) || long {
                continue;
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let outcome = empty.slm_with("", &words, &[]);
            assert!(
                !outcome.stderr.contains("For more information, try '--help'"),
                "{}: {command}\n{outcome}",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 80, "{checked} commands");
}

/// Splits a line into words, which may be quoted.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut inside) = (Vec::new(), String::new(), None, false);
    for letter in line.chars() {
        match (letter, quote) {
            ('\'' | '"', None) => (quote, inside) = (Some(letter), true),
            (letter, Some(open)) if letter == open => quote = None,
            (letter, None) if letter.is_whitespace() => {
                if inside || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            (letter, _) => word.push(letter),
        }
    }
    if inside || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Links between pages lead somewhere.
#[test]
fn links_lead_somewhere() {
    for path in all_pages() {
        let page = fs::read_to_string(&path).unwrap();
        for part in page.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            let found = path.parent().unwrap().join(file);
            assert!(found.exists(), "{}: {target}", path.display());
        }
    }
}

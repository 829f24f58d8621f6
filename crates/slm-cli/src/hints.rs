//! Better advice for command lines that are nearly correct: names from other programs, misspellings, and examples.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use crate::args::Arguments;

/// Commands by their names in other programs.
const COMMANDS: [Names; 16] = [
    ("ptq", &["quantize", "quantise", "quant", "gptq", "awq", "calibrate", "compress"]),
    ("eval", &["evaluate", "perplexity", "ppl", "test", "score"]),
    ("generate", &["run", "infer", "inference", "complete", "prompt", "main", "predict"]),
    ("chat", &["talk", "converse", "repl"]),
    ("serve", &["server", "api", "llama-server"]),
    ("export", &["to-gguf", "convert-to-gguf", "gguf"]),
    ("explain", &["glossary", "define", "term", "what"]),
    ("doctor", &["check", "diagnose", "system", "sysinfo", "env", "version"]),
    ("completions", &["completion", "complete-shell", "man"]),
    ("config", &["configure", "init", "settings"]),
    ("import", &["convert", "load", "download", "pull", "from-hf"]),
    ("inspect", &["show", "info", "describe", "dump", "stats"]),
    ("compare", &["diff", "kl", "cmp"]),
    ("finetune", &["fine-tune", "tune", "sft", "lora"]),
    ("train", &["pretrain", "fit"]),
    ("bench", &["benchmark", "speed", "llama-bench"]),
];

/// Options by their names in other programs, with a value if the name implies one.
const OPTIONS: [Names; 23] = [
    ("--checkpoint", &["--model", "-m", "--model-path", "--model-dir", "--ckpt", "--path"]),
    ("--data", &["--text", "--input", "-i", "--dataset", "--file", "-f", "--text-file"]),
    ("--calibration", &["--data", "--calib", "--calibration-data", "--dataset", "--text", "--imatrix"]),
    ("--out", &["--output", "-o", "--output-dir", "--save", "--out-dir"]),
    ("--prompt-file", &["--file", "-f", "--input", "--input-file"]),
    (
        "--max-new-tokens",
        &[
            "--max-tokens",
            "-n",
            "--n-predict",
            "--max-length",
            "--num-tokens",
            "--length",
            "--num-predict",
            "--max-gen-len",
        ],
    ),
    ("--stop", &["--stop-token", "--stop-string", "--stop-strings", "--reverse-prompt", "-r", "--eos-token"]),
    ("--repetition-penalty", &["--repeat-penalty", "--rep-pen"]),
    ("--type", &["--scheme", "--qtype", "--activations"]),
    ("--max-tokens", &["--tokens", "--limit", "-n", "--max-length"]),
    ("--window", &["--ctx-size", "-c", "--context", "--seq-len", "--stride", "--max-seq-len"]),
    ("--temperature", &["--temp", "-t"]),
    (GROUPS, &["--group-size", "-g", "--q-group-size", "--group", "--groups", "--groupsize"]),
    ("--granularity channel", &["--per-channel", "--per-row"]),
    ("--granularity tensor", &["--per-tensor"]),
    ("--bits", &["--wbits", "--w-bit", "--w_bit", "-b", "--dtype", "--precision"]),
    ("--bits 4", &["--int4", "--4bit", "--4-bit", "--load-in-4bit"]),
    ("--bits 8", &["--int8", "--8bit", "--8-bit", "--load-in-8bit"]),
    ("--target-size", &["--size", "--max-size", "--budget", "--target"]),
    ("--method", &["--rounding", "--algorithm"]),
    ("--method gptq", &["--gptq"]),
    ("--method awq", &["--awq"]),
    ("--method rtn", &["--rtn"]),
];

/// The option for groups of weights, with the size of groups of GGUF.
const GROUPS: &str = "--granularity group:32";

/// Options, and their values by the names in other programs.
const VALUES: [(&str, &[Names]); 2] = [
    ("--device", &[("wgpu", &["cuda", "cuda:0", "metal", "mps", "vulkan", "rocm", "xpu", "dx12", "opencl"])]),
    (
        "--format",
        &[
            ("gguf", &["llama.cpp", "llamacpp", "llama-cpp", "ggml", "ollama", "lmstudio"]),
            ("hf", &["huggingface", "hugging-face", "transformers", "safetensors", "pytorch", "torch"]),
            ("compressed-tensors", &["vllm", "llm-compressor", "compressed_tensors", "ct"]),
        ],
    ),
];

/// A name, and names for the same in other programs.
type Names = (&'static str, &'static [&'static str]);

fn named(table: &[Names], name: &str, fits: impl Fn(&str) -> bool) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    table.iter().find(|(here, there)| there.contains(&name.as_str()) && fits(here)).map(|(here, _)| *here)
}

/// Replaces clap's advice, which is based on similar spelling.
pub(crate) fn improved(mut error: clap::Error, arguments: &[String]) -> clap::Error {
    let of = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let found = of(ContextKind::InvalidSubcommand);
            let program = Arguments::command();
            let parent = reached(&program, arguments);
            let command = in_lower_case(parent, &found).or_else(|| {
                let named = named(&COMMANDS, &found, |name| parent.find_subcommand(name).is_some());
                named.map(str::to_owned)
            });
            let mut suggested = match error.remove(ContextKind::SuggestedSubcommand) {
                Some(ContextValue::Strings(names)) => names,
                _ => Vec::new(),
            };
            // clap also suggests names that have little in common with the one found, such as `inspect` for `nope`.
            suggested.retain(|name| strsim::normalized_damerau_levenshtein(name, &found) >= 0.5);
            let nearest = misspelt(parent, &found).filter(|_| suggested.is_empty());
            if let Some(command) = command.or(nearest) {
                suggested = vec![command];
            }
            if suggested.is_empty() {
                // An empty list of further tips, which would be shown as an empty line.
                error.remove(ContextKind::Suggested);
            } else {
                error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(suggested));
            }
        }
        ErrorKind::UnknownArgument => {
            let found = of(ContextKind::InvalidArg);
            let found = found.split('=').next().unwrap_or_default();
            if !found.starts_with('-') && is_option_of(arguments, "--checkpoint") {
                let value = ContextValue::String(format!("--checkpoint {found}"));
                error.insert(ContextKind::SuggestedArg, value);
            }
            if let Some(option) = named(&OPTIONS, found, |option| is_option_of(arguments, option)) {
                let size = value_of(arguments, found).filter(|_| option == GROUPS);
                let option = size.map_or_else(|| option.to_owned(), |size| GROUPS.replace("32", size));
                error.insert(ContextKind::SuggestedArg, ContextValue::String(option));
                // clap's own advice to escape an argument that looks like an option.
                error.remove(ContextKind::Suggested);
            }
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let (option, value) = (of(ContextKind::InvalidArg), of(ContextKind::InvalidValue));
            let values = VALUES.iter().find(|(name, _)| option.split(' ').next() == Some(name));
            if let Some(value) = values.and_then(|(_, values)| named(values, &value, |_| true)) {
                error.insert(ContextKind::SuggestedValue, ContextValue::String(value.to_owned()));
            }
        }
        _ => {}
    }
    error
}

/// Returns the command that `arguments` name, such as `config` for `config INIT`.
fn reached<'a>(program: &'a Command, arguments: &[String]) -> &'a Command {
    arguments.iter().fold(program, |command, argument| command.find_subcommand(argument).unwrap_or(command))
}

/// Returns the command below `parent` that differs from `found` only in case.
fn in_lower_case(parent: &Command, found: &str) -> Option<String> {
    parent.find_subcommand(found.to_ascii_lowercase()).map(|command| command.get_name().to_owned())
}

/// Returns the command below `parent` that differs from `found` by one letter: missing, extra, wrong or swapped.
fn misspelt(parent: &Command, found: &str) -> Option<String> {
    let mut names = parent.get_subcommands().map(Command::get_name);
    names.find(|name| strsim::damerau_levenshtein(name, found) == 1).map(str::to_owned)
}

/// Returns the examples in the help of the command in `arguments`, up to the first one of that command; `None` if it
/// has none.
pub(crate) fn example(arguments: &[String]) -> Option<String> {
    let program = Arguments::command();
    let (mut command, mut path, mut help) = (&program, "slm".to_owned(), None);
    for argument in arguments {
        let Some(found) = command.find_subcommand(argument) else { continue };
        command = found;
        path = format!("{path} {}", found.get_name());
        help = found.get_after_help().map(ToString::to_string).or(help);
    }
    let help = help?;
    let mut lines = help.lines().skip_while(|line| *line != "Examples:").skip(1).peekable();
    let mut text = String::new();
    while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
        text += line;
        text += "\n";
        let mut last = line;
        while last.ends_with('\\') {
            last = lines.next()?;
            text += last;
            text += "\n";
        }
        if line.trim_start().starts_with(&path) {
            return Some(text);
        }
    }
    None
}

/// Returns the number that `option` has in `arguments`, as in `--group 32` or `--group=32`.
fn value_of<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument.split('=').next() == Some(option))?;
    let value = match arguments[at].split_once('=') {
        Some((_, value)) => value,
        None => arguments.get(at + 1)?,
    };
    value.parse::<u32>().is_ok().then_some(value)
}

/// Returns `true` if the command in `arguments` has the option, which may be followed by a value.
fn is_option_of(arguments: &[String], option: &str) -> bool {
    let program = Arguments::command();
    let command = arguments.iter().find_map(|argument| program.find_subcommand(argument));
    let name = option.split(' ').next().unwrap_or(option).trim_start_matches('-');
    command.is_some_and(|command| command.get_arguments().any(|argument| argument.get_long() == Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_example_ends_with_the_command_asked_for() {
        let train = example(&arguments("train --data text.txt")).unwrap();
        assert!(train.starts_with("  slm config init train --out my-config.toml\n  slm train "), "{train}");
        assert_eq!(train.matches("slm train").count(), 1, "{train}");
        let init = example(&arguments("config init")).unwrap();
        assert_eq!(init, "  slm config init ptq --out ptq.toml\n");
        for command in Arguments::command().get_subcommands() {
            let text = example(&arguments(command.get_name())).unwrap();
            assert!(text.contains(&format!("slm {}", command.get_name())), "{text}");
        }
        assert_eq!(example(&arguments("--quiet")), None);
    }

    #[test]
    fn suggestions_have_something_in_common_with_what_was_found() {
        for (line, expected) in [
            ("export m --out x --format HuggingFace", Some("'hf'")),
            ("export m --out x --format llama.cpp", Some("'gguf'")),
            ("ptq --device cuda", Some("'wgpu'")),
            ("ptq --device safetensors", None),
            ("ptq --group 64", Some("'--granularity group:64'")),
            ("ptq --group-size=128", Some("'--granularity group:128'")),
            ("ptq --groups", Some("'--granularity group:32'")),
            ("ptq --per-channel", Some("'--granularity channel'")),
            ("ptq --int4", Some("'--bits 4'")),
            ("ptq --dtype int4", Some("'--bits'")),
            ("eval --checkpoint x --data y --ctx-size 64", Some("'--window'")),
            ("evl", Some("'eval'")),
            ("quantize", Some("'ptq'")),
            ("nope", None),
        ] {
            let words: Vec<String> = arguments(line);
            let error = Arguments::command().try_get_matches_from(["slm".to_owned()].iter().chain(&words));
            let shown = improved(error.unwrap_err(), &words).to_string();
            let tip = shown.lines().find(|line| line.starts_with("  tip:"));
            assert_eq!(tip.is_some(), expected.is_some(), "{shown}");
            assert!(tip.is_none_or(|tip| tip.ends_with(expected.unwrap_or_default())), "{shown}");
            assert!(!shown.contains("\n\n\n"), "{shown}");
        }
    }

    #[test]
    fn case_does_not_hide_a_command() {
        let program = Arguments::command();
        for (line, command) in [
            ("PTQ", Some("ptq")),
            ("Eval --json", Some("eval")),
            ("FineTune", Some("finetune")),
            ("config INIT", Some("init")),
            ("XYZ", None),
        ] {
            let arguments = arguments(line);
            let parent = reached(&program, &arguments);
            let found = arguments.iter().find_map(|found| in_lower_case(parent, found));
            assert_eq!(found.as_deref(), command, "{line}");
        }
    }

    #[test]
    fn one_slip_is_recognized() {
        for (found, command) in [
            ("pqt", Some("ptq")),
            ("trian", Some("train")),
            ("evall", Some("eval")),
            ("xyz", None),
            ("cat", Some("qat")),
        ] {
            assert_eq!(misspelt(&Arguments::command(), found).as_deref(), command, "{found}");
        }
    }
}

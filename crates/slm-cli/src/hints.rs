//! Better advice for command lines that nearly fit: words of other programs for what is called otherwise here.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Arguments;

/// Commands by the names that they have elsewhere.
const COMMANDS: [(&str, &[&str]); 16] = [
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

/// Options by the names that they have elsewhere.
const OPTIONS: [(&str, &[&str]); 15] = [
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
    (
        "--granularity",
        &["--group-size", "-g", "--per-channel", "--per-tensor", "--q-group-size", "--group", "--groupsize"],
    ),
    ("--bits", &["--wbits", "--w-bit", "--w_bit", "-b", "--int8", "--int4", "--4bit", "--8bit"]),
    ("--method", &["--gptq", "--rtn", "--rounding", "--algorithm"]),
];

/// Values by the names that they have elsewhere.
const VALUES: [(&str, &[&str]); 1] =
    [("wgpu", &["cuda", "cuda:0", "metal", "mps", "vulkan", "rocm", "xpu", "dx12", "opencl"])];

fn named(table: &[(&'static str, &[&str])], name: &str, fits: impl Fn(&str) -> bool) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    table.iter().find(|(here, there)| there.contains(&name.as_str()) && fits(here)).map(|(here, _)| *here)
}

/// Puts the advice in place of clap's, which goes by letters.
pub(crate) fn improved(mut error: clap::Error, arguments: &[String]) -> clap::Error {
    let of = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            if let Some(command) = named(&COMMANDS, &of(ContextKind::InvalidSubcommand), |_| true) {
                let value = ContextValue::Strings(vec![command.to_owned()]);
                error.insert(ContextKind::SuggestedSubcommand, value);
            }
        }
        ErrorKind::UnknownArgument => {
            let found = of(ContextKind::InvalidArg);
            let found = found.split('=').next().unwrap_or_default();
            if let Some(option) = named(&OPTIONS, found, |option| is_option_of(arguments, option)) {
                error.insert(ContextKind::SuggestedArg, ContextValue::String(option.to_owned()));
                // clap's own advice to escape what looks like an option.
                error.remove(ContextKind::Suggested);
            }
        }
        ErrorKind::InvalidValue => {
            if let Some(value) = named(&VALUES, &of(ContextKind::InvalidValue), |_| true) {
                error.insert(ContextKind::SuggestedValue, ContextValue::String(value.to_owned()));
            }
        }
        _ => {}
    }
    error
}

/// Returns `true` if the command among `arguments` has an option.
fn is_option_of(arguments: &[String], option: &str) -> bool {
    let program = Arguments::command();
    let command = arguments.iter().find_map(|argument| program.find_subcommand(argument));
    let name = option.trim_start_matches('-');
    command.is_some_and(|command| command.get_arguments().any(|argument| argument.get_long() == Some(name)))
}

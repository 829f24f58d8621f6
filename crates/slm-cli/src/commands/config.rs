//! `slm config`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use slm_train::{Setting, TrainingConfig};

use crate::commands::setting_args;
use crate::config_keys::{self, Key, REQUIRED, SECTIONS, Section, all};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::nearest::similar;
use crate::out_file::OutFile;
use crate::words::Suggesting;

/// Write, check and explain config files.
///
/// A config is a TOML file with sections: [model] and [training] for slm train, [quantization] for slm ptq, those and [qat]
/// or [finetune] for slm qat and slm finetune. docs/config.md has every key.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a config with every key, its default and what it means
    Init {
        /// Command that the config is for
        #[arg(value_enum)]
        command: Purpose,
        /// File to write [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace an existing file at --out
        #[arg(long, requires = "out")]
        overwrite: bool,
    },
    /// Check a config: keys, values, and whether they fit each other
    Check {
        /// Config file
        file: PathBuf,
        /// Checkpoint that the run starts from
        #[arg(long, value_name = "DIR")]
        checkpoint: Option<PathBuf>,
        /// Set a value of the config, such as training.learning_rate=1e-4 (may be repeated)
        #[arg(long, value_name = "KEY=VALUE", value_parser = setting_args::set)]
        set: Vec<Setting>,
    },
    /// Explain a key, a section or all keys
    Explain {
        /// Key, such as training.steps or granularity, or a section [default: list all]
        #[arg(value_parser = Suggesting(names()), hide_possible_values = true)]
        key: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Training from scratch
    Train,
    /// Post-training quantization
    Ptq,
    /// Quantization-aware training of a checkpoint
    Qat,
    /// Further training of a checkpoint
    Finetune,
}

impl Purpose {
    fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["model", "tokenizer", "training"],
            Self::Ptq => &["quantization"],
            Self::Qat => &["training", "quantization", "qat"],
            Self::Finetune => &["training", "finetune"],
        }
    }
}

pub(crate) fn run(args: &ConfigArgs, context: &Context) -> Result<()> {
    match &args.action {
        Action::Init { command, out, overwrite } => init(*command, out.as_deref(), *overwrite, context),
        Action::Check { file, checkpoint, set } => check(file, checkpoint.as_deref(), set, context),
        Action::Explain { key } => explain(key.as_deref(), context),
    }
}

#[derive(Serialize)]
struct InitResult {
    output: Option<PathBuf>,
    config: String,
}

fn init(purpose: Purpose, out: Option<&Path>, overwrite: bool, context: &Context) -> Result<()> {
    let config = text(purpose);
    match out {
        Some(path) => {
            OutFile::create(path, overwrite)?.write(&config)?;
            context.output.headline(format!("wrote {}", path.display()))?;
        }
        None => context.output.stream(&config)?,
    }
    context.output.result(&InitResult { output: out.map(Path::to_owned), config })
}

/// Values in a new config for keys without a default.
fn example(section: &str, key: &str) -> Option<&'static str> {
    Some(match (section, key) {
        ("model", "vocab_size") => "1024",
        ("model", "hidden_size") => "128",
        ("model", "intermediate_size") => "256",
        ("model", "num_layers" | "num_heads") => "4",
        ("model", "max_position_embeddings") => "256",
        ("training", "steps") => "1000",
        _ => return None,
    })
}

/// Returns a config with every key of the sections that a command reads. Keys with a default are commented out as
/// `#key`.
pub(crate) fn text(purpose: Purpose) -> String {
    let name = purpose.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let mut text = comment(&format!(
        "Config for `slm {name}`. Keys behind a # have their defaults: uncomment a line to change one."
    ));
    let wanted = SECTIONS.iter().filter(|section| purpose.sections().contains(&section.name));
    for Section { name, text: about, keys } in wanted {
        text += &format!("\n{}[{name}]\n", comment(about));
        for Key { name: key, values, text: about } in *keys {
            // Weight decay would change quantized weights, so the default is not suitable.
            let own = match (purpose, *name, *key) {
                (Purpose::Finetune, "training", "weight_decay") => Some("0.0"),
                _ => example(name, key),
            };
            text += &comment(&format!("{about}: {values}"));
            text += &match (own, config_keys::default(name, key)) {
                (Some(value), _) => format!("{key} = {value}\n"),
                (None, Some(value)) => format!("#{key} = {value}\n"),
                (None, None) => format!("#{key} = {UNSET}\n"),
            };
        }
    }
    text
}

/// Placeholder for a value without a default.
const UNSET: &str = "...";

/// Formats a comment in lines that fit a terminal.
fn comment(text: &str) -> String {
    let lines = textwrap::Options::new(78).initial_indent("# ").subsequent_indent("# ").break_words(false);
    format!("{}\n", textwrap::fill(text, lines.word_splitter(textwrap::WordSplitter::NoHyphenation)))
}

#[derive(Serialize)]
struct CheckResult {
    file: PathBuf,
    /// Commands for which the config is suitable.
    suits: Vec<&'static str>,
}

/// The sections of a file.
#[derive(serde::Deserialize)]
struct Sections {
    model: Option<serde::de::IgnoredAny>,
    training: Option<serde::de::IgnoredAny>,
    quantization: Option<serde::de::IgnoredAny>,
    #[serde(flatten)]
    _others: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

fn check(file: &Path, checkpoint: Option<&Path>, settings: &[Setting], context: &Context) -> Result<()> {
    let sections: Sections = slm_train::read_toml(file, settings)?;
    let has = |section: &Option<_>| section.is_some();
    let mut suits = Vec::new();
    if let Some(dir) = checkpoint {
        let checkpoint = context.open_checkpoint(dir)?;
        let config = TrainingConfig::for_model(file, &checkpoint, settings)?;
        config.validate_with(&file.display().to_string(), settings)?;
        suits.push(if checkpoint.is_quantized() { "slm finetune" } else { "slm qat" });
    } else if has(&sections.training) {
        // A config without a model is meant for a checkpoint. A stand-in avoids errors about the model.
        let stand_in = [
            "vocab_size=256",
            "hidden_size=8",
            "intermediate_size=8",
            "num_layers=1",
            "num_heads=1",
            "max_position_embeddings=1000000",
        ];
        let stand_in = stand_in.iter().map(|setting| format!("model.{setting}").parse::<Setting>());
        let stand_in: Vec<Setting> = match sections.model {
            Some(_) => Vec::new(),
            None => stand_in.collect::<std::result::Result<_, _>>().map_err(Error::Usage)?,
        };
        TrainingConfig::from_file_with(file, &[&stand_in, settings].concat())?;
        suits.extend(if has(&sections.model) { &["slm train"][..] } else { &["slm qat", "slm finetune"] });
    }
    if has(&sections.quantization) {
        TrainingConfig::quantization_of_file_with(file, settings)?;
        suits.push("slm ptq --config");
    }
    if suits.is_empty() {
        return Err(Error::file(
            file,
            "has neither [training] nor [quantization], so that no command can use it; `slm config init` writes one",
        ));
    }
    context.output.headline(format!("{} is valid for {}", file.display(), suits.join(", ")))?;
    context.output.result(&CheckResult { file: file.to_owned(), suits })
}

#[derive(Serialize)]
struct KeyView {
    key: String,
    values: &'static str,
    default: Option<String>,
    required: bool,
    text: &'static str,
}

#[derive(Serialize)]
struct ExplainResult {
    keys: Vec<KeyView>,
}

fn explain(key: Option<&str>, context: &Context) -> Result<()> {
    let found: Vec<(&Section, &Key)> = match key {
        None => all().collect(),
        Some(name) => {
            let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
            match config_keys::find(&name) {
                found if found.is_empty() => all().filter(|(section, _)| section.name == name).collect(),
                found => found,
            }
        }
    };
    if found.is_empty() {
        let wanted = key.unwrap_or_default();
        let hint = other_name(wanted).unwrap_or_else(|| match nearest(wanted) {
            Some((section, key)) => format!("; did you mean {}.{}?", section.name, key.name),
            None => "; slm config explain lists all".to_owned(),
        });
        return Err(Error::Usage(format!("no key or section of a config is called {wanted:?}{hint}")));
    }
    for (section, key) in &found {
        let default = match (
            REQUIRED.contains(&(section.name, key.name)),
            config_keys::default(section.name, key.name),
        ) {
            (true, _) => " (must be given)".to_owned(),
            (false, Some(default)) => format!(" (default: {default})"),
            (false, None) => String::new(),
        };
        context
            .output
            .headline(format!("{}.{} = {}{default}\n    {}", section.name, key.name, key.values, key.text))?;
    }
    let view = |(section, key): (&Section, &Key)| KeyView {
        key: format!("{}.{}", section.name, key.name),
        values: key.values,
        default: config_keys::default(section.name, key.name),
        required: REQUIRED.contains(&(section.name, key.name)),
        text: key.text,
    };
    context.output.result(&ExplainResult { keys: found.into_iter().map(view).collect() })
}

/// Names of all sections and keys.
fn names() -> Vec<String> {
    let sections = SECTIONS.iter().map(|section| section.name.to_owned());
    sections.chain(all().map(|(section, key)| format!("{}.{}", section.name, key.name))).collect()
}

/// Returns the end of the message that a config with the key `wanted` would get, if it names the key that other programs
/// call so.
fn other_name(wanted: &str) -> Option<String> {
    let setting = format!("{wanted}=0").parse::<Setting>().ok()?;
    match slm_train::parse_toml::<TrainingConfig>("", "", &[setting]) {
        // Without a section, only sections are similar.
        Err(slm_train::Error::UnknownKey { suggestion, .. })
            if suggestion.contains("did you mean") && (wanted.contains('.') || suggestion.contains('.')) =>
        {
            Some(suggestion)
        }
        _ => None,
    }
}

/// Returns the key with the name that is most similar to `wanted`.
fn nearest(wanted: &str) -> Option<(&'static Section, &'static Key)> {
    let name = wanted.rsplit('.').next().unwrap_or(wanted);
    similar(name, all().map(|(section, key)| (key.name, (section, key)))).into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_was_probably_meant_is_named() {
        for (wanted, expected) in [
            ("lr", "training.learning_rate"),
            ("training.lr", "learning_rate"),
            ("max_grad_norm", "training.grad_clip"),
            ("bits", "quantization.quantization_bits"),
            ("training.stepz", "steps"),
        ] {
            let hint = other_name(wanted).unwrap_or_default();
            assert!(hint.contains(&format!("`{expected}`")), "{wanted}: {hint}");
        }
        for wanted in ["batch", "learning", "zzz", "", ".", "a.b.c"] {
            assert_eq!(other_name(wanted), None, "{wanted}");
        }
        assert_eq!(nearest("batch").map(|(_, key)| key.name), Some("batch_size"));
        assert!(nearest("zzz").is_none());
    }

    /// New configs are valid as they are, and with every commented default activated.
    #[test]
    fn new_configs_are_valid() {
        let model = "model.vocab_size=300";
        for (purpose, needs_model) in
            [(Purpose::Train, false), (Purpose::Ptq, true), (Purpose::Qat, true), (Purpose::Finetune, true)]
        {
            let commented = text(purpose);
            let with_defaults: String = commented
                .lines()
                .map(|line| match line.strip_prefix('#') {
                    Some(rest) if !rest.starts_with(' ') && !rest.ends_with(UNSET) => format!("{rest}\n"),
                    _ => format!("{line}\n"),
                })
                .collect();
            assert_ne!(commented, with_defaults);
            assert!(commented.lines().all(|line| line.len() <= 80), "{commented}");
            for written in [commented, with_defaults] {
                let mut settings: Vec<Setting> = Vec::new();
                if needs_model {
                    let sizes = ["hidden_size=8", "intermediate_size=8", "num_layers=1", "num_heads=1"];
                    let sizes = sizes.iter().map(|size| format!("model.{size}"));
                    let rest = [model.to_owned(), "model.max_position_embeddings=256".to_owned()];
                    settings = sizes.chain(rest).map(|setting| setting.parse().unwrap()).collect();
                }
                if purpose == Purpose::Ptq {
                    settings.push("training.steps=1".parse().unwrap());
                }
                let config: TrainingConfig = slm_train::parse_toml(&written, "new", &settings)
                    .unwrap_or_else(|error| panic!("{purpose:?}: {error}\n{written}"));
                config.validate("new").unwrap_or_else(|error| panic!("{purpose:?}: {error}\n{written}"));
            }
        }
    }
}

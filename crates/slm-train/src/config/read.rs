//! Parsing of TOML files into typed configs.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::names;
use super::value::{Kind, Located, Problem};
use crate::{Error, Result};

/// Least similarity (Jaro-Winkler) at which a known name is suggested.
const SIMILAR: f64 = 0.75;

/// A value that overrides one in a config file, such as `training.steps=400`.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    keys: Vec<String>,
    value: toml::Value,
    /// The text that the user wrote, which errors name.
    written: String,
}

impl Setting {
    /// A number under `key`, in which dots separate sections and keys. It comes from the command-line option `option`,
    /// which errors name.
    pub fn number(option: &str, key: &str, value: usize) -> Self {
        let written = format!("{option} {value}");
        let value = toml::Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        Self { keys: key.split('.').map(str::to_owned).collect(), value, written }
    }

    /// Returns `true` if this sets the value of `key`, in which dots separate sections and keys: alone or with its section.
    pub fn sets(&self, key: &str) -> bool {
        let key: Vec<&str> = key.split('.').collect();
        self.keys.len() <= key.len() && self.keys.iter().zip(key).all(|(own, key)| own == key)
    }

    /// Names the command-line option that the value comes from in errors, too.
    #[must_use]
    pub fn given_by(mut self, option: &str) -> Self {
        self.written = format!("{option} {}", self.written);
        self
    }

    fn apply(&self, table: &mut toml::Table, origin: &str) -> Result<()> {
        let Some((last, sections)) = self.keys.split_last() else { return Ok(()) };
        let mut here = table;
        for section in sections {
            let entry = here.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            here = entry.as_table_mut().ok_or_else(|| Error::ConfigValue {
                origin: format!("{} over {origin}", self.written),
                key: self.keys.join("."),
                detail: format!("`{section}` is a value, not a section"),
                remedy: "; set it itself".to_owned(),
            })?;
        }
        here.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

impl std::str::FromStr for Setting {
    type Err = String;

    /// Parses `KEY=VALUE`. The value is TOML; a value that is not valid TOML is a string, so quotes may be omitted.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| "expected KEY=VALUE, such as training.steps=400".to_owned())?;
        let keys: Vec<String> = key.trim().split('.').map(|key| key.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(format!("{key:?} is not a key such as training.steps"));
        }
        let parsed = format!("value = {value}").parse::<toml::Table>().ok();
        let parsed = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
        let value = parsed.unwrap_or_else(|| toml::Value::String(value.trim().to_owned()));
        Ok(Self { keys, value, written: text.to_owned() })
    }
}

/// Reads a TOML file, with its values overridden by `settings`.
///
/// Types should reject unknown fields; an unknown key is then an error that names the nearest known one.
///
/// # Errors
/// [`Error::Read`], [`Error::ConfigSyntax`], [`Error::UnknownKey`], [`Error::MissingSection`],
/// [`Error::MissingKey`] and [`Error::ConfigValue`], each naming the file and, if applicable, the section and key.
pub fn read_toml<T: DeserializeOwned>(path: impl AsRef<Path>, settings: &[Setting]) -> Result<T> {
    let path = path.as_ref();
    parse_toml(&read_config(path)?, &path.display().to_string(), settings)
}

/// The text of a config file, without a byte order mark.
pub(super) fn read_config(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let refuse = |detail: &str| {
        Err(Error::ConfigSyntax { origin: path.display().to_string(), detail: detail.to_owned() })
    };
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return refuse("it is UTF-16, by its byte order mark; save it as UTF-8");
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            refuse(&format!("it is not UTF-8 at byte {at}; save it as UTF-8"))
        }
    }
}

/// Parses TOML text, with its values overridden by `settings`; errors name `origin` as its source.
///
/// # Errors
/// As [`read_toml`].
pub fn parse_toml<T: DeserializeOwned>(text: &str, origin: &str, settings: &[Setting]) -> Result<T> {
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| Error::ConfigSyntax {
        origin: origin.to_owned(),
        detail: other_language(text).map_or_else(|| error.to_string().trim_end().to_owned(), str::to_owned),
    })?;
    settings.iter().try_for_each(|setting| setting.apply(&mut table, origin))?;
    T::deserialize(Located(toml::Value::Table(table)))
        .map_err(|problem| blame(located(problem, origin), settings))
}

/// The name of the language of `text` if it looks like another language than TOML.
fn other_language(text: &str) -> Option<&'static str> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    if first.starts_with('{') {
        return Some("it is JSON; a config has sections such as [training], and lines such as `steps = 400`");
    }
    let yaml = first == "---" || first.ends_with(':') || (first.contains(": ") && !first.contains('='));
    yaml.then_some("it is YAML; a config has sections such as [training], and lines such as `steps = 400`")
}

/// Names the option in an error that is due to one of `settings` instead of the file.
pub(super) fn blame(mut error: Error, settings: &[Setting]) -> Error {
    let (path, origin) = match &mut error {
        Error::UnknownKey { key, section, origin, .. } => {
            let section = section.strip_prefix('[').and_then(|section| section.strip_suffix(']'));
            (section.map_or_else(|| key.clone(), |section| format!("{section}.{key}")), origin)
        }
        Error::ConfigValue { key, origin, .. } => (key.clone(), origin),
        _ => return error,
    };
    // The last setting of a key applies.
    if let Some(setting) = settings.iter().rev().find(|setting| {
        let own = setting.keys.join(".");
        path == own || path.strip_prefix(&own).is_some_and(|rest| rest.starts_with('.'))
    }) {
        origin.clone_from(&setting.written);
    }
    error
}

fn located(problem: Problem, origin: &str) -> Error {
    let origin = origin.to_owned();
    let section = section(&problem.path);
    let key = problem.path.join(".");
    match problem.kind {
        Kind::UnknownKey { key, known } => {
            Error::UnknownKey { suggestion: suggestion(&key, known, '`'), key, section, origin }
        }
        Kind::MissingKey { key } if problem.path.is_empty() => {
            Error::MissingSection { section: key.to_owned(), origin }
        }
        Kind::MissingKey { key } => Error::MissingKey { key: key.to_owned(), section, origin },
        Kind::UnknownName { found, known } => Error::ConfigValue {
            detail: format!("found \"{found}\", expected one of {}", known.join(", ")),
            remedy: suggestion(&found, known, '"'),
            key,
            origin,
        },
        Kind::Unfit { found, expected } => {
            let quoted = found.strip_prefix("string ");
            let remedy = match (expected.as_str(), quoted) {
                ("a list", Some(text)) => format!("; write [{text}]"),
                ("a string", _) if key.ends_with("granularity") => {
                    "; write \"group:32\" for groups of 32".to_owned()
                }
                _ => String::new(),
            };
            Error::ConfigValue { detail: format!("found {found}, expected {expected}"), remedy, key, origin }
        }
        Kind::Refused { detail } => Error::ConfigValue { detail, remedy: String::new(), key, origin },
    }
}

fn section(path: &[String]) -> String {
    if path.is_empty() { "the top level".to_owned() } else { format!("[{}]", path.join(".")) }
}

/// The end of a message: ": did you mean `x`?", or the known names if none is similar.
fn suggestion(found: &str, known: &[&str], quote: char) -> String {
    if let Some(meant) = names::meant(found, known) {
        return format!(": did you mean {quote}{meant}{quote}?");
    }
    let near = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&found.to_lowercase(), name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((similarity, name)) if similarity >= SIMILAR => format!(": did you mean {quote}{name}{quote}?"),
        _ => format!(": known are {}", known.join(", ")),
    }
}

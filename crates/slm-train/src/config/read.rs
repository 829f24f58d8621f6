//! Reading of TOML files into typed configs.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::value::{Kind, Located, Problem};
use crate::{Error, Result};

/// Least similarity (Jaro-Winkler) at which a known name is suggested.
const SIMILAR: f64 = 0.75;

/// Reads a TOML file.
///
/// Types should refuse unknown fields; an unknown key is then an error that names the nearest known one.
///
/// # Errors
/// [`Error::Read`], [`Error::ConfigSyntax`], [`Error::UnknownKey`], [`Error::MissingKey`] and
/// [`Error::ConfigValue`], each naming the file, and where it applies the section and key.
pub fn read_toml<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse_toml(&text, &path.display().to_string())
}

/// Parses TOML text; `origin` says in errors where it came from.
///
/// # Errors
/// As [`read_toml`].
pub fn parse_toml<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| Error::ConfigSyntax {
        origin: origin.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    })?;
    T::deserialize(Located(toml::Value::Table(table))).map_err(|problem| located(problem, origin))
}

fn located(problem: Problem, origin: &str) -> Error {
    let origin = origin.to_owned();
    let section = section(&problem.path);
    let key = problem.path.join(".");
    match problem.kind {
        Kind::UnknownKey { key, known } => {
            Error::UnknownKey { suggestion: suggestion(&key, known, '`'), key, section, origin }
        }
        Kind::MissingKey { key } => Error::MissingKey { key: key.to_owned(), section, origin },
        Kind::UnknownName { found, known } => Error::ConfigValue {
            detail: format!("found \"{found}\", expected one of {}", known.join(", ")),
            remedy: suggestion(&found, known, '"'),
            key,
            origin,
        },
        Kind::Unfit { found, expected } => Error::ConfigValue {
            detail: format!("found {found}, expected {expected}"),
            remedy: String::new(),
            key,
            origin,
        },
        Kind::Refused { detail } => Error::ConfigValue { detail, remedy: String::new(), key, origin },
    }
}

fn section(path: &[String]) -> String {
    if path.is_empty() { "the top level".to_owned() } else { format!("[{}]", path.join(".")) }
}

/// ": did you mean `x`?", or what there is to choose from where nothing is near.
fn suggestion(found: &str, known: &[&str], quote: char) -> String {
    let near = known
        .iter()
        .map(|name| (strsim::jaro_winkler(&found.to_lowercase(), name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((similarity, name)) if similarity >= SIMILAR => format!(": did you mean {quote}{name}{quote}?"),
        _ => format!(": known are {}", known.join(", ")),
    }
}

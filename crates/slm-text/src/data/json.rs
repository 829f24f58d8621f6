//! JSON and JSON Lines of texts or token ids.

use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::decode::{Decoder, warn_of_line_ends};
use crate::{Error, Result, parse_ids};

/// Keys under which data sets have their text, the usual one first.
const TEXT_KEYS: [&str; 4] = ["text", "content", "story", "document"];
/// Keys under which data sets have token ids.
const ID_KEYS: [&str; 4] = ["ids", "input_ids", "token_ids", "tokens"];
/// Longest line or file of JSON.
const LONGEST: usize = 1 << 30;

/// Form of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Prose,
    /// One JSON value.
    Whole,
    /// One JSON value a line.
    Lines,
}

/// Texts or sequences of ids.
#[derive(Debug)]
pub(super) enum Record {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

/// The form of a file that begins with `head`, of which as much more is read as it takes.
///
/// # Errors
/// [`Error::Json`] for a file whose name says that it is JSON and whose content does not.
pub(super) fn form(path: &Path, head: &mut String, decoder: &mut Decoder) -> Result<Form> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let named = ["json", "jsonl", "ndjson"].iter().any(|name| extension.eq_ignore_ascii_case(name));
    let prose = |detail: &str| match named {
        true => Err(refused(path, detail)),
        false => Ok(Form::Prose),
    };
    while head.trim().is_empty() && decoder.read(head)? {}
    match head.trim_start().chars().next() {
        Some('{' | '[') => {}
        Some('"') if named => {}
        _ => return prose("holds no JSON, as its name says"),
    }
    let mut enough = false;
    loop {
        let mut values = serde_json::Deserializer::from_str(head).into_iter::<IgnoredAny>();
        let first = values.next();
        let end = values.byte_offset();
        match first {
            Some(Ok(_)) => {
                let blank = head[end..].trim().is_empty();
                if blank && decoder.read(head)? {
                    continue;
                }
                if blank {
                    return Ok(Form::Whole);
                }
                let (value, rest) = head.split_at(end);
                // One value a line, and a second one in the next; prose may begin with "[1]".
                if value.trim().contains('\n') || !rest.trim_start_matches([' ', '\t']).starts_with('\n') {
                    return prose("goes on after its first JSON value");
                }
                let next = head.len() - rest.trim_start().len();
                while !head[next..].contains('\n') && head.len() < LONGEST && decoder.read(head)? {}
                let second = head[next..].lines().next().unwrap_or_default();
                if serde_json::from_str::<IgnoredAny>(second).is_err() {
                    return prose("is no JSON in its second line");
                }
                return Ok(Form::Lines);
            }
            Some(Err(error)) if error.is_eof() && head.len() < LONGEST => {
                // Doubles, so that the beginning is not parsed again for each part.
                let target = 2 * head.len();
                let mut more = true;
                while more && head.len() < target {
                    more = decoder.read(head)?;
                }
                if enough {
                    return prose(&error.to_string());
                }
                enough = !more;
            }
            Some(Err(error)) => return prose(&error.to_string()),
            None => return prose("holds no JSON"),
        }
    }
}

fn refused(path: &Path, detail: impl Into<String>) -> Error {
    Error::Json { path: path.to_owned(), detail: detail.into() }
}

/// The texts or ids of a file that is one JSON value.
pub(super) fn whole(path: &Path, text: &str) -> Result<Record> {
    let value: Value = serde_json::from_str(text).map_err(|error| refused(path, error.to_string()))?;
    match &value {
        // The form that `slm sample` writes, with its strict rules.
        Value::Object(map) if map.get("ids").is_some_and(Value::is_array) => {
            Ok(Record::Ids(parse_ids(path, text.as_bytes())?))
        }
        Value::Array(items) if items.is_empty() => Err(refused(path, "is an empty list")),
        Value::Array(items) if !items.iter().all(is_id) => {
            let mut all: Option<Record> = None;
            for (index, item) in items.iter().enumerate() {
                let here = || format!("[{index}]");
                let record = record(path, item, &here)?;
                all = Some(match (all, record) {
                    (None, record) => record,
                    (Some(Record::Texts(mut texts)), Record::Texts(more)) => {
                        texts.extend(more);
                        Record::Texts(texts)
                    }
                    (Some(Record::Ids(mut ids)), Record::Ids(more)) => {
                        ids.extend(more);
                        Record::Ids(ids)
                    }
                    _ => return Err(refused(path, format!("{}: {MIXED}", here()))),
                });
            }
            all.ok_or_else(|| refused(path, "is an empty list"))
        }
        value => record(path, value, &|| "the value".to_owned()),
    }
}

const MIXED: &str = "texts and token ids are mixed; use one or the other";

fn is_id(value: &Value) -> bool {
    value.as_u64().is_some_and(|id| u32::try_from(id).is_ok())
}

/// A text with plain line ends, as they are read elsewhere.
fn plain(path: &Path, text: &str) -> String {
    if text.contains('\r') {
        warn_of_line_ends(path);
        return text.replace("\r\n", "\n").replace('\r', "\n");
    }
    text.to_owned()
}

/// The texts or ids of one JSON value; `place` says in errors where it is.
fn record(path: &Path, value: &Value, place: &dyn Fn() -> String) -> Result<Record> {
    match value {
        Value::String(text) => Ok(Record::Texts(vec![plain(path, text)])),
        Value::Array(_) => ids(value).map(Record::Ids).ok_or_else(|| {
            refused(path, format!("{}: expected a list of token ids, or an object with a \"text\"", place()))
        }),
        Value::Object(map) => object(path, map, place),
        other => Err(refused(path, format!("{}: {other} is neither a text nor token ids", place()))),
    }
}

fn object(path: &Path, map: &Map<String, Value>, place: &dyn Fn() -> String) -> Result<Record> {
    if let Some(found) = ID_KEYS.iter().find_map(|key| ids(map.get(*key)?)) {
        return Ok(Record::Ids(found));
    }
    let known = TEXT_KEYS.iter().find_map(|key| map.get(*key)?.as_str());
    let mut strings = map.values().filter_map(Value::as_str);
    if let Some(text) = known.or_else(|| strings.next().filter(|_| strings.next().is_none())) {
        return Ok(Record::Texts(vec![plain(path, text)]));
    }
    let keys = map.keys().take(8).map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", ");
    let remedy = if map.contains_key("messages") || map.contains_key("conversations") {
        "write each conversation out as the model's chat template does, under \"text\""
    } else {
        "put the text of each record under \"text\", or its token ids under \"ids\""
    };
    Err(refused(path, format!("{}: has {keys}, and nothing that is a text; {remedy}", place())))
}

/// A list of ids, or of lists of ids, none of them empty.
fn ids(value: &Value) -> Option<Vec<Vec<u32>>> {
    let list = |value: &Value| -> Option<Vec<u32>> {
        let ids = value.as_array().filter(|ids| !ids.is_empty())?;
        ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    };
    let items = value.as_array()?;
    list(value)
        .map(|ids| vec![ids])
        .or_else(|| if items.is_empty() { None } else { items.iter().map(list).collect() })
}

/// The records of a JSON Lines file.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    /// Text that was read, and where in it the next line begins.
    text: String,
    at: usize,
    decoder: Decoder,
    line: usize,
}

impl Lines {
    pub(super) fn new(path: &Path, head: String, decoder: Decoder) -> Self {
        Self { path: path.to_owned(), text: head, at: 0, decoder, line: 0 }
    }

    /// The error of a file with texts and ids.
    pub(super) fn mixed(&self) -> Error {
        refused(&self.path, format!("line {}: {MIXED}", self.line))
    }

    /// The next line that is not blank; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let mut searched = self.at;
        loop {
            let end = self.text[searched..].find('\n').map(|at| searched + at);
            let (end, ended) = match end {
                Some(end) => (end, false),
                None => {
                    searched = self.text.len();
                    if self.text.len() - self.at > LONGEST {
                        return Err(refused(
                            &self.path,
                            format!("line {}: longer than 1 GiB", self.line + 1),
                        ));
                    }
                    // What was taken is not kept.
                    self.text.drain(..self.at);
                    searched -= self.at;
                    self.at = 0;
                    match self.decoder.read(&mut self.text)? {
                        true => continue,
                        false => (self.text.len(), true),
                    }
                }
            };
            self.line += 1;
            let start = std::mem::replace(&mut self.at, (end + 1).min(self.text.len()));
            searched = self.at;
            let line = self.text[start..end].trim();
            if !line.is_empty() {
                let place = format!("line {}", self.line);
                let value: Value = serde_json::from_str(line)
                    .map_err(|error| refused(&self.path, format!("{place}: {error}")))?;
                return record(&self.path, &value, &|| place.clone()).map(Some);
            }
            if ended {
                return Ok(None);
            }
        }
    }
}

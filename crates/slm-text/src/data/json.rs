//! JSON and JSON Lines files of texts or token ids.

use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::Value;

use super::decode::Decoder;
use super::lenient;
use super::record::{MIXED, Record, record, records, refused};
use crate::{Error, Result, parse_ids};

/// Size limit of a line or a file of JSON, in bytes.
const LONGEST: usize = 1 << 30;

/// Format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFormat {
    Prose,
    /// One JSON value.
    Whole,
    /// One JSON value per line.
    Lines,
    /// Consecutive JSON objects, each on any number of lines.
    Values,
}

/// Detects the format of a file that begins with `head`, to which it appends as much as it needs to read.
///
/// # Errors
/// [`Error::Json`] for a file whose name claims JSON and whose content is something else.
pub(super) fn format(path: &Path, head: &mut String, decoder: &mut Decoder) -> Result<FileFormat> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let named = ["json", "jsonl", "ndjson"].iter().any(|name| extension.eq_ignore_ascii_case(name));
    let prose = |detail: &str| match named {
        true => Err(refused(path, detail)),
        false => Ok(FileFormat::Prose),
    };
    while head.trim().is_empty() && decoder.read(head)? {}
    match head.trim_start().chars().next() {
        Some('{' | '[') => {}
        Some('"') if named => {}
        _ => return prose("holds no JSON, as its name says"),
    }
    let mut enough = false;
    loop {
        let (mut first, mut end) = first_value(head);
        if first.as_ref().is_some_and(|value| value.as_ref().is_err_and(|error| !error.is_eof())) {
            (first, end) = first_value(&lenient::plain(head));
        }
        match first {
            Some(Ok(_)) => {
                let blank = head[end..].trim().is_empty();
                if blank && decoder.read(head)? {
                    continue;
                }
                if blank {
                    return Ok(FileFormat::Whole);
                }
                let (value, rest) = head.split_at(end);
                let next = head.len() - rest.trim_start().len();
                // One value per line, and a second one on the next line; prose may begin with "[1]".
                if value.trim().contains('\n') || !rest.trim_start_matches([' ', '\t']).starts_with('\n') {
                    let objects = value.trim_start().starts_with('{') && head[next..].starts_with('{');
                    let second = first_value(&lenient::plain(&head[next..])).0;
                    return match second {
                        Some(Ok(_)) if objects => Ok(FileFormat::Values),
                        Some(Err(error)) if objects && error.is_eof() => Ok(FileFormat::Values),
                        _ => prose("goes on after its first JSON value"),
                    };
                }
                while !head[next..].contains('\n') && head.len() < LONGEST && decoder.read(head)? {}
                let second = head[next..].lines().next().unwrap_or_default();
                if lenient::parse::<IgnoredAny>(second).is_err() {
                    return prose("is no JSON in its second line");
                }
                return Ok(FileFormat::Lines);
            }
            Some(Err(error)) if error.is_eof() && head.len() < LONGEST => {
                // Doubling the target avoids parsing the beginning again for each part.
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

/// Returns the first JSON value of a text and the position of its end.
fn first_value(text: &str) -> (Option<serde_json::Result<IgnoredAny>>, usize) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let first = values.next();
    (first, values.byte_offset())
}

/// Returns the texts or ids of a file that is one JSON value.
pub(super) fn whole(path: &Path, text: &str) -> Result<Record> {
    let value: Value = lenient::parse(text).map_err(|error| refused(path, error.to_string()))?;
    match &value {
        // The format that `slm sample` writes, which is parsed strictly.
        Value::Object(map) if map.get("ids").is_some_and(Value::is_array) => {
            Ok(Record::Ids(parse_ids(path, text.as_bytes())?))
        }
        Value::Array(items) if items.is_empty() => Err(refused(path, "is an empty list")),
        Value::Array(items) if !items.iter().all(Value::is_number) => records(path, items, &String::new),
        value => record(path, value, &|| "the value".to_owned()),
    }
}

/// The records of a file of JSON Lines or of consecutive JSON objects.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    /// Text that was read, and the position of the next record in it.
    text: String,
    at: usize,
    decoder: Decoder,
    /// True if each record is a line; `number` then counts the lines read.
    by_line: bool,
    number: usize,
}

impl Lines {
    pub(super) fn new(path: &Path, head: String, decoder: Decoder, format: FileFormat) -> Self {
        Self {
            path: path.to_owned(),
            text: head,
            at: 0,
            decoder,
            by_line: format != FileFormat::Values,
            number: 0,
        }
    }

    /// Number of bytes of the file that were read.
    pub(super) fn position(&self) -> usize {
        self.decoder.position()
    }

    /// The error for a file that mixes texts and ids.
    pub(super) fn mixed(&self) -> Error {
        refused(&self.path, format!("{}: {MIXED}", self.place()))
    }

    fn place(&self) -> String {
        format!("{} {}", if self.by_line { "line" } else { "record" }, self.number)
    }

    /// Returns the next record that is not empty; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let value = if self.by_line { self.next_line()? } else { self.next_value()? };
            let Some(value) = value else { return Ok(None) };
            match record(&self.path, &value, &|| self.place())? {
                Record::Texts(texts) if texts.is_empty() => {}
                record => return Ok(Some(record)),
            }
        }
    }

    /// Discards consumed text and reads more, until the remaining text has at least doubled. Returns `false` at the
    /// end.
    fn read_on(&mut self) -> Result<bool> {
        self.text.drain(..self.at);
        self.at = 0;
        if self.text.len() > LONGEST {
            return Err(refused(&self.path, format!("after {}: longer than 1 GiB", self.place())));
        }
        let target = 2 * self.text.len();
        let mut more = self.decoder.read(&mut self.text)?;
        let read = more;
        while more && self.text.len() < target {
            more = self.decoder.read(&mut self.text)?;
        }
        Ok(read)
    }

    fn next_value(&mut self) -> Result<Option<Value>> {
        loop {
            let rest = &self.text[self.at..];
            if rest.trim_start().is_empty() {
                if !self.read_on()? {
                    return Ok(None);
                }
                continue;
            }
            let (mut value, mut end) = first_value(rest);
            if value.as_ref().is_some_and(|value| value.as_ref().is_err_and(|error| !error.is_eof())) {
                (value, end) = first_value(&lenient::plain(rest));
            }
            match value {
                Some(Err(error)) if error.is_eof() => {
                    if !self.read_on()? {
                        return Err(refused(&self.path, format!("after {}: {error}", self.place())));
                    }
                }
                Some(Err(error)) => {
                    return Err(refused(&self.path, format!("after {}: {error}", self.place())));
                }
                _ => {
                    let value = lenient::parse(&rest[..end]);
                    self.at += end;
                    self.number += 1;
                    return value
                        .map(Some)
                        .map_err(|error| refused(&self.path, format!("{}: {error}", self.place())));
                }
            }
        }
    }

    /// Returns the value of the next line that is not blank.
    fn next_line(&mut self) -> Result<Option<Value>> {
        let mut searched = self.at;
        loop {
            let end = self.text[searched..].find('\n').map(|at| searched + at);
            let (end, ended) = match end {
                Some(end) => (end, false),
                None => {
                    searched = self.text.len() - self.at;
                    match self.read_on()? {
                        true => continue,
                        false => (self.text.len(), true),
                    }
                }
            };
            self.number += 1;
            let start = std::mem::replace(&mut self.at, (end + 1).min(self.text.len()));
            searched = self.at;
            let line = self.text[start..end].trim();
            if !line.is_empty() {
                let value = lenient::parse(line);
                return value
                    .map(Some)
                    .map_err(|error| refused(&self.path, format!("{}: {error}", self.place())));
            }
            if ended {
                return Ok(None);
            }
        }
    }
}

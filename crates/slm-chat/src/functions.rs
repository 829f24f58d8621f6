//! Functions and filters that transformers provides to templates.

use jiff::civil::DateTime;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::error::Raised;

/// `raise_exception(message)`: ends the rendering.
pub(crate) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// `strftime_now(format)`: formats `now` as Python's `strftime` does.
pub(crate) fn strftime(format: &str, now: DateTime) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
    })
}

/// `tojson` as `json.dumps(value, ensure_ascii=False)` writes it, with the same arguments.
pub(crate) fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    if sorted == Some(true) {
        // A `serde_json` map sorts its keys.
        let value = serde_json::to_value(&value).map_err(failed)?;
        return write(&value, indent, ascii, separators);
    }
    write(&value, indent, ascii, separators)
}

/// Writes `value` as JSON, with its entries in their order.
fn write(
    value: &impl Serialize,
    indent: Option<usize>,
    ascii: Option<bool>,
    separators: Option<Vec<String>>,
) -> Result<Value, Error> {
    let separators = match separators.as_deref() {
        None => None,
        Some([items, keys]) => Some((items.clone(), keys.clone())),
        Some(other) => {
            let detail = format!("separators: expected two strings, found {}", other.len());
            return Err(Error::new(ErrorKind::InvalidOperation, detail));
        }
    };
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(MAX_INDENT));
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, pretty))
        }
        None => {
            let (items, keys) = separators.unwrap_or_else(|| (", ".to_owned(), ": ".to_owned()));
            value.serialize(&mut Serializer::with_formatter(&mut out, Separated { items, keys }))
        }
    };
    written.map_err(failed)?;
    let text = String::from_utf8(out).map_err(failed)?;
    let text = if ascii == Some(true) { escape_non_ascii(&text) } else { text };
    Ok(Value::from_safe_string(text))
}

/// Largest accepted indentation. A template that asks for more is malicious or broken.
const MAX_INDENT: usize = 64;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadSerialization, error.to_string())
}

/// Escapes every non-ASCII character as `\uXXXX`, one escape for each UTF-16 code unit.
fn escape_non_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// JSON formatter that writes one line, with the given separators between items and after keys.
struct Separated {
    items: String,
    keys: String,
}

impl Separated {
    fn item<W: ?Sized + std::io::Write>(&self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.items.as_bytes()) }
    }
}

impl Formatter for Separated {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.keys.as_bytes())
    }
}

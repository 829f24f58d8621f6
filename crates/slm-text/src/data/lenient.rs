//! JSON as Python writes it, with extensions of the standard.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// Names that Python writes for numbers that JSON lacks, and numbers of the same length.
const WORDS: [(&[u8], &[u8]); 3] =
    [(b"NaN", b"0.0"), (b"-Infinity", b"-0.000000"), (b"Infinity", b"0.000000")];
/// The JSON escape of U+FFFD.
const REPLACEMENT: &[u8] = b"\\ufffd";

/// Parses JSON; if that fails, parses its [`plain`] form. The values of numbers do not matter here, and unpaired
/// surrogates become U+FFFD.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(text).or_else(|error| match plain(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(plain) => serde_json::from_str(&plain).map_err(|_| error),
    })
}

/// Converts to standard JSON of the same length: `NaN` and `Infinity` become zeros, and the escape of an unpaired
/// surrogate becomes that of U+FFFD.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let mut replace = |at: usize, with: &[u8]| {
        out.get_or_insert_with(|| bytes.to_vec())[at..at + with.len()].copy_from_slice(with);
    };
    let (mut at, mut in_string) = (0, false);
    while at < bytes.len() {
        at += match bytes[at] {
            b'\\' if in_string => match (surrogate(&bytes[at..]), bytes.get(at + 6..).and_then(surrogate)) {
                (Some(Half::First), Some(Half::Second)) => 12,
                (Some(_), _) => {
                    replace(at, REPLACEMENT);
                    6
                }
                (None, _) => 2,
            },
            b'"' => {
                in_string = !in_string;
                1
            }
            b'N' | b'I' | b'-' if !in_string => {
                match WORDS.iter().find(|(word, _)| bytes[at..].starts_with(word)) {
                    Some((word, number)) => {
                        replace(at, number);
                        word.len()
                    }
                    None => 1,
                }
            }
            _ => 1,
        };
    }
    match out.and_then(|out| String::from_utf8(out).ok()) {
        Some(out) => Cow::Owned(out),
        None => Cow::Borrowed(text),
    }
}

enum Half {
    First,
    Second,
}

/// The surrogate whose escape is at the start of `bytes`.
fn surrogate(bytes: &[u8]) -> Option<Half> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    match u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()? {
        0xd800..0xdc00 => Some(Half::First),
        0xdc00..0xe000 => Some(Half::Second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        for (text, expected) in [
            (
                r#"{"a": NaN, "b": "NaN", "c": [-Infinity, Infinity, -1]}"#,
                json!({"a": 0.0, "b": "NaN", "c": [-0.0, 0.0, -1]}),
            ),
            (r#""a\ud83d b""#, json!("a\u{fffd} b")),
            (r#""\ude00\ud83d\ude00\\ud83d""#, json!("\u{fffd}😀\\ud83d")),
            (r#""\"NaN\ud83d""#, json!("\"NaN\u{fffd}")),
        ] {
            assert_eq!(parse::<Value>(text).unwrap(), expected, "{text}");
            assert_eq!(plain(text).len(), text.len());
        }
        assert!(matches!(plain(r#"{"a": "\ud83d\ude00", "n": -1}"#), Cow::Borrowed(_)));
        assert!(parse::<Value>("{NaN: 1").is_err());
        assert!(parse::<Value>(r#""\ud83"#).is_err());
    }
}

//! JSON files of a Hugging Face directory, as editors, shells and Python write them.

use std::borrow::Cow;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::impostor;
use crate::{Error, Result, json};

/// Reads the value in `path`, at most `limit` bytes. Returns `None` if the file does not exist.
pub(super) fn read<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<Option<T>> {
    let Some(bytes) = json::read_optional(path, limit)? else { return Ok(None) };
    let bytes = decode(path, bytes)?;
    parse(path, &numbers_as_text(&bytes)).map(Some)
}

/// Parses JSON. The error for another kind of file names that kind.
pub(super) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    json::parse(path, bytes).map_err(|error| impostor::explain(path, bytes).unwrap_or(error.into()))
}

/// Conversion of two bytes to a UTF-16 unit, in either byte order.
type Unit = fn([u8; 2]) -> u16;

/// Returns the bytes as UTF-8 without a byte order mark. UTF-16 (as PowerShell's `>` writes it) is converted.
pub(super) fn decode(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let (rest, unit): (&[u8], Unit) = match &bytes[..] {
        [0xef, 0xbb, 0xbf, rest @ ..] => return Ok(rest.to_vec()),
        [0xff, 0xfe, rest @ ..] => (rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => (rest, u16::from_be_bytes),
        all @ [b'{', 0, ..] => (all, u16::from_le_bytes),
        all @ [0, b'{', ..] => (all, u16::from_be_bytes),
        _ => return Ok(bytes),
    };
    let (pairs, odd) = rest.as_chunks::<2>();
    let text: Result<String, _> = char::decode_utf16(pairs.iter().map(|&pair| unit(pair))).collect();
    match text {
        Ok(text) if odd.is_empty() => Ok(text.into_bytes()),
        _ => Err(Error::Unusable {
            path: path.to_owned(),
            problem: "it is damaged UTF-16".to_owned(),
            remedy: "download it again, or save it as UTF-8".to_owned(),
        }),
    }
}

/// Replaces `NaN`, `Infinity` and `-Infinity`, which Python writes although JSON has no such numbers, by strings. A
/// field that needs a number then rejects them by name; in any other field they do no harm.
fn numbers_as_text(bytes: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut out: Vec<u8> = Vec::new();
    // `out` contains the input up to `copied`.
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                if let Some(word) = WORDS.iter().find(|word| bytes[at..].starts_with(word)) {
                    out.extend_from_slice(&bytes[copied..at]);
                    out.push(b'"');
                    out.extend_from_slice(word);
                    out.push(b'"');
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    match copied {
        0 => Cow::Borrowed(bytes),
        _ => {
            out.extend_from_slice(&bytes[copied..]);
            Cow::Owned(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(bytes: &[u8]) -> Result<Value> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("config.json");
        std::fs::write(&path, bytes).unwrap();
        read(&path, json::SMALL).map(Option::unwrap)
    }

    #[test]
    fn every_encoding_of_json_is_read() {
        let text = r#"{"a": "ü𐍈", "b": 1}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (mark, bytes) in [
            (&[][..], text.as_bytes()),
            (&[0xef, 0xbb, 0xbf], text.as_bytes()),
            (&[0xff, 0xfe], &little),
            (&[0xfe, 0xff], &big),
            (&[], &little),
            (&[], &big),
        ] {
            assert_eq!(value(&[mark, bytes].concat()).unwrap(), expected, "{mark:?}");
        }
        let message = value(&[&[0xff, 0xfe][..], &little[..5]].concat()).unwrap_err().to_string();
        assert!(message.contains("config.json") && message.contains("UTF-16"), "{message}");
    }

    #[test]
    fn the_numbers_of_python_are_text() {
        let text = br#"{"a": NaN, "b": [-Infinity, Infinity, -1], "NaN \" -Infinity": "NaN", "c": 1}"#;
        let expected =
            json!({ "a": "NaN", "b": ["-Infinity", "Infinity", -1], "NaN \" -Infinity": "NaN", "c": 1 });
        assert_eq!(value(text).unwrap(), expected);
    }
}

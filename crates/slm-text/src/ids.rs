//! Files of token ids: text that was encoded elsewhere, or sampled from a model.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    ids: Vec<Vec<u32>>,
}

/// Parses a file of token ids, `{"ids": [[1, 2, ...], ...]}`, into independent sequences. `path` is used only in
/// errors.
///
/// # Errors
/// [`Error::Ids`] for another format, for numbers that are not 32-bit ids, and unless there is at least one sequence
/// and each has at least one token. The caller must check whether a model has these tokens.
pub fn parse_ids(path: &Path, bytes: &[u8]) -> Result<Vec<Vec<u32>>> {
    let refuse = |detail: String| Error::Ids { path: path.to_owned(), detail };
    let File { ids } = serde_json::from_slice(bytes).map_err(|error| {
        refuse(format!("{error}; expected {{\"ids\": [[1, 2, ...], ...]}} with lists of token ids"))
    })?;
    if ids.is_empty() {
        return Err(refuse(
            "ids: needs at least one sequence; `slm sample` makes some from a model".to_owned(),
        ));
    }
    if let Some(index) = ids.iter().position(Vec::is_empty) {
        return Err(refuse(format!("ids[{index}]: needs at least one token")));
    }
    Ok(ids)
}

/// Formats a file of token ids, as [`parse_ids`] reads it. `path` is used only in errors.
///
/// # Errors
/// [`Error::Ids`] if the ids cannot be written as JSON.
pub fn ids_to_json(path: &Path, ids: Vec<Vec<u32>>) -> Result<Vec<u8>> {
    serde_json::to_vec(&File { ids })
        .map_err(|error| Error::Ids { path: path.to_owned(), detail: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let path = Path::new("ids.json");
        let ids = vec![vec![1, 2, 3], vec![u32::MAX]];
        let bytes = ids_to_json(path, ids.clone()).unwrap();
        assert_eq!(bytes, br#"{"ids":[[1,2,3],[4294967295]]}"#);
        assert_eq!(parse_ids(path, &bytes).unwrap(), ids);
    }

    #[test]
    fn other_forms_are_refused_with_the_file_and_the_form() {
        for (content, part) in [
            ("", "expected {\"ids\": [[1, 2, ...], ...]}"),
            ("{", "expected {\"ids\""),
            ("[[1]]", "expected {\"ids\""),
            ("{\"ids\": [[1]], \"more\": 1}", "unknown field `more`"),
            ("{\"ids\": [[1]]} 2", "trailing characters"),
            ("{\"ids\": [[-1]]}", "invalid value: integer `-1`"),
            ("{\"ids\": [[1.0]]}", "invalid type: floating point `1.0`"),
            ("{\"ids\": [[4294967296]]}", "invalid value: integer `4294967296`"),
            ("{\"ids\": []}", "at least one sequence"),
            ("{\"ids\": [[1], []]}", "ids[1]: needs at least one token"),
        ] {
            let message = parse_ids(Path::new("some.json"), content.as_bytes()).unwrap_err().to_string();
            assert!(message.starts_with("some.json: ") && message.contains(part), "{content}: {message}");
        }
    }
}

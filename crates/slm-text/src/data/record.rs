//! Records of a data set, each one JSON value: texts or token ids.

use std::path::Path;

use serde_json::{Map, Value};

use super::decode::warn_of_line_ends;
use super::warn_once;
use crate::{Error, Result};

/// Keys of texts in data sets, the most common first.
const TEXT_KEYS: [&str; 10] = [
    "text",
    "content",
    "story",
    "document",
    "article",
    "passage",
    "raw_content",
    "body",
    "paragraph",
    "sentence",
];
/// Keys of token ids in data sets.
const ID_KEYS: [&str; 4] = ["ids", "input_ids", "token_ids", "tokens"];
/// Key of the mask that distinguishes ids from padding.
const MASK: &str = "attention_mask";
/// Keys of conversations.
const TURNS: [&str; 4] = ["messages", "conversations", "conversation", "turns"];
/// Keys of lists of records.
const LISTS: [&str; 12] = [
    "data",
    "rows",
    "train",
    "validation",
    "test",
    "examples",
    "records",
    "documents",
    "items",
    "instances",
    "samples",
    "texts",
];
/// Keys of strings that describe a text.
const ABOUT: [&str; 24] = [
    "id",
    "_id",
    "uid",
    "uuid",
    "key",
    "hash",
    "url",
    "link",
    "source",
    "title",
    "name",
    "version",
    "date",
    "timestamp",
    "lang",
    "language",
    "label",
    "category",
    "type",
    "split",
    "subset",
    "path",
    "file",
    "author",
];

/// Texts or sequences of ids.
#[derive(Debug)]
pub(super) enum Record {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

impl Record {
    fn is_empty(&self) -> bool {
        match self {
            Self::Texts(texts) => texts.is_empty(),
            Self::Ids(ids) => ids.is_empty(),
        }
    }
}

pub(super) const MIXED: &str = "texts and token ids are mixed; use one or the other";

pub(super) fn refused(path: &Path, detail: impl Into<String>) -> Error {
    Error::Json { path: path.to_owned(), detail: detail.into() }
}

/// Returns the texts or ids of one JSON value; `place` describes its position in errors.
pub(super) fn record(path: &Path, value: &Value, place: &dyn Fn() -> String) -> Result<Record> {
    match value {
        Value::String(text) => Ok(Record::Texts(vec![plain(path, text)])),
        Value::Array(items) if items.iter().any(|item| item.is_number() || item.is_array()) => ids(value)
            .map(Record::Ids)
            .ok_or_else(|| refused(path, format!("{}: {}", place(), no_ids(value)))),
        Value::Array(_) => Err(refused(
            path,
            format!("{}: expected a list of token ids, or an object with a \"text\"", place()),
        )),
        Value::Object(map) => object(path, map, place),
        other => Err(refused(path, format!("{}: {other} is neither a text nor token ids", place()))),
    }
}

/// Returns the texts or ids of a list of records.
pub(super) fn records(path: &Path, items: &[Value], place: &dyn Fn() -> String) -> Result<Record> {
    let mut all: Option<Record> = None;
    for (index, item) in items.iter().enumerate() {
        let here = || format!("{}[{index}]", place());
        let record = record(path, item, &here)?;
        all = Some(match (all, record) {
            (None, record) => record,
            (Some(all), record) if record.is_empty() => all,
            (Some(all), record) if all.is_empty() => record,
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

fn object(path: &Path, map: &Map<String, Value>, place: &dyn Fn() -> String) -> Result<Record> {
    if let Some((key, text)) = find(map, &TEXT_KEYS)
        && let Some(texts) = texts(path, key, text)
    {
        if let Some((ids, _)) = find(map, &ID_KEYS).filter(|(_, value)| ids(value).is_some()) {
            let what = format!("has texts under {key:?} and token ids under {ids:?}; the texts are read");
            warn_once(path, &what);
        }
        return Ok(Record::Texts(texts));
    }
    if let Some((key, value)) = find(map, &ID_KEYS)
        && holds_numbers(value)
    {
        let found =
            ids(value).ok_or_else(|| refused(path, format!("{}: {key:?}: {}", place(), no_ids(value))))?;
        return Ok(Record::Ids(unpadded(path, found, map.get(MASK))));
    }
    for (key, value) in map {
        match value {
            Value::Object(row) if key == "row" => return object(path, row, place),
            Value::Array(items) if !items.is_empty() && LISTS.contains(&key.as_str()) => {
                return records(path, items, &|| format!("{}: {key}", place()));
            }
            _ => {}
        }
    }
    let chat = TURNS.iter().any(|key| map.contains_key(*key));
    if !chat && let Some(text) = only_text(map) {
        return Ok(Record::Texts(vec![plain(path, text)]));
    }
    let keys = map.keys().take(8).map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let remedy = if chat {
        "write each conversation out as the model's chat template does, under \"text\""
    } else {
        "put the text of each record under \"text\", or its token ids under \"ids\""
    };
    Err(refused(path, format!("{}: has {keys}, and nothing that is a text; {remedy}", place())))
}

/// Finds the first of `keys` that is present, ignoring case.
fn find<'a>(map: &'a Map<String, Value>, keys: &[&str]) -> Option<(&'a str, &'a Value)> {
    keys.iter().find_map(|key| {
        let (name, value) = map
            .get_key_value(*key)
            .or_else(|| map.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)))?;
        Some((name.as_str(), value))
    })
}

/// Returns the texts of a field: one, a list of them, or none if it is null.
fn texts(path: &Path, key: &str, value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![plain(path, text)]),
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| item.as_str().map(|text| plain(path, text))).collect()
        }
        Value::Null => {
            warn_once(path, &format!("has records with null under {key:?}, which are ignored"));
            Some(Vec::new())
        }
        _ => None,
    }
}

/// Returns the only string of an object, unless its key is that of a description.
fn only_text(map: &Map<String, Value>) -> Option<&str> {
    let nested = map.values().any(|value| value.is_object() || value.is_array());
    let mut strings = map.iter().filter_map(|(key, value)| Some((key, value.as_str()?)));
    let (key, text) = strings.next()?;
    let about = ABOUT.iter().any(|about| key.eq_ignore_ascii_case(about))
        || key.to_ascii_lowercase().ends_with("_id");
    (!nested && !about && strings.next().is_none()).then_some(text)
}

fn holds_numbers(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(|item| item.is_number() || holds_numbers(item)))
}

fn is_id(value: &Value) -> bool {
    value.as_u64().is_some_and(|id| u32::try_from(id).is_ok())
}

/// Parses a list of ids, or a list of lists of ids, none of them empty.
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

/// Explains why a list is not a list of ids.
fn no_ids(value: &Value) -> String {
    fn first(value: &Value, depth: usize) -> Option<String> {
        match value {
            Value::Array(items) if items.is_empty() => Some("an empty list".to_owned()),
            Value::Array(items) if depth < 2 => items.iter().find_map(|item| first(item, depth + 1)),
            Value::Array(_) => Some("lists inside lists inside lists".to_owned()),
            value if is_id(value) => None,
            value => Some(value.to_string()),
        }
    }
    match first(value, 0) {
        Some(found) => {
            format!(
                "{found} is not a token id; ids are whole numbers from 0 on, in lists or in lists of lists"
            )
        }
        None => "ids and lists of ids are mixed".to_owned(),
    }
}

/// Removes the ids that the mask of a padded data set excludes.
fn unpadded(path: &Path, ids: Vec<Vec<u32>>, mask: Option<&Value>) -> Vec<Vec<u32>> {
    let mask = mask.and_then(self::ids);
    let Some(mask) = mask.filter(|mask| mask.len() == ids.len()) else { return ids };
    let mut padded = false;
    let kept = ids.into_iter().zip(mask).map(|(ids, mask)| {
        if mask.len() != ids.len() || !mask.contains(&0) {
            return ids;
        }
        padded = true;
        ids.into_iter().zip(mask).filter(|&(_, mask)| mask != 0).map(|(id, _)| id).collect()
    });
    let kept: Vec<Vec<u32>> = kept.collect::<Vec<_>>().into_iter().filter(|ids| !ids.is_empty()).collect();
    if padded {
        warn_once(path, &format!("has padding, which {MASK:?} marks; it is ignored"));
    }
    kept
}

/// Returns a text with plain line ends, as other readers do.
fn plain(path: &Path, text: &str) -> String {
    if text.contains('\r') {
        warn_of_line_ends(path);
        return text.replace("\r\n", "\n").replace('\r', "\n");
    }
    text.to_owned()
}

//! Formatting of values as Python writes them, where this differs from the template engine.

use minijinja::value::{Value, ValueKind};

/// Python's `str(value)`: the output of `{{ value }}`.
pub(crate) fn display(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => repr(value),
    }
}

/// Python's `repr(value)`.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let items: Vec<String> = items(value).map(|item| repr(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let entries: Vec<String> = items(value)
                .map(|key| {
                    let entry = value.get_item(&key).unwrap_or_default();
                    format!("{}: {}", repr(&key), repr(&entry))
                })
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        _ => value.to_string(),
    }
}

fn items(value: &Value) -> impl Iterator<Item = Value> {
    value.try_iter().into_iter().flatten()
}

/// A Python string literal, in single quotes unless the text contains single quotes and no double quotes.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_in_python() {
        for (value, expected) in [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!(7), "7"),
            (json!(1.5), "1.5"),
            (json!("it's"), "it's"),
            (json!(["it's", "a \"b\"", "both ' and \""]), r#"["it's", 'a "b"', 'both \' and "']"#),
            (json!({"a": [false, null], "b": "line\n"}), r"{'a': [False, None], 'b': 'line\n'}"),
        ] {
            assert_eq!(display(&Value::from_serialize(&value)), expected);
        }
    }
}

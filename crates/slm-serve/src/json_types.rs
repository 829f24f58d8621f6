//! Messages about wrong types, in the words of JSON.

/// Names of types in serde's messages, and in JSON.
const EXPECTED: [(&str, &str); 8] = [
    ("usize", "a whole number, 0 or more"),
    ("u32", "a whole number, 0 or more"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("a boolean", "true or false"),
    ("a sequence", "a list"),
    ("struct ChatMessage", "an object such as {\"role\": \"user\", \"content\": \"Hi\"}"),
    ("struct StreamOptions", "an object such as {\"include_usage\": true}"),
];

/// Names of values in serde's messages, and in JSON.
const FOUND: [(&str, &str); 5] = [
    ("string ", "the string "),
    ("integer ", "the number "),
    ("floating point ", "the number "),
    ("boolean ", "the value "),
    ("sequence", "a list"),
];

/// Describes an error about the type of a value. Its position in the body is left out: the message begins with the field.
pub(crate) fn in_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    let mismatch = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    let Some((found, expected)) = mismatch.and_then(|text| text.rsplit_once(", expected ")) else {
        return text.to_owned();
    };
    let found = FOUND
        .iter()
        .find_map(|(serde, json)| found.strip_prefix(serde).map(|rest| format!("{json}{rest}")))
        .unwrap_or_else(|| found.to_owned());
    let expected = EXPECTED.iter().find(|(serde, _)| *serde == expected).map_or(expected, |(_, json)| json);
    format!("{}, expected {expected}", found.replace('`', ""))
}

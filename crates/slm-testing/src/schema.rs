//! Validation by the subset of JSON Schema that the schemas in `docs/` use.

use serde_json::{Map, Value};

/// Finds the violations of `schema` in `value`.
///
/// # Panics
/// For an unsupported keyword.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema.as_object().unwrap(), value, "", &mut found);
    found
}

fn items(rule: &Value) -> usize {
    usize::try_from(rule.as_u64().unwrap()).unwrap()
}

fn check(root: &Value, schema: &Map<String, Value>, value: &Value, at: &str, found: &mut Vec<String>) {
    let mut fail = |rule: &str| found.push(format!("{at}: {rule}"));
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                check(root, root["$defs"][name].as_object().unwrap(), value, at, found);
                return;
            }
            "type" => {
                let fits = |name: &Value| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                let one = std::slice::from_ref(rule);
                if !rule.as_array().map_or(one, Vec::as_slice).iter().any(fits) {
                    fail("type");
                }
            }
            "const" if value != rule => fail("const"),
            "enum" if !rule.as_array().unwrap().contains(value) => fail("enum"),
            "const" | "enum" => {}
            "anyOf" => {
                let fits = |schema: &Value| {
                    let mut found = Vec::new();
                    check(root, schema.as_object().unwrap(), value, at, &mut found);
                    found.is_empty()
                };
                if !rule.as_array().unwrap().iter().any(fits) {
                    fail("anyOf");
                }
            }
            "minimum" if value.as_f64().is_some_and(|value| value < rule.as_f64().unwrap()) => {
                fail("minimum")
            }
            "maximum" if value.as_f64().is_some_and(|value| value > rule.as_f64().unwrap()) => {
                fail("maximum")
            }
            "minItems" if value.as_array().is_some_and(|list| list.len() < items(rule)) => fail("minItems"),
            "maxItems" if value.as_array().is_some_and(|list| list.len() > items(rule)) => fail("maxItems"),
            "minimum" | "maximum" | "minItems" | "maxItems" => {}
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                let fits = match rule.as_str().unwrap() {
                    "^[0-9a-f]{64}$" => {
                        text.len() == 64
                            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                    }
                    "^(tensor|channel|group:[1-9][0-9]*)$" => {
                        let group = text
                            .strip_prefix("group:")
                            .is_some_and(|size| !size.starts_with('0') && size.parse::<u32>().is_ok());
                        matches!(text, "tensor" | "channel") || group
                    }
                    other => panic!("pattern {other}"),
                };
                if !fits {
                    fail("pattern");
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = schema["properties"].as_object().unwrap();
                let keys = value.as_object().into_iter().flat_map(Map::keys);
                keys.filter(|key| !known.contains_key(*key))
                    .for_each(|key| fail(&format!("no field {key:?}")));
            }
            "required" if value.is_object() => {
                let missing = |key: &&Value| value.get(key.as_str().unwrap()).is_none();
                rule.as_array().unwrap().iter().filter(missing).for_each(|key| fail(&format!("needs {key}")));
            }
            "properties" | "items" | "required" => {}
            other => panic!("keyword {other}"),
        }
    }
    for (key, rule) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = value.get(key) {
            check(root, rule.as_object().unwrap(), value, &format!("{at}.{key}"), found);
        }
    }
    if let (Some(rule), Some(list)) = (schema.get("items"), value.as_array()) {
        for (index, value) in list.iter().enumerate() {
            check(root, rule.as_object().unwrap(), value, &format!("{at}[{index}]"), found);
        }
    }
}

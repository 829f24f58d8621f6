//! `docs/quantization_metadata.schema.json` describes what is written and what is read.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use slm_checkpoint::{Checkpoint, OpenOptions, migrate};
use slm_quant_core::{ActivationQuant, Bits, QuantScheme};
use support::*;

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/quantization_metadata.schema.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Where `value` does not follow `schema`: as much of JSON Schema as the file uses, anything else is refused.
fn violations(root: &Value, schema: &Map<String, Value>, value: &Value, at: &str, found: &mut Vec<String>) {
    let mut fail = |rule: &str| found.push(format!("{at}: {rule}"));
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                violations(root, root["$defs"][name].as_object().unwrap(), value, at, found);
                return;
            }
            "type" => {
                let fits = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    fail("type");
                }
            }
            "const" if value != rule => fail("const"),
            "enum" if !rule.as_array().unwrap().contains(value) => fail("enum"),
            "const" | "enum" => {}
            "anyOf" => {
                let fits = |schema: &Value| {
                    let mut found = Vec::new();
                    violations(root, schema.as_object().unwrap(), value, at, &mut found);
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
            "minItems" if value.as_array().is_some_and(|list| list.len() < 2 && rule == 2) => {
                fail("minItems")
            }
            "maxItems" if value.as_array().is_some_and(|list| list.len() > 2 && rule == 2) => {
                fail("maxItems")
            }
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
            "required" => {
                let missing = |key: &&Value| value.get(key.as_str().unwrap()).is_none();
                rule.as_array().unwrap().iter().filter(missing).for_each(|key| fail(&format!("needs {key}")));
            }
            "properties" | "items" => {}
            other => panic!("keyword {other}"),
        }
    }
    for (key, rule) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = value.get(key) {
            violations(root, rule.as_object().unwrap(), value, &format!("{at}.{key}"), found);
        }
    }
    if let (Some(rule), Some(list)) = (schema.get("items"), value.as_array()) {
        for (index, value) in list.iter().enumerate() {
            violations(root, rule.as_object().unwrap(), value, &format!("{at}[{index}]"), found);
        }
    }
}

fn check(metadata: &Value) -> Vec<String> {
    let (schema, mut found) = (schema(), Vec::new());
    violations(&schema, schema.as_object().unwrap(), metadata, "", &mut found);
    found
}

fn metadata(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("quantization_metadata.json")).unwrap()).unwrap()
}

#[test]
fn what_is_written_follows_the_schema() {
    for (scheme, activation) in [
        (affine_groups(), static_activation()),
        (QuantScheme::per_tensor(Bits::Int8), per_token()),
        (QuantScheme::per_tensor(Bits::Int4), ActivationQuant::Float),
    ] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("model");
        save_quantized(&dir, scheme, activation);
        assert_eq!(check(&metadata(&dir)), Vec::<String>::new());
    }
}

#[test]
fn what_is_migrated_follows_the_schema() {
    for fixture in
        ["v1/int8-static", "v1/int8-weight-only", "v1/int4-dynamic", "v2/int8-static", "v2/int8-finetuned"]
    {
        let root = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
        let out = root.path().join("new");
        migrate(source, Some(&out), false, &OpenOptions::default()).unwrap();
        assert_eq!(check(&metadata(&out)), Vec::<String>::new(), "{fixture}");
    }
}

/// Schema and program agree on what is wrong: every field of the file in turn is taken away, made something
/// else, or joined by one that nobody knows.
#[test]
fn what_breaks_the_schema_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    save_quantized(&dir, affine_groups(), static_activation());
    let good = metadata(&dir);
    let mut places = Vec::new();
    collect(&good, String::new(), &mut places);
    let mut broken = 0;
    for place in places {
        let (parent, key) = place.rsplit_once('/').unwrap();
        let changes: [Change<'_>; 3] = [
            &|object| drop(object.remove(key)),
            &|object| drop(object.insert(key.to_owned(), json!(true))),
            &|object| drop(object.insert("unheard_of".to_owned(), json!(1))),
        ];
        for change in changes {
            let mut bad = good.clone();
            change(bad.pointer_mut(parent).unwrap().as_object_mut().unwrap());
            if check(&bad).is_empty() {
                continue; // An optional field.
            }
            broken += 1;
            fs::write(dir.join("quantization_metadata.json"), serde_json::to_vec(&bad).unwrap()).unwrap();
            let read = Checkpoint::open_with(&dir, &OpenOptions { verify: false });
            assert!(read.is_err(), "{place}: {:?}", check(&bad));
        }
    }
    assert!(broken > 300, "only {broken}");
}

/// What is done to an object.
type Change<'a> = &'a dyn Fn(&mut Map<String, Value>);

/// JSON pointers of all fields of objects.
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                places.push(format!("{at}/{key}"));
                collect(value, format!("{at}/{key}"), places);
            }
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| collect(value, format!("{at}/{index}"), places));
        }
        _ => {}
    }
}

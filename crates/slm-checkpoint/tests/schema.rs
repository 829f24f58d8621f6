//! `docs/quantization_metadata.schema.json` describes the files that slm writes and accepts.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use slm_checkpoint::{Checkpoint, OpenOptions, migrate};
use slm_quant_core::{ActivationQuant, Bits, QuantScheme};
use slm_testing::violations;
use support::*;

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/quantization_metadata.schema.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn check(metadata: &Value) -> Vec<String> {
    violations(&schema(), metadata)
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

/// Schema and program reject the same changes: each field of the file in turn is removed, replaced by another value, or
/// joined by an unknown field.
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
            let read = Checkpoint::open_with(&dir, &OpenOptions::UNVERIFIED);
            assert!(read.is_err(), "{place}: {:?}", check(&bad));
        }
    }
    assert!(broken > 300, "only {broken}");
}

/// Change of an object.
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

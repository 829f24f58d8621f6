//! Invalid checkpoints: each is rejected for its own reason, and nothing panics.

mod support;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Value, json};
use slm_checkpoint::{Checkpoint, Error, OpenOptions};
use slm_quant_core::{Bits, Granularity, QuantScheme};
use slm_store::Error as StoreError;
use support::*;

const UNVERIFIED: OpenOptions = OpenOptions::UNVERIFIED;

struct Case {
    _root: tempfile::TempDir,
    dir: PathBuf,
}

fn float() -> Case {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    save_float(&dir);
    Case { _root: root, dir }
}

fn quantized() -> Case {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    save_quantized(&dir, affine_groups(), static_activation());
    Case { _root: root, dir }
}

/// A float and a quantized checkpoint of minimal size.
fn tiniest() -> [Case; 2] {
    let case = |model, metadata: Option<&slm_checkpoint::QuantizationMetadata>| {
        let root = tempfile::tempdir().unwrap();
        let dir = slm_checkpoint::save(root.path().join("model"), model, &request(metadata), false).unwrap();
        Case { _root: root, dir }
    };
    let model = tiniest_model();
    let mut quantized = model.clone();
    let skip = ["layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.0.mlp.gate_proj"];
    let scheme = affine_groups().with_granularity(Granularity::PerGroup { group_size: 2 });
    let metadata = quantize(&mut quantized, scheme, static_activation(), &skip);
    [case(&model, None), case(&quantized, Some(&metadata))]
}

impl Case {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Changes a JSON file.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.path(name), serde_json::to_vec(&value).unwrap()).unwrap();
    }

    /// Changes the manifest and updates its own checksum.
    fn edit_manifest(&self, change: impl FnOnce(&mut Value)) {
        self.edit("manifest.json", |manifest| {
            change(manifest);
            seal(manifest);
        });
    }

    /// Changes the header of the weights.
    fn edit_header(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..end]).unwrap();
        change(&mut header);
        let header = serde_json::to_vec(&header).unwrap();
        let new = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[end..]].concat();
        fs::write(&path, new).unwrap();
    }

    /// Opens without checksums and reads everything.
    fn read(&self) -> slm_checkpoint::Result<()> {
        read(&self.dir)
    }

    fn error(&self) -> Error {
        self.read().unwrap_err()
    }
}

fn read(dir: &Path) -> slm_checkpoint::Result<()> {
    Checkpoint::open_with(dir, &UNVERIFIED)?.load_model(&Device::flex()).map(drop)
}

/// Checks that the message of an error contains all of `parts`.
#[track_caller]
fn says(error: &Error, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_truncation_of_every_file_is_an_error() {
    for case in tiniest() {
        case.read().unwrap();
        for (path, bytes) in files(&case.dir) {
            if path.ends_with("manifest.json") {
                continue; // Not read without verification; below.
            }
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            for len in (0..bytes.len()).rev() {
                file.set_len(len as u64).unwrap();
                let only_the_newline_is_gone = len + 1 == bytes.len() && bytes[len] == b'\n';
                let result = case.read();
                assert!(result.is_err() || only_the_newline_is_gone, "{} cut to {len}", path.display());
            }
            fs::write(&path, &bytes).unwrap();
        }
        let path = case.path("manifest.json");
        let bytes = fs::read(&path).unwrap();
        for len in 0..bytes.len() - 1 {
            fs::write(&path, &bytes[..len]).unwrap();
            assert!(Checkpoint::open(&case.dir).is_err(), "manifest cut to {len}");
        }
    }
}

#[test]
fn every_flipped_bit_is_found_and_none_panics() {
    let [_, case] = tiniest();
    for (path, bytes) in files(&case.dir) {
        let manifest = path.ends_with("manifest.json");
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut put = |index: usize, byte: u8| {
            file.seek(SeekFrom::Start(index as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        for (index, &byte) in bytes.iter().enumerate() {
            put(index, byte ^ (1 << (index % 8)));
            let verified = Checkpoint::open(&case.dir);
            // A change to white space in the manifest may leave white space.
            assert!(verified.is_err() || (manifest && byte.is_ascii_whitespace()), "{path:?} {index}");
            let _any_result_but_a_panic = case.read();
            put(index, byte);
        }
    }
    Checkpoint::open(&case.dir).unwrap();
}

#[test]
fn a_changed_file_is_named() {
    let case = float();
    let path = case.path("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = Checkpoint::open(&case.dir).unwrap_err();
    assert!(matches!(&error, Error::Store(StoreError::Checksum { what, .. }) if what == "BLAKE3"), "{error}");
    says(&error, &["model.safetensors", "restore"]);
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    let error = Checkpoint::open(&case.dir).unwrap_err();
    assert!(matches!(&error, Error::Store(StoreError::Checksum { what, .. }) if what == "size"), "{error}");
}

#[test]
fn files_must_be_those_of_the_manifest() {
    let case = float();
    fs::remove_file(case.path("tokenizer.json")).unwrap();
    says(&Checkpoint::open(&case.dir).unwrap_err(), &["tokenizer.json", "not found"]);
    case.read().unwrap();

    let case = float();
    case.edit_manifest(|m| drop(m["files"].as_object_mut().unwrap().remove("tokenizer.json")));
    assert!(matches!(Checkpoint::open(&case.dir), Err(Error::Store(StoreError::Unlisted { .. }))));
    case.edit_manifest(|m| m["files"]["../../secret"] = m["files"]["config.json"].clone());
    assert!(matches!(Checkpoint::open(&case.dir), Err(Error::Store(StoreError::Field { .. }))));
    fs::remove_file(case.path("manifest.json")).unwrap();
    says(&Checkpoint::open(&case.dir).unwrap_err(), &["manifest.json", "skip verification"]);
    case.read().unwrap();
}

#[test]
fn a_manifest_is_what_was_written() {
    type Change = fn(&mut Value);
    let changes: [Change; 3] = [
        // Loading does not verify SHA-256.
        |m| m["files"]["model.safetensors"]["sha256"] = json!("0".repeat(64)),
        |m| drop(m["files"].as_object_mut().unwrap().remove("model.safetensors")),
        |m| m["files_blake3"] = json!(""),
    ];
    for change in changes {
        let case = float();
        case.edit("manifest.json", change);
        let error = Checkpoint::open(&case.dir).unwrap_err();
        says(&error, &["manifest.json", "BLAKE3 of \"files\"", "restore"]);
        case.read().unwrap();
    }
    // White space and the order of names do not matter.
    let case = float();
    let manifest: std::collections::HashMap<String, Value> =
        serde_json::from_slice(&fs::read(case.path("manifest.json")).unwrap()).unwrap();
    fs::write(case.path("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    Checkpoint::open(&case.dir).unwrap();
}

#[test]
fn checksums_of_chunks_must_be_those_of_the_file() {
    let case = float();
    let weights = fs::read(case.path("model.safetensors")).unwrap();
    let values = |size| chunk_values(&weights, size);
    let put = |chunks: Value| {
        case.edit_manifest(|m| m["files"]["model.safetensors"]["chunks"] = chunks);
        Checkpoint::open(&case.dir)
    };
    put(json!({ "size": 1024, "blake3": values(1024) })).unwrap();
    let [mut swapped, mut short, mut no_hex] = [values(1024), values(1024), values(1024)];
    swapped.swap(0, 1);
    short.pop();
    no_hex[0] = "?".to_owned();
    let whole = blake3::hash(&weights).to_hex().to_string();
    let whole_file = 1_u64 << 40;
    for chunks in [
        json!({ "size": 1024, "blake3": swapped }),
        json!({ "size": 1024, "blake3": short }),
        json!({ "size": 1024, "blake3": no_hex }),
        json!({ "size": 1024, "blake3": [] }),
        json!({ "size": 2048, "blake3": values(1024) }),
        json!({ "size": 0, "blake3": values(1024) }),
        json!({ "size": 1000, "blake3": values(1024) }),
        json!({ "size": u64::MAX, "blake3": values(1024) }),
        json!({ "size": 1_u64 << 63, "blake3": values(1024) }),
        json!({ "size": whole_file, "blake3": [whole] }),
    ] {
        says(&put(chunks).unwrap_err(), &["manifest.json", "files.model.safetensors.chunks"]);
    }
}

#[test]
fn what_is_no_checkpoint_is_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    assert!(matches!(Checkpoint::open(dir.join("absent")), Err(Error::Store(StoreError::Missing { .. }))));
    says(&Checkpoint::open(dir).unwrap_err(), &["no config.json"]);
    fs::write(dir.join("config.json"), r#"{"architectures":["LlamaForCausalLM"]}"#).unwrap();
    says(&Checkpoint::open(dir).unwrap_err(), &["Hugging Face", "slm import"]);
    fs::write(dir.join("config.json"), r#"{"format":"other"}"#).unwrap();
    assert!(matches!(Checkpoint::open(dir), Err(Error::NotACheckpoint { .. })));
    fs::write(dir.join("config.json"), r#"[1]"#).unwrap();
    assert!(matches!(Checkpoint::open(dir), Err(Error::Store(StoreError::Json { .. }))));
    let error = Checkpoint::open(dir.join("config.json")).unwrap_err();
    says(&error, &["not a directory"]);
}

#[test]
fn versions_are_told_apart() {
    let case = float();
    case.edit("config.json", |c| {
        c["format_version"] = json!(7);
        c["program_version"] = json!("3.2.1");
        c["unheard_of"] = json!(1);
    });
    let error = Checkpoint::open(&case.dir).unwrap_err();
    assert!(matches!(error, Error::NewerVersion { found: 7, newest: 5, .. }), "{error}");
    says(&error, &["version 7", "version 5", "slm 3.2.1", "config.json"]);
    case.edit("config.json", |c| c["format_version"] = json!(0));
    assert!(matches!(case.error(), Error::UnknownVersion { found: 0, .. }));
    case.edit("config.json", |c| c["format_version"] = json!("1"));
    assert!(matches!(case.error(), Error::Store(StoreError::Field { .. })));

    let case = quantized();
    for version in [json!(2), json!(3), json!(4), json!(null)] {
        case.edit("quantization_metadata.json", |m| m["format_version"] = version);
        says(&case.error(), &["quantization_metadata.json", "format_version", "5, as in config.json"]);
    }
    let case = float();
    case.edit("manifest.json", |m| m["format_version"] = json!(1));
    says(
        &Checkpoint::open(&case.dir).unwrap_err(),
        &["manifest.json", "format_version", "5, as in config.json"],
    );
}

#[test]
fn unknown_and_impossible_fields_are_refused() {
    let case = float();
    case.edit("config.json", |c| c["modle"] = json!(1));
    says(&case.error(), &["config.json", "modle"]);
    let case = float();
    case.edit("config.json", |c| c["model"]["hidden_sizes"] = json!(1));
    says(&case.error(), &["config.json", "hidden_sizes"]);
    let case = float();
    case.edit("config.json", |c| c["model"]["num_kv_heads"] = json!(3));
    let error = case.error();
    assert!(matches!(error, Error::Model { .. }), "{error}");
    says(&error, &["num_kv_heads", "config.json"]);
    let case = float();
    case.edit("config.json", |c| c["tokenizer"]["bos_token_id"] = json!(11));
    says(&case.error(), &["tokenizer.bos_token_id", "vocab_size = 11"]);
    let case = quantized();
    case.edit("quantization_metadata.json", |m| m["layers"][0]["scal"] = json!(1));
    says(&case.error(), &["quantization_metadata.json", "scal"]);
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let case = float();
    case.edit("tokenizer.json", |t| t["model"]["vocab"]["h"] = json!(11));
    let error = case.error();
    assert!(matches!(error, Error::Vocabulary { highest_id: 11, vocab_size: 11, .. }), "{error}");
    // A token that was only added, such as one for padding, does no harm unless a text contains it.
    let case = float();
    case.edit("tokenizer.json", |t| t["added_tokens"][0]["id"] = json!(11));
    case.read().unwrap();
}

#[test]
fn tensors_must_be_those_of_the_config() {
    let case = float();
    case.edit_header(|h| {
        let tensors = h.as_object_mut().unwrap();
        for (old, new) in [("norm.weight", "nrom.weight"), ("layers.1.mlp.up_proj.weight", "x")] {
            let info = tensors.remove(old).unwrap();
            tensors.insert(new.to_owned(), info);
        }
    });
    let error = case.error();
    let Error::Store(StoreError::TensorSet { missing, unexpected, .. }) = &error else { panic!("{error}") };
    assert_eq!(missing, &["layers.1.mlp.up_proj.weight", "norm.weight"]);
    assert_eq!(unexpected, &["nrom.weight", "x"]);
    says(&error, &["nrom.weight", "model.safetensors"]);

    let case = float();
    case.edit_header(|h| h["layers.0.mlp.up_proj.weight"]["shape"] = json!([12, 7]));
    let error = case.error();
    assert!(matches!(error, Error::Store(StoreError::Shape { .. })), "{error}");
    says(&error, &["layers.0.mlp.up_proj.weight", "[7, 12]", "[12, 7]"]);

    let case = float();
    case.edit_header(|h| h["norm.weight"]["dtype"] = json!("I32"));
    says(&case.error(), &["norm.weight", "F32", "I32"]);
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let case = float();
        let path = case.path("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let file = slm_checkpoint::TensorFile::open(&path).unwrap();
        // The last tensor of the file.
        let name = file.names().last().unwrap().clone();
        let start = bytes.len() - 2 * 4;
        bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let error = case.error();
        let count = file.shape(&name).unwrap().iter().product::<usize>();
        let Error::Store(StoreError::NotFinite { tensor, index, .. }) = &error else { panic!("{error}") };
        assert_eq!((tensor, *index), (&name, count - 2));
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let case = float();
    let path = case.path("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [u64::MAX, 1 << 63, 100_000_001, bytes.len() as u64 - 7, 0, 1] {
        let damaged = [&length.to_le_bytes()[..], &bytes[8..]].concat();
        fs::write(&path, damaged).unwrap();
        assert!(
            matches!(
                case.error(),
                Error::Store(StoreError::Header { .. }) | Error::Store(StoreError::Truncated { .. })
            ),
            "{length}"
        );
    }
    let deep = "[".repeat(100_000);
    let twice = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    let huge = r#"{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,4]}}"#;
    let long =
        r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#;
    let overlap = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    let backwards = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}"#;
    for header in [&deep, twice, huge, long, overlap, backwards, "{", "{}x", "\u{ff}", "null"] {
        let damaged = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 3]].concat();
        fs::write(&path, damaged).unwrap();
        let error = case.error();
        assert!(
            matches!(
                error,
                Error::Store(StoreError::Header { .. }) | Error::Store(StoreError::Truncated { .. })
            ),
            "{error}"
        );
    }
    for name in ["config.json", "tokenizer.json"] {
        let case = float();
        fs::write(case.path(name), &deep).unwrap();
        assert!(matches!(case.error(), Error::Store(StoreError::Json { .. })), "{name}");
    }
}

#[test]
fn a_file_that_shrinks_while_open_is_an_error() {
    let case = float();
    let checkpoint = Checkpoint::open(&case.dir).unwrap();
    let file = fs::OpenOptions::new().write(true).open(case.path("model.safetensors")).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let error = checkpoint.load_model(&Device::flex()).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Truncated { .. })), "{error}");
}

#[test]
fn metadata_must_agree_with_the_tensors() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 6] = [
        ("scales", |l| l["scales"]["min"] = json!(0.5)),
        ("scales", |l| l["scales"]["count"] = json!(1)),
        ("zero_points", |l| l["zero_points"]["mean"] = json!(7.5)),
        ("zero_points", |l| drop(l.as_object_mut().unwrap().remove("zero_points"))),
        ("activation", |l| l["activation"]["scale"] = json!(0.5)),
        ("bytes_after", |l| l["bytes_after"] = json!(1)),
    ];
    for (field, change) in cases {
        let case = quantized();
        case.edit("quantization_metadata.json", |m| change(&mut m["layers"][3]));
        let error = case.error();
        assert!(
            matches!(&error, Error::Store(StoreError::Metadata { field: found, .. }) if *found == field),
            "{error}"
        );
        says(&error, &["quantization_metadata.json", "layers.0.self_attn.o_proj", field]);
    }
}

#[test]
fn metadata_must_describe_this_model() {
    type Change = fn(&mut Value);
    let cases: [(&[&str], Change); 8] = [
        (&["layers[0].shape", "[12, 12]", "[12, 11]"], |m| m["layers"][0]["shape"] = json!([12, 11])),
        (&["layers[0].name", "wrong"], |m| m["layers"][0]["name"] = json!("wrong")),
        (&["layers[1].name"], |m| m["layers"][1] = m["layers"][0].clone()),
        (&["model.safetensors", "layers.0.self_attn.q_proj.weight.zero_points"], |m| {
            m["layers"][0]["scheme"]["mapping"] = json!("symmetric");
        }),
        (&["expected type I8, found U8", "layers.0.self_attn.q_proj.weight.codes"], |m| {
            m["layers"][0]["scheme"]["bits"] = json!(8);
        }),
        (&["group size 13", "width of 12"], |m| m["layers"][0]["scheme"]["granularity"] = json!("group:13")),
        (&["activation", "static"], |m| drop(m["layers"][0].as_object_mut().unwrap().remove("activation"))),
        (&["activation", "static"], |m| m["type"] = json!("dynamic")),
    ];
    for (parts, change) in cases {
        let case = quantized();
        case.edit("quantization_metadata.json", change);
        says(&case.error(), parts);
    }
    let case = quantized();
    fs::remove_file(case.path("quantization_metadata.json")).unwrap();
    says(&case.error(), &["quantization_metadata.json", "not found", "quantized"]);
}

#[test]
fn float_and_quantized_are_told_apart() {
    let (a, b) = (float(), quantized());
    let float = Checkpoint::open(&a.dir).unwrap();
    float.require_float().unwrap();
    says(&float.require_quantized().unwrap_err(), &["not quantized", "quantize it first"]);
    let quantized = Checkpoint::open(&b.dir).unwrap();
    quantized.require_quantized().unwrap();
    assert!(matches!(quantized.require_float(), Err(Error::NeedsFloat { .. })));
    assert!(quantized.read_quantized("layers.0.mlp.up_proj").unwrap().is_none(), "it was skipped");
    assert!(quantized.read_quantized("layers.0.mlp.down_proj").unwrap().is_some());
    assert!(float.read_quantized("layers.0.mlp.down_proj").unwrap().is_none());
}

#[test]
fn existing_output_is_kept_unless_it_may_be_replaced() {
    let case = float();
    let request = request(None);
    let error = slm_checkpoint::save(&case.dir, &small_model(), &request, false).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::OutputExists { .. })), "{error}");
    says(&error, &["overwrite it"]);
    fs::write(case.path("notes.txt"), "mine").unwrap();
    let error = slm_checkpoint::save(&case.dir, &small_model(), &request, true).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::OutputNotOurs { .. })), "{error}");
    says(&error, &["notes.txt"]);
    assert_eq!(fs::read(case.path("notes.txt")).unwrap(), b"mine");
    fs::remove_file(case.path("notes.txt")).unwrap();

    let mut model = small_model();
    let scheme = QuantScheme::per_tensor(Bits::Int8);
    let metadata = quantize(&mut model, scheme, per_token(), &[]);
    slm_checkpoint::save(&case.dir, &model, &support::request(Some(&metadata)), true).unwrap();
    assert!(Checkpoint::open(&case.dir).unwrap().is_quantized());
    assert_eq!(fs::read_dir(case.dir.parent().unwrap()).unwrap().count(), 1);

    // A checkpoint can replace the one it is read from.
    let checkpoint = Checkpoint::open(&case.dir).unwrap();
    let again = checkpoint.load_model(&Device::flex()).unwrap();
    slm_checkpoint::save(&case.dir, &again, &support::request(checkpoint.metadata()), true).unwrap();
    assert_eq!(content(&load(&case.dir).unwrap()), content(&model));
}

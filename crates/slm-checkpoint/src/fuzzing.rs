//! Readers of untrusted bytes as functions of the bytes alone. The targets in `fuzz/` run them, and
//! `tests/regressions.rs` runs them on all inputs that fuzzing has found. Not part of the public API.
//!
//! Each reader may reject its input, but must neither panic nor accept contradictory input.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Map, Value};
use slm_store::manifest::Manifest;
use slm_store::tensors::{PositionedFile, TensorFile};

use crate::hf::pickle::PickleFile;
use crate::{QuantizationMetadata, json, tokenizer, versions};

/// A file of weights.
pub fn safetensors(bytes: &[u8]) {
    read_all(bytes, TensorFile::safetensors);
}

/// A burnpack record.
pub fn burnpack(bytes: &[u8]) {
    read_all(bytes, TensorFile::burnpack);
}

/// `config.json`.
pub fn config(bytes: &[u8]) {
    let path = Path::new("config.json");
    let Ok(value) = json::parse::<Map<String, Value>>(path, bytes) else { return };
    let _version = versions::version_of(Path::new(""), &value);
    let Ok(config) = versions::read_config(path, Value::Object(value)) else { return };
    if config.model.validate().is_ok() {
        // A valid configuration can be written, and reads back as the same.
        let written = versions::config_bytes(path, &config);
        let read = written.and_then(|bytes| versions::read_config(path, json::parse(path, &bytes)?));
        assert!(read.is_ok_and(|read| read == config), "a configuration does not survive being written");
    }
}

/// `quantization_metadata.json`.
pub fn metadata(bytes: &[u8]) {
    let path = Path::new("quantization_metadata.json");
    let Ok(metadata) = QuantizationMetadata::parse(path, bytes, "config.json") else { return };
    for layer in &metadata.layers {
        let _refused = metadata.activation_quant(layer);
    }
    // Compared as text, because a NaN does not equal itself.
    let written = json::to_bytes(path, &metadata);
    let again = written.as_ref().map(|bytes| QuantizationMetadata::parse(path, bytes, "config.json"));
    let again = again.map(|read| read.and_then(|read| json::to_bytes(path, &read)));
    let same = matches!((&written, &again), (Ok(written), Ok(Ok(again))) if written == again);
    assert!(same, "metadata does not survive being written");
}

/// `manifest.json`.
pub fn manifest(bytes: &[u8]) {
    let dir = Path::new("");
    // Random changes never match the checksum, so a matching one is computed, as an attacker would do.
    let sealed = Manifest::resealed(dir, bytes).ok();
    for bytes in [Some(bytes), sealed.as_deref()].into_iter().flatten() {
        let _refused = versions::parse_manifest(dir, bytes, Some(crate::FORMAT_VERSION));
        let Ok(manifest) = versions::parse_manifest(dir, bytes, None) else { continue };
        let names = manifest.files.keys();
        names.for_each(|name| drop(manifest.verify_bytes(dir, name, b"content")));
        // Manifests of old versions can be read but not written.
        if let Ok(written) = manifest.to_bytes(dir) {
            let read = versions::parse_manifest(dir, &written, Some(crate::FORMAT_VERSION));
            assert!(read.is_ok_and(|read| read == manifest), "a manifest does not survive being written");
        }
    }
}

/// `tokenizer.json`, as far as a checkpoint parses it.
pub fn tokenizer(bytes: &[u8]) {
    let _refused = tokenizer::check(Path::new("tokenizer.json"), bytes, 1000);
}

/// A file written by `torch.save`.
pub fn pickle(bytes: &[u8]) {
    let Ok(mut file) = tempfile::NamedTempFile::new() else { return };
    if file.write_all(bytes).is_err() {
        return;
    }
    let Ok(tensors) = PickleFile::open(file.path()) else { return };
    for name in tensors.names() {
        let count = tensors.shape(name).map(|shape| shape.iter().product::<usize>());
        if let Ok(values) = tensors.read_f32(name) {
            assert_eq!(Some(values.len()), count, "{name:?} is not all there");
        }
        let _refused = tensors.read_bytes(name);
    }
}

/// Opens `bytes` as a file of tensors and reads all of them.
fn read_all(bytes: &[u8], open: fn(&Path, PositionedFile) -> slm_store::Result<TensorFile>) {
    let Ok(file) = write(bytes) else { return };
    let Ok(tensors) = open(Path::new("model"), PositionedFile::new(file)) else { return };
    let mut total = 0;
    for name in tensors.names() {
        let read = tensors.read_bytes(name).map(|bytes| bytes.len() as u64);
        assert!(read.is_ok_and(|size| Some(size) == tensors.byte_size(name)), "{name:?} is not all there");
        total += tensors.byte_size(name).unwrap_or(0);
        let _refused = tensors.read_f32(name);
    }
    assert!(total <= bytes.len() as u64, "tensors overlap");
}

fn write(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

//! Loading a model in a single pass that also verifies the checksums.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Value, json};
use slm_checkpoint::{Checkpoint, Error, OpenOptions, save, sha256};
use slm_model::{ModelConfig, Transformer};
use slm_quant_core::{Bits, Granularity, QuantScheme};
use slm_store::Error as StoreError;
use support::*;

const WEIGHTS: &str = "model.safetensors";

/// Checkpoints with matrices of several units of rows, and with rows of odd widths.
fn checkpoints(root: &Path) -> Vec<PathBuf> {
    let mut config = ModelConfig::new(50, 36, 53, 1, 2, 16);
    config.num_kv_heads = 1;
    config.tie_word_embeddings = false;
    let model = Transformer::new(&config, 1, &Device::flex()).unwrap();
    let int8 = QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerChannel);
    let mut dirs = vec![save(root.join("float"), &model, &request(None), false).unwrap()];
    for (name, scheme, activation) in
        [("int8", int8, per_token()), ("int4", affine_groups(), static_activation())]
    {
        let mut model = model.clone();
        let metadata = quantize(&mut model, scheme, activation, &["layers.0.mlp.up_proj"]);
        dirs.push(save(root.join(name), &model, &request(Some(&metadata)), false).unwrap());
    }
    dirs
}

/// Replaces the checksums of the weights by one for every `size` bytes, in the format of the checkpoint's version.
fn write_chunks(dir: &Path, size: usize) {
    let path = dir.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let weights = fs::read(dir.join(WEIGHTS)).unwrap();
    if manifest["format_version"] == 2 {
        let digests: Vec<String> = weights.chunks(size).map(sha256).collect();
        manifest["files"][WEIGHTS]["chunks"] = json!({ "size": size, "sha256": digests });
    } else {
        manifest["files"][WEIGHTS]["chunks"] =
            json!({ "size": size, "blake3": chunk_values(&weights, size) });
        seal(&mut manifest);
    }
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn open_to_load(dir: &Path) -> slm_checkpoint::Result<Checkpoint> {
    Checkpoint::open_to_load(dir, &OpenOptions::default())
}

fn load_in_one_pass(dir: &Path) -> slm_checkpoint::Result<Content> {
    Ok(content(&open_to_load(dir)?.load_model(&Device::flex())?))
}

#[test]
fn chunks_of_every_size_give_the_same_model() {
    let root = tempfile::tempdir().unwrap();
    for dir in checkpoints(root.path()) {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let expected = content(&checkpoint.load_model(&Device::flex()).unwrap());
        // Compares the result of the single pass with reading one layer at a time.
        for (name, matrix, activation) in &expected.packed {
            let (stored, quant) = checkpoint.read_quantized(name).unwrap().unwrap();
            assert_eq!((&stored, &quant), (matrix, activation), "{name}");
        }
        for (name, bits) in &expected.floats {
            let stored = checkpoint.tensors().read_f32(name).unwrap();
            assert!(stored.iter().map(|value| value.to_bits()).eq(bits.iter().copied()), "{name}");
        }
        assert!(load_in_one_pass(&dir).unwrap() == expected, "one checksum for the file");
        for size in [1024, 2048, 4096, 8192] {
            write_chunks(&dir, size);
            assert!(load_in_one_pass(&dir).unwrap() == expected, "chunks of {size}");
        }
        to_version_2(&dir);
        assert!(load_in_one_pass(&dir).unwrap() == expected, "version 2, one checksum for the file");
        for size in [1, 3, 64, 333, 1000, 4096, 1 << 20] {
            write_chunks(&dir, size);
            assert!(load_in_one_pass(&dir).unwrap() == expected, "version 2, chunks of {size}");
        }
    }
}

#[test]
fn a_damaged_chunk_is_named_wherever_it_is() {
    let root = tempfile::tempdir().unwrap();
    let (mut dirs, old) = (checkpoints(root.path()), checkpoints(&root.path().join("old")));
    old.iter().for_each(|dir| to_version_2(dir));
    dirs.extend(old);
    for (index, dir) in dirs.iter().enumerate() {
        let (name, size) = if index < 3 { ("BLAKE3", 1024) } else { ("SHA-256", 500) };
        write_chunks(dir, size);
        let good = fs::read(dir.join(WEIGHTS)).unwrap();
        for at in (0..good.len()).step_by(97).chain([good.len() - 1]) {
            let mut bad = good.clone();
            // Among other effects, exponents become those of infinities, and odd rows get an excess code.
            bad[at] ^= 0xf0;
            fs::write(dir.join(WEIGHTS), &bad).unwrap();
            let error = load_in_one_pass(dir).unwrap_err();
            assert!(matches!(error, Error::Store(StoreError::Checksum { .. })), "byte {at}: {error}");
            let start = at / size * size;
            let named = format!("{name} of bytes {start} to {}", (start + size).min(good.len()));
            assert!(error.to_string().contains(&named), "byte {at}: {error}");
        }
        fs::write(dir.join(WEIGHTS), &good[..good.len() - 1]).unwrap();
        assert!(
            matches!(load_in_one_pass(dir), Err(Error::Store(StoreError::Checksum { what, .. })) if what == "size")
        );
        fs::write(dir.join(WEIGHTS), &good).unwrap();
        load_in_one_pass(dir).unwrap();
    }
}

#[test]
fn reading_one_tensor_compares_the_whole_file_before() {
    let root = tempfile::tempdir().unwrap();
    for dir in checkpoints(root.path()) {
        let good = fs::read(dir.join(WEIGHTS)).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(dir.join(WEIGHTS), &bad).unwrap();
        let checkpoint = open_to_load(&dir).unwrap();
        for _ in 0..2 {
            let error = checkpoint.tensors().read_f32("embed_tokens.weight").unwrap_err();
            assert!(matches!(error, StoreError::Checksum { .. }), "{error}");
        }
        if checkpoint.is_quantized() {
            let error = checkpoint.read_quantized("layers.0.self_attn.q_proj").unwrap_err();
            assert!(matches!(error, Error::Store(StoreError::Checksum { .. })), "{error}");
        }
        let error = checkpoint.load_model(&Device::flex()).unwrap_err();
        assert!(matches!(error, Error::Store(StoreError::Checksum { .. })), "{error}");
        fs::write(dir.join(WEIGHTS), &good).unwrap();
        open_to_load(&dir).unwrap().tensors().read_f32("embed_tokens.weight").unwrap();
    }
}

#[test]
fn without_checksums_what_cannot_be_is_still_found() {
    let root = tempfile::tempdir().unwrap();
    let unverified = OpenOptions::UNVERIFIED;
    for dir in checkpoints(root.path()) {
        let checkpoint = Checkpoint::open_to_load(&dir, &unverified).unwrap();
        // The last value of a float tensor becomes a NaN.
        let file = fs::read(dir.join(WEIGHTS)).unwrap();
        let values = checkpoint.tensors().read_bytes("embed_tokens.weight").unwrap();
        let start = file.windows(values.len()).position(|window| window == values).unwrap();
        let mut bad = file.clone();
        bad[start + values.len() - 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(dir.join(WEIGHTS), &bad).unwrap();
        let error =
            Checkpoint::open_to_load(&dir, &unverified).unwrap().load_model(&Device::flex()).unwrap_err();
        let last = values.len() / 4 - 1;
        assert!(
            matches!(&error, Error::Store(StoreError::NotFinite { tensor, index, .. }) if tensor == "embed_tokens.weight" && *index == last),
            "{error}"
        );
    }
}

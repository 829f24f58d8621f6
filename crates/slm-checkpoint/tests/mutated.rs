//! 10,000 damaged checkpoints: none panics, none uses more memory than its files could need, and each is rejected or
//! unchanged.
//!
//! Half of them have damage as from disks and networks: checksums detect all of it, and a checkpoint that is accepted
//! must load as the same model. The other half have a manifest that matches the damaged files, as an attacker could
//! write: readers see every byte, and a checkpoint that loads must be a model that can be written and read back.
//!
//! The test is a separate program with one test, so that nothing else allocates memory.

#[path = "support/damage.rs"]
mod damage;
#[path = "support/random.rs"]
mod random;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use damage::{damage_bytes, damage_value, surprise};
use peak_alloc::PeakAlloc;
use random::Random;
use serde_json::{Map, Value, json};
use slm_checkpoint::{Checkpoint, OpenOptions, migrate, sha256};
use support::*;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Total number of damaged checkpoints.
const MUTATIONS: usize = 10_000;

/// Memory that opening needs independently of the size of the files: error messages, a thread, tables of names.
const FIXED_BYTES: usize = 192 << 10;

type Files = BTreeMap<String, Vec<u8>>;

fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// A directory in memory if the system has one, so that the test does not wait for a disk.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn write(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Checkpoints to damage, of every version.
fn originals() -> Vec<Files> {
    let root = tempfile::tempdir().unwrap();
    let (float, quantized) = (root.path().join("float"), root.path().join("quantized"));
    save_float(&float);
    save_quantized(&quantized, affine_groups(), static_activation());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let old = [
        "v0/llama-burnpack",
        "v0/gpt2-safetensors",
        "v1/int8-static",
        "v1/int4-dynamic",
        "v2/int8-static",
        "v2/float",
    ];
    let new = root.path().join("new");
    migrate(fixtures.join("v1/int8-static"), Some(&new), false, &OpenOptions::default()).unwrap();
    let dirs = [float, quantized, new].into_iter().chain(old.iter().map(|name| fixtures.join(name)));
    dirs.map(|dir| files(&dir)).collect()
}

/// Damages a JSON file structurally.
fn damage_json(bytes: &mut Vec<u8>, random: &mut Random) {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else { return damage_bytes(bytes, random) };
    match random.below(10) {
        // Nesting deeper than any stack.
        0 => {
            let depth = 1 + random.below(1 << 14);
            let (open, close) = *random.pick(&[("[", "]"), ("{\"a\":", "}")]);
            let nest = [open.repeat(depth), "1".to_owned(), close.repeat(depth)].concat();
            let text = String::from_utf8_lossy(bytes).replacen(':', &format!(":{nest},\"b\":"), 1);
            *bytes = text.into_bytes();
        }
        // A duplicate of the first key.
        1 => {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let key = text.split('"').nth(1).unwrap_or_default().to_owned();
            *bytes = text.replacen('{', &format!("{{\"{key}\":{},", surprise(random)), 1).into_bytes();
        }
        _ => {
            damage_value(&mut value, random);
            *bytes = serde_json::to_vec(&value).unwrap();
        }
    }
}

/// Damages a safetensors or burnpack file at its header.
fn damage_weights(name: &str, bytes: &mut Vec<u8>, random: &mut Random) {
    let lengths =
        [0, 1, 7, 1 << 24, 1 << 31, 1 << 62, 1 << 63, u64::MAX, bytes.len() as u64, bytes.len() as u64 - 8];
    let length = *random.pick(&lengths);
    if name.ends_with(".bpk") {
        match random.below(3) {
            0 => bytes[6..10].copy_from_slice(&(length as u32).to_le_bytes()),
            // In the CBOR, which contains sizes, types and offsets.
            _ => {
                let header = 10 + u32::from_le_bytes(bytes[6..10].try_into().unwrap()) as usize;
                for _ in 0..=random.below(4) {
                    let at = random.below(header.min(bytes.len()));
                    bytes[at] = *random.pick(&[0, 1, 0x1b, 0x5f, 0x7f, 0x9b, 0x9f, 0xbb, 0xbf, 0xff, 0xfb]);
                }
            }
        }
        return;
    }
    if random.below(6) == 0 {
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        return;
    }
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..end]).unwrap();
    let names: Vec<String> = header.keys().filter(|name| *name != "__metadata__").cloned().collect();
    let (a, b) = (random.pick(&names).clone(), random.pick(&names).clone());
    let mut json = None;
    match random.below(8) {
        // Overlapping, swapped, or moved tensors.
        0 => header[&a]["data_offsets"] = header[&b]["data_offsets"].clone(),
        1 => {
            let place = header[&a].clone();
            header[&a] = header[&b].clone();
            header[&b] = place;
        }
        2 => {
            header[&a]["data_offsets"] =
                json!([random.next() >> random.below(64), random.next() >> random.below(64)])
        }
        3 => header[&a]["shape"] = json!([surprise(random), 2]),
        4 => {
            header[&a]["dtype"] =
                json!(random.pick(&["U8", "I8", "F16", "BF16", "F64", "F8_E4M3", "BOOL", "?"]))
        }
        5 => {
            let tensor = header[&a].clone();
            header.insert(format!("{b}.copy"), tensor);
            header.remove(&b);
        }
        // A duplicate name.
        6 => {
            let text = serde_json::to_string(&header).unwrap();
            json = Some(text.replacen('{', &format!("{{\"{a}\":{},", header[&b]), 1).into_bytes());
        }
        _ => {
            let mut value = Value::Object(header.clone());
            damage_value(&mut value, random);
            json = Some(serde_json::to_vec(&value).unwrap());
        }
    }
    let json = json.unwrap_or_else(|| serde_json::to_vec(&header).unwrap());
    *bytes = [&(json.len() as u64).to_le_bytes()[..], &json, &bytes[end..]].concat();
}

/// Damages one file of a checkpoint and returns its name.
fn damage(files: &mut Files, random: &mut Random) -> String {
    let name = random.pick(&files.keys().cloned().collect::<Vec<_>>()).clone();
    let bytes = files.get_mut(&name).unwrap();
    match random.below(4) {
        0 => damage_bytes(bytes, random),
        _ if name.ends_with(".json") => damage_json(bytes, random),
        _ if name.starts_with("model.") => damage_weights(&name, bytes, random),
        _ => damage_bytes(bytes, random),
    }
    name
}

/// Updates the manifest for the current content of the files, in its format version.
fn reseal(files: &mut Files) {
    let Some(manifest) = files.get("manifest.json") else { return };
    let Ok(mut manifest) = serde_json::from_slice::<Value>(manifest) else { return };
    let present = manifest.get("files_blake3").is_some();
    let Some(records) = manifest.get_mut("files").and_then(Value::as_object_mut) else { return };
    for (name, record) in records {
        if let Some(bytes) = files.get(name) {
            *record = match present {
                true => support::record(bytes),
                false => json!({ "size": bytes.len(), "sha256": sha256(bytes) }),
            };
        }
    }
    if present {
        seal(&mut manifest);
    }
    files.insert("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap());
}

fn load(dir: &Path) -> slm_checkpoint::Result<Content> {
    let checkpoint = Checkpoint::open(dir)?;
    Ok(content(&checkpoint.load_model(&Device::flex())?))
}

#[test]
fn damaged_checkpoints_are_refused_or_are_what_they_were() {
    let originals = originals();
    let root = directory();
    let dirs: Vec<PathBuf> = (0..originals.len()).map(|index| root.path().join(index.to_string())).collect();
    let mut whole = Vec::new();
    for (dir, original) in dirs.iter().zip(&originals) {
        fs::create_dir(dir).unwrap();
        write(dir, original);
        whole.push(load(dir).unwrap());
    }
    let (mut random, mut refused, mut loaded, mut most) = (Random(5), 0, 0, 0.0_f64);
    for mutation in 0..MUTATIONS {
        let index = random.below(originals.len());
        let (dir, original) = (&dirs[index], &originals[index]);
        let mut files = original.clone();
        let name = damage(&mut files, &mut random);
        let sealed = mutation % 2 == 0;
        if sealed {
            reseal(&mut files);
        }
        for (name, bytes) in &files {
            if original[name] != *bytes {
                fs::write(dir.join(name), bytes).unwrap();
            }
        }
        let bytes: usize = files.values().map(Vec::len).sum();
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let result = Checkpoint::open(dir);
        let taken = MEMORY.peak_usage().saturating_sub(before);
        most = most.max(taken as f64 / bytes as f64);
        assert!(taken <= 2 * bytes + FIXED_BYTES, "mutation {mutation} of {name}: {taken} bytes for {bytes}");
        let result = result.and_then(|checkpoint| checkpoint.load_model(&Device::flex()));
        if mutation % 8 < 2 {
            // Verifying before reading and while reading must give the same result.
            let read_once = Checkpoint::open_to_load(dir, &OpenOptions::default())
                .and_then(|checkpoint| checkpoint.load_model(&Device::flex()));
            match (&result, &read_once) {
                (Ok(model), Ok(other)) => assert!(content(model) == content(other), "mutation {mutation}"),
                (Err(_), Err(_)) => {}
                (result, read_once) => panic!("mutation {mutation} of {name}: {result:?}, {read_once:?}"),
            }
        }
        match result {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
            Ok(model) => {
                loaded += 1;
                let found = content(&model);
                // Version 0 has no checksums.
                if !sealed && original.contains_key("manifest.json") {
                    assert!(
                        found == whole[index],
                        "mutation {mutation}: {name} is another and was not found out"
                    );
                } else {
                    let out = root.path().join("again");
                    migrate(dir, Some(&out), false, &OpenOptions::default()).unwrap();
                    assert!(load(&out).unwrap() == found, "mutation {mutation}: {name}");
                    fs::remove_dir_all(out).unwrap();
                }
            }
        }
        for (name, bytes) in &files {
            if original[name] != *bytes {
                fs::write(dir.join(name), &original[name]).unwrap();
            }
        }
    }
    println!(
        "{refused} refused, {loaded} loaded; at most {most:.2} bytes of memory for a byte of the files to open"
    );
    assert!(refused > MUTATIONS / 2 && loaded > 100, "{refused} refused, {loaded} loaded");
}

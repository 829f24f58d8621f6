//! Checkpoints of every version, written by the programs of their time.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use safetensors::SafeTensors;
use slm_checkpoint::{Checkpoint, Error, FORMAT_VERSION, MIGRATIONS, OpenOptions, migrate};
use slm_model::window_logits;
use slm_store::Error as StoreError;
use support::content;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect()
}

/// A copy of a fixture that the test may change.
fn copy(fixture: &str) -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("model");
    fs::create_dir(&dir).unwrap();
    for (name, bytes) in files(&fixtures().join(fixture)) {
        fs::write(dir.join(name), bytes).unwrap();
    }
    (root, dir)
}

/// Sequences with the logits at all positions.
type Recorded = Vec<(Vec<u32>, Vec<f32>)>;

/// The sequences and logits that the program of version `version`, 1 or later, recorded for a model.
fn recorded_by(version: u32, model: &str) -> Recorded {
    #[derive(serde::Deserialize)]
    struct Ids {
        ids: Vec<Vec<u32>>,
    }
    let Ids { ids } =
        serde_json::from_slice(&fs::read(fixtures().join(format!("v{version}/ids.json"))).unwrap()).unwrap();
    let bytes = fs::read(fixtures().join(format!("v{version}/{model}-logits.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let logits = |index: usize| {
        let data = file.tensor(&format!("logits.{index}")).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    ids.into_iter().enumerate().map(|(index, ids)| (ids, logits(index))).collect()
}

/// The sequence and the logits that Burn computed before it wrote a model.
fn recorded_by_v0(model: &str) -> Recorded {
    #[derive(serde::Deserialize)]
    struct Record {
        ids: Vec<u32>,
        logits: Vec<f32>,
    }
    let path = fixtures().join(format!("v0/{model}-logits.json"));
    let Record { ids, logits } = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    vec![(ids, logits)]
}

/// Every fixture: its directory, its version, and its recorded logits.
fn all() -> Vec<(String, u32, Recorded)> {
    let mut all = Vec::new();
    for model in ["llama", "gpt2"] {
        for record in ["burnpack", "safetensors"] {
            all.push((format!("v0/{model}-{record}"), 0, recorded_by_v0(model)));
        }
    }
    for version in [1, 2, 3, 4] {
        for model in ["float", "int8-static", "int8-weight-only", "int4-dynamic"] {
            all.push((format!("v{version}/{model}"), version, recorded_by(version, model)));
        }
    }
    for version in [2, 3, 4] {
        all.push((format!("v{version}/int8-finetuned"), version, recorded_by(version, "int8-finetuned")));
    }
    all.push(("v4/int4-embeddings".to_owned(), 4, recorded_by(4, "int4-embeddings")));
    all
}

/// The order of additions may change between releases, so logits may differ by rounding.
#[track_caller]
fn check_logits(dir: &Path, recorded: &Recorded) {
    let model = Checkpoint::open(dir).unwrap().load_model(&Device::flex()).unwrap();
    for (ids, expected) in recorded {
        let found = window_logits(&model, ids).unwrap();
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (found - expected).abs();
            assert!(
                difference <= 1e-5 * largest,
                "{}: logit {index}: {found}, recorded {expected}",
                dir.display()
            );
        }
    }
}

#[test]
fn every_old_checkpoint_gives_the_logits_it_gave() {
    for (fixture, version, recorded) in all() {
        let dir = fixtures().join(&fixture);
        assert_eq!(Checkpoint::open(&dir).unwrap().format_version(), version);
        check_logits(&dir, &recorded);
    }
}

#[test]
fn every_old_checkpoint_migrates_and_keeps_a_backup() {
    for (fixture, version, recorded) in all() {
        let (root, dir) = copy(&fixture);
        let before = files(&dir);
        let old = content(&Checkpoint::open(&dir).unwrap().load_model(&Device::flex()).unwrap());

        let elsewhere = root.path().join("elsewhere");
        let report = migrate(&dir, Some(&elsewhere), false, &OpenOptions::default()).unwrap();
        assert_eq!((report.from, report.backup), (version, None));
        assert_eq!(files(&dir), before, "{fixture}");

        let report = migrate(&dir, None, false, &OpenOptions::default()).unwrap();
        assert_eq!(report.from, version);
        let backup = report.backup.unwrap();
        assert_eq!(files(&backup), before, "{fixture}");
        assert_eq!(files(&dir), files(&elsewhere), "{fixture}");
        let new = Checkpoint::open(&dir).unwrap();
        assert_eq!(new.format_version(), FORMAT_VERSION);
        assert_eq!(content(&new.load_model(&Device::flex()).unwrap()), old, "{fixture}");
        check_logits(&dir, &recorded);
        check_logits(&backup, &recorded);

        // A second migration has nothing to do.
        let there = files(&dir);
        let report = migrate(&dir, None, false, &OpenOptions::default()).unwrap();
        assert_eq!((report.from, report.backup), (FORMAT_VERSION, None));
        assert_eq!(files(&dir), there);
        let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["elsewhere", "model", &format!("model.v{version}-backup")]);
    }
}

#[test]
fn the_table_leads_from_every_version_to_the_present_one() {
    let steps: Vec<(u32, u32)> = MIGRATIONS.iter().map(|migration| (migration.from, migration.to)).collect();
    assert_eq!(steps, (0..FORMAT_VERSION).map(|from| (from, from + 1)).collect::<Vec<_>>());
    for migration in MIGRATIONS {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(migration.fixture);
        assert!(fixture.is_dir(), "{}", fixture.display());
        assert!(!migration.changes.is_empty());
    }
}

#[test]
fn what_is_extra_in_a_checkpoint_comes_along() {
    let (_root, dir) = copy("v1/float");
    let before = files(&dir);
    migrate(&dir, None, false, &OpenOptions::default()).unwrap();
    let after = files(&dir);
    for name in ["training_state.json", "metrics.jsonl", "tokenizer.json"] {
        assert_eq!(before[name], after[name], "{name}");
    }
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
}

#[test]
fn a_backup_that_is_something_else_is_left_alone() {
    let (root, dir) = copy("v1/int8-static");
    let backup = root.path().join("model.v1-backup");
    // The remains of an interrupted migration are recognized.
    let before = files(&dir);
    fs::create_dir(&backup).unwrap();
    for (name, bytes) in &before {
        fs::write(backup.join(name), bytes).unwrap();
    }
    fs::write(backup.join("config.json"), "mine").unwrap();
    let error = migrate(&dir, None, false, &OpenOptions::default()).unwrap_err();
    assert!(
        matches!(&error, Error::Store(StoreError::OutputExists { path }) if path.ends_with("model.v1-backup")),
        "{error}"
    );
    assert_eq!(files(&dir), before);
    fs::write(backup.join("config.json"), &before["config.json"]).unwrap();
    migrate(&dir, None, false, &OpenOptions::default()).unwrap();
    assert_eq!(Checkpoint::open(&dir).unwrap().format_version(), FORMAT_VERSION);
}

#[test]
fn files_that_are_not_the_checkpoints_stop_a_migration_in_place() {
    for fixture in ["v0/llama-burnpack", "v1/float"] {
        let (root, dir) = copy(fixture);
        fs::create_dir(dir.join("notes")).unwrap();
        let before = fs::read_dir(&dir).unwrap().count();
        let error = migrate(&dir, None, false, &OpenOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Store(StoreError::OutputNotOurs { .. })), "{error}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), before);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
    let (_root, dir) = copy("v1/float");
    fs::write(dir.join("thesis.tex"), "").unwrap();
    let error = migrate(&dir, None, false, &OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("thesis.tex"), "{error}");
}

#[test]
fn damage_in_old_checkpoints_is_found() {
    let (_root, dir) = copy("v1/int8-static");
    let path = dir.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Checkpoint::open(&dir), Err(Error::Store(StoreError::Checksum { .. }))));
    assert!(matches!(
        migrate(&dir, None, false, &OpenOptions::default()),
        Err(Error::Store(StoreError::Checksum { .. }))
    ));

    let (_root, dir) = copy("v1/int8-static");
    let metadata = fs::read_to_string(dir.join("quantization_metadata.json")).unwrap();
    fs::write(dir.join("quantization_metadata.json"), metadata.replacen('{', "{\"lineage\":{},", 1)).unwrap();
    let unverified = OpenOptions::UNVERIFIED;
    let error = Checkpoint::open_with(&dir, &unverified).unwrap_err();
    assert!(error.to_string().contains("no such field in version 1"), "{error}");
}

#[test]
fn records_of_burn_without_what_they_need_say_so() {
    let (_root, dir) = copy("v0/llama-burnpack");
    let says = |parts: &[&str]| {
        let message = Checkpoint::open(&dir).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let config = fs::read(dir.join("config.json")).unwrap();
    fs::remove_file(dir.join("config.json")).unwrap();
    says(&["model.bpk", "no config.json", "[model]"]);
    fs::write(dir.join("config.json"), &config).unwrap();
    fs::write(dir.join("model.safetensors"), "").unwrap();
    says(&["two records"]);
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let record = fs::read(dir.join("model.bpk")).unwrap();
    for len in [0, 9, 10, 300, record.len() - 1] {
        fs::write(dir.join("model.bpk"), &record[..len]).unwrap();
        assert!(Checkpoint::open(&dir).is_err(), "cut to {len}");
    }
    fs::remove_file(dir.join("model.bpk")).unwrap();
    says(&["no record"]);
}

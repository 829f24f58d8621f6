//! What fuzzing found, and seeds of each kind: every reader in `slm_checkpoint::fuzzing` runs on every file of
//! `fixtures/` and `regressions/`, whatever it is, and on every truncation of the smaller ones.

use std::fs;
use std::path::{Path, PathBuf};

use slm_checkpoint::fuzzing;

const READERS: [fn(&[u8]); 6] = [
    fuzzing::safetensors,
    fuzzing::burnpack,
    fuzzing::config,
    fuzzing::metadata,
    fuzzing::manifest,
    fuzzing::tokenizer,
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn no_reader_panics_on_what_is_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    files(&root.join("fixtures"), &mut found);
    files(&root.join("tests/regressions"), &mut found);
    assert!(found.len() > 30);
    for path in found {
        let bytes = fs::read(&path).unwrap();
        READERS.iter().for_each(|read| read(&bytes));
        if bytes.len() < 4096 {
            (0..bytes.len()).for_each(|len| READERS.iter().for_each(|read| read(&bytes[..len])));
        }
    }
}

//! Files that fuzzing found, and seeds of each kind. Every reader in `slm_exchange::fuzzing` runs on every file of
//! `regressions/`, and on truncations of each.
//!
//! Each folder is named after a reader; `fuzz/run` starts from its files.

use std::fs;
use std::path::Path;

use slm_exchange::fuzzing;

type Reader = (&'static str, fn(&[u8]));

const READERS: [Reader; 2] = [("gguf", fuzzing::gguf), ("llama2c", fuzzing::llama2c)];

#[test]
fn no_reader_panics_on_what_is_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    for (folder, read) in READERS {
        let files: Vec<_> =
            fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 3, "{folder}");
        for path in files {
            let bytes = fs::read(path).unwrap();
            READERS.iter().for_each(|(_, read)| read(&bytes));
            (0..bytes.len().min(2000)).step_by(7).for_each(|len| read(&bytes[..len]));
        }
    }
}

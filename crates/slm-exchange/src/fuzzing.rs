//! Readers of untrusted bytes, each as a function of the bytes alone: the targets in `fuzz/` and the test `regressions` run
//! them. No part of the interface.
//!
//! Each may refuse what it is given, and must neither panic nor make a checkpoint that does not open.

use std::path::Path;

use slm_checkpoint::Checkpoint;

use crate::{ImportOptions, import_gguf, import_llama2c, is_llama2c};

/// A GGUF file.
pub fn gguf(bytes: &[u8]) {
    let options = ImportOptions::default();
    with_file(bytes, |file, out| import_gguf(file, out, &options).is_ok());
}

/// A file of llama2.c, without a tokenizer.
pub fn llama2c(bytes: &[u8]) {
    let options = ImportOptions::default();
    with_file(bytes, |file, out| {
        let _guess = is_llama2c(file);
        import_llama2c(file, out, &options, None).is_ok()
    });
}

/// Gives `import` a file with `bytes` and a place for a checkpoint, which must open where it says that there is one.
fn with_file(bytes: &[u8], import: impl Fn(&Path, &Path) -> bool) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let (file, out) = (dir.path().join("model.bin"), dir.path().join("out"));
    if std::fs::write(&file, bytes).is_ok() && import(&file, &out) {
        assert!(Checkpoint::open(&out).is_ok(), "a checkpoint does not open");
    }
}

//! Readers of untrusted bytes as functions of the bytes alone. The targets in `fuzz/` and the test `regressions` run
//! them. Not part of the public API.
//!
//! A reader may reject its input. It must neither panic nor write a checkpoint that does not open.

use std::path::Path;

use slm_checkpoint::Checkpoint;

use crate::{ImportOptions, import_gguf, import_llama2c, is_llama2c};

/// Reads a GGUF file.
pub fn gguf(bytes: &[u8]) {
    let options = ImportOptions::default();
    with_file(bytes, |file, out| import_gguf(file, out, &options).is_ok());
}

/// Reads a file of llama2.c without a tokenizer.
pub fn llama2c(bytes: &[u8]) {
    let options = ImportOptions::default();
    with_file(bytes, |file, out| {
        let _guess = is_llama2c(file);
        import_llama2c(file, out, &options, None).is_ok()
    });
}

/// Calls `import` with a file of `bytes` and a destination. If it returns `true`, the checkpoint there must open.
fn with_file(bytes: &[u8], import: impl Fn(&Path, &Path) -> bool) {
    let Ok(dir) = tempfile::tempdir() else { return };
    let (file, out) = (dir.path().join("model.bin"), dir.path().join("out"));
    if std::fs::write(&file, bytes).is_ok() && import(&file, &out) {
        assert!(Checkpoint::open(&out).is_ok(), "a checkpoint does not open");
    }
}

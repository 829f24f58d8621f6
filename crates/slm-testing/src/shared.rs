//! Reference data that is not part of the project.

use std::path::{Path, PathBuf};

/// The directory of reference models, texts and golden vectors: `SLM_SHARED`, or else `../shared` from the repository's
/// root. If there is none, prints a line and returns `None`, because the test has nothing to compare with.
///
/// # Panics
/// If the current directory cannot be read.
pub fn shared() -> Option<PathBuf> {
    let models = shared_dir("models")?;
    models.parent().map(Path::to_owned)
}

/// The folder `name` of [`shared`].
///
/// # Panics
/// As [`shared`].
pub fn shared_dir(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = std::env::var_os("SLM_SHARED").map_or_else(beside, PathBuf::from).join(name);
    if path.is_dir() {
        return Some(std::path::absolute(path).unwrap());
    }
    println!("skipped: no reference data at {} (set SLM_SHARED)", path.display());
    None
}

//! Reference data that is not part of the project.

use std::path::{Path, PathBuf};

/// The directory of reference models and texts: `SLM_SHARED`, or else `../shared` from the repository's root.
/// Where there is none, says so and gives none: the test has nothing to compare with.
pub fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = std::env::var_os("SLM_SHARED").map_or_else(beside, PathBuf::from);
    if path.join("models").is_dir() {
        return Some(std::path::absolute(path).unwrap());
    }
    println!("skipped: no reference models at {} (set SLM_SHARED)", path.display());
    None
}

//! Directories that are created for an output.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Directories that were created for an output. Dropping it removes those that are empty.
#[derive(Debug)]
pub struct NewDirs(Vec<PathBuf>);

impl NewDirs {
    /// Creates `dir` and its missing parents.
    ///
    /// # Errors
    /// The system's reason. Directories that were created before are removed.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let is_missing = |dir: &&Path| *dir != Path::new("") && !dir.exists();
        let created = Self(dir.ancestors().take_while(is_missing).map(Path::to_owned).collect());
        fs::create_dir_all(dir).map(|()| created)
    }
}

impl Drop for NewDirs {
    fn drop(&mut self) {
        // Innermost first. Fails for a directory that is not empty, or was not created.
        let _kept = self.0.iter().try_for_each(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_directories_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b/c");
        drop(NewDirs::create(&inner).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        let dirs = NewDirs::create(&inner).unwrap();
        fs::write(root.path().join("a/b/file"), "").unwrap();
        drop(dirs);
        assert!(!inner.exists() && root.path().join("a/b/file").exists());
        drop(NewDirs::create(&root.path().join("a")).unwrap());
        assert!(root.path().join("a").exists(), "it was there before");
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        assert!(NewDirs::create(&root.path().join("file/a")).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}

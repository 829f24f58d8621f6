//! Files that appear complete or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::lock::unwritable;
use crate::{Error, Result};

/// A file that is written in a temporary directory next to its place, and moved there when it is complete. Dropped before
/// that, it leaves nothing.
#[derive(Debug)]
pub struct OutputFile {
    target: PathBuf,
    dir: TempDir,
}

impl OutputFile {
    /// Prepares to write `target`, which must not exist unless `overwrite`, and must not be a directory.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::OutputNotOurs`] for a directory, [`Error::OutputUnwritable`].
    pub fn create(target: &Path, overwrite: bool) -> Result<Self> {
        if target.is_dir() {
            let reason = "it is a directory, and the output is a file".to_owned();
            return Err(Error::OutputNotOurs { path: target.to_owned(), reason });
        }
        if fs::symlink_metadata(target).is_ok() && !overwrite {
            return Err(Error::OutputExists { path: target.to_owned() });
        }
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        let dir = tempfile::Builder::new().prefix(".slm-").tempdir_in(parent).map_err(unwritable(target))?;
        Ok(Self { target: target.to_owned(), dir })
    }

    /// Where to write. Nothing is there yet.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Waits until what was written is on the disk, and puts it in its place. Returns where that is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<PathBuf> {
        let path = self.path();
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(Error::io(&self.target, "write to the disk"))?;
        fs::rename(&path, &self.target).map_err(Error::io(&self.target, "create"))?;
        Ok(self.target)
    }
}

//! Files that appear complete or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};

/// A file that is written beside the place it will have, and put there when it is complete. Dropped before
/// that, it leaves nothing.
pub(crate) struct OutFile {
    target: PathBuf,
    dir: TempDir,
}

impl OutFile {
    /// Prepares to write `target`, which must not exist unless `overwrite`, and must not be a directory.
    pub(crate) fn create(target: &Path, overwrite: bool) -> Result<Self> {
        if target == Path::new("-") {
            return Err(Error::Usage(
                "--out -: a file is written, not standard output; give its name".to_owned(),
            ));
        }
        // A device or a pipe must not be replaced.
        if fs::metadata(target).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            return Err(Error::file(target, "is no ordinary file; choose another --out"));
        }
        if target.is_dir() {
            return Err(Error::file(target, "is a directory; choose another --out"));
        }
        if fs::symlink_metadata(target).is_ok() && !overwrite {
            return Err(Error::file(target, "exists already; choose another --out or add --overwrite"));
        }
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        // The system's message would name the temporary file.
        let dir = tempfile::Builder::new().prefix(".slm-").tempdir_in(parent).map_err(|error| {
            let reason = error.kind();
            let remedy = "choose an --out in a directory that is there and may be written to";
            Error::file(target, format!("cannot be written: {reason}; {remedy}"))
        })?;
        Ok(Self { target: target.to_owned(), dir })
    }

    /// Where to write. Nothing is there yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Waits until what was written is on the disk, and puts it in its place.
    pub(crate) fn commit(self) -> Result<()> {
        let fail = |error: std::io::Error| Error::file(&self.target, error);
        File::open(self.path()).and_then(|file| file.sync_all()).map_err(fail)?;
        fs::rename(self.path(), &self.target).map_err(fail)
    }
}

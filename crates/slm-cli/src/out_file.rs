//! Files that appear complete or not at all.

use std::path::{Path, PathBuf};
use std::{env, fs};

use slm_checkpoint::StoreError;
use slm_store::{OutputFile, remedy_of_writing};

use crate::error::{Error, Result};

/// Returns the path as a user would write it: relative to the working directory if it is inside.
pub(crate) fn relative(path: &Path) -> &Path {
    match env::current_dir() {
        Ok(working) => path.strip_prefix(working).unwrap_or(path),
        Err(_) => path,
    }
}

/// An [`OutputFile`] whose errors name the option that it comes from.
pub(crate) struct OutFile {
    target: PathBuf,
    file: OutputFile,
}

impl OutFile {
    /// Prepares to write `target`, the value of `--out`, which must not exist unless `overwrite`, and must not be a
    /// directory.
    pub(crate) fn create(target: &Path, overwrite: bool) -> Result<Self> {
        Self::of_option("--out", target, overwrite)
    }

    /// Prepares to write `target`, the value of `option`; otherwise the same as [`create`](Self::create).
    pub(crate) fn of_option(option: &str, target: &Path, overwrite: bool) -> Result<Self> {
        if target == Path::new("-") {
            return Err(Error::Usage(format!(
                "{option} -: a file is written, not standard output; give its name"
            )));
        }
        let file = OutputFile::create(target, overwrite).map_err(|error| {
            let detail = match error {
                StoreError::OutputExists { .. } => {
                    format!("already exists; choose another {option} or add --overwrite")
                }
                StoreError::OutputNotOurs { reason, .. } => format!("{reason}; choose another {option}"),
                StoreError::OutputUnwritable { source, .. } => {
                    format!("cannot be written: {source}; {} ({option})", remedy_of_writing(&source))
                }
                other => other.to_string(),
            };
            Error::file(target, detail)
        })?;
        Ok(Self { target: target.to_owned(), file })
    }

    /// Path to write to, where nothing exists yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.file.path()
    }

    /// Writes the whole file, and leaves it where it is.
    pub(crate) fn fill(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.path(), bytes).map_err(|error| Error::unwritable(&self.target, &error))
    }

    /// Writes the whole file and moves it to its place.
    pub(crate) fn write(self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.fill(bytes)?;
        self.commit()
    }

    /// Syncs the file to the disk and moves it to its place.
    pub(crate) fn commit(self) -> Result<()> {
        match self.file.commit() {
            Ok(_) => Ok(()),
            Err(StoreError::Io { source, .. }) => Err(Error::unwritable(&self.target, &source)),
            Err(other) => Err(other.into()),
        }
    }
}

//! Migration of a checkpoint to the current version of the format.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::layout::Stored;
use crate::versions::CHECKPOINTS;
use crate::{
    Checkpoint, CheckpointWriter, Error, FORMAT_VERSION, OpenOptions, OutputLock, Result, SaveRequest, json,
};
use slm_store::{Error as StoreError, OutputDir, StopFlag};

/// Result of [`migrate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// The version of the source.
    pub from: u32,
    /// Path of the checkpoint in the current version.
    pub path: PathBuf,
    /// Path of the copy of the old checkpoint, if it was migrated in place.
    pub backup: Option<PathBuf>,
}

/// Converts the checkpoint in `dir` to the current version of the format. Without `out` it is migrated in place: first
/// the old checkpoint is copied next to it, to `NAME.vVERSION-backup`. A checkpoint of the current version is not
/// changed.
///
/// Tensors are copied bit for bit, one at a time. The new checkpoint appears only after all of it was written and read
/// back.
///
/// # Errors
/// The errors of [`Checkpoint::open_with`] and [`save`](crate::save); `StoreError::OutputExists` for an existing backup
/// that differs from the checkpoint; `StoreError::Changed`.
pub fn migrate(
    dir: impl AsRef<Path>,
    out: Option<&Path>,
    overwrite: bool,
    options: &OpenOptions,
) -> Result<MigrationReport> {
    let dir = dir.as_ref();
    let source = Checkpoint::open_with(dir, options)?;
    let from = source.format_version();
    let report = |path, backup| MigrationReport { from, path, backup };
    let Some(out) = out else {
        if from == FORMAT_VERSION {
            return Ok(report(dir.to_owned(), None));
        }
        let dir = fs::canonicalize(dir).map_err(Error::io(dir, "resolve"))?;
        let files = files_of(&dir)?;
        // Version 0 has no manifest that lists its files, but all of them are in the backup.
        let owned = if from == 0 { files.clone() } else { Vec::new() };
        let output = OutputDir::create_over(&dir, true, CHECKPOINTS, &owned)?;
        let backup = back_up(&dir, &files, from, &options.stop)?;
        let path = copy(&source, output)?;
        return Ok(report(path, Some(backup)));
    };
    Ok(report(copy(&source, OutputDir::create(out, overwrite, CHECKPOINTS)?)?, None))
}

/// Copies a checkpoint that is already in the current version.
fn copy(source: &Checkpoint, output: OutputDir) -> Result<PathBuf> {
    let config = source.config();
    let mut writer = CheckpointWriter::with_output(output, &config.model, source.layout())?;
    writer.stop_at(source.stop().clone());
    for stored in source.layout().stored() {
        match stored {
            Stored::Float(name) => writer.write_f32(name, &source.tensors().read_f32(name)?)?,
            Stored::Quantized(layer) => {
                if let Some((matrix, _)) = source.read_quantized(layer)? {
                    writer.write_quantized(layer, &matrix, source.static_params(layer)?)?;
                }
            }
        }
    }
    for name in source.extra_files() {
        writer.copy_file(name, &source.dir().join(name))?;
    }
    source.tensors().check_unchanged()?;
    writer.finish(&SaveRequest {
        tokenizer_json: source.tokenizer_json(),
        tokenizer: config.tokenizer.clone(),
        metadata: source.metadata(),
        lineage: config.lineage.clone(),
        training: config.training.clone(),
        extra_files: &[],
        large_files: &[],
    })
}

/// Returns the sorted names of the files in `dir`.
fn files_of(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let entry = entry.map_err(Error::io(dir, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().is_file() {
            let reason = format!("{name:?} in it is not a file");
            return Err(Error::Store(StoreError::OutputNotOurs { path: dir.to_owned(), reason }));
        }
        files.push(name);
    }
    files.sort_unstable();
    Ok(files)
}

/// Copies the files of `dir`, which has version `from`, to a backup directory. Returns the path of the backup.
fn back_up(dir: &Path, files: &[String], from: u32, stop: &StopFlag) -> Result<PathBuf> {
    let mut backup = dir.as_os_str().to_owned();
    backup.push(format!(".v{from}-backup"));
    let backup = PathBuf::from(backup);
    // Taking the lock also removes the remains of a migration that was killed here.
    let _lock = OutputLock::take(&backup)?;
    if backup.exists() {
        // The backup exists if a migration was interrupted later.
        for name in files {
            if !same(&dir.join(name), &backup.join(name), stop)? {
                return Err(Error::Store(StoreError::OutputExists { path: backup }));
            }
        }
        return Ok(backup);
    }
    let output = OutputDir::create(&backup, false, CHECKPOINTS)?;
    for name in files {
        json::copy_new(&dir.join(name), &output.path().join(name), stop)?;
    }
    Ok(output.commit()?)
}

/// Returns `true` if both files exist and have the same content.
fn same(a: &Path, b: &Path, stop: &StopFlag) -> Result<bool> {
    let (Ok(mut a_file), Ok(mut b_file)) = (File::open(a), File::open(b)) else { return Ok(false) };
    let mut buffers = [vec![0; 1 << 16], vec![0; 1 << 16]];
    loop {
        stop.check()?;
        let [from_a, from_b] = &mut buffers;
        let read = a_file.read(from_a).map_err(Error::io(a, "read"))?;
        if read == 0 {
            return Ok(b_file.read(from_b).map_err(Error::io(b, "read"))? == 0);
        }
        match b_file.read_exact(&mut from_b[..read]) {
            Ok(()) if from_a[..read] == from_b[..read] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(Error::io(b, "read")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_the_same_if_every_byte_is() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = root.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        // Larger than one buffer, so that the last bytes count too.
        let content = vec![7; (1 << 16) + 3];
        let mut other = content.clone();
        *other.last_mut().unwrap() = 8;
        let whole = file("whole", &content);
        for (name, content, expected) in [
            ("copy", &content[..], true),
            ("changed", &other, false),
            ("shorter", &content[1..], false),
            ("longer", &[&content[..], &[7]].concat(), false),
            ("empty", &[], false),
        ] {
            let path = file(name, content);
            assert_eq!(same(&whole, &path, &StopFlag::NEVER).unwrap(), expected, "{name}");
            assert_eq!(same(&path, &whole, &StopFlag::NEVER).unwrap(), expected, "{name}");
        }
        assert!(!same(&whole, &root.path().join("missing"), &StopFlag::NEVER).unwrap());
    }
}

//! Files that appear complete or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::lock::{OutputLock, resolve, unwritable};
use crate::shown_as::ShownAs;
use crate::{Error, Result, manifest};

/// Name of the file while it is written.
const NAME: &str = "out";

/// A file that is written in a temporary directory next to its target, and moved there when it is complete. If it is
/// dropped before that, it leaves nothing behind; what a killed program leaves, the next writer of the file removes. While it
/// is alive, no other process writes the file.
#[derive(Debug)]
pub struct OutputFile {
    /// The output as the caller asked for it.
    target: PathBuf,
    dir: TempDir,
    /// Lets errors name the target.
    _shown: ShownAs,
    /// The lock of the place of the output, which is elsewhere if `target` is a link.
    lock: OutputLock,
}

impl OutputFile {
    /// Prepares to write `target`, which must not exist, or with `overwrite` must be a regular file if it exists. A link is
    /// followed, so that its target is replaced and not the link.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::OutputNotOurs`] for a directory, a device or a file of a checkpoint,
    /// [`Error::OutputLocked`], [`Error::OutputUnwritable`].
    pub fn create(target: &Path, overwrite: bool) -> Result<Self> {
        let not_ours =
            |reason: &str| Err(Error::OutputNotOurs { path: target.to_owned(), reason: reason.to_owned() });
        match fs::metadata(target) {
            Ok(there) if there.is_dir() => return not_ours("it is a directory, and the output is a file"),
            // A device or a pipe must not be replaced.
            Ok(there) if !there.is_file() => return not_ours("it is not a regular file"),
            _ => {}
        }
        if fs::symlink_metadata(target).is_ok() && !overwrite {
            return Err(Error::OutputExists { path: target.to_owned() });
        }
        let place = resolve(target)?;
        let parent = place.parent().unwrap_or(&place);
        if manifest::lists(parent, &place) {
            return not_ours("it is part of a checkpoint or of a saved module");
        }
        if !parent.is_dir() {
            let asked = target.parent().unwrap_or(parent);
            let source =
                io::Error::new(ErrorKind::NotFound, format!("there is no directory {}", asked.display()));
            return Err(Error::OutputUnwritable { path: target.to_owned(), source });
        }
        let lock = OutputLock::take(target)?;
        let dir = tempfile::Builder::new()
            .prefix(&lock.partial_prefix())
            .tempdir_in(lock.parent())
            .map_err(unwritable(target))?;
        let shown = ShownAs::new(dir.path().join(NAME), target);
        Ok(Self { target: target.to_owned(), dir, _shown: shown, lock })
    }

    /// Path to write to, where nothing exists yet.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(NAME)
    }

    /// Syncs the file to the disk, moves it to the target, and returns the path of the target.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<PathBuf> {
        let path = self.path();
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(Error::io(&self.target, "write to the disk"))?;
        fs::rename(&path, self.lock.target()).map_err(Error::io(&self.target, "create"))?;
        Ok(self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_checkpoint_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let manifest = r#"{ "files": { "weights": { "size": 1 } } }"#;
        for (name, content) in [("manifest.json", manifest), ("weights", "1"), ("notes", "2")] {
            fs::write(root.path().join(name), content).unwrap();
        }
        for name in ["manifest.json", "weights"] {
            let error = OutputFile::create(&root.path().join(name), true).unwrap_err();
            assert!(error.to_string().contains("part of a checkpoint"), "{error}");
        }
        for name in ["notes", "new"] {
            OutputFile::create(&root.path().join(name), true).unwrap();
        }
    }

    #[test]
    fn a_file_appears_when_committed_and_not_before() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out.gguf");
        let write = |overwrite, content: &str| {
            let output = OutputFile::create(&target, overwrite)?;
            fs::write(output.path(), content).unwrap();
            output.commit()
        };
        assert_eq!(write(false, "first").unwrap(), target);
        assert!(matches!(write(false, "second"), Err(Error::OutputExists { .. })));
        assert_eq!(fs::read(&target).unwrap(), b"first");
        write(true, "third").unwrap();
        drop(OutputFile::create(&target, true).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"third");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "dropped, it leaves nothing");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out.gguf");
        let killed = OutputFile::create(&target, false).unwrap();
        fs::write(killed.path(), "a part").unwrap();
        std::mem::forget(killed.dir);
        drop((killed.lock, killed._shown));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        drop(OutputFile::create(&target, false).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = OutputFile::create(&root.path().join("none/out.gguf"), false).unwrap_err().to_string();
        let directory = root.path().join("none").display().to_string();
        assert!(error.contains(&format!("there is no directory {directory};")), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_followed() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        symlink("elsewhere/file", path("link")).unwrap();
        assert!(matches!(OutputFile::create(&path("link"), false), Err(Error::OutputExists { .. })));
        let error = OutputFile::create(&path("link"), true).unwrap_err().to_string();
        assert!(error.contains("link: not overwritten, because it is a link that leads nowhere"), "{error}");
        fs::create_dir(path("elsewhere")).unwrap();
        fs::write(path("elsewhere/file"), "old").unwrap();
        let output = OutputFile::create(&path("link"), true).unwrap();
        fs::write(output.path(), "new").unwrap();
        assert_eq!(output.commit().unwrap(), path("link"));
        assert_eq!(fs::read(path("elsewhere/file")).unwrap(), b"new");
        assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
        assert_eq!(fs::read_dir(path("elsewhere")).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn devices_and_directories_are_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        for target in [Path::new("/dev/null"), root.path()] {
            let refused = OutputFile::create(target, true);
            assert!(matches!(refused, Err(Error::OutputNotOurs { .. })), "{refused:?}");
        }
    }
}

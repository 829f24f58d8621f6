//! Directories that appear complete or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::litter::is_litter;
use crate::lock::{OutputLock, REPLACED, as_asked, unwritable};
use crate::shown_as::ShownAs;
use crate::{Error, Result};

/// A kind of directory that may be replaced by a new one.
#[derive(Debug, Clone, Copy)]
pub struct Replaceable {
    /// Name of the kind with its article, for messages.
    pub what: &'static str,
    /// Returns the names of the files that belong to a directory of this kind; `None` for any other directory.
    pub files_of: fn(&Path) -> Option<Vec<String>>,
}

/// A directory that is written under a temporary name next to its target, and moved there when it is complete.
///
/// If it is dropped before [`OutputDir::commit`], it is removed and the target is unchanged. While it is alive, no
/// other process writes to the target.
#[derive(Debug)]
pub struct OutputDir {
    target: PathBuf,
    /// True if `target` exists and is to be replaced.
    replaces: bool,
    replaceable: Replaceable,
    /// Files at `target` that may be replaced although no manifest lists them.
    owned: Vec<String>,
    dir: TempDir,
    /// Lets errors name the target, as the caller asked for it.
    _shown: ShownAs,
    lock: OutputLock,
}

impl OutputDir {
    /// Prepares to write `target`. Missing parent directories are created.
    ///
    /// With `overwrite`, a directory that is empty or `replaceable` is replaced; anything else is rejected. Without
    /// `overwrite`, an existing `target` is rejected.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::OutputNotOurs`], [`Error::OutputLocked`], [`Error::OutputUnwritable`].
    pub fn create(target: &Path, overwrite: bool, replaceable: Replaceable) -> Result<Self> {
        Self::create_over(target, overwrite, replaceable, &[])
    }

    /// [`OutputDir::create`] that also replaces a directory with no other files than `owned`.
    ///
    /// # Errors
    /// Same as [`OutputDir::create`].
    pub fn create_over(
        target: &Path,
        overwrite: bool,
        replaceable: Replaceable,
        owned: &[String],
    ) -> Result<Self> {
        let lock = OutputLock::take(target)?;
        let asked = target;
        let target = lock.target().to_owned();
        let replaces = check_place(&target, overwrite, replaceable, owned).map_err(as_asked(asked))?;
        let dir = tempfile::Builder::new()
            .prefix(&lock.partial_prefix())
            .tempdir_in(lock.parent())
            .map_err(unwritable(asked))?;
        let shown = ShownAs::new(dir.path(), asked);
        Ok(Self { target, replaces, replaceable, owned: owned.to_vec(), dir, _shown: shown, lock })
    }

    /// Path of the temporary directory to write to.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Moves the directory to the target, and returns the path of the target. Its files must have been synced to the
    /// disk.
    ///
    /// # Errors
    /// [`Error::OutputNotOurs`] for files that have appeared there meanwhile; [`Error::Io`].
    pub fn commit(self) -> Result<PathBuf> {
        sync_dir(self.dir.path())?;
        if self.replaces {
            // Checked again: files may have appeared while the new ones were written.
            check_replaceable(&self.target, self.replaceable, &self.owned)?;
            exchange(self.dir.path(), &self.target)?;
            sync_dir(self.lock.parent())?;
            // The temporary name now refers to the old directory. The new one is in place, even if the old one cannot
            // be removed.
            let old = self.dir.path().to_owned();
            if let Err(error) = self.dir.close() {
                tracing::warn!("{}: the replaced directory could not be removed: {error}", old.display());
            }
        } else {
            // Fails if a directory that is not empty has appeared there meanwhile.
            fs::rename(self.dir.path(), &self.target).map_err(Error::io(&self.target, "create"))?;
            let _renamed = self.dir.keep();
            sync_dir(self.lock.parent())?;
        }
        Ok(self.target)
    }
}

/// Reserves `target` for a directory before the work of creating it: checks that nothing is there (or, with
/// `overwrite`, only a directory that [`OutputDir::create`] would replace), that the system permits writing it, and
/// that no other process writes it while the result is alive.
///
/// # Errors
/// Same as [`OutputDir::create`].
pub fn reserve(target: &Path, overwrite: bool, replaceable: Replaceable) -> Result<OutputLock> {
    let lock = OutputLock::take(target)?;
    check_place(lock.target(), overwrite, replaceable, &[]).map_err(as_asked(target))?;
    Ok(lock)
}

/// Checks the place of the output. Returns `true` if `target` exists and may be replaced.
fn check_place(target: &Path, overwrite: bool, replaceable: Replaceable, owned: &[String]) -> Result<bool> {
    match fs::symlink_metadata(target) {
        Ok(_) if !overwrite => Err(Error::OutputExists { path: target.to_owned() }),
        Ok(_) => check_replaceable(target, replaceable, owned).map(|()| true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unwritable(target)(error)),
    }
}

/// Swaps two directories: atomically if the system and its file system can, so that `target` exists at every instant.
fn exchange(new: &Path, target: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(()),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(errno) => return Err(Error::io(target, "replace")(errno.into())),
        }
    }
    tracing::warn!("{}: replaced in two steps: this file system cannot do it in one", target.display());
    exchange_in_steps(new, target)
}

/// Swaps two directories by renaming. Between the steps `target` does not exist, and the old directory is next to it
/// under a name that ends in `-replaced`, from which the next writer restores it.
fn exchange_in_steps(new: &Path, target: &Path) -> Result<()> {
    let mut aside = new.as_os_str().to_owned();
    aside.push(REPLACED);
    let aside = PathBuf::from(aside);
    fs::rename(target, &aside).map_err(Error::io(target, "move aside"))?;
    if let Err(error) = fs::rename(new, target) {
        fs::rename(&aside, target).map_err(Error::io(&aside, "move back"))?;
        return Err(Error::io(target, "replace")(error));
    }
    fs::rename(&aside, new).map_err(Error::io(&aside, "move"))
}

/// Syncs the entries of a directory to the disk.
fn sync_dir(path: &Path) -> Result<()> {
    if cfg!(unix) {
        let dir = File::open(path).map_err(Error::io(path, "open"))?;
        dir.sync_all().map_err(Error::io(path, "write to the disk"))?;
    }
    Ok(())
}

/// Rejects anything but an empty directory, or one of the kind that contains only its own files.
fn check_replaceable(target: &Path, replaceable: Replaceable, owned: &[String]) -> Result<()> {
    let refuse = |reason: String| Err(Error::OutputNotOurs { path: target.to_owned(), reason });
    if !target.is_dir() {
        return refuse("it is not a directory".to_owned());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(target).map_err(Error::io(target, "list"))? {
        let entry = entry.map_err(Error::io(target, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !(is_file && is_litter(&name)) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    names.sort_unstable();
    if names.iter().all(|name| owned.contains(name)) {
        return Ok(());
    }
    let Some(files) = (replaceable.files_of)(target) else {
        return refuse(format!("it is neither empty nor {}", replaceable.what));
    };
    match names.into_iter().find(|name| !files.contains(name)) {
        Some(name) => refuse(format!("its file {name:?} is not part of {}", replaceable.what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a file `ours`, to which that file and `new` belong.
    const OURS: Replaceable = Replaceable {
        what: "one of ours",
        files_of: |dir| dir.join("ours").exists().then(|| ["ours", "new"].map(str::to_owned).to_vec()),
    };

    #[test]
    fn a_directory_appears_when_committed_and_not_before() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b/out");
        let output = OutputDir::create(&target, false, OURS).unwrap();
        fs::write(output.path().join("x"), "1").unwrap();
        assert!(!target.exists());
        output.commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "1");
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn dropped_it_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let output = OutputDir::create(&root.path().join("out"), false, OURS).unwrap();
        fs::write(output.path().join("x"), "1").unwrap();
        drop(output);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_is_ours_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        fs::create_dir(&target).unwrap();
        assert!(matches!(OutputDir::create(&target, false, OURS), Err(Error::OutputExists { .. })));
        OutputDir::create(&target, true, OURS).unwrap();
        fs::write(target.join("thesis.tex"), "years of work").unwrap();
        let error = OutputDir::create(&target, true, OURS).unwrap_err();
        assert!(matches!(error, Error::OutputNotOurs { .. }), "{error}");
        fs::write(target.join("ours"), "").unwrap();
        let error = OutputDir::create(&target, true, OURS).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        fs::remove_file(target.join("thesis.tex")).unwrap();

        let output = OutputDir::create(&target, true, OURS).unwrap();
        fs::write(output.path().join("new"), "1").unwrap();
        assert!(target.join("ours").exists());
        output.commit().unwrap();
        assert!(target.join("new").exists() && !target.join("ours").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(OutputDir::create(&file, true, OURS), Err(Error::OutputNotOurs { .. })));
    }

    #[test]
    fn both_ways_of_swapping_swap() {
        for swap in [exchange, exchange_in_steps] {
            let root = tempfile::tempdir().unwrap();
            let (new, target) = (root.path().join("new"), root.path().join("target"));
            for dir in [&new, &target] {
                fs::create_dir(dir).unwrap();
                fs::write(dir.join("was"), dir.file_name().unwrap().as_encoded_bytes()).unwrap();
            }
            swap(&new, &target).unwrap();
            assert_eq!(fs::read(target.join("was")).unwrap(), b"new");
            assert_eq!(fs::read(new.join("was")).unwrap(), b"target");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
            assert!(swap(&root.path().join("absent"), &target).is_err());
            assert_eq!(fs::read(target.join("was")).unwrap(), b"new");
        }
    }

    #[test]
    fn what_comes_while_writing_is_not_lost() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        let output = OutputDir::create(&target, false, OURS).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("x"), "1").unwrap();
        assert!(output.commit().is_err());
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "1");
        fs::remove_file(target.join("x")).unwrap();
        let output = OutputDir::create(&target, true, OURS).unwrap();
        fs::write(target.join("x"), "1").unwrap();
        assert!(matches!(output.commit(), Err(Error::OutputNotOurs { .. })));
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "1");
    }
}

//! Locks that allow one writer per output, and cleanup after killed writers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::new_dirs::NewDirs;
use crate::{Error, Result};

/// Suffix of the name of an old checkpoint while it is being replaced in two steps.
pub(crate) const REPLACED: &str = "-replaced";

/// Number of random characters in the name of a temporary directory.
const RANDOM_CHARACTERS: usize = 6;

/// The exclusive right of this process to write an output.
///
/// It is an operating-system lock on the file `.NAME.lock` next to the output, which is released when the process ends
/// for any reason. Taking it removes the remains of killed writers of this output; this is safe because no other writer
/// can be active. Within a process the lock is shared: taking it again returns the same lock.
#[derive(Debug, Clone)]
pub struct OutputLock(Arc<Held>);

#[derive(Debug)]
struct Held {
    target: PathBuf,
    parent: PathBuf,
    name: String,
    path: PathBuf,
    /// Locked while the file is open.
    _file: File,
    /// Parent directories that were created for the output; they are removed after the lock's file.
    _created: NewDirs,
}

/// The locks that this process holds, by output.
static HELD: Mutex<BTreeMap<PathBuf, Weak<Held>>> = Mutex::new(BTreeMap::new());

impl OutputLock {
    /// Takes the lock of `target`, and creates its missing parent directories.
    ///
    /// # Errors
    /// [`Error::OutputLocked`], [`Error::OutputUnwritable`], [`Error::OutputNotOurs`], [`Error::Io`].
    pub fn take(target: &Path) -> Result<Self> {
        Self::take_resolved(resolve(target)?).map_err(as_asked(target))
    }

    fn take_resolved(target: PathBuf) -> Result<Self> {
        // Only complete entries are inserted, so the map is valid even after a panic elsewhere.
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = held.get(&target).and_then(Weak::upgrade) {
            return Ok(Self(lock));
        }
        held.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(Held::new(target)?);
        held.insert(lock.target.clone(), Arc::downgrade(&lock));
        lock.clean_up()?;
        Ok(Self(lock))
    }

    /// The absolute path of the output.
    pub fn target(&self) -> &Path {
        &self.0.target
    }

    /// The directory that contains the output.
    pub(crate) fn parent(&self) -> &Path {
        &self.0.parent
    }

    /// Prefix of the names of temporary directories for this output.
    pub(crate) fn partial_prefix(&self) -> String {
        format!(".{}.partial-", self.0.name)
    }
}

impl Held {
    fn new(target: PathBuf) -> Result<Self> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            let reason = "a directory cannot be created there".to_owned();
            return Err(Error::OutputNotOurs { path: target, reason });
        };
        let (parent, name) = (parent.to_owned(), name.to_string_lossy().into_owned());
        let created = NewDirs::create(&parent).map_err(unwritable(&target))?;
        let path = parent.join(format!(".{name}.lock"));
        let file = lock_file(&path, &target)?;
        Ok(Self { target, parent, name, path, _file: file, _created: created })
    }

    /// Removes what killed writers left behind, and restores a directory that one of them had moved aside.
    fn clean_up(&self) -> Result<()> {
        let prefix = format!(".{}.partial-", self.name);
        for entry in fs::read_dir(&self.parent).map_err(Error::io(&self.parent, "list"))? {
            let entry = entry.map_err(Error::io(&self.parent, "list"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            let random = rest.strip_suffix(REPLACED).unwrap_or(rest);
            if random.len() != RANDOM_CHARACTERS || !random.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                continue;
            }
            let path = entry.path();
            if rest.ends_with(REPLACED) && fs::symlink_metadata(&self.target).is_err() {
                fs::rename(&path, &self.target).map_err(Error::io(&path, "move back"))?;
                tracing::warn!("{}: put back after a writer was killed", self.target.display());
                continue;
            }
            fs::remove_dir_all(&path).map_err(Error::io(&path, "remove what a killed writer left in"))?;
            tracing::info!("{}: removed, left behind by a writer that was killed", path.display());
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The file is removed while locked: whoever has opened it meanwhile notices this and creates a new one.
        let _gone_or_left_for_the_next = fs::remove_file(&self.path);
    }
}

/// Creates and locks `path`.
fn lock_file(path: &Path, target: &Path) -> Result<File> {
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(unwritable(target))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // The file may not be written yet; the owner only improves the message.
                let _unreadable = (&mut file).take(20).read_to_string(&mut owner);
                let by = match owner.trim() {
                    "" => "another process".to_owned(),
                    id => format!("process {id}"),
                };
                return Err(Error::OutputLocked { path: target.to_owned(), by });
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(target)(error)),
        }
        // The previous owner removed the file after it was opened here, so this lock is worthless.
        if is_at(&file, path) {
            file.set_len(0).map_err(unwritable(target))?;
            write!(file, "{}", std::process::id()).map_err(unwritable(target))?;
            return Ok(file);
        }
    }
}

/// Returns `true` if `path` refers to `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Returns `true` if `path` refers to `file`. Open files cannot be removed on this system.
#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Returns `target` as an absolute path. A link is followed, so that its target is written and not the link.
///
/// # Errors
/// [`Error::OutputNotOurs`] for a link that leads nowhere.
pub(crate) fn resolve(target: &Path) -> Result<PathBuf> {
    if fs::symlink_metadata(target).is_ok() {
        return fs::canonicalize(target).map_err(|source| Error::OutputNotOurs {
            path: target.to_owned(),
            reason: format!("it is a link that leads nowhere ({source})"),
        });
    }
    let path = std::path::absolute(target).map_err(Error::io(target, "resolve"))?;
    // The parent may be a link too; two paths to the same place must share a lock.
    let parent = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    Ok(match (parent, path.file_name().map(OsString::from)) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    })
}

/// Replaces the absolute path in an error about an output by the path that the caller asked for.
pub(crate) fn as_asked(asked: &Path) -> impl Fn(Error) -> Error {
    move |mut error| {
        if let Error::OutputExists { path }
        | Error::OutputNotOurs { path, .. }
        | Error::OutputLocked { path, .. }
        | Error::OutputUnwritable { path, .. } = &mut error
        {
            asked.clone_into(path);
        }
        error
    }
}

pub(crate) fn unwritable(target: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| {
        // The temporary path means nothing to the user; the kind of the error does.
        let source = if source.raw_os_error().is_some() { source } else { source.kind().into() };
        Error::OutputUnwritable { path: target.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_shared_here_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b/out");
        let lock = OutputLock::take(&target).unwrap();
        let again = OutputLock::take(&target).unwrap();
        assert_eq!(lock.target(), again.target());
        assert_eq!(lock.partial_prefix(), ".out.partial-");
        drop(lock);
        assert!(root.path().join("a/b/.out.lock").exists());
        // A second open file, which the system treats like another process.
        let other = File::open(root.path().join("a/b/.out.lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(again);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn two_ways_to_one_place_give_one_lock() {
        let root = tempfile::tempdir().unwrap();
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let lock = OutputLock::take(&link.join("out")).unwrap();
        assert_eq!(lock.target(), fs::canonicalize(&real).unwrap().join("out"));
        assert_eq!(OutputLock::take(&real.join("out")).unwrap().target(), lock.target());
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_is_at_its_path_only() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        let file = File::create(&a).unwrap();
        File::create(&b).unwrap();
        assert!(is_at(&file, &a));
        assert!(!is_at(&file, &b));
        fs::remove_file(&a).unwrap();
        assert!(!is_at(&file, &a));
    }

    #[cfg(unix)]
    #[test]
    fn an_error_names_what_was_asked_for() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nothing", root.path().join("link")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        for (asked, cause) in
            [("link", "it is a link that leads nowhere"), ("./link/../file/out", "cannot be written")]
        {
            let asked = root.path().join(asked);
            let error = OutputLock::take(&asked).unwrap_err().to_string();
            assert!(error.starts_with(&asked.display().to_string()) && error.contains(cause), "{error}");
        }
    }

    #[test]
    fn a_lock_of_somebody_else_is_respected() {
        let root = tempfile::tempdir().unwrap();
        let other = File::create(root.path().join(".out.lock")).unwrap();
        other.lock().unwrap();
        let error = OutputLock::take(&root.path().join("out")).unwrap_err();
        assert!(matches!(error, Error::OutputLocked { .. }), "{error}");
        drop(other);
        OutputLock::take(&root.path().join("out")).unwrap();
    }

    #[test]
    fn what_killed_writers_left_is_put_in_order() {
        let root = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("was"), name).unwrap();
            path
        };
        let stale = dir(".out.partial-a1B2c3");
        let aside = dir(".out.partial-a1B2c3-replaced");
        let names =
            [".out.partial-of-mine", ".out.partial-of_you", ".out2.partial-a1B2c3", "out.partial-a1B2c3"];
        let others = names.map(dir);
        drop(OutputLock::take(&root.path().join("out")).unwrap());
        assert!(!stale.exists() && !aside.exists());
        assert_eq!(fs::read(root.path().join("out/was")).unwrap(), b".out.partial-a1B2c3-replaced");
        assert!(others.iter().all(|path| path.exists()));
        // If the output exists, the directory that was moved aside is the one that it replaced.
        let aside = dir(".out.partial-a1B2c3-replaced");
        drop(OutputLock::take(&root.path().join("out")).unwrap());
        assert!(!aside.exists());
    }
}

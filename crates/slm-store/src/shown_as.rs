//! Names of outputs in messages. While an output is written its files have temporary paths, which mean nothing to the
//! user; errors name them by the path that was asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Outputs as the caller asked for them, by their temporary paths.
static SHOWN: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());

/// Guard of a temporary path, which is shown as another while the guard lives.
#[derive(Debug)]
pub(crate) struct ShownAs(PathBuf);

impl ShownAs {
    pub(crate) fn new(temporary: impl Into<PathBuf>, target: &Path) -> Self {
        let temporary = temporary.into();
        // Only complete entries are inserted, so the map is valid even after a panic elsewhere.
        SHOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(temporary.clone(), target.to_owned());
        Self(temporary)
    }
}

impl Drop for ShownAs {
    fn drop(&mut self) {
        SHOWN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Returns the path to show for `path`: that of the output if `path` is temporary, otherwise `path` itself.
pub(crate) fn shown(path: &Path) -> PathBuf {
    let all = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = path.ancestors().find_map(|dir| Some((all.get(dir)?, path.strip_prefix(dir).ok()?)));
    match found {
        Some((target, rest)) if rest == Path::new("") => target.clone(),
        Some((target, rest)) => target.join(rest),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_path_is_shown_as_its_target() {
        let temporary = Path::new("/somewhere/.out.partial-a1B2c3");
        let file = temporary.join("model.safetensors");
        let name = ShownAs::new(temporary, Path::new("out"));
        assert_eq!(shown(temporary), Path::new("out"));
        assert_eq!(shown(&file), Path::new("out/model.safetensors"));
        assert_eq!(shown(Path::new("/somewhere/else")), Path::new("/somewhere/else"));
        drop(name);
        assert_eq!(shown(&file), file);
    }
}

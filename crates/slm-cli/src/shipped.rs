//! The model and texts that ship with the project.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const MODEL: &str = "models/stories";
const CALIBRATION: &str = "data/calibration.txt";
const HELD_OUT: &str = "data/held-out.txt";

/// Paths of the shipped model and texts in a checkout of the project.
pub(crate) struct Shipped {
    root: PathBuf,
}

impl Shipped {
    /// Searches for the checkout: the working directory or one above it, or the one that `cargo run` builds from.
    pub(crate) fn find() -> Result<Self> {
        let working = env::current_dir().map_err(|error| Error::file(".", error))?;
        let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let mut candidates = working.ancestors().chain(package.iter().flat_map(|dir| dir.ancestors()));
        match candidates.find(|dir| dir.join(MODEL).is_dir() && dir.join(CALIBRATION).is_file()) {
            Some(root) => Ok(Self { root: root.to_owned() }),
            None => Err(Error::Usage(format!(
                "{MODEL} was not found here or in a directory above: run this in a checkout of the project, \
                 or name your own model with --checkpoint and your own text with --calibration"
            ))),
        }
    }

    pub(crate) fn model(&self) -> PathBuf {
        self.path(MODEL)
    }

    pub(crate) fn calibration(&self) -> PathBuf {
        self.path(CALIBRATION)
    }

    pub(crate) fn held_out(&self) -> PathBuf {
        self.path(HELD_OUT)
    }

    /// Returns a path as a user would write it: relative to the working directory if it is inside.
    fn path(&self, name: &str) -> PathBuf {
        match env::current_dir() {
            Ok(working) if working == self.root => Path::new(name).to_owned(),
            _ => self.root.join(name),
        }
    }
}

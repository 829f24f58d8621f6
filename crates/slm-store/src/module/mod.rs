//! Any Burn module as a directory: its parameters, and the codes of its quantized layers.

mod dtype;
mod load;
mod parameters;
mod save;

use std::path::Path;

use crate::manifest::{Kind, MANIFEST, Manifest};
use crate::output::Replaceable;
use crate::{METADATA, QuantizationMetadata, WEIGHTS};

pub use load::load_module;
pub use save::save_module;

/// Main file of a checkpoint of slm's own models, which a module never has.
const CONFIG: &str = "config.json";

/// Settings of [`save_module`].
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions<'a> {
    /// Whether a module that is in the directory already is replaced. Default: false.
    pub overwrite: bool,
    /// How the module was quantized. Without it the saved metadata has what the layers themselves say: mode
    /// `unrecorded`, and NaN for the errors of their weights.
    pub metadata: Option<&'a QuantizationMetadata>,
    /// Further files by name, such as a configuration of the module. They are listed in the manifest and so checked.
    pub extra_files: &'a [(&'a str, &'a [u8])],
}

/// Settings of [`load_module`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Whether the files are compared with their checksums. Default: true.
    pub verify: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { verify: true }
    }
}

/// What [`load_module`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadReport {
    /// How the module was quantized; none for one that is all float.
    pub metadata: Option<QuantizationMetadata>,
    /// Names of the quantized layers, in forward order.
    pub quantized: Vec<String>,
}

/// Whether `dir` holds a module that [`save_module`] wrote.
pub fn is_module(dir: &Path) -> bool {
    manifest_of(dir).is_some()
}

fn manifest_of(dir: &Path) -> Option<Manifest> {
    let manifest = Manifest::parse(dir, &Manifest::read_bytes(dir).ok()?).ok()?;
    (manifest.kind == Kind::Module).then_some(manifest)
}

/// What saving a module may replace.
const MODULES: Replaceable = Replaceable {
    what: "a saved module",
    files_of: |dir| {
        let own = [MANIFEST, WEIGHTS, METADATA].map(str::to_owned);
        manifest_of(dir).map(|manifest| manifest.files.into_keys().chain(own).collect())
    },
};

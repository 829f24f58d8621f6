//! Any Burn module as a directory: its parameters, with quantized layers as codes.

mod dtype;
mod load;
mod parameters;
mod save;

use std::path::Path;

use crate::manifest::{Kind, MANIFEST, Manifest};
use crate::output::Replaceable;
use crate::{METADATA, QuantizationMetadata, WEIGHTS};

pub use dtype::stored_dtype;
pub use load::load_module;
pub use save::save_module;

/// Main file of a checkpoint of slm's own models, which a saved module never contains.
const CONFIG: &str = "config.json";

/// Options of [`save_module`].
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions<'a> {
    /// Replaces a saved module that exists in the directory. Default: false.
    pub overwrite: bool,
    /// Record of the module's quantization. Without it, the saved metadata is derived from the layers: mode
    /// `unrecorded`, and NaN for the errors of their weights.
    pub metadata: Option<&'a QuantizationMetadata>,
    /// Additional files by name, such as a configuration of the module. The manifest lists them with their checksums.
    pub extra_files: &'a [(&'a str, &'a [u8])],
}

/// Options of [`load_module`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Verifies the checksums of the files. Default: true.
    pub verify: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { verify: true }
    }
}

/// Result of [`load_module`].
#[derive(Debug, Clone, PartialEq)]
pub struct LoadReport {
    /// Record of the module's quantization; `None` if no layer is quantized.
    pub metadata: Option<QuantizationMetadata>,
    /// Names of the quantized layers, in forward order.
    pub quantized: Vec<String>,
}

/// Returns `true` if `dir` holds a module that [`save_module`] wrote.
pub fn is_module(dir: &Path) -> bool {
    manifest_of(dir).is_some()
}

fn manifest_of(dir: &Path) -> Option<Manifest> {
    let manifest = Manifest::parse(dir, &Manifest::read_bytes(dir).ok()?).ok()?;
    (manifest.kind == Kind::Module).then_some(manifest)
}

/// Kinds of directories that saving a module may replace.
const MODULES: Replaceable = Replaceable {
    what: "a saved module",
    files_of: |dir| {
        let own = [MANIFEST, WEIGHTS, METADATA].map(str::to_owned);
        manifest_of(dir).map(|manifest| manifest.files.into_keys().chain(own).collect())
    },
};

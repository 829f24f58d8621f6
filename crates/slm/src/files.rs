//! Saving and loading of modules.

use std::path::{Path, PathBuf};

use burn::module::Module;
use slm_nn::NamedLinears;
use slm_store::{LoadOptions, LoadReport, SaveOptions, load_module, save_module};

use crate::{Error, Result};

/// Saves `module`, float or quantized, in the new directory `dir`, and returns where that is.
///
/// The directory holds `model.safetensors`, `manifest.json` with the checksums of all files, and for a quantized module
/// `quantization_metadata.json`. It appears complete or not at all. [`Report::save`](crate::Report::save) records how
/// the module was quantized too.
///
/// # Errors
/// [`Error::Exists`] for a directory that is there; [`Error::Store`]: as [`save_module`].
pub fn save<M: Module + NamedLinears>(module: &M, dir: impl AsRef<Path>) -> Result<PathBuf> {
    save_with(module, dir, &SaveOptions::default())
}

/// [`save`] with options: to replace a saved module, or with files of one's own.
///
/// # Errors
/// As [`save`].
pub fn save_with<M: Module + NamedLinears>(
    module: &M,
    dir: impl AsRef<Path>,
    options: &SaveOptions<'_>,
) -> Result<PathBuf> {
    save_module(module, dir, options).map_err(|error| match error {
        slm_store::Error::OutputExists { path } => Error::Exists { path },
        error => error.into(),
    })
}

/// Loads what [`save`] wrote to `dir` into a module of the same parts, whose layers may be float or quantized before.
/// Afterwards it computes what the saved module did, to the last bit.
///
/// # Errors
/// [`Error::Store`]: as [`load_module`]. The module is unchanged then.
pub fn load<M: Module + NamedLinears>(module: &mut M, dir: impl AsRef<Path>) -> Result<LoadReport> {
    load_with(module, dir, &LoadOptions::default())
}

/// [`load`] with options.
///
/// # Errors
/// As [`load`].
pub fn load_with<M: Module + NamedLinears>(
    module: &mut M,
    dir: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<LoadReport> {
    Ok(load_module(module, dir, options)?)
}

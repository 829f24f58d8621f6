//! Saving and loading of modules.

use std::path::{Path, PathBuf};

use burn::module::Module;
use slm_nn::NamedLinears;
use slm_store::{LoadOptions, LoadReport, SaveOptions, load_module, save_module};

use crate::{Error, Result};

/// Saves `module`, float or quantized, in the new directory `dir`, and returns the path of the directory.
///
/// The directory contains `model.safetensors`, `manifest.json` with the checksums of all files, and for a quantized
/// module `quantization_metadata.json`. It appears complete or not at all. [`Report::save`](crate::Report::save) also
/// records how the module was quantized.
///
/// # Errors
/// [`Error::Exists`] for a directory that exists; [`Error::Store`] as for [`save_module`].
pub fn save<M: Module + NamedLinears>(module: &M, dir: impl AsRef<Path>) -> Result<PathBuf> {
    save_with(module, dir, &SaveOptions::default())
}

/// [`save`] with options: overwriting a saved module, and additional files.
///
/// # Errors
/// Same as [`save`].
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

/// Loads the module that [`save`] wrote to `dir` into a module with the same structure, whose layers may be float or
/// quantized. Afterwards it computes exactly what the saved module computed.
///
/// # Errors
/// [`Error::Store`] as for [`load_module`]. The module is then unchanged.
pub fn load<M: Module + NamedLinears>(module: &mut M, dir: impl AsRef<Path>) -> Result<LoadReport> {
    load_with(module, dir, &LoadOptions::default())
}

/// [`load`] with options.
///
/// # Errors
/// Same as [`load`].
pub fn load_with<M: Module + NamedLinears>(
    module: &mut M,
    dir: impl AsRef<Path>,
    options: &LoadOptions,
) -> Result<LoadReport> {
    Ok(load_module(module, dir, options)?)
}

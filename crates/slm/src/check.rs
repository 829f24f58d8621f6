//! Checks of a module before anything is done to it.

use burn::module::Module;
use slm_nn::{NamedLinears, unnamed_linears};

use crate::{Error, Result};

/// Refuses a module that holds linears which it does not name.
pub(crate) fn all_named<M: Module + NamedLinears>(module: &M) -> Result<()> {
    match unnamed_linears(module).into_iter().next() {
        Some(path) => Err(Error::Unnamed { path }),
        None => Ok(()),
    }
}

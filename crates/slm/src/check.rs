//! Checks of a module before anything is done to it.

use std::collections::BTreeSet;

use burn::module::Module;
use slm_nn::{NamedLinears, try_for_each_linear, unnamed_linears};

use crate::{Error, Result};

/// Refuses a module that holds linears which it does not name, or names two of them alike.
pub(crate) fn all_named<M: Module + NamedLinears>(module: &M) -> Result<()> {
    if let Some(path) = unnamed_linears(module).into_iter().next() {
        return Err(Error::Unnamed { path });
    }
    let mut seen = BTreeSet::new();
    try_for_each_linear(module, |name, _| match seen.insert(name.to_owned()) {
        true => Ok(()),
        false => Err(Error::SameName { layer: name.to_owned() }),
    })
}

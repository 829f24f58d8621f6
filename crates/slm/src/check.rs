//! Checks of a module before it is changed.

use std::collections::BTreeSet;

use burn::module::Module;
use slm_nn::{NamedLinears, try_for_each_linear, unnamed_linears};

use crate::{Error, Result};

/// Rejects a module with linears that it does not name, or with two linears of the same name.
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

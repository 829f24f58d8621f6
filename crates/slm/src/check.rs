//! What is checked of a module before anything is done to it.

use burn::module::Module;
use slm_nn::{Linear, NamedLinears, unnamed_linears};

use crate::{Error, Result};

/// Refuses a module that holds linears which it does not name.
pub(crate) fn all_named<M: Module + NamedLinears>(module: &M) -> Result<()> {
    match unnamed_linears(module).into_iter().next() {
        Some(path) => Err(Error::Unnamed { path }),
        None => Ok(()),
    }
}

/// Calls `change` for every linear with its number, until one fails.
pub(crate) fn try_for_each_linear_mut<M: NamedLinears>(
    module: &mut M,
    mut change: impl FnMut(usize, &mut Linear) -> Result<(), slm_nn::Error>,
) -> Result<()> {
    let (mut result, mut index) = (Ok(()), 0);
    module.for_each_linear_mut(&mut |name, linear| {
        if result.is_ok() {
            let layer = || name.to_owned();
            result = change(index, linear).map_err(|source| Error::Layer { layer: layer(), source });
        }
        index += 1;
    });
    result
}

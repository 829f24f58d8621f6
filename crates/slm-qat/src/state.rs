//! The state that a run needs to resume, in addition to weights and optimizer.

use slm_nn::{LayerState, NamedLinears, Weight, try_for_each_linear, try_for_each_linear_mut};

use crate::{Error, Result};

/// Scales and ranges of every fake-quantized layer, by name.
///
/// # Errors
/// [`Error::Layer`] when scales cannot be read back.
pub fn layer_states<M: NamedLinears + ?Sized>(model: &M) -> Result<Vec<(String, LayerState)>> {
    let mut states = Vec::new();
    try_for_each_linear(model, |name, linear| {
        if let Weight::FakeQuantized(weight) = &linear.weight {
            let state = weight.state().map_err(|error| Error::layer(name, error))?;
            states.push((name.to_owned(), state));
        }
        Ok::<_, Error>(())
    })?;
    Ok(states)
}

/// Restores the states from [`layer_states`]: `state_of` returns the state of each layer by name.
///
/// # Errors
/// [`Error::Layer`] for a state that does not fit its layer.
pub fn restore_layer_states<M: NamedLinears + ?Sized>(
    model: &mut M,
    mut state_of: impl FnMut(&str) -> LayerState,
) -> Result<()> {
    try_for_each_linear_mut(model, |name, linear| match &mut linear.weight {
        Weight::FakeQuantized(weight) => {
            weight.restore(&state_of(name)).map_err(|error| Error::layer(name, error))
        }
        _ => Ok(()),
    })
}

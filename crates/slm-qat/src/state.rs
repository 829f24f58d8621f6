//! What a run must keep, beside weights and optimizer, to go on.

use slm_nn::{LayerState, NamedLinears, Weight};

use crate::{Error, Result};

/// Scales and ranges of every fake-quantized layer, by name.
///
/// # Errors
/// [`Error::Layer`] when scales cannot be read back.
pub fn layer_states<M: NamedLinears + ?Sized>(model: &M) -> Result<Vec<(String, LayerState)>> {
    let mut states = Vec::new();
    let mut failed = None;
    model.for_each_linear(&mut |name, linear| {
        if let Weight::FakeQuantized(weight) = &linear.weight {
            match weight.state() {
                Ok(state) => states.push((name.to_owned(), state)),
                Err(error) => failed = Some(Error::layer(name, error)),
            }
        }
    });
    failed.map_or(Ok(states), Err)
}

/// Goes on from what [`layer_states`] gave: `state_of` gives the state of each layer by its name.
///
/// # Errors
/// [`Error::Layer`] for a state that does not fit its layer.
pub fn restore_layer_states<M: NamedLinears + ?Sized>(
    model: &mut M,
    mut state_of: impl FnMut(&str) -> LayerState,
) -> Result<()> {
    let mut failed = None;
    model.for_each_linear_mut(&mut |name, linear| {
        if let (None, Weight::FakeQuantized(weight)) = (&failed, &mut linear.weight)
            && let Err(error) = weight.restore(&state_of(name))
        {
            failed = Some(Error::layer(name, error));
        }
    });
    failed.map_or(Ok(()), Err)
}

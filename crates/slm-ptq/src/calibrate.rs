//! Watching the inputs of layers to choose static activation parameters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use slm_nn::{ForwardHook, NamedLinears, attach_hook, detach_hooks, to_vec_f32};
use slm_quant_core::{Mapping, Observer, ObserverKind, QParams, QuantRange, TORCH_EPS};

use crate::{Error, Plan, Result};

/// What calibration saw of one layer's input, and the parameters it chose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationStats {
    /// Least value the observer goes by.
    pub min: f32,
    /// Greatest value the observer goes by.
    pub max: f32,
    /// Unsigned 8-bit affine parameters.
    pub qparams: QParams,
}

/// Static activation parameters of the planned layers, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// One entry for each planned layer.
    pub layers: BTreeMap<String, ActivationStats>,
}

/// Runs `forward` while every planned layer's input is observed, then chooses parameters.
///
/// `forward` runs the model on calibration text however it likes: any number of times, in batches of any
/// size. Memory grows with the number of layers, not with the text.
///
/// # Errors
/// [`Error::NotCalibrated`] for a planned layer that saw no input, [`Error::Layer`] for inputs that are not
/// finite, and whatever `forward` returns.
pub fn calibrate<M, E>(
    model: &mut M,
    plan: &Plan,
    observer: &ObserverKind,
    forward: impl FnOnce(&M) -> Result<(), E>,
) -> Result<Calibration, E>
where
    M: NamedLinears,
    E: From<Error>,
{
    calibrate_with(plan, observer, |hook| {
        attach_hook(model, hook);
        let outcome = forward(model);
        detach_hooks(model);
        outcome
    })
}

/// [`calibrate`] for a model that is not there as a whole: `forward` shows every layer to the hook, in any order.
///
/// # Errors
/// As [`calibrate`].
pub fn calibrate_with<E: From<Error>>(
    plan: &Plan,
    observer: &ObserverKind,
    forward: impl FnOnce(&Arc<dyn ForwardHook>) -> Result<(), E>,
) -> Result<Calibration, E> {
    let mut observers = BTreeMap::new();
    for layer in &plan.layers {
        let built = observer.build().map_err(|error| Error::layer(&layer.name, error))?;
        observers.insert(layer.name.clone(), built);
    }
    let hook = Arc::new(InputObservers(Mutex::new(Watched { observers, failed: None })));
    forward(&(Arc::clone(&hook) as Arc<dyn ForwardHook>))?;
    let mut watched = hook.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = watched.failed.take() {
        return Err(error.into());
    }
    let mut calibration = Calibration::default();
    for (name, observer) in &watched.observers {
        let Some((min, max)) = observer.bounds() else {
            return Err(Error::NotCalibrated { layer: name.clone() }.into());
        };
        let qparams = observer
            .qparams(QuantRange::UINT8, Mapping::Affine, TORCH_EPS)
            .map_err(|error| Error::layer(name, error))?;
        calibration.layers.insert(name.clone(), ActivationStats { min, max, qparams });
    }
    Ok(calibration)
}

/// One observer per planned layer; other layers pass unseen.
struct InputObservers(Mutex<Watched>);

struct Watched {
    observers: BTreeMap<String, Box<dyn Observer>>,
    /// The first input that was refused. A hook cannot return it.
    failed: Option<Error>,
}

impl ForwardHook for InputObservers {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, _: &Tensor<2>) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Watched { observers, failed } = &mut *watched;
        let Some(observer) = observers.get_mut(layer) else { return };
        let seen = to_vec_f32("input", input.clone())
            .and_then(|values| observer.observe(&values).map_err(slm_nn::Error::from));
        if let Err(error) = seen {
            failed.get_or_insert_with(|| Error::input(layer, error));
        }
    }
}

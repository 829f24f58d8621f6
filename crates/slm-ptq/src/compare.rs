//! How the outputs of two models differ, layer by layer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use slm_nn::{ForwardHook, NamedLinears, attach_hook, detach_hooks, linear_names, to_vec_f32};
use slm_quant_core::ErrorStats;

use crate::{Error, Result};

/// The difference of one layer's outputs in two models, over everything compared.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDifference {
    /// Name of the layer.
    pub name: String,
    /// Output of the second model against that of the first.
    pub error: ErrorStats,
}

/// Compares two models that have the same named linears, one input at a time.
///
/// What accumulates is a few sums per layer; while an input is compared, the outputs of all layers of one
/// model for it are held.
#[derive(Debug)]
pub struct LayerComparison {
    names: Vec<String>,
    errors: BTreeMap<String, ErrorStats>,
}

impl LayerComparison {
    /// A comparison of the layers that both models name.
    ///
    /// # Errors
    /// [`Error::DifferentModels`] when one names a layer that the other does not.
    pub fn new<A: NamedLinears + ?Sized, B: NamedLinears + ?Sized>(first: &A, second: &B) -> Result<Self> {
        let (names, others) = (linear_names(first), linear_names(second));
        let missing = |name: &String, detail: &str| {
            Err(Error::DifferentModels { layer: name.clone(), detail: detail.to_owned() })
        };
        if let Some(name) = names.iter().find(|name| !others.contains(name)) {
            return missing(name, "missing in the second");
        }
        if let Some(name) = others.iter().find(|name| !names.contains(name)) {
            return missing(name, "missing in the first");
        }
        Ok(Self { names, errors: BTreeMap::new() })
    }

    /// Runs one input through both models and takes in the differences.
    ///
    /// # Errors
    /// What `run_first` or `run_second` return, and [`Error::Layer`] for outputs that cannot be compared.
    pub fn observe<A: NamedLinears, B: NamedLinears, E: From<Error>, R>(
        &mut self,
        first: &mut A,
        second: &mut B,
        run_first: impl FnOnce(&A) -> Result<R, E>,
        run_second: impl FnOnce(&B) -> Result<R, E>,
    ) -> Result<(R, R), E> {
        let (result_first, outputs) = recorded(first, run_first)?;
        let (result_second, approximations) = recorded(second, run_second)?;
        for (name, output) in outputs {
            let approximation = approximations.get(&name).map_or(&[][..], Vec::as_slice);
            let stats = self.errors.entry(name.clone()).or_default();
            stats.observe(&output, approximation).map_err(|error| Error::layer(&name, error))?;
        }
        Ok((result_first, result_second))
    }

    /// The differences so far, in forward order.
    pub fn finish(mut self) -> Vec<LayerDifference> {
        let take = |name: String| {
            let error = self.errors.remove(&name).unwrap_or_default();
            LayerDifference { name, error }
        };
        self.names.into_iter().map(take).collect()
    }
}

type Outputs = BTreeMap<String, Vec<f32>>;

fn recorded<M: NamedLinears, R, E: From<Error>>(
    model: &mut M,
    run: impl FnOnce(&M) -> Result<R, E>,
) -> Result<(R, Outputs), E> {
    let recorder = Arc::new(Recorder(Mutex::new(Ok(Outputs::new()))));
    attach_hook(model, &(Arc::clone(&recorder) as Arc<dyn ForwardHook>));
    let result = run(model);
    detach_hooks(model);
    let result = result?;
    let mut outputs = recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((result, std::mem::replace(&mut *outputs, Ok(Outputs::new()))?))
}

struct Recorder(Mutex<Result<Outputs>>);

impl ForwardHook for Recorder {
    fn on_forward(&self, layer: &str, _: &Tensor<2>, output: &Tensor<2>) {
        let mut outputs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(recorded) = &mut *outputs else { return };
        match to_vec_f32("output", output.clone()) {
            Ok(values) => recorded.entry(layer.to_owned()).or_default().extend(values),
            Err(error) => *outputs = Err(Error::layer(layer, error)),
        }
    }
}

//! Differences between the outputs of two models, layer by layer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Tensor, TensorData};
use slm_nn::{ForwardHook, Linear, NamedLinears, attach_hook, detach_hooks, linear_names, to_vec_f32};
use slm_quant_core::ErrorStats;

use crate::{Error, Result};

/// The difference between one layer's outputs in two models, over all compared inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDifference {
    /// Name of the layer.
    pub name: String,
    /// Output of the second model against that of the first: the layer's own error plus the error that its input
    /// brings.
    pub error: ErrorStats,
    /// Output of the second model's layer against that of the first model's, both for the input that the first model gives it.
    pub own_error: ErrorStats,
}

/// Factors between the channels of a layer in two equivalent models, one of which was smoothed or equalized.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChannelFactors {
    /// Input of the second model's layer divided by that of the first model's, for each input channel; `None` for 1.
    pub input: Option<Vec<f32>>,
    /// The same for its output, for each output channel.
    pub output: Option<Vec<f32>>,
}

/// Compares two models that have the same named linears, one input at a time.
///
/// It accumulates a few sums per layer. While an input is compared, the outputs of all layers of one model are in
/// memory. Each layer of the second model also runs on the input of the first model's layer, which separates the
/// layer's own error from the inherited one.
#[derive(Debug)]
pub struct LayerComparison {
    names: Vec<String>,
    errors: BTreeMap<String, ErrorStats>,
    own_errors: BTreeMap<String, ErrorStats>,
    factors: Arc<Factors>,
}

/// Factors by layer name.
type Factors = BTreeMap<String, ChannelFactors>;

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
        Ok(Self { names, errors: BTreeMap::new(), own_errors: BTreeMap::new(), factors: Arc::default() })
    }

    /// Removes the factors between channels, given by layer name, from the comparison.
    pub fn with_factors(mut self, factors: BTreeMap<String, ChannelFactors>) -> Self {
        self.factors = Arc::new(factors);
        self
    }

    /// Runs one input through both models and adds the differences.
    ///
    /// # Errors
    /// Errors of `run_first` and `run_second`, and [`Error::Layer`] for outputs that cannot be compared, or for layers
    /// of different widths.
    pub fn observe<A: NamedLinears, B: NamedLinears, E: From<Error>, R>(
        &mut self,
        first: &mut A,
        second: &mut B,
        run_first: impl FnOnce(&A) -> Result<R, E>,
        run_second: impl FnOnce(&B) -> Result<R, E>,
    ) -> Result<(R, R), E> {
        let mut others = BTreeMap::new();
        second.for_each_linear(&mut |name, linear| drop(others.insert(name.to_owned(), linear.clone())));
        let factors = Arc::clone(&self.factors);
        let (result_first, Recorded { outputs, own_errors }) = recorded(first, others, factors, run_first)?;
        let (result_second, approximations) = recorded(second, BTreeMap::new(), Arc::default(), run_second)?;
        let mut approximations = approximations.outputs;
        for (name, error) in own_errors {
            self.own_errors.entry(name).or_default().merge(&error);
        }
        for (name, output) in outputs {
            let mut approximation = approximations.remove(&name).unwrap_or_default();
            divide(&mut approximation, self.factors.get(&name).and_then(|factors| factors.output.as_deref()));
            let stats = self.errors.entry(name.clone()).or_default();
            stats.observe(&output, &approximation).map_err(|error| Error::layer(&name, error))?;
        }
        Ok((result_first, result_second))
    }

    /// The differences so far, in forward order.
    pub fn finish(mut self) -> Vec<LayerDifference> {
        let take = |name: String| {
            let error = self.errors.remove(&name).unwrap_or_default();
            let own_error = self.own_errors.remove(&name).unwrap_or_default();
            LayerDifference { name, error, own_error }
        };
        self.names.into_iter().map(take).collect()
    }
}

/// Recorded results of one run of a model.
#[derive(Default)]
struct Recorded {
    /// Outputs of the layers, by name.
    outputs: BTreeMap<String, Vec<f32>>,
    /// Errors of the other model's layers on the same inputs, by name.
    own_errors: BTreeMap<String, ErrorStats>,
}

/// Divides rows by factors.
fn divide(rows: &mut [f32], factors: Option<&[f32]>) {
    if let Some(factors) = factors.filter(|factors| !factors.is_empty()) {
        for row in rows.chunks_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(value, factor)| *value /= factor);
        }
    }
}

/// Runs `model`, and runs each layer of `others` on the input of the layer of the same name times `factors`.
fn recorded<M: NamedLinears, R, E: From<Error>>(
    model: &mut M,
    others: BTreeMap<String, Linear>,
    factors: Arc<Factors>,
    run: impl FnOnce(&M) -> Result<R, E>,
) -> Result<(R, Recorded), E> {
    let recorder = Arc::new(Recorder { others, factors, recorded: Mutex::new(Ok(Recorded::default())) });
    attach_hook(model, &(Arc::clone(&recorder) as Arc<dyn ForwardHook>));
    let result = run(model);
    detach_hooks(model);
    let mut recorded = recorder.recorded.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((result?, std::mem::replace(&mut *recorded, Ok(Recorded::default()))?))
}

struct Recorder {
    others: BTreeMap<String, Linear>,
    factors: Arc<Factors>,
    recorded: Mutex<Result<Recorded>>,
}

impl Recorder {
    /// The output of a layer, and the error of the other layer of that name on the same input.
    fn observe(
        &self,
        layer: &str,
        input: &Tensor<2>,
        output: &Tensor<2>,
    ) -> Result<(Vec<f32>, Option<ErrorStats>)> {
        let fail = |error| Error::layer(layer, error);
        let values = to_vec_f32("output", output.clone()).map_err(fail)?;
        let Some(other) = self.others.get(layer) else { return Ok((values, None)) };
        let (wanted, [_, width]) = (other.in_features(), input.dims());
        if wanted != width {
            let detail = format!("of {width} inputs in the first, {wanted} in the second");
            return Err(Error::DifferentModels { layer: layer.to_owned(), detail });
        }
        let factors = self.factors.get(layer);
        let mut input = input.clone();
        if let Some(factors) = factors.and_then(|factors| factors.input.as_ref()) {
            let factors = TensorData::new(factors.clone(), [1, factors.len()]);
            let device = input.device();
            input = input * Tensor::from_data(factors, &device);
        }
        let mut other = to_vec_f32("output", other.forward(input)).map_err(fail)?;
        divide(&mut other, factors.and_then(|factors| factors.output.as_deref()));
        let mut error = ErrorStats::default();
        error.observe(&values, &other).map_err(|error| Error::layer(layer, error))?;
        Ok((values, Some(error)))
    }
}

impl ForwardHook for Recorder {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, output: &Tensor<2>) {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(so_far) = &mut *recorded else { return };
        match self.observe(layer, input, output) {
            Ok((values, own)) => {
                so_far.outputs.entry(layer.to_owned()).or_default().extend(values);
                if let Some(own) = own {
                    so_far.own_errors.entry(layer.to_owned()).or_default().merge(&own);
                }
            }
            Err(error) => *recorded = Err(error),
        }
    }
}

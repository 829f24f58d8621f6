//! Statistics of the inputs of layers, gathered while a model runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use rayon::prelude::*;
use slm_autograd::{Matrix, Precision, add_gram, matmul};
use slm_nn::{ForwardHook, to_vec_f32};
use slm_quant_core::{
    Hessian, InputDrift, Mapping, MinMaxObserver, Observer, ObserverKind, QuantRange, QuantizationType,
    TORCH_EPS,
};

use crate::calibrate::ActivationStats;
use crate::row_error::RowMagnitudes;
use crate::{Error, ObservedInputs, PtqConfig, Result};

/// Maximum mean square of a row of inputs, in multiples of the median of its window. The first position of a sequence
/// produces massive activations. The norm that follows weighs an error by its share of the residual stream, which is
/// just as massive there. With their full squares, a few such rows would outweigh the rest of the text.
const ROW_LIMIT: f32 = 4.0;

/// Rows of inputs whose products are computed together. Products are as large as the square of the inputs: with few rows
/// most of the time would go to adding them up.
const PRODUCT_ROWS: usize = 1024;

/// Second moments of the inputs of one layer.
#[derive(Debug, Clone, PartialEq)]
pub enum InputMoments {
    /// Mean square of each input feature.
    MeanSquares(Vec<f32>),
    /// Products of all pairs of input features.
    Hessian(Hessian),
}

impl InputMoments {
    /// Mean square of each input feature.
    ///
    /// # Errors
    /// [`slm_quant_core::Error::NothingObserved`] for a Hessian of no inputs.
    pub fn mean_squares(&self) -> slm_quant_core::Result<Vec<f32>> {
        match self {
            Self::MeanSquares(squares) => Ok(squares.clone()),
            Self::Hessian(hessian) => hessian.mean_squares(),
        }
    }
}

/// Statistics to gather for each layer, in addition to the mean squares of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gathering {
    /// Ranges for static activations.
    pub(crate) activations: bool,
    /// Products of all pairs of inputs, instead of the mean squares.
    pub(crate) hessians: bool,
    /// Drifts from the inputs of the float model, which must be observed before the inputs after quantized layers.
    pub(crate) drifts: bool,
}

impl Gathering {
    /// The statistics that `config` needs.
    pub(crate) fn of(config: &PtqConfig) -> Self {
        Self {
            activations: config.quantization_type == QuantizationType::Static,
            hessians: config.method.needs_hessians(),
            drifts: false,
        }
    }
}

/// A hook that gathers the inputs of each watched layer.
pub(crate) struct InputGatherer(Mutex<State>);

struct State {
    /// Statistics by layer; `None` for layers that saw no input yet.
    layers: BTreeMap<String, Option<Gathered>>,
    observer: ObserverKind,
    gathering: Gathering,
    /// The last rows of each width and their products, which the next layer may reuse.
    last: BTreeMap<usize, (Rows, Products)>,
    /// `true` while the float model runs.
    runs_float: bool,
    /// Inputs in the float model of layers that have yet to be observed after quantized layers.
    float_inputs: BTreeMap<String, Vec<f32>>,
    /// The error of the first rejected input, which a hook cannot return.
    failed: Option<Error>,
}

/// Statistics of one layer.
struct Gathered {
    activation: Option<Activations>,
    moments: Moments,
}

/// Statistics for the static range of an input.
struct Activations {
    observer: Box<dyn Observer>,
    extremes: MinMaxObserver,
    rows: RowMagnitudes,
}

impl Activations {
    fn new(observer: &ObserverKind) -> slm_quant_core::Result<Self> {
        let (extremes, rows) = (MinMaxObserver::default(), RowMagnitudes::default());
        Ok(Self { observer: observer.build()?, extremes, rows })
    }

    /// Adds rows of `inputs` values.
    fn observe(&mut self, values: &[f32], inputs: usize) -> slm_quant_core::Result<()> {
        let Self { observer, extremes, rows } = self;
        let (_, outcome) = rayon::join(|| rows.observe(values, inputs), || observer.observe(values));
        outcome?;
        extremes.observe(values)
    }

    fn finish(self, layer: &str) -> Result<ActivationStats> {
        let not_calibrated = || Error::NotCalibrated { layer: layer.to_owned() };
        let (min, max) = self.observer.bounds().ok_or_else(not_calibrated)?;
        let observed = self.extremes.bounds().ok_or_else(not_calibrated)?;
        let qparams = self
            .observer
            .qparams(QuantRange::UINT8, Mapping::Affine, TORCH_EPS)
            .map_err(|error| Error::layer(layer, error))?;
        let row_error = self.rows.relative_error(qparams);
        Ok(ActivationStats { min, max, observed, qparams, row_error })
    }
}

enum Moments {
    Squares { sums: Vec<f64>, samples: u64 },
    Hessian { hessian: Hessian, drift: Option<InputDrift>, rows: Rows },
}

/// Inputs `x'` of one layer whose products have yet to be computed. The rows of each window are weighted by
/// [`row_factors`].
#[derive(Default, PartialEq)]
struct Rows {
    inputs: usize,
    /// `x'`.
    seen: Vec<f32>,
    /// `x - x'`, where `x` are the inputs in the float model; empty for zeros.
    differences: Vec<f32>,
}

/// Products of [`Rows`], `[inputs, inputs]`, in memory that is reused.
#[derive(Default)]
struct Products {
    /// `x'ᵀ x'`.
    moments: Vec<f32>,
    /// The result of [`drift`](Self::drift); empty for `None`.
    drift: Vec<f32>,
}

impl InputGatherer {
    /// Watches `layers`.
    ///
    /// # Errors
    /// [`Error::Layer`] for parameters that the activation observer rejects.
    pub(crate) fn new<'a>(
        observer: &ObserverKind,
        gathering: Gathering,
        layers: impl Iterator<Item = &'a str>,
    ) -> Result<Arc<Self>> {
        let mut watched = BTreeMap::new();
        for layer in layers {
            if gathering.activations {
                observer.build().map_err(|error| Error::layer(layer, error))?;
            }
            watched.insert(layer.to_owned(), None);
        }
        let state = State {
            layers: watched,
            observer: *observer,
            gathering,
            last: BTreeMap::new(),
            runs_float: false,
            float_inputs: BTreeMap::new(),
            failed: None,
        };
        Ok(Arc::new(Self(Mutex::new(state))))
    }

    /// Sets whether the float model runs next.
    pub(crate) fn expect_float(&self, runs_float: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).runs_float = runs_float;
    }

    /// Takes the statistics of `layer` and frees their memory.
    ///
    /// # Errors
    /// The error of the first rejected input of any layer, such as [`Error::Layer`]; [`Error::NotCalibrated`] for a
    /// layer without input.
    pub(crate) fn take(&self, layer: &str) -> Result<ObservedInputs> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = std::mem::take(&mut state.last);
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let gathered = state.layers.get_mut(layer).and_then(Option::take);
        let mut gathered = gathered.ok_or_else(|| Error::NotCalibrated { layer: layer.to_owned() })?;
        gathered.moments.add_rows(&mut last).map_err(|error| Error::layer(layer, error))?;
        gathered.finish(layer)
    }
}

impl Gathered {
    fn new(observer: &ObserverKind, gathering: Gathering, inputs: usize) -> slm_quant_core::Result<Self> {
        let activation = match gathering.activations {
            true => Some(Activations::new(observer)?),
            false => None,
        };
        let moments = match gathering.hessians {
            false => Moments::Squares { sums: vec![0.0; inputs], samples: 0 },
            true => Moments::Hessian {
                hessian: Hessian::new(inputs),
                drift: gathering.drifts.then(|| InputDrift::new(inputs)),
                rows: Rows { inputs, ..Rows::default() },
            },
        };
        Ok(Self { activation, moments })
    }

    fn finish(self, layer: &str) -> Result<ObservedInputs> {
        let activation = self.activation.map(|activations| activations.finish(layer)).transpose()?;
        let (moments, drift) = match self.moments {
            Moments::Squares { sums, samples } => {
                let samples = samples.max(1) as f64;
                let squares = sums.into_iter().map(|sum| (sum / samples) as f32).collect();
                (InputMoments::MeanSquares(squares), None)
            }
            Moments::Hessian { hessian, drift, .. } => (InputMoments::Hessian(hessian), drift),
        };
        Ok(ObservedInputs { activation, moments, drift })
    }
}

impl State {
    fn observe(&mut self, layer: &str, input: &Tensor<2>) -> slm_nn::Result<()> {
        let Self { layers, observer, gathering, last, runs_float, float_inputs, .. } = self;
        let Some(gathered) = layers.get_mut(layer) else { return Ok(()) };
        let [rows, inputs] = input.dims();
        if rows == 0 {
            return Ok(());
        }
        let values = to_vec_f32("input", input.clone())?;
        slm_quant_core::check_finite("input", &values)?;
        if *runs_float {
            float_inputs.insert(layer.to_owned(), values);
            return Ok(());
        }
        let float = float_inputs.remove(layer);
        let gathered = match gathered {
            Some(gathered) => gathered,
            None => gathered.insert(Gathered::new(observer, *gathering, inputs)?),
        };
        if let Some(activations) = &mut gathered.activation {
            activations.observe(&values, inputs)?;
        }
        match &mut gathered.moments {
            Moments::Squares { sums, samples } => {
                for (row, factor) in values.chunks_exact(inputs).zip(row_factors(&values, inputs)) {
                    for (sum, x) in sums.iter_mut().zip(row) {
                        *sum += f64::from(x * factor) * f64::from(x * factor);
                    }
                }
                *samples += rows as u64;
            }
            Moments::Hessian { rows: gathered_rows, .. } => {
                gathered_rows.push(values, float);
                if gathered_rows.count() >= PRODUCT_ROWS {
                    gathered.moments.add_rows(last)?;
                }
            }
        }
        Ok(())
    }
}

impl Moments {
    /// Adds the products of gathered rows, which may be those of the last rows of that width.
    fn add_rows(&mut self, last: &mut BTreeMap<usize, (Rows, Products)>) -> slm_quant_core::Result<()> {
        let Self::Hessian { hessian, drift, rows } = self else { return Ok(()) };
        let (inputs, count) = (rows.inputs, rows.count());
        if count == 0 {
            return Ok(());
        }
        let (last, products) = last.entry(inputs).or_default();
        // Several layers of a block read the same.
        if last != rows {
            products.set(rows);
            std::mem::swap(last, rows);
        }
        rows.clear(inputs);
        hessian.add_product(&products.moments, count)?;
        match drift {
            Some(drift) => drift.add_product(products.drift(), count),
            None => Ok(()),
        }
    }
}

/// Factors that scale the rows of `values` with a mean square above [`ROW_LIMIT`] times the median down to that limit.
fn row_factors(values: &[f32], inputs: usize) -> Vec<f32> {
    let squares: Vec<f32> = values.chunks_exact(inputs).map(|row| row.iter().map(|x| x * x).sum()).collect();
    let mut sorted = squares.clone();
    sorted.sort_by(f32::total_cmp);
    let limit = sorted.get(sorted.len() / 2).map_or(f32::INFINITY, |median| ROW_LIMIT * median);
    let factor = |&square: &f32| if square > limit && limit > 0.0 { (limit / square).sqrt() } else { 1.0 };
    squares.iter().map(factor).collect()
}

impl Rows {
    fn count(&self) -> usize {
        self.seen.len() / self.inputs.max(1)
    }

    /// Adds the rows `values` of a window. `float` are those of the float model.
    fn push(&mut self, values: Vec<f32>, float: Option<Vec<f32>>) {
        let (inputs, start) = (self.inputs, self.seen.len());
        let factors = row_factors(&values, inputs);
        self.seen.extend_from_slice(&values);
        let seen = &mut self.seen[start..];
        seen.par_chunks_exact_mut(inputs)
            .zip(&factors)
            .for_each(|(row, factor)| row.iter_mut().for_each(|x| *x *= factor));
        match float.filter(|float| *float != values) {
            Some(mut float) => {
                let rows = values.par_chunks_exact(inputs).zip(seen.par_chunks_exact(inputs));
                float
                    .par_chunks_exact_mut(inputs)
                    .zip(rows)
                    .zip(&factors)
                    .for_each(|((float, (row, seen)), factor)| shorten(float, row, *factor, length(seen)));
                self.differences.resize(start, 0.0);
                self.differences.append(&mut float);
            }
            None if !self.differences.is_empty() => self.differences.resize(self.seen.len(), 0.0),
            None => {}
        }
    }

    /// Forgets the rows, but keeps their memory for rows of `inputs`.
    fn clear(&mut self, inputs: usize) {
        self.inputs = inputs;
        self.seen.clear();
        self.differences.clear();
    }
}

impl Products {
    /// Computes the products of `rows`.
    fn set(&mut self, rows: &Rows) {
        let (inputs, count) = (rows.inputs, rows.count());
        let seen = Matrix::new(&rows.seen, count, inputs);
        self.moments.clear();
        self.moments.resize(inputs * inputs, 0.0);
        add_gram(seen, &mut self.moments);
        self.drift.clear();
        if !rows.differences.is_empty() {
            let differences = Matrix::new(&rows.differences, count, inputs).transpose();
            self.drift = matmul(Precision::F32, differences, seen);
        }
    }

    /// `(x - x')ᵀ x'`; `None` for zeros, or if drifts are not gathered.
    fn drift(&self) -> Option<&[f32]> {
        (!self.drift.is_empty()).then_some(&self.drift)
    }
}

/// Replaces a row `x` by its difference from `seen`, times `factor`, with a length of at most `most`. If a massive
/// activation appears in only one of the models, the difference is just as massive and would outweigh the text.
fn shorten(x: &mut [f32], seen: &[f32], factor: f32, most: f32) {
    x.iter_mut().zip(seen).for_each(|(x, seen)| *x = (*x - seen) * factor);
    let length = length(x);
    if length > most {
        x.iter_mut().for_each(|x| *x *= most / length);
    }
}

fn length(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

impl ForwardHook for InputGatherer {
    fn on_forward(&self, layer: &str, input: &Tensor<2>, _: &Tensor<2>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = state.observe(layer, input) {
            state.failed.get_or_insert_with(|| Error::input(layer, error));
        }
    }

    fn reads_output(&self) -> bool {
        false
    }
}

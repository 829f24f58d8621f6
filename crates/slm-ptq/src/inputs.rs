//! What is gathered of the inputs of layers while a model runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Tensor, TensorData};
use slm_nn::{ForwardHook, to_vec_f32};
use slm_quant_core::{Hessian, Mapping, Observer, ObserverKind, QuantRange, QuantizationType, TORCH_EPS};

use crate::calibrate::ActivationStats;
use crate::row_error::RowMagnitudes;
use crate::{Error, ObservedInputs, PtqConfig, Result};

/// Columns of a block of second moments. Wide enough for a fast product, and narrow enough to save most of the half
/// below the diagonal.
const MOMENT_BLOCK: usize = 192;

/// Most that a row of inputs counts, in multiples of the median of its window. The first position of a sequence makes
/// massive activations. What follows is a norm, for which an error counts by its share of the residual stream, and that is
/// as massive there; with their full square, a few such rows would outweigh the text.
const ROW_LIMIT: f32 = 4.0;

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

/// Statistics to gather of each layer, next to the mean squares of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gathering {
    /// Ranges for static activations.
    pub(crate) activations: bool,
    /// Products of all pairs of inputs, in place of the mean squares.
    pub(crate) hessians: bool,
}

impl Gathering {
    /// The statistics that `config` needs.
    pub(crate) fn of(config: &PtqConfig) -> Self {
        Self {
            activations: config.quantization_type == QuantizationType::Static,
            hessians: config.method.needs_hessians(),
        }
    }
}

/// A hook that gathers the inputs of each watched layer.
pub(crate) struct InputGatherer(Mutex<State>);

struct State {
    /// What is gathered, and nothing yet for layers that saw no input.
    layers: BTreeMap<String, Option<Gathered>>,
    observer: ObserverKind,
    gathering: Gathering,
    /// The last input and its product, which the next layer may share.
    last: Option<(Vec<f32>, Vec<f32>)>,
    /// The first input that was refused. A hook cannot return it.
    failed: Option<Error>,
}

/// Of one layer.
struct Gathered {
    activation: Option<(Box<dyn Observer>, RowMagnitudes)>,
    moments: Moments,
}

enum Moments {
    Squares { sums: Vec<f64>, samples: u64 },
    Hessian(Hessian),
}

impl InputGatherer {
    /// Watches `layers`.
    ///
    /// # Errors
    /// [`Error::Layer`] for parameters that the activation observer refuses.
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
        let state = State { layers: watched, observer: *observer, gathering, last: None, failed: None };
        Ok(Arc::new(Self(Mutex::new(state))))
    }

    /// Takes what was gathered of `layer`, whose memory is then free.
    ///
    /// # Errors
    /// [`Error::Layer`] for the first input that was refused, of whatever layer; [`Error::NotCalibrated`] for a layer
    /// that saw none.
    pub(crate) fn take(&self, layer: &str) -> Result<ObservedInputs> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last = None;
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        let gathered = state.layers.get_mut(layer).and_then(Option::take);
        gathered.ok_or_else(|| Error::NotCalibrated { layer: layer.to_owned() })?.finish(layer)
    }
}

impl Gathered {
    fn new(observer: &ObserverKind, gathering: Gathering, inputs: usize) -> slm_quant_core::Result<Self> {
        let activation = match gathering.activations {
            true => Some((observer.build()?, RowMagnitudes::default())),
            false => None,
        };
        let moments = match gathering.hessians {
            false => Moments::Squares { sums: vec![0.0; inputs], samples: 0 },
            true => Moments::Hessian(Hessian::new(inputs)),
        };
        Ok(Self { activation, moments })
    }

    fn finish(self, layer: &str) -> Result<ObservedInputs> {
        let fail = |error| Error::layer(layer, error);
        let activation = match self.activation {
            None => None,
            Some((observer, rows)) => {
                let bounds = observer.bounds();
                let (min, max) = bounds.ok_or_else(|| Error::NotCalibrated { layer: layer.to_owned() })?;
                let qparams =
                    observer.qparams(QuantRange::UINT8, Mapping::Affine, TORCH_EPS).map_err(fail)?;
                Some(ActivationStats { min, max, qparams, row_error: rows.relative_error(qparams) })
            }
        };
        let moments = match self.moments {
            Moments::Squares { sums, samples } => {
                let samples = samples.max(1) as f64;
                InputMoments::MeanSquares(sums.into_iter().map(|sum| (sum / samples) as f32).collect())
            }
            Moments::Hessian(hessian) => InputMoments::Hessian(hessian),
        };
        Ok(ObservedInputs { activation, moments })
    }
}

impl State {
    fn observe(&mut self, layer: &str, input: &Tensor<2>) -> slm_nn::Result<()> {
        let Self { layers, observer, gathering, last, .. } = self;
        let Some(gathered) = layers.get_mut(layer) else { return Ok(()) };
        let [rows, inputs] = input.dims();
        let values = to_vec_f32("input", input.clone())?;
        slm_quant_core::check_finite("input", &values)?;
        let gathered = match gathered {
            Some(gathered) => gathered,
            None => gathered.insert(Gathered::new(observer, *gathering, inputs)?),
        };
        if let Some((observer, magnitudes)) = &mut gathered.activation {
            rayon::join(|| magnitudes.observe(&values, inputs), || observer.observe(&values)).1?;
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
            Moments::Hessian(hessian) => {
                let (_, product) = match last.take() {
                    Some(shared) if shared.0 == values => last.insert(shared),
                    _ => {
                        let rows = limited(input, &values);
                        last.insert((values, second_moments(&rows)?))
                    }
                };
                hessian.add_product(product, rows)?;
            }
        }
        Ok(())
    }
}

/// Factors that bring the rows of `values` whose mean square is above [`ROW_LIMIT`] times the median down to it.
fn row_factors(values: &[f32], inputs: usize) -> Vec<f32> {
    let squares: Vec<f32> = values.chunks_exact(inputs).map(|row| row.iter().map(|x| x * x).sum()).collect();
    let mut sorted = squares.clone();
    sorted.sort_by(f32::total_cmp);
    let limit = sorted.get(sorted.len() / 2).map_or(f32::INFINITY, |median| ROW_LIMIT * median);
    let factor = |&square: &f32| if square > limit && limit > 0.0 { (limit / square).sqrt() } else { 1.0 };
    squares.iter().map(factor).collect()
}

/// `input` with the [`row_factors`] of its `values`.
fn limited(input: &Tensor<2>, values: &[f32]) -> Tensor<2> {
    let [rows, inputs] = input.dims();
    let factors = row_factors(values, inputs);
    if factors.iter().all(|factor| *factor == 1.0) {
        return input.clone();
    }
    let factors = Tensor::<2>::from_data(TensorData::new(factors, [rows, 1]), &input.device());
    input.clone() * factors
}

/// `xᵀ x` of the rows of `input`, `[inputs, inputs]`: the columns up to the diagonal block by block, the others by
/// symmetry.
fn second_moments(input: &Tensor<2>) -> slm_nn::Result<Vec<f32>> {
    let [_, inputs] = input.dims();
    let mut product = vec![0.0; inputs * inputs];
    for start in (0..inputs).step_by(MOMENT_BLOCK) {
        let width = MOMENT_BLOCK.min(inputs - start);
        let upper = input.clone().narrow(1, 0, start + width).transpose();
        let block = to_vec_f32("product of inputs", upper.matmul(input.clone().narrow(1, start, width)))?;
        for (row, values) in block.chunks_exact(width).enumerate() {
            product[row * inputs + start..][..width].copy_from_slice(values);
            for (column, value) in (start..).zip(values) {
                product[column * inputs + row] = *value;
            }
        }
    }
    Ok(product)
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

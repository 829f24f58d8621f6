//! Fake quantization of activations on the grid that a packed linear layer would use.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use rayon::prelude::*;
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Mapping, ObserverKind, QParams, QuantRange, Result, TORCH_EPS,
    choose_qparams, choose_qparams_dynamic,
};

use crate::errors::Reporter;
use crate::fake_quant::fake_quantizer::FakeQuantizer;
use crate::fake_quant::{device, ops};
use crate::{QatStage, SharedQatStage, on_cpu};

/// Minimum number of values for which finding ranges on several threads pays.
const PARALLEL_VALUES: usize = 1 << 16;

/// Treatment of the input of a fake-quantized layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FakeQuantizedInput {
    /// The same treatment as in a packed layer with these settings.
    Fixed(ActivationQuant),
    /// Static: one scale and zero point, whose range follows the training batches as a moving average, as with
    /// PyTorch's default observer in quantization-aware training.
    Observed {
        /// Weight of a new batch, in (0, 1].
        averaging_constant: f32,
    },
}

impl From<ActivationQuant> for FakeQuantizedInput {
    fn from(quant: ActivationQuant) -> Self {
        Self::Fixed(quant)
    }
}

/// Rounds `x` to its codes and returns their values. Gradients pass straight through, except where a value lies outside
/// the representable range.
///
/// On the CPU devices codes are exactly those of [`slm_kernels::quantize_activations`]; on other devices ranges are
/// computed in 32-bit instead of 64-bit floats. Values that are not finite give NaN.
///
/// # Shapes
/// - `x`, output: `[rows, features]`
pub fn fake_quantize_activation(x: Tensor<2>, activation: ActivationQuant) -> Tensor<2> {
    let ranges = InputRanges::new(activation.into(), SharedQatStage::default(), None);
    Arc::new(ranges).apply(x, &Reporter::default())
}

/// Chooses the grid of a layer's input during training.
#[derive(Debug)]
pub(crate) struct InputRanges {
    quant: FakeQuantizedInput,
    stage: SharedQatStage,
    /// Observed bounds.
    bounds: Mutex<ObservedBounds>,
}

/// A moving average of bounds: on the host, or on the device of the activations.
#[derive(Debug, Clone, Default)]
pub(crate) enum ObservedBounds {
    #[default]
    Nothing,
    Host((f32, f32)),
    /// Two tensors of shape `[1, 1]`.
    Device(Box<[Tensor<2>; 2]>),
}

impl InputRanges {
    pub(crate) fn new(quant: FakeQuantizedInput, stage: SharedQatStage, bounds: Option<(f32, f32)>) -> Self {
        let bounds = bounds.map_or(ObservedBounds::Nothing, ObservedBounds::Host);
        Self { quant, stage, bounds: Mutex::new(bounds) }
    }

    pub(crate) fn quant(&self) -> FakeQuantizedInput {
        self.quant
    }

    /// Returns `true` if inputs are not quantized.
    pub(crate) fn is_float(&self) -> bool {
        self.quant == FakeQuantizedInput::Fixed(ActivationQuant::Float)
    }

    /// Bounds observed so far, read back if they are on a device.
    pub(crate) fn bounds(&self) -> Option<(f32, f32)> {
        match self.lock().clone() {
            ObservedBounds::Nothing => None,
            ObservedBounds::Host(bounds) => Some(bounds),
            ObservedBounds::Device(bounds) => Some(read(&bounds)),
        }
    }

    /// Treatment of the input that a packed layer needs to match this one; `None` before anything was observed.
    ///
    /// # Errors
    /// [`slm_quant_core::Error::NotFinite`] for observed bounds that are not finite.
    pub(crate) fn activation(&self) -> Result<Option<ActivationQuant>> {
        match self.quant {
            FakeQuantizedInput::Fixed(quant) => Ok(Some(quant)),
            FakeQuantizedInput::Observed { .. } => {
                let params = self.bounds().map(|(min, max)| static_params(min, max)).transpose()?;
                Ok(params.map(ActivationQuant::Static))
            }
        }
    }

    /// Rounds `x`, or returns it unchanged if the stage or the settings say so. An error gives NaN and is reported.
    pub(crate) fn apply(self: &Arc<Self>, x: Tensor<2>, errors: &Reporter) -> Tensor<2> {
        let [rows, cols] = x.dims();
        if rows == 0 || cols == 0 || self.is_float() {
            return x;
        }
        let observing = self.stage.get() == QatStage::Observe;
        let untouched = observing.then(|| x.clone());
        if untouched.is_some()
            && (matches!(self.quant, FakeQuantizedInput::Fixed(_)) || !x.device().is_autodiff())
        {
            return x;
        }
        let rounded = if on_cpu(&x.device()) {
            ops::fake_quantize_input(x, self, errors)
        } else {
            device::fake_quantize_input(x, self)
        };
        untouched.unwrap_or(rounded)
    }

    /// Averaging constant if a training batch changes the observed range; `None` otherwise.
    pub(crate) fn observes(&self, training: bool) -> Option<f32> {
        match self.quant {
            FakeQuantizedInput::Observed { averaging_constant }
                if training && self.stage.get() != QatStage::Frozen =>
            {
                Some(averaging_constant)
            }
            _ => None,
        }
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, ObservedBounds> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The grid for the input `x`. Only a training step changes the observed bounds.
    pub(crate) fn fake_quantizer(&self, x: &[f32], cols: usize, training: bool) -> Result<FakeQuantizer> {
        let params = match self.quant {
            FakeQuantizedInput::Fixed(ActivationQuant::Static(params)) => vec![params],
            FakeQuantizedInput::Fixed(ActivationQuant::Dynamic(ActivationGranularity::PerToken)) => {
                if x.len() >= PARALLEL_VALUES {
                    x.par_chunks(cols).map(dynamic_params).collect::<Result<_>>()?
                } else {
                    x.chunks(cols).map(dynamic_params).collect::<Result<_>>()?
                }
            }
            FakeQuantizedInput::Fixed(_) => vec![dynamic_params(x)?],
            FakeQuantizedInput::Observed { .. } => vec![self.observed_params(x, training)?],
        };
        Ok(FakeQuantizer::of_activations(cols, params))
    }

    fn observed_params(&self, x: &[f32], training: bool) -> Result<QParams> {
        let mut bounds = self.lock();
        let known = match &*bounds {
            ObservedBounds::Host(known) => Some(*known),
            // Ranges that were observed on another device.
            ObservedBounds::Device(bounds) => Some(read(bounds)),
            ObservedBounds::Nothing => None,
        };
        let (min, max) = match (known, self.observes(training)) {
            (Some(known), None) => known,
            (None, _) => range_of(x)?,
            (Some(known), Some(constant)) => crate::fake_quant::moved(&[known], &[range_of(x)?], constant)[0],
        };
        let params = static_params(min, max)?;
        if training {
            *bounds = ObservedBounds::Host((min, max));
        }
        Ok(params)
    }
}

fn read(bounds: &[Tensor<2>; 2]) -> (f32, f32) {
    (bounds[0].clone().into_scalar::<f32>(), bounds[1].clone().into_scalar::<f32>())
}

/// Parameters of static activations in the range `[min, max]`, as calibration chooses them.
fn static_params(min: f32, max: f32) -> Result<QParams> {
    choose_qparams(min, max, QuantRange::UINT8, Mapping::Affine, TORCH_EPS)
}

fn range_of(x: &[f32]) -> Result<(f32, f32)> {
    ObserverKind::MinMax.choose_range(x, QuantRange::UINT8, Mapping::Affine, TORCH_EPS)
}

fn dynamic_params(x: &[f32]) -> Result<QParams> {
    let (lo, hi) = range_of(x)?;
    choose_qparams_dynamic(lo, hi, QuantRange::UINT8)
}

//! Errors of layers in forward and backward passes, which return tensors, not results.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, NamedLinears, Weight};

/// An error in the forward or backward pass of a layer.
#[derive(Debug, thiserror::Error)]
#[error("{place} of layer {layer}: {source}")]
pub struct LayerError {
    /// Name of the layer.
    pub layer: String,
    /// The values at fault.
    pub place: Place,
    /// Error found in them.
    pub source: Error,
}

/// The values of a layer that an operation rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The input.
    Input,
    /// The weight, or its scales.
    Weight,
    /// The gradient with respect to input, weight or scales.
    Gradient,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Weight => "weight",
            Self::Gradient => "gradient",
        })
    }
}

/// The first error of a model's layers. Clones share one slot.
///
/// A layer that cannot compute, because a scale does not fit its type or a value is not finite, gives NaN and puts the
/// reason here. [`report_errors`] connects the layers of a model to a slot. Call [`ErrorSlot::check`] after each pass
/// of the model.
///
/// On devices with their own memory no value is read back for checks: NaN spreads, and the slot stays empty.
///
/// ```
/// use burn::{module::Module, tensor::{Device, Tensor}};
/// use slm_nn::{
///     ErrorSlot, FakeQuantizedWeight, Linear, LinearConfig, NamedLinears, SharedQatStage, Weight, report_errors,
/// };
/// use slm_quant_core::{ActivationGranularity, ActivationQuant, Bits, ObserverKind, QuantScheme};
///
/// #[derive(Module, Debug)]
/// struct Net { head: Linear }
///
/// impl NamedLinears for Net {
///     fn for_each_linear(&self, visit: &mut dyn FnMut(&str, &Linear)) { visit("head", &self.head) }
///     fn for_each_linear_mut(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) { visit("head", &mut self.head) }
/// }
///
/// let device = Device::flex();
/// let mut net = Net { head: LinearConfig::new(4, 2).init(0.5, &device) };
/// let Weight::Float(weight) = net.head.weight.clone() else { unreachable!() };
/// net.head.weight = Weight::FakeQuantized(FakeQuantizedWeight::new(
///     weight,
///     QuantScheme::per_tensor(Bits::Int8),
///     ObserverKind::MinMax,
///     ActivationQuant::Dynamic(ActivationGranularity::PerToken),
///     &SharedQatStage::default(),
/// )?);
/// let errors = ErrorSlot::default();
/// report_errors(&mut net, &errors);
///
/// net.head.forward(Tensor::<2>::from_data([[1.0, f32::NAN, 0.0, 2.0]], &device));
/// let error = errors.check().unwrap_err();
/// assert!(error.to_string().starts_with("input of layer head: "), "{error}");
/// assert!(errors.check().is_ok(), "an error is given once");
/// # Ok::<(), slm_nn::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ErrorSlot(Arc<Mutex<Option<LayerError>>>);

impl ErrorSlot {
    /// Takes the error out of the slot.
    ///
    /// # Errors
    /// The first error since the last call.
    pub fn check(&self) -> Result<(), LayerError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// Makes every quantized and fake-quantized linear of `module` report to `slot`.
pub fn report_errors<M: NamedLinears + ?Sized>(module: &mut M, slot: &ErrorSlot) {
    module.for_each_linear_mut(&mut |name, linear| {
        let reporter = || Reporter(Some(Arc::new(Named { layer: name.to_owned(), slot: slot.clone() })));
        match &mut linear.weight {
            Weight::Float(_) => {}
            Weight::FakeQuantized(weight) => weight.set_reporter(reporter()),
            Weight::Packed(weight) => weight.set_reporter(reporter()),
            Weight::QuantizedTrainable(weight) => weight.set_reporter(reporter()),
        }
    });
}

/// A layer's access to the slot of its model; `None` for a layer that is not connected to a slot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reporter(Option<Arc<Named>>);

#[derive(Debug)]
struct Named {
    layer: String,
    slot: ErrorSlot,
}

impl Reporter {
    /// Stores `error` unless the slot already has one.
    pub(crate) fn report(&self, place: Place, error: impl Into<Error>) {
        if let Some(Named { layer, slot }) = self.0.as_deref() {
            let mut slot = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert_with(|| LayerError { layer: layer.clone(), place, source: error.into() });
        }
    }

    /// The value of `result`; `None` for an error, which is reported.
    pub(crate) fn ok<T>(&self, place: Place, result: slm_quant_core::Result<T>) -> Option<T> {
        result.map_err(|error| self.report(place, error)).ok()
    }

    /// The values of `result`; `len` times NaN for an error, which is reported.
    pub(crate) fn or_nan(
        &self,
        place: Place,
        result: slm_quant_core::Result<Vec<f32>>,
        len: usize,
    ) -> Vec<f32> {
        self.ok(place, result).unwrap_or_else(|| vec![f32::NAN; len])
    }
}

//! Weights that are rounded to a quantization grid in every forward pass, with a straight-through gradient.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use slm_quant_core::{
    ActivationQuant, ObserverKind, QuantScheme, QuantizedMatrix, fake_quantize_mask, quantize_matrix,
};

use crate::activation::{fake_quantize_activation, straight_through};
use crate::{Error, Result, to_vec_f32};

/// Float weights `[out_features, in_features]` that act as their quantized selves.
///
/// Every forward pass quantizes the present weights by the very code that converts a layer, so that what
/// the fake-quantized layer computes is what the converted one stores.
#[derive(Module, Debug)]
pub struct FakeQuantizedWeight {
    weight: Param<Tensor<2>>,
    #[module(skip)]
    scheme: QuantScheme,
    #[module(skip)]
    observer: ObserverKind,
    #[module(skip)]
    activation: ActivationQuant,
}

impl FakeQuantizedWeight {
    /// Prepares `weight`: rounded by `scheme` with ranges from `observer`, its input by `activation`.
    ///
    /// # Errors
    /// [`Error::Core`] when the scheme does not fit the shape or the weights are not finite.
    pub fn new(
        weight: Param<Tensor<2>>,
        scheme: QuantScheme,
        observer: ObserverKind,
        activation: ActivationQuant,
    ) -> Result<Self> {
        let prepared = Self { weight, scheme, observer, activation };
        prepared.quantize()?;
        Ok(prepared)
    }

    /// `[out_features, in_features]`.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }

    /// The weights as they are trained, before rounding.
    pub fn float_weight(&self) -> Tensor<2> {
        self.weight.val()
    }

    /// How weights are quantized.
    pub fn scheme(&self) -> QuantScheme {
        self.scheme
    }

    /// How the input is quantized.
    pub fn activation(&self) -> ActivationQuant {
        self.activation
    }

    /// The present weights, quantized: what conversion stores.
    ///
    /// # Errors
    /// [`Error::Core`] when the weights are not finite.
    pub fn quantize(&self) -> Result<QuantizedMatrix> {
        let [rows, cols] = self.dims();
        let values = to_vec_f32("weight", self.weight.val())?;
        Ok(quantize_matrix(&values, rows, cols, self.scheme, &self.observer)?)
    }

    /// `x W^T` with rounded input and weights.
    ///
    /// # Panics
    /// When a weight is not finite: a training loop must stop at the step that made it so.
    pub(crate) fn matmul(&self, x: Tensor<2>) -> Tensor<2> {
        let weight = match fake_quantize(self.weight.val(), self.scheme, &self.observer) {
            Ok(weight) => weight,
            Err(error) => panic!("fake-quantized linear: {error}"),
        };
        fake_quantize_activation(x, self.activation).matmul(weight.transpose())
    }
}

/// `dequantize(quantize(weight))`, whose gradient is that of `weight` where the grid reaches and zero where
/// a weight was clipped (straight-through estimator, Bengio et al. 2013, arXiv:1308.3432).
///
/// Ranges are chosen on the host by `slm-quant-core`: on a device with memory of its own the weights are
/// read back and the result is uploaded.
///
/// # Shapes
/// - `weight`, output: `[rows, cols]`
///
/// # Errors
/// [`Error::Core`] when the scheme does not fit the shape or a weight is not finite.
pub fn fake_quantize(weight: Tensor<2>, scheme: QuantScheme, observer: &ObserverKind) -> Result<Tensor<2>> {
    let [rows, cols] = weight.dims();
    let device = weight.device();
    let values = to_vec_f32("weight", weight.clone())?;
    let quantized = quantize_matrix(&values, rows, cols, scheme, observer)?;
    let rounded = Tensor::from_data(TensorData::new(quantized.dequantize(), [rows, cols]), &device);
    if !device.is_autodiff() {
        return Ok(rounded);
    }
    let inside = inside_mask(&values, &quantized)?;
    let inside = Tensor::from_data(TensorData::new(inside, [rows, cols]), &device);
    Ok(straight_through(weight, rounded, || inside))
}

/// 1.0 where the grid reaches a weight, 0.0 where it was clipped.
fn inside_mask(values: &[f32], quantized: &QuantizedMatrix) -> Result<Vec<f32>, Error> {
    let mut inside = Vec::with_capacity(values.len());
    for (row, values) in values.chunks(quantized.cols()).enumerate() {
        for (group, values) in values.chunks(quantized.group_width()).enumerate() {
            let params = quantized.qparams(quantized.scale_index(row, group));
            let mask = fake_quantize_mask(values, params, quantized.scheme().range())?;
            inside.extend(mask.into_iter().map(|inside| f32::from(u8::from(inside))));
        }
    }
    Ok(inside)
}

//! Conversion from and to Burn's own linear layer.

use burn::module::Param;
use burn::tensor::{DType, Tensor};

use crate::{Error, Linear, Result, Weight, widened};

/// A float layer with the values of Burn's layer, whose weight is stored transposed: `[in_features, out_features]`.
/// Ids, gradient settings and devices are kept. A reparameterization such as LoRA is folded into the weight.
impl From<burn::nn::Linear> for Linear {
    fn from(linear: burn::nn::Linear) -> Self {
        Self::with_params(Weight::Float(transposed(linear.weight)), linear.bias)
    }
}

/// Burn's layer with the values of a float layer.
///
/// # Errors
/// [`Error::AlreadyPacked`] for packed weights, whose codes a float layer cannot hold, and [`Error::NotFloat`] for a
/// fake-quantized layer, which computes differently from Burn's.
impl TryFrom<Linear> for burn::nn::Linear {
    type Error = Error;

    fn try_from(linear: Linear) -> Result<Self> {
        match linear.weight {
            Weight::Float(weight) => Ok(Self { weight: transposed(weight), bias: linear.bias }),
            Weight::FakeQuantized(_) => Err(Error::NotFloat),
            Weight::Packed(_) | Weight::QuantizedTrainable(_) => Err(Error::AlreadyPacked),
        }
    }
}

/// A parameter that holds the transpose of `param`, row-major.
fn transposed(param: Param<Tensor<2>>) -> Param<Tensor<2>> {
    let require_grad = param.base().is_require_grad();
    let value = widened(param.val()).detach();
    let device = value.device();
    let dtype: DType = value.dtype();
    // Read back, so that rows are contiguous in memory instead of a view.
    let value = Tensor::from_data(value.transpose().into_data(), (&device, dtype));
    let (id, _, mapper) = param.consume();
    // Burn's column layout transposes when it is saved or loaded; that has already been done here.
    Param::from_mapped_value(id, value.set_require_grad(require_grad), mapper)
        .load_mapper(|tensor| tensor)
        .save_mapper(|tensor| tensor)
}

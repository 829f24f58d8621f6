//! Sources of the weights of a model.

use burn::tensor::{Device, Tensor, TensorData};
use slm_nn::{Linear, Weight};

use crate::error::{Error, Result, SourceError};
use crate::names::LinearShape;

/// Provides the tensors of a model one at a time, so that at most one exists outside the model.
///
/// Names are the canonical ones of [`expected_tensors`](crate::expected_tensors). Every tensor is requested exactly
/// once, in that order, so a source can tell afterwards which of its tensors were not used.
pub trait TensorSource {
    /// Shape of the float tensor `name`; `None` if there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Values of the float tensor `name`, row-major, as f32.
    ///
    /// # Errors
    /// Whatever keeps the source from reading it.
    fn take_f32(&mut self, name: &str, expected_shape: &[usize]) -> Result<Vec<f32>, SourceError>;

    /// Values of the float tensor `name` as 16-bit floats, of type F16 or BF16, for a model that keeps them in that type.
    /// `None`, the default, if they must be 32-bit floats; [`take_f32`](Self::take_f32) is called then.
    ///
    /// # Errors
    /// Whatever keeps the source from reading them.
    fn take_halves(
        &mut self,
        _name: &str,
        _expected_shape: &[usize],
    ) -> Result<Option<TensorData>, SourceError> {
        Ok(None)
    }

    /// Weights of the linear layer `name` (a path without `.weight`) of shape `[out_features, in_features]`
    /// if they are stored quantized; `None`, the default, if they are float.
    ///
    /// The token embedding is requested in the same way, before its float tensor: under the name of the head if the
    /// model ties the two, because one quantized table then serves both, and otherwise under
    /// [`TOKEN_TABLE`](crate::TOKEN_TABLE).
    ///
    /// # Errors
    /// Whatever keeps the source from reading them.
    fn take_linear(
        &mut self,
        _name: &str,
        _out_features: usize,
        _in_features: usize,
        _device: &Device,
    ) -> Result<Option<Weight>, SourceError> {
        Ok(None)
    }
}

/// Builds the parts of a model from a source.
pub(crate) struct Loader<'a> {
    source: &'a mut dyn TensorSource,
    device: &'a Device,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(source: &'a mut dyn TensorSource, device: &'a Device) -> Self {
        Self { source, device }
    }

    /// The float matrix `name`: an embedding or the weight of a linear layer. It stays in 16 bits if the source has it in
    /// 16 bits and the device widens values as it reads them (Flex without gradients).
    pub(crate) fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Tensor<2>> {
        // Devices compare equal with and without gradients, hence both checks.
        if *self.device == Device::flex() && !self.device.is_autodiff() {
            self.check_shape(name, &shape)?;
            let halves = self.source.take_halves(name, &shape);
            let halves = halves.map_err(|source| Error::Source { name: name.to_owned(), source })?;
            if let Some(data) = halves {
                check_count(name, &shape, data.num_elements())?;
                let dtype = data.dtype();
                return Ok(Tensor::from_data(data, (self.device, dtype)));
            }
        }
        self.tensor(name, shape)
    }

    /// A float tensor. Its shape is checked before anything is read.
    pub(crate) fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        self.check_shape(name, &shape)?;
        let values = self
            .source
            .take_f32(name, &shape)
            .map_err(|source| Error::Source { name: name.to_owned(), source })?;
        check_count(name, &shape, values.len())?;
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.source.shape(name) {
            None => Err(Error::MissingTensor { name: name.to_owned(), expected: shape.to_vec() }),
            Some(found) if found != shape => {
                Err(Error::TensorShape { name: name.to_owned(), expected: shape.to_vec(), found })
            }
            Some(_) => Ok(()),
        }
    }

    /// The linear layer `{parent}.{shape.name}`, quantized if the source has it quantized.
    pub(crate) fn linear(&mut self, parent: &str, shape: LinearShape) -> Result<Linear> {
        self.linear_at(&format!("{parent}.{}", shape.name), shape)
    }

    /// The weight `[outputs, inputs]` of the layer at `path`, if the source has it quantized.
    pub(crate) fn quantized(&mut self, path: &str, shape: [usize; 2]) -> Result<Option<Weight>> {
        let stored = self
            .source
            .take_linear(path, shape[0], shape[1], self.device)
            .map_err(|source| Error::Source { name: path.to_owned(), source })?;
        match stored {
            Some(weight) if weight.dims() != shape => Err(Error::TensorShape {
                name: format!("{path}.weight"),
                expected: shape.to_vec(),
                found: weight.dims().to_vec(),
            }),
            stored => Ok(stored),
        }
    }

    /// The linear layer at `path`.
    pub(crate) fn linear_at(&mut self, path: &str, shape: LinearShape) -> Result<Linear> {
        let LinearShape { inputs, outputs, bias, .. } = shape;
        let weight = match self.quantized(path, [outputs, inputs])? {
            Some(weight) => weight,
            None => Weight::Float(burn::module::Param::from_tensor(
                self.matrix(&format!("{path}.weight"), [outputs, inputs])?,
            )),
        };
        let bias = if bias { Some(self.tensor(&format!("{path}.bias"), [outputs])?) } else { None };
        Linear::new(weight, bias)
            .map_err(|error| Error::Source { name: path.to_owned(), source: error.into() })
    }
}

fn check_count(name: &str, shape: &[usize], found: usize) -> Result<()> {
    match found == shape.iter().product::<usize>() {
        true => Ok(()),
        false => {
            Err(Error::TensorShape { name: name.to_owned(), expected: shape.to_vec(), found: vec![found] })
        }
    }
}

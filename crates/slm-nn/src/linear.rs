//! One linear layer that is float, fake-quantized or packed-integer.

use std::sync::Arc;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor};
use slm_kernels::PackedMatrix;
use slm_quant_core::ActivationQuant;

use crate::hook::AttachedHook;
use crate::{Error, FakeQuantizedWeight, PackedWeight, QuantizedTrainableWeight, Result, narrowed, widened};

/// Configuration of a float [`Linear`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearConfig {
    /// Number of input features.
    pub in_features: usize,
    /// Number of output features.
    pub out_features: usize,
    /// `true` to add a bias.
    pub bias: bool,
}

impl LinearConfig {
    /// A layer of these widths without bias.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self { in_features, out_features, bias: false }
    }

    /// The same layer with or without bias.
    #[must_use]
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// A float layer with weights drawn from a normal distribution with standard deviation `std`, and a zero bias.
    pub fn init(&self, std: f64, device: &Device) -> Linear {
        let shape = [self.out_features, self.in_features];
        let weight = Initializer::Normal { mean: 0.0, std }.init::<2, _>(shape, device);
        let bias = self.bias.then(|| Initializer::Zeros.init::<1, _>([self.out_features], device));
        Linear { weight: Weight::Float(weight), bias, hook: None }
    }
}

/// `y = x W^T + b`, with `W` of shape `[out_features, in_features]` as PyTorch stores it.
#[derive(Module, Debug)]
pub struct Linear {
    /// The weights in their current form.
    pub weight: Weight,
    /// Bias of shape `[out_features]`, always float.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    hook: Option<AttachedHook>,
}

/// The forms that the weights of a [`Linear`] take.
#[derive(Module, Debug)]
pub enum Weight {
    /// Float weights of shape `[out_features, in_features]`, in 32 bits or [16](Linear::narrow). Sums are computed in
    /// 32 bits.
    Float(Param<Tensor<2>>),
    /// Float weights that are rounded to a quantization grid in every forward pass.
    FakeQuantized(FakeQuantizedWeight),
    /// Packed integer weights.
    Packed(PackedWeight),
    /// Packed integer weights that are trained.
    QuantizedTrainable(QuantizedTrainableWeight),
}

impl Weight {
    /// `[out_features, in_features]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Float(weight) => weight.dims(),
            Self::FakeQuantized(weight) => weight.dims(),
            Self::Packed(weight) => [weight.matrix().rows(), weight.matrix().cols()],
            Self::QuantizedTrainable(weight) => weight.dims(),
        }
    }
}

impl Linear {
    /// A layer with `weight` in its current form.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bias is not `[out_features]`.
    pub fn new(weight: Weight, bias: Option<Tensor<1>>) -> Result<Self> {
        if let Some(bias) = &bias {
            let [out_features, _] = weight.dims();
            if bias.dims() != [out_features] {
                return Err(Error::Shape {
                    what: "bias",
                    expected: vec![out_features],
                    found: bias.dims().to_vec(),
                });
            }
        }
        Ok(Self::with_params(weight, bias.map(Param::from_tensor)))
    }

    /// A layer of parameters whose shapes have been checked.
    pub(crate) fn with_params(weight: Weight, bias: Option<Param<Tensor<1>>>) -> Self {
        Self { weight, bias, hook: None }
    }

    /// A float layer.
    ///
    /// # Shapes
    /// - `weight`: `[out_features, in_features]`
    /// - `bias`: `[out_features]`
    ///
    /// # Errors
    /// [`Error::Shape`] when the bias does not fit.
    pub fn from_weight(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Result<Self> {
        Self::new(Weight::Float(Param::from_tensor(weight)), bias)
    }

    /// A packed-integer layer.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bias does not fit.
    pub fn from_packed(
        matrix: Arc<PackedMatrix>,
        activation: ActivationQuant,
        bias: Option<Tensor<1>>,
    ) -> Result<Self> {
        Self::new(Weight::Packed(PackedWeight::new(matrix, activation)), bias)
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// - `x`: `[..., in_features]`
    /// - output: `[..., out_features]`
    ///
    /// # Panics
    /// When the last dimension of `x` is not `in_features`, as Burn's own modules do.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [out_features, in_features] = self.weight.dims();
        let mut dims = x.dims();
        assert_eq!(dims[D - 1], in_features, "Linear: input of shape {dims:?} into a width of {in_features}");
        let rows = dims[..D - 1].iter().product::<usize>();
        let x = x.reshape([rows, in_features]);
        let hooked_input = self.hook.as_ref().map(|hook| (hook, x.clone()));
        let bias = self.bias.as_ref().map(Param::val);
        let y = match &self.weight {
            Weight::Float(weight) => add_bias(slm_autograd::linear_or_matmul(x, widened(weight.val())), bias),
            Weight::FakeQuantized(weight) => add_bias(weight.matmul(x), bias),
            Weight::Packed(weight) => weight.forward(x, bias),
            Weight::QuantizedTrainable(weight) => add_bias(weight.matmul(x), bias),
        };
        if let Some((hook, input)) = hooked_input {
            hook.call(&input, &y);
        }
        dims[D - 1] = out_features;
        y.reshape(dims)
    }

    /// The weight `[out_features, in_features]` that the layer multiplies its input with, rounded if it is fake-quantized,
    /// and with gradients. `None` for a layer that does more than that: add a bias, quantize its input, call a hook, or
    /// compute with packed codes.
    pub fn product_weight(&self) -> Option<Tensor<2>> {
        if self.bias.is_some() || self.has_hook() {
            return None;
        }
        match &self.weight {
            Weight::Float(weight) => Some(widened(weight.val())),
            Weight::FakeQuantized(weight) => weight.has_float_input().then(|| weight.rounded_weight()),
            Weight::Packed(_) | Weight::QuantizedTrainable(_) => None,
        }
    }

    /// Stores float weights in 16 bits, if that [loses nothing](narrowed). Such a layer cannot be trained.
    ///
    /// # Errors
    /// [`Error::Data`] for weights that cannot be read.
    pub fn narrow(&mut self) -> Result<()> {
        if let Weight::Float(weight) = &mut self.weight {
            *weight = Param::from_tensor(narrowed(weight.val())?);
        }
        Ok(())
    }

    /// Number of input features.
    pub fn in_features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Number of output features.
    pub fn out_features(&self) -> usize {
        self.weight.dims()[0]
    }

    /// The float weights `[out_features, in_features]` behind a float or fake-quantized layer, in 32 bits.
    pub fn float_weight(&self) -> Option<Tensor<2>> {
        match &self.weight {
            Weight::Float(weight) => Some(widened(weight.val())),
            Weight::FakeQuantized(weight) => Some(weight.float_weight()),
            Weight::Packed(_) | Weight::QuantizedTrainable(_) => None,
        }
    }

    /// The type in which float weights are stored; `None` for any other form.
    pub fn float_dtype(&self) -> Option<DType> {
        match &self.weight {
            Weight::Float(weight) => Some(weight.val().dtype()),
            _ => None,
        }
    }

    /// The packed weights, if the layer has any.
    pub fn packed(&self) -> Option<&PackedWeight> {
        match &self.weight {
            Weight::Packed(weight) => Some(weight),
            Weight::QuantizedTrainable(weight) => Some(weight.packed()),
            Weight::Float(_) | Weight::FakeQuantized(_) => None,
        }
    }

    pub(crate) fn hook(&self) -> Option<&AttachedHook> {
        self.hook.as_ref()
    }

    pub(crate) fn has_hook(&self) -> bool {
        self.hook.is_some()
    }

    pub(crate) fn set_hook(&mut self, hook: Option<AttachedHook>) {
        self.hook = hook;
    }
}

pub(crate) fn add_bias(y: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    }
}

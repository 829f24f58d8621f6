//! Weights that are rounded to a quantization grid in every forward pass, with a straight-through gradient.

pub(crate) mod device;
pub(crate) mod fake_quantizer;
mod linear;
pub(crate) mod ops;
mod ranges;
mod state;

use std::sync::Arc;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use slm_kernels::PackedMatrix;
use slm_quant_core::{
    ActivationQuant, ObserverKind, QParams, QuantScheme, QuantizedMatrix, ScaleDtype, choose_matrix_qparams,
};

use crate::activation::{FakeQuantizedInput, InputRanges};
use crate::errors::Reporter;
use crate::{Error, ParameterRole, QatStage, Result, SharedQatStage, on_cpu, to_vec_f32};
pub(crate) use ranges::moved;
use ranges::{RangeState, WeightRanges, is_learnable, learned_params};
pub use state::LayerState;

/// Float weights `[out_features, in_features]` that behave like quantized weights.
///
/// The fake-quantized layer computes, bit for bit, with the values that [`FakeQuantizedWeight::quantize`] stores (on
/// the CPU devices; on others up to the rounding of divisions). Clones, such as those of `valid()`, share observed
/// ranges and stage; only passes on an autodiff device change these.
#[derive(Module, Debug)]
pub struct FakeQuantizedWeight {
    weight: Param<Tensor<2>>,
    /// Learned scales `[count]`, in the order of `QuantizedMatrix::scales`.
    scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    ranges: Arc<WeightRanges>,
    #[module(skip)]
    input: Arc<InputRanges>,
    #[module(skip)]
    errors: Reporter,
}

impl FakeQuantizedWeight {
    /// Prepares `weight`: it is rounded by `scheme` with ranges from `observer`, and its input is treated as `input`
    /// says.
    ///
    /// With [`ObserverKind::MovingAverage`] the range of a weight moves from step to step as in PyTorch; every other
    /// observer chooses it again in each step.
    ///
    /// # Errors
    /// [`Error::Core`] when the scheme does not fit the shape or the weights are not finite,
    /// [`Error::DeviceObserver`] for an observer or scale type that needs the host, on a device with its own memory.
    pub fn new(
        weight: Param<Tensor<2>>,
        scheme: QuantScheme,
        observer: ObserverKind,
        input: impl Into<FakeQuantizedInput>,
        stage: &SharedQatStage,
    ) -> Result<Self> {
        let ranges = WeightRanges::new(scheme, observer, stage.clone(), RangeState::default())?;
        let input = InputRanges::new(input.into(), stage.clone(), None);
        let prepared = Self::of_parts(weight, None, ranges, input);
        prepared.check_device(observer == ObserverKind::MinMax, observer.to_string())?;
        prepared.check_packs()?;
        Ok(prepared)
    }

    /// Like [`FakeQuantizedWeight::new`], with scales that are trained along with the weights (LSQ, Esser and
    /// others, 2020, arXiv:1902.08153). They start at the values that `observer` chooses.
    ///
    /// # Errors
    /// As [`FakeQuantizedWeight::new`], and [`Error::NotLearnable`] for an affine mapping.
    pub fn learned(
        weight: Param<Tensor<2>>,
        scheme: QuantScheme,
        observer: ObserverKind,
        input: impl Into<FakeQuantizedInput>,
        stage: &SharedQatStage,
    ) -> Result<Self> {
        if !is_learnable(scheme.mapping) {
            return Err(Error::NotLearnable { mapping: scheme.mapping });
        }
        let [rows, cols] = weight.dims();
        let values = to_vec_f32("weight", weight.val())?;
        let params = choose_matrix_qparams(&values, rows, cols, scheme, &observer)?;
        let scales = params.iter().map(|params| params.scale).collect::<Vec<_>>();
        let scales = Tensor::from_data(TensorData::new(scales, [params.len()]), &weight.device());
        let ranges = WeightRanges::new(scheme, observer, stage.clone(), RangeState::default())?;
        let input = InputRanges::new(input.into(), stage.clone(), None);
        let scale = Some(Param::from_tensor(scales));
        let prepared = Self::of_parts(weight, scale, ranges, input);
        prepared.check_device(true, observer.to_string())?;
        prepared.check_packs()?;
        Ok(prepared)
    }

    fn of_parts(
        weight: Param<Tensor<2>>,
        scale: Option<Param<Tensor<1>>>,
        ranges: WeightRanges,
        input: InputRanges,
    ) -> Self {
        let errors = Reporter::default();
        Self { weight, scale, ranges: Arc::new(ranges), input: Arc::new(input), errors }
    }

    pub(crate) fn parameter_roles(&self) -> impl Iterator<Item = (ParamId, ParameterRole)> {
        let scale = self.scale.as_ref().map(|scale| (scale.id, ParameterRole::LearnedScale));
        [(self.weight.id, ParameterRole::Weight)].into_iter().chain(scale)
    }

    pub(crate) fn set_reporter(&mut self, errors: Reporter) {
        self.errors = errors;
    }

    /// Rejects weights that could not be converted.
    fn check_packs(&self) -> Result<()> {
        PackedMatrix::new(self.quantize()?, self.ranges.kernel)?;
        Ok(())
    }

    /// Rejects settings that on a device with its own memory would need to read weights back in every step.
    fn check_device(&self, observer_fits: bool, observer: String) -> Result<()> {
        if on_cpu(&self.weight.device()) {
            return Ok(());
        }
        if !observer_fits {
            return Err(Error::DeviceObserver { found: format!("observer {observer}") });
        }
        if self.scheme().scale_dtype != ScaleDtype::F32 {
            return Err(Error::DeviceObserver { found: "f16 scales".to_owned() });
        }
        Ok(())
    }

    /// `[out_features, in_features]`.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }

    /// The trained float weights, before rounding.
    pub fn float_weight(&self) -> Tensor<2> {
        self.weight.val()
    }

    /// The learned scales, if they are learned.
    pub fn learned_scale(&self) -> Option<Tensor<1>> {
        self.scale.as_ref().map(Param::val)
    }

    /// Quantization scheme of the weight.
    pub fn scheme(&self) -> QuantScheme {
        self.ranges.scheme
    }

    /// Observer that chooses, or first chose, the range of the weights.
    pub fn observer(&self) -> ObserverKind {
        self.ranges.observer
    }

    /// Returns `true` if the input is not quantized.
    pub(crate) fn has_float_input(&self) -> bool {
        self.input.is_float()
    }

    /// Returns `true` if ranges of the weight or the input are moving averages over training batches.
    pub fn follows_batches(&self) -> bool {
        let of_weight =
            self.scale.is_none() && matches!(self.ranges.observer, ObserverKind::MovingAverage { .. });
        of_weight || matches!(self.input.quant(), FakeQuantizedInput::Observed { .. })
    }

    /// Treatment of the input that a packed layer needs to match this one; `None` for observed activations before the
    /// first batch.
    ///
    /// # Errors
    /// [`Error::Core`] when the observed bounds are not finite.
    pub fn activation(&self) -> Result<Option<ActivationQuant>> {
        Ok(self.input.activation()?)
    }

    /// Observed bounds of the input, for [`FakeQuantizedInput::Observed`] after the first batch.
    pub fn input_bounds(&self) -> Option<(f32, f32)> {
        self.input.bounds()
    }

    /// The current weights, quantized as the conversion stores them.
    ///
    /// # Errors
    /// [`Error::Core`] when the weights are not finite.
    pub fn quantize(&self) -> Result<QuantizedMatrix> {
        let [rows, cols] = self.dims();
        let values = to_vec_f32("weight", self.weight.val())?;
        let scheme = self.scheme();
        let params: Vec<QParams> = match self.learned_scale() {
            Some(scale) => learned_params(&to_vec_f32("scale", scale)?, scheme.scale_dtype)?,
            None => self.ranges.fake_quantizer(&values, rows, cols, false)?.params().to_vec(),
        };
        Ok(ranges::quantized(&values, rows, cols, scheme, &params)?)
    }

    /// The weights that the layer computes with at the current stage.
    pub fn rounded_weight(&self) -> Tensor<2> {
        let weight = self.weight.val();
        let observing = self.ranges.stage().get() == QatStage::Observe;
        let scheme = self.scheme();
        match (self.learned_scale(), on_cpu(&weight.device())) {
            (Some(_), _) if observing => weight,
            (Some(scale), true) => ops::fake_quantize_learned(weight, scale, scheme, &self.errors),
            (Some(scale), false) => device::fake_quantize_learned(weight, scale, scheme),
            (None, true) if observing => {
                // Called only so that the observer sees the weights.
                ops::fake_quantize_weight(weight.clone(), &self.ranges, &self.errors);
                weight
            }
            (None, true) => ops::fake_quantize_weight(weight, &self.ranges, &self.errors),
            (None, false) if observing => weight,
            (None, false) => device::fake_quantize_weight(weight, scheme),
        }
    }

    /// `x W^T` with rounded input and weights.
    ///
    /// On the CPU devices rounded activations are multiplied by the integer kernel of the converted layer, so that both
    /// give the same bits. Float activations are multiplied in training by an operation that does not keep rounded
    /// weights.
    pub(crate) fn matmul(&self, x: Tensor<2>) -> Tensor<2> {
        if (!self.has_float_input() || x.device().is_autodiff())
            && x.dims()[0] > 0
            && on_cpu(&x.device())
            && self.ranges.stage().get() != QatStage::Observe
        {
            let weight = self.weight.val();
            let scales = self.learned_scale();
            return ops::fake_quantized_linear(x, weight, scales, &self.input, &self.ranges, &self.errors);
        }
        slm_autograd::linear_or_matmul(self.input.apply(x, &self.errors), self.rounded_weight())
    }
}

/// Returns `dequantize(quantize(weight))`. The gradient passes straight through where a weight is in range, and is zero
/// where it was clipped (straight-through estimator, Bengio et al. 2013, arXiv:1308.3432).
///
/// # Shapes
/// - `weight`, output: `[rows, cols]`
///
/// # Errors
/// As [`FakeQuantizedWeight::new`].
pub fn fake_quantize(weight: Tensor<2>, scheme: QuantScheme, observer: &ObserverKind) -> Result<Tensor<2>> {
    let param = Param::from_tensor(weight.clone().detach());
    let input = FakeQuantizedInput::Fixed(ActivationQuant::Float);
    let prepared = FakeQuantizedWeight::new(param, scheme, *observer, input, &SharedQatStage::default())?;
    Ok(if on_cpu(&weight.device()) {
        ops::fake_quantize_weight(weight, &prepared.ranges, &Reporter::default())
    } else {
        device::fake_quantize_weight(weight, scheme)
    })
}

#[cfg(test)]
mod agreement_tests;

//! Post-training quantization with a builder.

use burn::module::Module;
use slm_nn::NamedLinears;
use slm_ptq::{Calibration, InputMoments, Plan, PlannedLayer, PtqConfig, RoundingMethod};
use slm_quant_core::{
    ActivationGranularity, Bits, Granularity, Mapping, ObserverKind, QuantScheme, QuantizationType,
    ScaleDtype,
};

use crate::{Error, Report, Result, check};

/// Settings of a post-training quantization, which [`Quantizer::convert`] performs.
///
/// ```
/// # use slm::prelude::*;
/// # use burn::prelude::*;
/// # #[derive(Module, Debug, NamedLinears)]
/// # struct Net { body: Linear, head: Linear }
/// # let linear = || LinearConfig::new(32, 32).init(0.1, &Device::flex());
/// # let mut net = Net { body: linear(), head: linear() };
/// # impl Net { fn forward(&self, x: Tensor<2>) -> Tensor<2> { self.head.forward(self.body.forward(x)) } }
/// # let batch = Tensor::<2>::ones([4, 32], &Device::flex());
/// // 4-bit weights in groups of 32; activations stay float.
/// let (small, report) = Quantizer::int4().group(32).convert(net.clone())?;
///
/// // 8-bit weights, and 8-bit activations whose ranges are observed on a batch.
/// let (fast, report) = Quantizer::int8()
///     .static_activations()
///     .skip("head")
///     .calibrate(&mut net, |net| drop(net.forward(batch)))?
///     .convert(net)?;
/// assert_eq!(report.layers.len(), 1);
/// # Ok::<(), slm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Quantizer {
    config: PtqConfig,
    calibration: Option<Calibrated>,
}

/// The results of calibration, and the settings used for it.
#[derive(Debug, Clone, PartialEq)]
struct Calibrated {
    calibration: Calibration,
    config: PtqConfig,
}

impl Quantizer {
    /// Symmetric 8-bit weights with a scale for each output channel, and 8-bit activations with a range computed for
    /// each row of the input. This corresponds to torchao's `Int8DynamicActivationInt8Weight`.
    ///
    /// The program `slm` and [`QuantScheme::per_tensor`] use one scale for the whole weight by default;
    /// [`Quantizer::per_tensor`] does the same.
    pub fn int8() -> Self {
        let scheme = QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerChannel);
        Self::from(PtqConfig::new(scheme, QuantizationType::Dynamic))
    }

    /// Symmetric 4-bit weights with a scale for every 32 inputs of an output channel; activations stay float.
    pub fn int4() -> Self {
        let granularity = Granularity::PerGroup { group_size: 32 };
        let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(granularity);
        Self::from(PtqConfig::new(scheme, QuantizationType::WeightOnly))
    }

    /// Uses one scale for the whole weight.
    pub fn per_tensor(mut self) -> Self {
        self.config.scheme.granularity = Granularity::PerTensor;
        self
    }

    /// Uses one scale for each output channel.
    pub fn per_channel(mut self) -> Self {
        self.config.scheme.granularity = Granularity::PerChannel;
        self
    }

    /// Uses one scale for every `size` inputs of an output channel.
    pub fn group(mut self, size: usize) -> Self {
        self.config.scheme.granularity = Granularity::PerGroup { group_size: size };
        self
    }

    /// Uses zero points for weights, which suit ranges that are not centered at zero.
    pub fn affine(mut self) -> Self {
        self.config.scheme.mapping = Mapping::Affine;
        self
    }

    /// Stores scales as 16-bit floats.
    pub fn f16_scales(mut self) -> Self {
        self.config.scheme.scale_dtype = ScaleDtype::F16;
        self
    }

    /// Keeps activations float.
    pub fn weight_only(mut self) -> Self {
        self.config.quantization_type = QuantizationType::WeightOnly;
        self
    }

    /// Uses 8-bit activations with a range computed for each row of the input.
    pub fn dynamic_activations(mut self) -> Self {
        self.config.quantization_type = QuantizationType::Dynamic;
        self.config.activation_granularity = ActivationGranularity::PerToken;
        self
    }

    /// Uses 8-bit activations with fixed ranges, which [`Quantizer::calibrate`] determines.
    pub fn static_activations(mut self) -> Self {
        self.config.quantization_type = QuantizationType::Static;
        self
    }

    /// Rounds weights with GPTQ. [`Quantizer::calibrate`] must then see typical inputs.
    pub fn gptq(mut self) -> Self {
        self.config.method = RoundingMethod::Gptq;
        self
    }

    /// Chooses weight ranges with `observer`. By default, calibrated inputs determine the ranges; without calibration,
    /// the smallest and largest weight do.
    pub fn observer(mut self, observer: ObserverKind) -> Self {
        self.config.observer = Some(observer);
        self
    }

    /// Chooses the ranges of static activations with `observer`.
    pub fn activation_observer(mut self, observer: ObserverKind) -> Self {
        self.config.activation_observer = observer;
        self
    }

    /// Leaves layers float if their names match `pattern`, in which `*` stands for any part of a name.
    pub fn skip(mut self, pattern: impl Into<String>) -> Self {
        self.config.skip.push(pattern.into());
        self
    }

    /// Observes the inputs of all layers while `forward` runs the module on typical inputs. These inputs determine the
    /// ranges of static activations, the ranges of weights, and the rounding. Call it after all settings.
    ///
    /// # Errors
    /// [`Error::Unnamed`] and [`Error::SameName`]; [`Error::Ptq`] for a layer that saw no input, or inputs that are not
    /// finite.
    pub fn calibrate<M: Module + NamedLinears>(
        self,
        module: &mut M,
        forward: impl FnOnce(&M),
    ) -> Result<Self> {
        self.try_calibrate(module, |module| {
            forward(module);
            Ok(())
        })
    }

    /// [`Quantizer::calibrate`] with a `forward` that may fail.
    ///
    /// # Errors
    /// Same as [`Quantizer::calibrate`], and the errors of `forward`.
    pub fn try_calibrate<M: Module + NamedLinears, E: From<Error>>(
        mut self,
        module: &mut M,
        forward: impl FnOnce(&M) -> Result<(), E>,
    ) -> Result<Self, E> {
        check::all_named(module)?;
        let plan = Plan::new(module, &self.config).map_err(Error::Ptq)?;
        let calibration = slm_ptq::calibrate(module, &plan, &self.config, |module| {
            forward(module).map_err(Either::Forward)
        });
        let calibration = calibration.map_err(|error| match error {
            Either::Forward(error) => error,
            Either::Ptq(error) => Error::Ptq(error).into(),
        })?;
        self.calibration = Some(Calibrated { calibration, config: self.config.clone() });
        Ok(self)
    }

    /// Replaces the weights of `module` by packed integers. Clones of the module stay float.
    ///
    /// On CPU devices the result computes in integer arithmetic. Pass `valid()` of a module that was trained: on an
    /// autodiff device, tensor operations multiply the integers.
    ///
    /// # Errors
    /// [`Error::NotCalibrated`] for static activations or GPTQ without [`Quantizer::calibrate`];
    /// [`Error::OtherCalibration`] for the calibration of another module; [`Error::LateSetting`]; [`Error::Unnamed`]
    /// and [`Error::SameName`]; [`Error::Ptq`] for a layer that calibration did not reach or that is already quantized
    /// or in training, a skip pattern that matches nothing, a group size that does not fit, or weights that are not
    /// finite.
    pub fn convert<M: Module + NamedLinears>(&self, mut module: M) -> Result<(M, Report)> {
        if self.config.needs_calibration() && self.calibration.is_none() {
            return Err(Error::NotCalibrated);
        }
        check::all_named(&module)?;
        let plan = Plan::new(&module, &self.config)?;
        self.check_calibration(&plan)?;
        let calibration = self.calibration.as_ref().map(|calibrated| &calibrated.calibration);
        let layers = slm_ptq::convert(&mut module, &plan, &self.config, calibration, &mut |_| {})?;
        let calibrated = self.calibration.is_some();
        Ok((module, Report::ptq(layers, plan.skipped, self.config.clone(), calibrated)))
    }

    /// Checks that calibration, if there was one, observed the inputs of every layer of `plan` and everything that the
    /// settings need. A layer without observations would be quantized differently from the others.
    fn check_calibration(&self, plan: &Plan) -> Result<()> {
        let Some(Calibrated { calibration, config: then }) = &self.calibration else { return Ok(()) };
        let now = &self.config;
        if now.quantization_type == QuantizationType::Static {
            if then.quantization_type != QuantizationType::Static {
                return Err(Error::LateSetting { setting: "static_activations" });
            }
            if then.activation_observer != now.activation_observer {
                return Err(Error::LateSetting { setting: "activation_observer" });
            }
        }
        if now.method == RoundingMethod::Gptq && then.method != RoundingMethod::Gptq {
            return Err(Error::LateSetting { setting: "gptq" });
        }
        for PlannedLayer { name, shape: [_, expected] } in &plan.layers {
            let found = match calibration.layers.get(name).map(|observed| &observed.moments) {
                Some(InputMoments::MeanSquares(squares)) => squares.len(),
                Some(InputMoments::Hessian(hessian)) => hessian.inputs(),
                None => return Err(slm_ptq::Error::NotCalibrated { layer: name.clone() }.into()),
            };
            if found != *expected {
                return Err(Error::OtherCalibration { layer: name.clone(), expected: *expected, found });
            }
        }
        Ok(())
    }

    /// The settings.
    pub fn config(&self) -> &PtqConfig {
        &self.config
    }
}

/// Creates a quantizer from settings that have no builder method.
impl From<PtqConfig> for Quantizer {
    fn from(config: PtqConfig) -> Self {
        Self { config, calibration: None }
    }
}

impl From<Quantizer> for PtqConfig {
    fn from(quantizer: Quantizer) -> Self {
        quantizer.config
    }
}

/// An error of calibration or of the caller's `forward`.
enum Either<E> {
    Forward(E),
    Ptq(slm_ptq::Error),
}

impl<E> From<slm_ptq::Error> for Either<E> {
    fn from(error: slm_ptq::Error) -> Self {
        Self::Ptq(error)
    }
}

//! Training of modules that stay quantized.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use slm_nn::{NamedLinears, QuantizedTrainableWeight, Rounding, Weight, try_for_each_linear_mut};

use crate::{Error, Result, check};

/// Settings of training a quantized module: how updated weights become codes again.
///
/// Weights stay quantized throughout, on the scales that they have. The optimizer updates a parameter that is zero
/// before each step; [`FineTuning::apply`] adds it to the codes after the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct FineTune {
    rounding: Rounding,
}

impl FineTune {
    /// Rounds up or down at random, so that the mean is the updated weight. The usual choice.
    pub fn stochastic(seed: u64) -> Self {
        Self { rounding: Rounding::Stochastic { seed } }
    }

    /// Rounds to the nearest code, which loses updates of less than half a scale.
    pub fn nearest() -> Self {
        Self { rounding: Rounding::Nearest }
    }

    /// Rounds to the nearest code, and keeps the rest in 8 bits for the next step.
    pub fn error_feedback() -> Self {
        Self { rounding: Rounding::ErrorFeedback }
    }

    /// Makes the quantized layers of `module` trainable on `device`, which has autodiff. Other parameters are trained
    /// too.
    ///
    /// # Errors
    /// [`Error::NoGradients`] for a device without autodiff, [`Error::NotQuantized`], [`Error::Unnamed`],
    /// [`Error::Layer`] for a device that this build cannot train on.
    pub fn prepare<M: Module + NamedLinears>(&self, module: M, device: &Device) -> Result<(M, FineTuning)> {
        if !device.is_autodiff() {
            return Err(Error::NoGradients);
        }
        check::all_named(&module)?;
        let mut plain = HasPlain(false);
        module.visit(&mut plain);
        let mut module = if plain.0 { module.train() } else { module };
        let mut prepared = 0;
        try_for_each_linear_mut(&mut module, |name, linear| {
            if let Weight::Packed(packed) = &linear.weight {
                let tuned = QuantizedTrainableWeight::new(packed, device, self.rounding);
                linear.weight =
                    Weight::QuantizedTrainable(tuned.map_err(|source| Error::layer(name, source))?);
                prepared += 1;
            }
            Ok::<_, Error>(())
        })?;
        match prepared {
            0 => Err(Error::NotQuantized),
            _ => Ok((module, FineTuning { rounding: self.rounding, step: 0 })),
        }
    }
}

/// Visitor that finds out whether a float parameter is without autodiff.
struct HasPlain(bool);

impl ModuleVisitor for HasPlain {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 |= !param.lazy_device().is_autodiff();
    }
}

/// The training of a quantized module.
#[derive(Debug, Clone)]
pub struct FineTuning {
    rounding: Rounding,
    step: usize,
}

impl FineTuning {
    /// Adds the updates that an optimizer has made to the quantized weights. To be called after each of its steps.
    ///
    /// # Errors
    /// [`Error::Layer`] for an update that is not finite.
    pub fn apply<M: NamedLinears>(&mut self, module: &mut M) -> Result<()> {
        let mut count = 0;
        module.for_each_linear(&mut |_, _| count += 1);
        let mut draw = (self.step * count) as u64;
        try_for_each_linear_mut(module, |name, linear| {
            if let Weight::QuantizedTrainable(weight) = &mut linear.weight {
                weight.apply(self.rounding, draw).map_err(|source| Error::layer(name, source))?;
            }
            draw += 1;
            Ok::<_, Error>(())
        })?;
        self.step += 1;
        Ok(())
    }

    /// The trained module without autodiff, with packed layers. An update that was not applied is dropped.
    pub fn finish<M: Module + NamedLinears>(&self, module: &M) -> M {
        let mut module = module.valid();
        module.for_each_linear_mut(&mut |_, linear| {
            if let Weight::QuantizedTrainable(weight) = &linear.weight {
                linear.weight = Weight::Packed(weight.packed().clone());
            }
        });
        module
    }
}

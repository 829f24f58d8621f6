//! Training of quantized modules.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use slm_nn::{
    ErrorSlot, NamedLinears, QuantizedTrainableWeight, Rounding, Weight, report_errors,
    try_for_each_linear_mut,
};

use crate::{Error, Result, check};

/// Settings for training a quantized module: how updated weights are rounded to codes.
///
/// Weights stay quantized throughout, and their scales stay fixed. The optimizer updates a parameter that is zero
/// before each step; [`FineTuning::apply`] adds it to the codes after the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct FineTune {
    rounding: Rounding,
}

impl FineTune {
    /// Rounds up or down at random, so that the expected value is the updated weight. This is the usual choice.
    pub fn stochastic(seed: u64) -> Self {
        Self { rounding: Rounding::Stochastic { seed } }
    }

    /// Rounds to the nearest code, which loses updates of less than half a scale.
    pub fn nearest() -> Self {
        Self { rounding: Rounding::Nearest }
    }

    /// Rounds to the nearest code, and carries the remainder over to the next step in 8 bits.
    pub fn error_feedback() -> Self {
        Self { rounding: Rounding::ErrorFeedback }
    }

    /// Makes the quantized layers of `module` trainable on `device`, which must support autodiff. Other parameters are
    /// trained too.
    ///
    /// # Errors
    /// [`Error::NoGradients`] for a device without autodiff, [`Error::NotQuantized`], [`Error::Unnamed`],
    /// [`Error::SameName`], and [`Error::Layer`] for a device that this build cannot train on.
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
        if prepared == 0 {
            return Err(Error::NotQuantized);
        }
        let errors = ErrorSlot::default();
        report_errors(&mut module, &errors);
        Ok((module, FineTuning { rounding: self.rounding, step: 0, errors }))
    }
}

/// Visitor that checks whether any float parameter lacks autodiff.
struct HasPlain(bool);

impl ModuleVisitor for HasPlain {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 |= !param.lazy_device().is_autodiff();
    }
}

/// The state of training a quantized module.
#[derive(Debug, Clone)]
pub struct FineTuning {
    rounding: Rounding,
    step: usize,
    errors: ErrorSlot,
}

impl FineTuning {
    /// Adds the updates that an optimizer has made to the quantized weights. Call it after each optimizer step.
    ///
    /// # Errors
    /// [`Error::Pass`] for a layer that failed since the last call, [`Error::Layer`] for an update that is not finite,
    /// [`Error::NotInTraining`] for another module.
    pub fn apply<M: NamedLinears>(&mut self, module: &mut M) -> Result<()> {
        self.errors.check()?;
        let (mut count, mut trainable) = (0, 0);
        module.for_each_linear(&mut |_, linear| {
            count += 1;
            trainable += usize::from(matches!(linear.weight, Weight::QuantizedTrainable(_)));
        });
        if trainable == 0 {
            return Err(Error::NotInTraining);
        }
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

    /// Returns the trained module with packed layers and without autodiff.
    ///
    /// # Errors
    /// [`Error::NotApplied`] for an optimizer step that [`FineTuning::apply`] did not add to the codes,
    /// [`Error::NotInTraining`] for another module.
    pub fn finish<M: Module + NamedLinears>(&self, module: &M) -> Result<M> {
        let mut module = module.valid();
        let mut finished = 0;
        try_for_each_linear_mut(&mut module, |name, linear| {
            let Weight::QuantizedTrainable(weight) = &linear.weight else { return Ok(()) };
            if weight.has_update().map_err(|source| Error::layer(name, source))? {
                return Err(Error::NotApplied { layer: name.to_owned() });
            }
            linear.weight = Weight::Packed(weight.packed().clone());
            finished += 1;
            Ok(())
        })?;
        if finished == 0 { Err(Error::NotInTraining) } else { Ok(module) }
    }
}

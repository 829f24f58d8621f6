//! The drift of the inputs of a layer from those of the float model.

use rayon::prelude::*;

use crate::gptq::{TILE, subtract_matrix_product};
use crate::hessian::ProductSums;
use crate::matrix::check_weight;
use crate::scan::{check_finite, check_len};
use crate::{Error, GptqFactor, Result};

/// Sum of `(x - x') x'ᵀ` over the inputs of a linear layer: `x'` are those that it gets behind quantized layers, and `x`
/// those that it would get in the float model.
///
/// By it a layer makes up for a part of the errors of the layers before it. The weight that gives, of `x'`, what `w` gives
/// of `x`, is by least squares `w + w D H⁻¹`, with the drift `D` and the [Hessian](crate::Hessian) `H` of `x'`. That
/// weight, instead of `w`, is then rounded (asymmetric calibration: Li and others, 2025, "GPTAQ",
/// <https://arxiv.org/abs/2504.02692>).
#[derive(Debug, Clone, PartialEq)]
pub struct InputDrift(ProductSums);

impl InputDrift {
    /// A drift of no inputs yet, for a layer of `inputs` input features.
    pub fn new(inputs: usize) -> Self {
        Self(ProductSums::new(inputs))
    }

    /// Input features.
    pub fn inputs(&self) -> usize {
        self.0.inputs
    }

    /// Inputs that were added.
    pub fn samples(&self) -> u64 {
        self.0.samples
    }

    /// Adds `rows` inputs, whose product `(x - x')ᵀ x'` is `product`, `[inputs, inputs]`; none stands for zeros.
    ///
    /// # Errors
    /// [`Error::Length`] for a product of another shape, [`Error::NotFinite`] for a NaN or an infinity; nothing is added
    /// then.
    pub fn add_product(&mut self, product: Option<&[f32]>, rows: usize) -> Result<()> {
        self.0.add(product, rows)
    }

    /// The weight, `[rows, inputs]`, that gives of the inputs behind quantized layers what `weight` gives of those of the
    /// float model, as nearly as it can: `w + share · w D H⁻¹`. `factor` is that of the Hessian of the former, and its
    /// damping keeps the weight near `w`.
    ///
    /// # Errors
    /// [`Error::Length`] for shapes that differ, [`Error::NotFinite`] for weights that are not finite,
    /// [`Error::NothingObserved`] where no input was added.
    pub fn compensated(&self, weight: &[f32], factor: &GptqFactor, share: f32) -> Result<Vec<f32>> {
        let ProductSums { inputs: size, samples, ref values } = self.0;
        check_weight(weight, weight.len() / size.max(1), size)?;
        check_len("inputs of the GPTQ factor", size, factor.inputs())?;
        if samples == 0 {
            return Err(Error::NothingObserved { what: "drift" });
        }
        let scale = share / samples as f32;
        let inverse = factor.inverse();
        let mut compensated = weight.to_vec();
        compensated.par_chunks_mut(TILE * size).for_each(|rows| {
            let mut shift = vec![0.0; rows.len()];
            // Minus `w D`, whose product with the inverse is subtracted below.
            subtract_matrix_product(&mut shift, rows, values, size);
            inverse.apply(&mut shift);
            rows.iter_mut().zip(&shift).for_each(|(value, shift)| *value -= scale * shift);
        });
        check_finite("compensated weight", &compensated)?;
        Ok(compensated)
    }
}

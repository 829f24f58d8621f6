//! The drift of a layer's inputs from those of the float model.

use rayon::prelude::*;

use crate::gptq::{TILE, subtract_matrix_product};
use crate::hessian::ProductSums;
use crate::matrix::check_weight;
use crate::scan::{check_finite, check_len};
use crate::{Error, GptqFactor, Result};

/// Sum of `(x - x') x'ᵀ` over the inputs of a linear layer: `x'` are the inputs it gets after quantized layers, and `x`
/// those it would get in the float model.
///
/// With the drift `D`, a layer compensates for part of the errors of the layers before it. The weight whose outputs for
/// `x'` are closest, by least squares, to those of `w` for `x` is `w + w D H⁻¹`, where `H` is the
/// [Hessian](crate::Hessian) of `x'`. That weight is then rounded instead of `w` (asymmetric calibration: Li and others,
/// 2025, "GPTAQ", <https://arxiv.org/abs/2504.02692>).
#[derive(Debug, Clone, PartialEq)]
pub struct InputDrift(ProductSums);

impl InputDrift {
    /// An empty drift for a layer of `inputs` input features.
    pub fn new(inputs: usize) -> Self {
        Self(ProductSums::new(inputs))
    }

    /// Number of input features.
    pub fn inputs(&self) -> usize {
        self.0.inputs
    }

    /// Number of inputs added.
    pub fn samples(&self) -> u64 {
        self.0.samples
    }

    /// Adds `rows` inputs, whose product `(x - x')ᵀ x'` is `product`, `[inputs, inputs]`; `None` stands for zeros.
    ///
    /// # Errors
    /// [`Error::Length`] for a product of another shape, [`Error::NotFinite`] for a NaN or an infinity; nothing is added
    /// then.
    pub fn add_product(&mut self, product: Option<&[f32]>, rows: usize) -> Result<()> {
        self.0.add(product, rows)
    }

    /// The weight, `[rows, inputs]`, whose outputs for the inputs after quantized layers are closest to those of `weight`
    /// for the inputs of the float model: `w + share · w D H⁻¹`. `factor` is that of the Hessian of the inputs after
    /// quantized layers. Its damping keeps the result near `w`.
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

//! Second moments of the inputs of a layer.

use rayon::prelude::*;

use crate::scan::{check_finite, check_len};
use crate::{Error, Result};

/// Number of sums that one task updates.
const PART: usize = 1 << 16;

/// Sums of products of pairs of values that belong to the inputs of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProductSums {
    pub(crate) inputs: usize,
    pub(crate) samples: u64,
    /// `[inputs, inputs]`.
    pub(crate) values: Vec<f32>,
}

impl ProductSums {
    pub(crate) fn new(inputs: usize) -> Self {
        Self { inputs, samples: 0, values: vec![0.0; inputs * inputs] }
    }

    /// Adds the `[inputs, inputs]` product of `rows` inputs; `None` stands for zeros. On an error nothing is added.
    pub(crate) fn add(&mut self, product: Option<&[f32]>, rows: usize) -> Result<()> {
        if let Some(product) = product {
            check_len("product of inputs", self.values.len(), product.len())?;
            if product.par_chunks(PART).any(|part| check_finite("product of inputs", part).is_err()) {
                check_finite("product of inputs", product)?;
            }
            let parts = self.values.par_chunks_mut(PART).zip(product.par_chunks(PART));
            parts.for_each(|(sums, product)| {
                sums.iter_mut().zip(product).for_each(|(sum, product)| *sum += product);
            });
        }
        self.samples += rows as u64;
        Ok(())
    }
}

/// Sum of `x xᵀ` over the inputs `x` of a linear layer. Up to a factor it is the Hessian of the squared error of the
/// layer's outputs with respect to one row of its weight: rounding errors `e` of a row cost `eᵀ H e`.
#[derive(Debug, Clone, PartialEq)]
pub struct Hessian(ProductSums);

impl Hessian {
    /// An empty Hessian for a layer of `inputs` input features.
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

    /// The sums, `[inputs, inputs]`, symmetric.
    pub fn sums(&self) -> &[f32] {
        &self.0.values
    }

    /// Adds the inputs `x`, `[rows, inputs]`, whose product `xᵀ x` is `product`, `[inputs, inputs]`. The caller
    /// computes this large product, because a tensor library is faster at it.
    ///
    /// # Errors
    /// [`Error::Length`] for a product of another shape, [`Error::NotFinite`] for a NaN or an infinity; nothing is added
    /// then.
    pub fn add_product(&mut self, product: &[f32], rows: usize) -> Result<()> {
        self.0.add(Some(product), rows)
    }

    /// Mean square of each input feature: the diagonal, divided by the number of inputs.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] where no input was added.
    pub fn mean_squares(&self) -> Result<Vec<f32>> {
        if self.samples() == 0 {
            return Err(Error::NothingObserved { what: "Hessian" });
        }
        let diagonal = (0..self.inputs()).map(|i| self.sums()[i * (self.inputs() + 1)]);
        Ok(diagonal.map(|sum| sum / self.samples() as f32).collect())
    }

    /// Squared output error caused by the differences `errors`, `[rows, inputs]`, of a weight, summed over inputs and
    /// outputs.
    ///
    /// # Errors
    /// [`Error::Length`] where `errors` are not whole rows.
    pub fn output_error(&self, errors: &[f32]) -> Result<f64> {
        check_len("weight errors", errors.len() / self.inputs().max(1) * self.inputs(), errors.len())?;
        let of_row = |row: &[f32]| -> f64 {
            let terms = row.iter().zip(self.sums().chunks_exact(self.inputs())).map(|(e, sums)| {
                let dot: f64 = sums.iter().zip(row).map(|(h, e)| f64::from(*h) * f64::from(*e)).sum();
                f64::from(*e) * dot
            });
            terms.sum()
        };
        // Collected, so that the order of the sum does not depend on the number of threads.
        let rows: Vec<f64> = errors.par_chunks_exact(self.inputs().max(1)).map(of_row).collect();
        Ok(rows.iter().sum())
    }
}

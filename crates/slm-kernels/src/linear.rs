//! Linear layers on quantized weights.

use slm_quant_core::{ActivationQuant, Error, Result, check_finite, check_len};

use crate::kernel::Input;
use crate::schedule::{MatmulWeights, multiply};
use crate::{MatmulTask, PackedMatrix, QuantizedActivations, Workspace, quantize_activations};

/// Computes `out[i, n] = bias[n] + sum_k x[i, k] * w[n, k]` for a row-major `[m, k]` input and `[n, k]` weights.
///
/// With quantized activations the sums of products are exact integers. The remaining steps are fused multiply-adds in
/// 32-bit floats. For weights of one group to a row the result is
///
/// ```text
/// sum = acc * scale + 0
/// out = sum * x_scale + bias          acc = sum_k (x_code - x_zero_point) * (code - zero_point)
/// ```
///
/// and for weights of several groups `g`, where the inputs' zero point is applied once to a row and not to every group:
///
/// ```text
/// sum = 0;      for g in 0..groups { sum = acc_g * scale_g + sum }
/// weights = 0;  for g in 0..groups { weights = w_g * scale_g + weights }
/// sum = weights * (128 - x_zero_point) + sum
/// out = sum * x_scale + bias          acc_g = sum_k (x_code - 128) * (code - zero_point)
///                                     w_g = sum_k (code - zero_point)
/// ```
///
/// With [`ActivationQuant::Float`] inputs become integers too, of 23 bits and a sign. Each run of up to 64 columns of a
/// group has its own `step`, a power of two. Rounding to it changes an input by at most 1.21e-7 times the largest value
/// of its run, which is the size of the error of sums of 32-bit floats. The integers have three signed digits `x_d` in
/// base 256. The result is
///
/// ```text
/// dot = 0;      for each run of the group, for d in 0..3 { dot = acc_d * (256^d * step) + dot }
/// sum = 0;      for g in 0..groups { sum = dot_g * scale_g + sum }
/// out = sum + bias                    acc_d = sum_k x_d * (code - zero_point)
/// ```
///
/// Every kernel keeps these orders of operations, so that all give the same bits.
///
/// # Errors
/// [`Error::Length`](slm_quant_core::Error::Length) for slices that do not fit the shapes,
/// [`Error::NotFinite`](slm_quant_core::Error::NotFinite) for an input that is NaN or infinite,
/// [`Error::Parameter`](slm_quant_core::Error::Parameter) for bad static parameters.
pub fn linear(
    x: &[f32],
    m: usize,
    w: &PackedMatrix,
    quant: &ActivationQuant,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    check_len("activations", m * w.cols(), x.len())?;
    if *quant != ActivationQuant::Float {
        return linear_quantized(&quantize_activations(x, m, w.cols(), quant)?, w, bias, out);
    }
    linear_many(LinearInput::Float(x, m), &mut [MatmulTask::new(w, bias, out)], &mut Workspace::new())
}

/// [`linear`] for an input that is already quantized.
///
/// # Errors
/// [`Error::Length`](slm_quant_core::Error::Length) for slices that do not fit the shapes.
pub fn linear_quantized(
    x: &QuantizedActivations,
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let products = &mut [MatmulTask::new(w, bias, out)];
    linear_many(LinearInput::Quantized(x), products, &mut Workspace::new())
}

/// The input of [`linear_many`].
#[derive(Debug, Clone, Copy)]
pub enum LinearInput<'a> {
    /// 8-bit codes.
    Quantized(&'a QuantizedActivations),
    /// Row-major floats and the number of rows, for products with float weights and for *weight-only* products.
    Float(&'a [f32], usize),
}

/// [`linear`] of one input with several matrices in one parallel region. The matrices may differ in everything except
/// the number of inputs. With float weights ([`FloatMatrix`](crate::FloatMatrix)) a result is 16 running sums
/// `sum = x_k * w_k + sum`, of which sum `j` takes columns `j`, `j + 16` and so on. They are added up by halves, then the bias
/// is added. Nothing is allocated once `workspace` has grown, except by
/// [`KernelKind::Scalar`](crate::KernelKind::Scalar).
///
/// # Errors
/// [`Error::Length`] for slices that do not fit the shapes, [`Error::NotFinite`] for an input of quantized weights that
/// is NaN or infinite, and [`Error::Parameter`] for a quantized input of float weights. On an error no output is
/// changed.
///
/// ```
/// use slm_kernels::*;
/// use slm_quant_core::*;
///
/// let scheme = QuantScheme::per_tensor(Bits::Int8);
/// let pack = |w: &[f32]| PackedMatrix::new(quantize_matrix(w, 1, 2, scheme, &ObserverKind::MinMax)?, KernelKind::best());
/// let (q, k) = (pack(&[1.0, 0.0])?, pack(&[0.0, -1.0])?);
///
/// // Kept from step to step.
/// let (mut x, mut workspace) = (QuantizedActivations::empty(), Workspace::new());
/// let quant = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
/// let (mut q_out, mut k_out) = ([0.0; 1], [0.0; 1]);
/// quantize_activations_into(&[0.5, -0.25], 1, 2, &quant, &mut x)?;
/// let mut products = [MatmulTask::new(&q, None, &mut q_out), MatmulTask::new(&k, None, &mut k_out)];
/// linear_many(LinearInput::Quantized(&x), &mut products, &mut workspace)?;
/// assert!((q_out[0] - 0.5).abs() < 0.01 && (k_out[0] - 0.25).abs() < 0.01);
/// # Ok::<(), Error>(())
/// ```
pub fn linear_many(
    x: LinearInput<'_>,
    products: &mut [MatmulTask<'_>],
    workspace: &mut Workspace,
) -> Result<()> {
    let input = match x {
        LinearInput::Quantized(x) => {
            products.iter().try_for_each(|product| product.check(x.rows(), x.cols()))?;
            if products.iter().any(|product| matches!(product.weights(), MatmulWeights::Float(_))) {
                let detail = "a quantized input cannot be multiplied with float weights".to_owned();
                return Err(Error::Parameter { what: "activations", detail });
            }
            Input::Quantized(x)
        }
        LinearInput::Float(x, m) => {
            for product in &*products {
                check_len("activations", m * product.weights().cols(), x.len())?;
                product.check(m, product.weights().cols())?;
            }
            if products.iter().any(|product| matches!(product.weights(), MatmulWeights::Packed(_))) {
                check_finite("activations", x)?;
            }
            Input::Float(x, m)
        }
    };
    multiply(input, products, workspace);
    Ok(())
}

/// The exact integer sums behind [`linear_quantized`], `sum_k (x_code - x_zero_point) * (w_code -
/// w_zero_point)` of each group, as `[m, rows, groups]`.
///
/// # Errors
/// [`Error::Length`](slm_quant_core::Error::Length) if the input and the weights differ in the number of columns.
pub fn accumulate(x: &QuantizedActivations, w: &PackedMatrix) -> Result<Vec<i32>> {
    check_len("activation columns", w.cols(), x.cols())?;
    let mut out = vec![0; x.rows() * w.rows() * w.groups_per_row()];
    w.packed().accumulate(x, &mut out);
    Ok(out)
}

//! Exact integer matrix products in plain scalar code, the reference for every kernel.

use crate::scan::check_len;
use crate::{Code, Error, QuantScheme, QuantizedMatrix, Result};

/// Integer accumulators `[M, N]`, row-major: `acc[m, n] = Σ_k (x[m, k] - zx[m]) (w[n, k] - zw[n, k])`.
///
/// `x` is `[M, K]` row-major with one zero point per row (`M` is their number), `weight` is `[N, K]`. For a weight
/// quantized per group the sum still runs over all of K; [`int_matmul_grouped`] keeps groups apart.
///
/// # Errors
/// [`Error::Length`] where `x` does not fit, [`Error::Parameter`] for a zero point that `C` does not hold,
/// [`Error::AccumulatorOverflow`] if K is so large that some codes would overflow an `i32`.
pub fn int_matmul<C: Code>(x: &[C], zero_points: &[i32], weight: &QuantizedMatrix) -> Result<Vec<i32>> {
    let k = weight.cols();
    check_activations(x, zero_points, weight, k)?;
    let mut acc = vec![0; zero_points.len() * weight.rows()];
    accumulate(x, zero_points, weight, |m, n, _, product| acc[m * weight.rows() + n] += product);
    Ok(acc)
}

/// [`int_matmul`] with an accumulator for each group of the weight: `[M, N, G]`, where `G` is
/// [`QuantizedMatrix::groups_per_row`].
///
/// # Errors
/// As [`int_matmul`], with K the width of a group.
pub fn int_matmul_grouped<C: Code>(
    x: &[C],
    zero_points: &[i32],
    weight: &QuantizedMatrix,
) -> Result<Vec<i32>> {
    check_activations(x, zero_points, weight, weight.group_width())?;
    let (rows, groups) = (weight.rows(), weight.groups_per_row());
    let mut acc = vec![0; zero_points.len() * rows * groups];
    accumulate(x, zero_points, weight, |m, n, g, product| acc[(m * rows + n) * groups + g] += product);
    Ok(acc)
}

/// The largest number of products whose sum always fits an `i32`: products of activation codes in `C`, with any zero
/// point in `C`, and codes of a weight quantized as `scheme` says.
pub fn max_safe_products<C: Code>(scheme: QuantScheme) -> usize {
    let activation = i64::from(C::MAX) - i64::from(C::MIN);
    let range = scheme.range();
    let weight = match scheme.mapping.is_symmetric() {
        false => i64::from(range.steps()),
        true => i64::from(range.quant_min().abs().max(range.quant_max())),
    };
    (i64::from(i32::MAX) / (activation * weight)) as usize
}

fn check_activations<C: Code>(
    x: &[C],
    zero_points: &[i32],
    weight: &QuantizedMatrix,
    products: usize,
) -> Result<()> {
    check_len("activation codes", zero_points.len() * weight.cols(), x.len())?;
    if let Some(zero_point) = zero_points.iter().find(|z| **z < C::MIN || **z > C::MAX) {
        return Err(Error::Parameter {
            what: "activation zero point",
            detail: format!("{zero_point} is outside [{}, {}], the range of {}", C::MIN, C::MAX, C::NAME),
        });
    }
    let max_k = max_safe_products::<C>(weight.scheme());
    if products > max_k {
        return Err(Error::AccumulatorOverflow { k: products, max_k });
    }
    Ok(())
}

/// Calls `add(m, n, group, product)` for every product.
fn accumulate<C: Code>(
    x: &[C],
    zero_points: &[i32],
    weight: &QuantizedMatrix,
    mut add: impl FnMut(usize, usize, usize, i32),
) {
    let (k, width) = (weight.cols(), weight.group_width());
    let mut codes = vec![0_i8; k];
    let mut row = vec![0_i32; k];
    for n in 0..weight.rows() {
        weight.unpack_row(n, &mut codes);
        for (group, (row, codes)) in row.chunks_mut(width).zip(codes.chunks(width)).enumerate() {
            let zero_point = weight.qparams(weight.scale_index(n, group)).zero_point;
            for (value, code) in row.iter_mut().zip(codes) {
                *value = i32::from(*code) - zero_point;
            }
        }
        for (m, zero_point) in zero_points.iter().enumerate() {
            let x = &x[m * k..][..k];
            for (group, (row, x)) in row.chunks(width).zip(x.chunks(width)).enumerate() {
                let products = row.iter().zip(x).map(|(w, x)| w * (x.widen() - zero_point));
                add(m, n, group, products.sum());
            }
        }
    }
}

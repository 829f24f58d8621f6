//! The portable reference of products in BF16.

use super::Bf16Pair;
use crate::matmul::{PanelBlock, Tile, put_sums};
use crate::panel::PANEL;

/// Sums below this magnitude become zero: they are below the smallest normal number even after rounding to 24 bits.
const TINY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1 << 25) as f64);

/// The upper half of `value`, rounded to nearest, ties to even. Subnormal numbers become zero, and NaNs quiet.
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    if value.is_nan() {
        return bits >> 16 | 0x40;
    }
    if value.is_subnormal() {
        return bits >> 16 & 0x8000;
    }
    (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
}

fn pair(even: f32, odd: f32) -> Bf16Pair {
    Bf16Pair(rounded(even) | rounded(odd) << 16)
}

pub(super) fn round(terms: &[f32], out: &mut [Bf16Pair]) {
    for (out, terms) in out.iter_mut().zip(terms.chunks(2)) {
        *out = pair(terms[0], terms.get(1).copied().unwrap_or(0.0));
    }
}

pub(super) fn interleave(rows: &[[f32; PANEL]], out: &mut [[Bf16Pair; PANEL]]) {
    for (out, rows) in out.iter_mut().zip(rows.chunks(2)) {
        let odd = rows.get(1).copied().unwrap_or_default();
        *out = std::array::from_fn(|j| pair(rows[0][j], odd[j]));
    }
}

/// Adds two products to `sum`, the odd one first.
pub(super) fn add_products(sum: f32, a: Bf16Pair, b: Bf16Pair) -> f32 {
    add_product(add_product(sum, a.odd(), b.odd()), a.even(), b.even())
}

fn add_product(sum: f32, a: f32, b: f32) -> f32 {
    let fused = a.mul_add(b, sum);
    // The product is exact in f64; the sum is near enough to see on which side of the bound it is.
    let is_tiny = f64::from(a).mul_add(f64::from(b), f64::from(sum)).abs() < TINY;
    if is_tiny { 0.0_f32.copysign(fused) } else { fused }
}

pub(super) fn multiply(tile: Tile<'_, Bf16Pair>) {
    let Tile { rows, panels, accumulate, out, out_stride } = tile;
    let PanelBlock { elements, count, stride, depth } = panels;
    let (runs, _) = elements.as_chunks::<PANEL>();
    for (i, row) in rows.iter().enumerate() {
        for n in 0..count {
            let mut sums = [0.0; PANEL];
            for (&a, run) in row.iter().zip(&runs[n * stride..][..depth]) {
                sums.iter_mut().zip(run).for_each(|(sum, &b)| *sum = add_products(*sum, a, b));
            }
            let out = &mut out[i * out_stride + n * PANEL..][..PANEL];
            put_sums(out, &sums, accumulate);
        }
    }
}

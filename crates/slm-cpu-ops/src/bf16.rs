//! Matrix products whose operands are rounded to BF16, with sums in f32.
//!
//! Operands are f32 in memory. They are rounded while they are packed, into pairs of consecutive terms: to nearest, ties
//! to even, and to zero below the smallest normal number. A pair of products is added to a sum as the instruction
//! `vdpbf16ps` of x86-64 does it: first the product of the odd terms, then that of the even ones, each with a single
//! rounding to nearest, ties to even, and results below the smallest normal number become zero. Both kernels give the
//! same bits; only the payload of a NaN may differ.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::ops::Range;

use crate::matmul::{MatmulScratch, PackedRows, PanelElement, Tile};
use crate::matrix::Matrix;
use crate::panel::PANEL;

/// Two consecutive terms, rounded to BF16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16Pair(u32);

impl Bf16Pair {
    fn even(self) -> f32 {
        f32::from_bits(self.0 << 16)
    }

    fn odd(self) -> f32 {
        f32::from_bits(self.0 & 0xFFFF_0000)
    }
}

/// Returns `true` if this processor has the instructions for products in BF16. Without them the products take a portable
/// loop, which gives the same bits and is much slower than f32.
pub fn has_bf16_products() -> bool {
    Kernel::best() != Kernel::Scalar
}

/// The implementation of rounding and products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// The reference.
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl Kernel {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = avx512::Avx512::detect() {
            return Self::Avx512(avx512);
        }
        Self::Scalar
    }

    /// Rounds consecutive terms to pairs. After an odd number of terms the last pair ends with zero.
    fn round(self, terms: &[f32], out: &mut [Bf16Pair]) {
        assert_eq!(out.len(), Bf16Pair::count(terms.len()), "bf16: number of pairs");
        match self {
            Self::Scalar => scalar::round(terms, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.round(terms, out),
        }
    }

    /// Rounds pairs of consecutive rows. After an odd number of rows the last pairs end with zeros.
    fn interleave(self, rows: &[[f32; PANEL]], out: &mut [[Bf16Pair; PANEL]]) {
        assert_eq!(out.len(), Bf16Pair::count(rows.len()), "bf16: number of pairs");
        match self {
            Self::Scalar => scalar::interleave(rows, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.interleave(rows, out),
        }
    }

    fn multiply(self, tile: Tile<'_, Bf16Pair>) {
        match self {
            Self::Scalar => scalar::multiply(tile),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(avx512) => avx512.multiply(tile),
        }
    }
}

/// Number of terms of a panel that are packed together, so that their f32 values stay in the first-level cache.
const CHUNK: usize = 64;

impl PanelElement for Bf16Pair {
    const TERMS: usize = 2;

    const BLOCK: usize = 512;

    fn pack(b: Matrix<'_>, panel: usize, out: &mut [Self]) {
        let kernel = Kernel::best();
        let (out, _) = out.as_chunks_mut::<PANEL>();
        let mut values = [[0.0; PANEL]; CHUNK];
        for (start, out) in (0..b.rows()).step_by(CHUNK).zip(out.chunks_mut(CHUNK / Self::TERMS)) {
            let rows = start..(start + CHUNK).min(b.rows());
            let values = &mut values[..rows.len()];
            b.copy_panel(panel, rows, values.as_flattened_mut());
            kernel.interleave(values, out);
        }
    }

    fn rows<'a>(
        a: Matrix<'a>,
        rows: Range<usize>,
        block: Range<usize>,
        scratch: &'a mut MatmulScratch,
    ) -> PackedRows<'a, Self> {
        let kernel = Kernel::best();
        let MatmulScratch { rows: transposed, pairs } = scratch;
        let terms = block.start * Self::TERMS..(block.end * Self::TERMS).min(a.cols());
        pairs.resize(rows.len() * block.len(), Self::default());
        let (values, stride) = match a.row_major() {
            Some(values) => (&values[rows.start * a.cols() + terms.start..], a.cols()),
            None => {
                transposed.resize(rows.len() * terms.len(), 0.0);
                a.copy_rows(rows, terms.clone(), transposed);
                (transposed.as_slice(), terms.len())
            }
        };
        for (out, values) in pairs.chunks_exact_mut(block.len()).zip(values.chunks(stride)) {
            kernel.round(&values[..terms.len()], out);
        }
        PackedRows { elements: pairs, stride: block.len() }
    }

    fn multiply(tile: Tile<'_, Self>) {
        Kernel::best().multiply(tile);
    }
}

#[cfg(test)]
#[path = "bf16/tests.rs"]
mod tests;

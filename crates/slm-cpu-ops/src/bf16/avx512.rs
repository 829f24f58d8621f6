//! Products in BF16 by AVX-512 with its BF16 instructions.

#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_permutexvar_epi16, _mm512_setzero_ps,
};
use std::mem::transmute;

use super::{Bf16Pair, scalar};
use crate::matmul::{PanelBlock, TILE_ROWS, Tile};
use crate::panel::PANEL;

type Terms = [f32; PANEL];
type Pairs = [Bf16Pair; PANEL];

/// Proof that this processor has AVX-512 with F, BW and BF16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        found.then_some(Self(()))
    }

    pub(super) fn round(self, terms: &[f32], out: &mut [Bf16Pair]) {
        // SAFETY: `self` proves that the processor has the instructions.
        unsafe { round(terms, out) }
    }

    pub(super) fn interleave(self, rows: &[Terms], out: &mut [Pairs]) {
        // SAFETY: `self` proves that the processor has the instructions.
        unsafe { interleave(rows, out) }
    }

    pub(super) fn multiply(self, tile: Tile<'_, Bf16Pair>) {
        // SAFETY: `self` proves that the processor has the instructions.
        unsafe { multiply(tile) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn floats(terms: Terms) -> __m512 {
    // SAFETY: both are 16 floats.
    unsafe { transmute::<Terms, __m512>(terms) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(pairs: Pairs) -> __m512bh {
    // SAFETY: both are 64 bytes, and any bits are valid.
    unsafe { transmute::<Pairs, __m512bh>(pairs) }
}

/// Rounds `even` to the lower half of the result, and `odd` to its upper half.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(even: &Terms, odd: &Terms) -> __m512bh {
    _mm512_cvtne2ps_pbh(floats(*odd), floats(*even))
}

/// The lanes of 32 terms in the order of pairs: each of the first half, followed by its neighbour of the second.
const INTERLEAVED: [u16; 2 * PANEL] = {
    let mut order = [0; 2 * PANEL];
    let mut lane = 0;
    while lane < order.len() {
        order[lane] = (lane / 2 + lane % 2 * PANEL) as u16;
        lane += 1;
    }
    order
};

#[target_feature(enable = "avx512f,avx512bf16")]
fn round(terms: &[f32], out: &mut [Bf16Pair]) {
    let (chunks, rest) = terms.as_chunks::<{ 2 * PANEL }>();
    for (chunk, out) in chunks.iter().zip(out.as_chunks_mut::<PANEL>().0) {
        let (halves, _) = chunk.as_chunks::<PANEL>();
        // SAFETY: both are 64 bytes, and any bits are valid.
        *out = unsafe { transmute::<__m512bh, Pairs>(rounded(&halves[0], &halves[1])) };
    }
    scalar::round(rest, &mut out[chunks.len() * PANEL..]);
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn interleave(rows: &[Terms], out: &mut [Pairs]) {
    // SAFETY: both are 64 bytes, and any bits are valid.
    let order = unsafe { transmute::<[u16; 2 * PANEL], __m512i>(INTERLEAVED) };
    let (both, last) = rows.as_chunks::<2>();
    for ([even, odd], out) in both.iter().zip(out.iter_mut()) {
        // SAFETY: both are 64 bytes, and any bits are valid.
        let halves = unsafe { transmute::<__m512bh, __m512i>(rounded(even, odd)) };
        // SAFETY: both are 64 bytes, and any bits are valid.
        *out = unsafe { transmute::<__m512i, Pairs>(_mm512_permutexvar_epi16(order, halves)) };
    }
    scalar::interleave(last, &mut out[both.len()..]);
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply(mut tile: Tile<'_, Bf16Pair>) {
    let count = tile.panels.count;
    let mut first = 0;
    while first + 4 <= count {
        tile.multiply::<4>(first);
        first += 4;
    }
    while first < count {
        tile.multiply::<1>(first);
        first += 1;
    }
}

impl Tile<'_, Bf16Pair> {
    /// Multiplies all rows with `N` panels from `first` on, whose sums stay in registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn multiply<const N: usize>(&mut self, first: usize) {
        let PanelBlock { elements, stride, depth, .. } = self.panels;
        let (runs, _) = elements.as_chunks::<PANEL>();
        let mut panels: [&[Pairs]; N] = [&[]; N];
        for n in 0..N {
            panels[n] = &runs[(first + n) * stride..][..depth];
        }
        let height = self.rows.len();
        // Rows past the last repeat it, and are not written.
        let mut rows: [&[Bf16Pair]; TILE_ROWS] = [&[]; TILE_ROWS];
        for i in 0..TILE_ROWS {
            rows[i] = &self.rows[i.min(height - 1)][..depth];
        }
        let mut sums = [[_mm512_setzero_ps(); N]; TILE_ROWS];
        for k in 0..depth {
            let mut b = [pairs([Bf16Pair::default(); PANEL]); N];
            for n in 0..N {
                b[n] = pairs(panels[n][k]);
            }
            for i in 0..TILE_ROWS {
                let a = pairs([rows[i][k]; PANEL]);
                for n in 0..N {
                    sums[i][n] = _mm512_dpbf16_ps(sums[i][n], a, b[n]);
                }
            }
        }
        for i in 0..height {
            let (out, _) = self.out[i * self.out_stride + first * PANEL..].as_chunks_mut::<PANEL>();
            for n in 0..N {
                let total =
                    if self.accumulate { _mm512_add_ps(floats(out[n]), sums[i][n]) } else { sums[i][n] };
                // SAFETY: both are 16 floats.
                out[n] = unsafe { transmute::<__m512, Terms>(total) };
            }
        }
    }
}

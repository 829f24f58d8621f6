//! Float inputs times dequantized weights: *weight-only* quantization.
//!
//! Codes become floats in registers, their zero point is subtracted (both exact), and each group's sum is
//! scaled once at its end.

use super::activations::FloatInputs;
use super::blocked::{Blocked, LaneScales};
use super::driver::Job;
use super::simd::{LINE_BYTES, Simd};
use super::{PREFETCH_BYTES, SharedOut, load_lanes, store_lanes};
use crate::Bits;

/// A product with float inputs.
pub(crate) struct FloatJob<'a> {
    pub(crate) x: FloatInputs<'a>,
    pub(crate) w: &'a Blocked,
    pub(crate) out: SharedOut<'a, f32>,
    pub(crate) bias: Option<&'a [f32]>,
}

impl Job for FloatJob<'_> {
    fn rows(&self) -> usize {
        self.x.rows()
    }

    fn blocks(&self) -> usize {
        self.w.blocks()
    }

    fn block_bytes(&self) -> usize {
        self.w.block_bytes()
    }

    #[inline(always)]
    fn strip<S: Simd, const M: usize, const NB: usize>(&self, simd: S, row: usize, blocks: [usize; NB]) {
        match self.w.scheme().bits {
            Bits::Int8 => self.tile::<S, M, NB, false>(simd, row, blocks),
            Bits::Int4 => self.tile::<S, M, NB, true>(simd, row, blocks),
        }
    }
}

/// Inputs and sums of one group of a tile.
struct Group<S: Simd, const M: usize, const NB: usize> {
    simd: S,
    x: [*const f32; M],
    zero_points: Option<[S::F32; NB]>,
    dot: [[S::F32; NB]; M],
}

impl<S: Simd, const M: usize, const NB: usize> Group<S, M, NB> {
    /// Adds the products of column `J` of a line.
    ///
    /// # Safety
    /// The inputs must be readable at `J`.
    #[inline(always)]
    unsafe fn column<const J: u32, const INT4: bool>(&mut self, line: &[S::Bytes; NB]) {
        let simd = self.simd;
        let mut code = line.map(|l| if INT4 { simd.nibble_to_f32::<J>(l) } else { simd.byte_to_f32::<J>(l) });
        if let Some(zero_points) = &self.zero_points {
            for b in 0..NB {
                code[b] = simd.sub_f32(code[b], zero_points[b]);
            }
        }
        for i in 0..M {
            // SAFETY: by this function's contract.
            let x = simd.splat_f32(unsafe { *self.x[i].add(J as usize) });
            for b in 0..NB {
                self.dot[i][b] = simd.fma_f32(x, code[b], self.dot[i][b]);
            }
        }
    }
}

impl FloatJob<'_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const NB: usize, const INT4: bool>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
    ) {
        let w = self.w;
        let mut x: [*const f32; M] = std::array::from_fn(|i| self.x.row(row + i));
        let mut lines: [*const u8; NB] = std::array::from_fn(|b| w.block_lines(blocks[b]));
        let mut sums = [[simd.splat_f32(0.0); NB]; M];
        for group in 0..w.groups_per_row() {
            let zero_points = w.zero_points(blocks[0], group).map(|first| {
                let all = blocks.map(|b| w.zero_points(b, group).unwrap_or(first));
                all.map(|z| simd.to_f32(simd.widen_i8(z)))
            });
            let mut of = Group { simd, x, zero_points, dot: [[simd.splat_f32(0.0); NB]; M] };
            for _ in 0..w.steps(group) {
                let line: [S::Bytes; NB] = std::array::from_fn(|b| {
                    simd.prefetch(lines[b].wrapping_add(PREFETCH_BYTES));
                    // SAFETY: `lines[b]` starts at a block's first line and advances one line a step;
                    // the steps of all groups are the lines of a block.
                    unsafe { simd.load_line(lines[b]) }
                });
                lines = lines.map(|l| l.wrapping_add(LINE_BYTES));
                // SAFETY: an input row holds as many floats as a block has columns, padding included, and
                // `x` advances by the columns of a line.
                unsafe {
                    of.column::<0, INT4>(&line);
                    of.column::<1, INT4>(&line);
                    of.column::<2, INT4>(&line);
                    of.column::<3, INT4>(&line);
                    if INT4 {
                        of.column::<4, INT4>(&line);
                        of.column::<5, INT4>(&line);
                        of.column::<6, INT4>(&line);
                        of.column::<7, INT4>(&line);
                    }
                }
                of.x = of.x.map(|x| x.wrapping_add(if INT4 { 8 } else { 4 }));
            }
            x = of.x;
            for b in 0..NB {
                let scale = match w.scales(blocks[b], group) {
                    LaneScales::F32(v) => simd.load_f32(v),
                    LaneScales::F16(v) => simd.load_f16(v),
                };
                for i in 0..M {
                    sums[i][b] = simd.fma_f32(of.dot[i][b], scale, sums[i][b]);
                }
            }
        }
        for b in 0..NB {
            let bias = load_lanes(simd, self.bias, blocks[b]);
            for i in 0..M {
                store_lanes(simd, &self.out, w.rows(), row + i, blocks[b], simd.add_f32(sums[i][b], bias));
            }
        }
    }
}

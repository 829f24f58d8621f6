//! 8-bit inputs times weights of several groups to a row.
//!
//! With `x` an input code, `X` the zero point of its row, `w` a weight code less its zero point, `s` a
//! group's scale, a result before the scale of the input and the bias is
//!
//! ```text
//! sum s (sum (x - X) w)  =  sum s (sum (x - 128) w)  +  (128 - X) sum s (sum w)
//! ```
//!
//! where the last sum is known when weights are packed. So the zero point of the input costs one
//! multiplication to a row and none to a group. The inner sums are exact; 8 bits hold `x - 128`. Operands are
//! codes plus an `offset` that makes them unsigned, for which `offset * sum (x - 128)` is subtracted from each
//! group, a number that all rows of weights without zero points share.

#![allow(clippy::needless_range_loop, reason = "a tile has a row and a block on every side")]

use super::MIDDLE;
use super::inputs::operand_offset;
use super::integer::{IntegerJob, Output};
use super::simd::{LINE_BYTES, NIBBLE_LINES, Simd};
use super::unpacked::OPERANDS;
use super::vector::PREFETCH_BYTES;
use crate::Bits;

impl<O: Output> IntegerJob<'_, O> {
    /// `M` rows by `NB` blocks. `UNPACKED`: `lines` are operands in the order of columns.
    ///
    /// # Safety
    /// `lines` must point to the lines of `blocks`, or if `UNPACKED` to what [`IntegerJob::unpack_block`] has
    /// made of them.
    #[inline(always)]
    pub(super) unsafe fn grouped_tile<S: Simd, const M: usize, const NB: usize, const UNPACKED: bool>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        lines: [*const u8; NB],
    ) {
        // SAFETY: by this function's contract.
        unsafe {
            match self.w.scheme().bits {
                Bits::Int8 => self.grouped::<S, M, NB, false, UNPACKED>(simd, row, blocks, lines),
                Bits::Int4 => self.grouped::<S, M, NB, true, UNPACKED>(simd, row, blocks, lines),
            }
        }
    }

    /// [`IntegerJob::grouped_tile`] for one kind of codes.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn grouped<S: Simd, const M: usize, const NB: usize, const INT4: bool, const UNPACKED: bool>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        lines: [*const u8; NB],
    ) {
        let w = self.w;
        let offset = simd.splat_i32(operand_offset::<S>(w));
        let mut run = Run { x: [std::ptr::null(); M], lines };
        let mut x_sums = [None; M];
        for i in 0..M {
            run.x[i] = self.x.row(row + i);
            x_sums[i] = self.x.group_sums(row + i);
        }
        let scales = blocks.map(|block| w.scales(block));
        let zero_points = blocks.map(|block| w.zero_points(block));
        let mut results = [[simd.splat_f32(0.0); NB]; M];
        for group in 0..w.groups_per_row() {
            let mut acc = [[simd.splat_i32(0); NB]; M];
            for i in 0..M {
                let x_sum = simd.splat_i32(x_sums[i].map_or(0, |sums| sums[group]));
                for b in 0..NB {
                    acc[i][b] = match zero_points[b] {
                        None => x_sum,
                        Some(values) => {
                            let zero_points = simd.add_i32(simd.widen_i8(&values[group]), offset);
                            simd.mul_i32(zero_points, x_sum)
                        }
                    };
                }
            }
            let mut left = w.steps(group);
            // SAFETY: the steps of all groups are the lines of a block; an input row holds as many codes, of the
            // type that this instruction set takes, as a block has columns, padding included.
            unsafe {
                if INT4 {
                    while left >= NIBBLE_LINES {
                        run.nibble_lines::<S, NIBBLE_LINES, UNPACKED>(simd, &mut acc);
                        left -= NIBBLE_LINES;
                    }
                }
                for _ in 0..left {
                    if INT4 {
                        run.nibble_lines::<S, 1, UNPACKED>(simd, &mut acc);
                    } else {
                        run.byte_line::<S, UNPACKED>(simd, &mut acc);
                    }
                }
            }
            for b in 0..NB {
                let scale = scales[b].load(simd, group);
                for i in 0..M {
                    results[i][b] = simd.fma_f32(simd.to_f32(acc[i][b]), scale, results[i][b]);
                }
            }
            if O::SUMS {
                for b in 0..NB {
                    let weights = simd.load_i32(&w.group_sums(blocks[b], group));
                    for i in 0..M {
                        let rest = simd.splat_i32(MIDDLE - self.x.zero_point(row + i));
                        acc[i][b] = simd.add_i32(acc[i][b], simd.mul_i32(rest, weights));
                    }
                }
                self.out.sums(simd, w, row, blocks, group, &acc);
            }
        }
        for b in 0..NB {
            let weights = simd.load_f32(w.scaled_sums(blocks[b]));
            for i in 0..M {
                let rest = simd.splat_f32((MIDDLE - self.x.zero_point(row + i)) as f32);
                results[i][b] = simd.fma_f32(weights, rest, results[i][b]);
            }
        }
        self.out.results(simd, w, row, blocks, &self.x, &results);
    }
}

/// What is multiplied next.
struct Run<const M: usize, const NB: usize> {
    x: [*const u8; M],
    lines: [*const u8; NB],
}

impl<const M: usize, const NB: usize> Run<M, NB> {
    /// Multiplies `COUNT` lines of INT4 codes of each block.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn nibble_lines<S: Simd, const COUNT: usize, const UNPACKED: bool>(
        &mut self,
        simd: S,
        acc: &mut [[S::I32; NB]; M],
    ) {
        let mut sums = [[simd.no_nibble_sums(); NB]; M];
        for number in 0..COUNT {
            let mut low = [simd.zero_bytes(); NB];
            let mut high = [simd.zero_bytes(); NB];
            for b in 0..NB {
                // SAFETY: by this function's contract.
                unsafe {
                    if UNPACKED {
                        let at = self.lines[b].wrapping_add(OPERANDS * number * LINE_BYTES);
                        low[b] = simd.load_line(at);
                        high[b] = simd.load_line(at.wrapping_add(LINE_BYTES));
                    } else {
                        let at = self.lines[b].wrapping_add(number * LINE_BYTES);
                        simd.prefetch(at.wrapping_add(PREFETCH_BYTES));
                        let line = simd.load_line(at);
                        low[b] = simd.nibbles::<false>(line);
                        high[b] = simd.nibbles::<true>(line);
                    }
                }
            }
            for i in 0..M {
                let x = self.x[i].wrapping_add(8 * number);
                for b in 0..NB {
                    // SAFETY: by this function's contract; unpacked nibbles are low ones.
                    unsafe {
                        sums[i][b] = simd.dot_nibbles::<false>(sums[i][b], x, low[b]);
                    }
                }
                for b in 0..NB {
                    // SAFETY: as above.
                    unsafe {
                        sums[i][b] = if UNPACKED {
                            simd.dot_nibbles::<false>(sums[i][b], x.wrapping_add(4), high[b])
                        } else {
                            simd.dot_nibbles::<true>(sums[i][b], x.wrapping_add(4), high[b])
                        };
                    }
                }
            }
        }
        for i in 0..M {
            self.x[i] = self.x[i].wrapping_add(8 * COUNT);
            for b in 0..NB {
                acc[i][b] = simd.add_nibble_sums(acc[i][b], sums[i][b]);
            }
        }
        for b in 0..NB {
            let lines = if UNPACKED { OPERANDS * COUNT } else { COUNT };
            self.lines[b] = self.lines[b].wrapping_add(lines * LINE_BYTES);
        }
    }

    /// Multiplies a line of INT8 codes of each block.
    ///
    /// # Safety
    /// There must be one, and inputs for it.
    #[inline(always)]
    unsafe fn byte_line<S: Simd, const UNPACKED: bool>(&mut self, simd: S, acc: &mut [[S::I32; NB]; M]) {
        let parts = if S::CENTERED_INPUT8 { OPERANDS } else { 1 };
        for part in 0..parts {
            let mut codes = [simd.zero_bytes(); NB];
            for b in 0..NB {
                // SAFETY: by this function's contract.
                unsafe {
                    codes[b] = if UNPACKED {
                        simd.load_line(self.lines[b].wrapping_add(part * LINE_BYTES))
                    } else {
                        simd.signed_operand8(simd.load_line(self.lines[b]), part)
                    };
                }
            }
            for i in 0..M {
                for b in 0..NB {
                    // SAFETY: by this function's contract.
                    unsafe {
                        acc[i][b] = simd.signed_dot8(acc[i][b], self.x[i].wrapping_add(4 * part), codes[b]);
                    }
                }
            }
        }
        for i in 0..M {
            self.x[i] = self.x[i].wrapping_add(4 * parts);
        }
        for b in 0..NB {
            if !UNPACKED {
                simd.prefetch(self.lines[b].wrapping_add(PREFETCH_BYTES));
            }
            let lines = if UNPACKED { parts } else { 1 };
            self.lines[b] = self.lines[b].wrapping_add(lines * LINE_BYTES);
        }
    }
}

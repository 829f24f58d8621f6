//! 8-bit inputs times weights of several groups to a row.
//!
//! Let `x` be an input code, `X` the zero point of its row, `w` a weight code less its zero point, and `s` a group's
//! scale. Before the scale of the input and the bias, a result is
//!
//! ```text
//! sum s (sum (x - X) w)  =  sum s (sum (x - 128) w)  +  (128 - X) sum s (sum w)
//! ```
//!
//! where the last sum is known when weights are packed. So the zero point of the input costs one multiplication to a
//! row and none to a group. The inner sums are exact; 8 bits hold `x - 128`. Operands are codes plus an `offset` that
//! makes them unsigned. For it, `offset * sum (x - 128)` is subtracted from each group: a number that all rows of
//! weights without zero points share.

// Loops over vectors, not closures: closures are not compiled with the instructions enabled.
#![allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]
use slm_quant_core::Bits;

use crate::integer::{IntegerArgs, Output};
use crate::kernel::ACTIVATION_OFFSET;
use crate::lhs::operand_offset;
use crate::packed_rhs::{GroupScales, LaneScales};
use crate::simd::{LINE_BYTES, NIBBLE_LINES, Simd};
use crate::unpacked::OPERANDS;
use crate::vector::SCALE_PREFETCH_BYTES;

/// Minimum size of an input row that is prefetched. Narrower rows stay in the cache by themselves.
const WIDE_INPUT_BYTES: usize = 4096;

/// Input lines that are prefetched with each group. A row of 5632 columns is prefetched once while some 8 KiB of
/// weights are read.
const PREFETCHED_LINES: usize = 3;

impl<O: Output> IntegerArgs<'_, O> {
    /// Computes `M` rows by `NP` panels. With `UNPACKED`, `lines` are operands in the order of columns.
    ///
    /// # Safety
    /// `lines` must point to the lines of `panels`, or if `UNPACKED` to what [`IntegerArgs::unpack_panel`] has
    /// made of them.
    #[inline(always)]
    pub(crate) unsafe fn grouped_tile<S: Simd, const M: usize, const NP: usize, const UNPACKED: bool>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        lines: [*const u8; NP],
    ) {
        // SAFETY: by this function's contract.
        unsafe {
            match self.w.scheme().bits {
                Bits::Int8 => self.grouped::<S, M, NP, false, UNPACKED>(simd, row, panels, lines),
                Bits::Int4 => self.grouped::<S, M, NP, true, UNPACKED>(simd, row, panels, lines),
            }
        }
    }

    /// [`IntegerArgs::grouped_tile`] for one kind of codes.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn grouped<S: Simd, const M: usize, const NP: usize, const INT4: bool, const UNPACKED: bool>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        lines: [*const u8; NP],
    ) {
        let w = self.w;
        let groups = w.groups_per_row();
        let offset = simd.splat_i32(operand_offset::<S>(w));
        let mut cursor = TileCursor { x: [std::ptr::null(); M], at: 0, lines };
        let mut x_sums: [&[i32]; M] = [&[]; M];
        for i in 0..M {
            cursor.x[i] = self.x.row(row + i);
            x_sums[i] = &self.x.group_sums(row + i)[..groups];
        }
        let scales = panels.map(|panel| w.scales(panel));
        let zero_points = panels.map(|panel| w.zero_points(panel));
        let mut results = [[simd.splat_f32(0.0); NP]; M];
        let narrow = INT4
            && !UNPACKED
            && !O::SUMS
            && M * NP == 1
            && w.all_groups_have(NIBBLE_LINES)
            && zero_points[0].is_none();
        // All registers are needed for the sums in 16 bits: whatever else belongs to a group comes after its products.
        let regular = INT4
            && S::SUMS_16_BITS
            && !O::SUMS
            && M * NP > 1
            && w.all_groups_have(NIBBLE_LINES)
            && zero_points.iter().all(Option::is_none);
        let groups_left = match scales[0] {
            // SAFETY: as below; the groups have as many lines as are asked for.
            _ if regular => unsafe {
                results = cursor.regular_groups::<S, UNPACKED>(simd, &x_sums, &scales);
                groups..groups
            },
            // SAFETY: as below; the groups have as many lines as are asked for.
            LaneScales::F32(scales) if narrow => unsafe {
                results[0][0] = cursor.narrow_groups(simd, x_sums[0], scales);
                groups..groups
            },
            // SAFETY: the same.
            LaneScales::F16(scales) if narrow => unsafe {
                results[0][0] = cursor.narrow_groups(simd, x_sums[0], scales);
                groups..groups
            },
            _ => 0..groups,
        };
        for group in groups_left {
            let mut acc = [[simd.splat_i32(0); NP]; M];
            for i in 0..M {
                acc[i] = [simd.splat_i32(x_sums[i][group]); NP];
            }
            for b in 0..NP {
                if let Some(values) = zero_points[b] {
                    let zero_points = simd.add_i32(simd.widen_i8(&values[group]), offset);
                    for i in 0..M {
                        acc[i][b] = simd.mul_i32(zero_points, acc[i][b]);
                    }
                }
            }
            let mut left = w.steps(group);
            // SAFETY: the steps of all groups are the lines of a panel; an input row holds as many codes, of the
            // type that this instruction set takes, as a panel has columns, padding included.
            unsafe {
                if INT4 {
                    while left >= NIBBLE_LINES {
                        cursor.nibble_lines::<S, NIBBLE_LINES, UNPACKED>(simd, &mut acc);
                        left -= NIBBLE_LINES;
                    }
                }
                for _ in 0..left {
                    if INT4 {
                        cursor.nibble_lines::<S, 1, UNPACKED>(simd, &mut acc);
                    } else {
                        cursor.byte_line::<S, UNPACKED>(simd, &mut acc);
                    }
                }
            }
            for b in 0..NP {
                if !UNPACKED {
                    scales[b].prefetch(simd, group, SCALE_PREFETCH_BYTES);
                }
                let scale = scales[b].load(simd, group);
                for i in 0..M {
                    results[i][b] = simd.fma_f32(simd.to_f32(acc[i][b]), scale, results[i][b]);
                }
            }
            if O::SUMS {
                for b in 0..NP {
                    let weights = simd.load_i32(&w.group_sums(panels[b], group));
                    for i in 0..M {
                        let rest = simd.splat_i32(ACTIVATION_OFFSET - self.x.zero_point(row + i));
                        acc[i][b] = simd.add_i32(acc[i][b], simd.mul_i32(rest, weights));
                    }
                }
                self.out.sums(simd, w, row, panels, group, &acc);
            }
        }
        for b in 0..NP {
            let weights = simd.load_f32(w.scaled_sums(panels[b]));
            for i in 0..M {
                let rest = simd.splat_f32((ACTIVATION_OFFSET - self.x.zero_point(row + i)) as f32);
                results[i][b] = simd.fma_f32(weights, rest, results[i][b]);
            }
        }
        self.out.results(simd, w, row, panels, &self.x, &results);
    }
}

/// Prefetches the lines of an input before they are read again, so that they stay in the first-level cache. The weights
/// of a panel would otherwise evict the least recently used ones.
struct InputPrefetch {
    x: *const u8,
    at: usize,
    bytes: usize,
}

impl InputPrefetch {
    /// Prefetches the next lines.
    #[inline(always)]
    fn advance<S: Simd>(&mut self, simd: S) {
        for line in 0..PREFETCHED_LINES {
            simd.prefetch(self.x.wrapping_add(self.at + line * LINE_BYTES));
        }
        self.at += PREFETCHED_LINES * LINE_BYTES;
        if self.at >= self.bytes {
            self.at = 0;
        }
    }
}

/// The read position in the operands.
struct TileCursor<const M: usize, const NP: usize> {
    x: [*const u8; M],
    /// Number of bytes of each of `x` that have been read.
    at: usize,
    lines: [*const u8; NP],
}

impl<const M: usize, const NP: usize> TileCursor<M, NP> {
    /// Multiplies one row with one panel of INT4 codes in groups of [`NIBBLE_LINES`] lines without zero points.
    /// `x_sums` and `scales` have one value for each group.
    ///
    /// The general loop gives the same result. But for each group it looks up the number of lines and the other
    /// properties, and it reaches a sixth less from the caches while another program runs on the core's second hardware
    /// thread.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn narrow_groups<S: Simd, G: GroupScales>(
        &mut self,
        simd: S,
        x_sums: &[i32],
        scales: &[G],
    ) -> S::F32 {
        let mut result = simd.splat_f32(0.0);
        let mut input =
            InputPrefetch { x: self.x[0], at: 0, bytes: x_sums.len() * NIBBLE_LINES * OPERANDS * 4 };
        let is_wide = input.bytes > WIDE_INPUT_BYTES;
        for (&x_sum, scales) in x_sums.iter().zip(scales) {
            if is_wide {
                input.advance(simd);
            }
            let mut acc = [[simd.splat_i32(x_sum); NP]; M];
            // SAFETY: by this function's contract.
            unsafe { self.nibble_lines::<S, NIBBLE_LINES, false>(simd, &mut acc) };
            simd.prefetch(std::ptr::from_ref(scales).cast::<u8>().wrapping_add(SCALE_PREFETCH_BYTES));
            result = simd.fma_f32(simd.to_f32(acc[0][0]), scales.load(simd), result);
        }
        result
    }

    /// Multiplies INT4 codes in groups of [`NIBBLE_LINES`] lines without zero points. `x_sums` has one value for each
    /// group. The general loop gives the same result.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn regular_groups<S: Simd, const UNPACKED: bool>(
        &mut self,
        simd: S,
        x_sums: &[&[i32]; M],
        scales: &[LaneScales<'_>; NP],
    ) -> [[S::F32; NP]; M] {
        let mut results = [[simd.splat_f32(0.0); NP]; M];
        for group in 0..x_sums[0].len() {
            let mut sums = [[simd.start_nibbles(simd.splat_i32(0)); NP]; M];
            // SAFETY: by this function's contract.
            unsafe { self.add_nibble_lines::<S, NIBBLE_LINES, UNPACKED>(simd, &mut sums) };
            for b in 0..NP {
                if !UNPACKED {
                    scales[b].prefetch(simd, group, SCALE_PREFETCH_BYTES);
                }
                let scale = scales[b].load(simd, group);
                for i in 0..M {
                    let sum = simd.add_i32(simd.end_nibbles(sums[i][b]), simd.splat_i32(x_sums[i][group]));
                    results[i][b] = simd.fma_f32(simd.to_f32(sum), scale, results[i][b]);
                }
            }
        }
        results
    }

    /// Multiplies `COUNT` lines of INT4 codes of each panel.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn nibble_lines<S: Simd, const COUNT: usize, const UNPACKED: bool>(
        &mut self,
        simd: S,
        acc: &mut [[S::I32; NP]; M],
    ) {
        let mut sums = [[simd.start_nibbles(simd.splat_i32(0)); NP]; M];
        for i in 0..M {
            for b in 0..NP {
                sums[i][b] = simd.start_nibbles(acc[i][b]);
            }
        }
        // SAFETY: by this function's contract.
        unsafe { self.add_nibble_lines::<S, COUNT, UNPACKED>(simd, &mut sums) };
        for i in 0..M {
            for b in 0..NP {
                acc[i][b] = simd.end_nibbles(sums[i][b]);
            }
        }
    }

    /// Adds the products of `COUNT` lines, at most [`NIBBLE_LINES`], of INT4 codes of each panel.
    ///
    /// # Safety
    /// There must be as many lines, and inputs for them.
    #[inline(always)]
    unsafe fn add_nibble_lines<S: Simd, const COUNT: usize, const UNPACKED: bool>(
        &mut self,
        simd: S,
        sums: &mut [[S::NibbleSums; NP]; M],
    ) {
        for number in 0..COUNT {
            let mut line = [simd.zero_bytes(); NP];
            for b in 0..NP {
                if !UNPACKED {
                    let at = self.lines[b].wrapping_add(number * LINE_BYTES);
                    simd.prefetch(at.wrapping_add(S::PREFETCH_BYTES));
                    // SAFETY: by this function's contract.
                    line[b] = unsafe { simd.load_line(at) };
                }
            }
            for half in 0..OPERANDS {
                let mut codes = line;
                for b in 0..NP {
                    codes[b] = match half {
                        // SAFETY: by this function's contract.
                        _ if UNPACKED => unsafe {
                            simd.load_line(
                                self.lines[b].wrapping_add((OPERANDS * number + half) * LINE_BYTES),
                            )
                        },
                        0 => simd.nibbles::<false>(line[b]),
                        _ => simd.nibbles::<true>(line[b]),
                    };
                }
                for i in 0..M {
                    let x = self.x[i].wrapping_add(self.at + 4 * (OPERANDS * number + half));
                    for b in 0..NP {
                        // SAFETY: by this function's contract; nibbles that have been unpacked are low ones.
                        sums[i][b] = unsafe {
                            if UNPACKED || half == 0 {
                                simd.dot_nibbles::<false>(sums[i][b], x, codes[b])
                            } else {
                                simd.dot_nibbles::<true>(sums[i][b], x, codes[b])
                            }
                        };
                    }
                }
            }
        }
        self.at += 4 * OPERANDS * COUNT;
        for b in 0..NP {
            let lines = if UNPACKED { OPERANDS * COUNT } else { COUNT };
            self.lines[b] = self.lines[b].wrapping_add(lines * LINE_BYTES);
        }
    }

    /// Multiplies a line of INT8 codes of each panel.
    ///
    /// # Safety
    /// There must be one, and inputs for it.
    #[inline(always)]
    unsafe fn byte_line<S: Simd, const UNPACKED: bool>(&mut self, simd: S, acc: &mut [[S::I32; NP]; M]) {
        let parts = if S::WIDE_INPUT8 { OPERANDS } else { 1 };
        for part in 0..parts {
            let mut codes = [simd.zero_bytes(); NP];
            for b in 0..NP {
                // SAFETY: by this function's contract.
                codes[b] = unsafe {
                    if UNPACKED {
                        simd.load_line(self.lines[b].wrapping_add(part * LINE_BYTES))
                    } else {
                        simd.signed_operand8(simd.load_line(self.lines[b]), part)
                    }
                };
            }
            for i in 0..M {
                let x = self.x[i].wrapping_add(self.at + 4 * part);
                for b in 0..NP {
                    // SAFETY: by this function's contract.
                    acc[i][b] = unsafe { simd.signed_dot8(acc[i][b], x, codes[b]) };
                }
            }
        }
        self.at += 4 * parts;
        for b in 0..NP {
            if !UNPACKED {
                simd.prefetch(self.lines[b].wrapping_add(S::PREFETCH_BYTES));
            }
            let lines = if UNPACKED { OPERANDS } else { 1 };
            self.lines[b] = self.lines[b].wrapping_add(lines * LINE_BYTES);
        }
    }
}

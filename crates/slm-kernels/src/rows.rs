//! Float inputs times float weights in row-major order.
//!
//! An output is 16 running sums. Sum `j` takes the products of columns `j`, `j + 16`, `j + 32` and so on. The sums are
//! added up by halves: [`LANE_ORDER`]. The order does not depend on the number of input rows:
//!
//! - Few rows are multiplied with weights as they are stored, one running sum to a lane.
//! - For many rows, panels of 16 rows of weights are transposed once into memory that stays in the second-level cache,
//!   so that lanes are outputs. Inputs are packed in the same order ([`pack_by_lane`]). One running sum after the other
//!   is computed.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "a tile has a row and a panel on every side"
)]

use crate::columns::add_columns;
use crate::float_matrix::FloatElement;
use crate::lhs::FloatInputs;
use crate::macrokernel::GemmArgs;
use crate::simd::{LANES, LINE_BYTES, Simd};
use crate::tile::Tile;
use crate::vector::store_biased_tile;

/// The order in which running sums are added up as a balanced tree: each with the sum half of them further on, then
/// pairs with pairs.
pub(crate) const LANE_ORDER: [usize; LANES] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];

/// Number of levels of that tree.
const LEVELS: usize = LANES.ilog2() as usize;

/// Prefetch distance for weights.
const PREFETCH_BYTES: usize = 256;

/// Columns of each running sum.
pub(crate) const fn lane_columns(cols: usize) -> usize {
    cols.div_ceil(LANES)
}

/// Packs a row of input by running sum, in the order in which these are added up. Missing columns are zeros.
#[inline(always)]
pub(crate) fn pack_by_lane(row: &[f32], out: &mut [f32]) {
    let count = lane_columns(row.len());
    let (chunks, rest) = row.as_chunks::<LANES>();
    for (lane, out) in LANE_ORDER.into_iter().zip(out.chunks_exact_mut(count)) {
        for (out, chunk) in out.iter_mut().zip(chunks) {
            *out = chunk[lane];
        }
        if !rest.is_empty() {
            out[count - 1] = rest.get(lane).copied().unwrap_or(0.0);
        }
    }
}

/// Adds up the running sums.
pub(crate) fn add_up(sums: [f32; LANES]) -> f32 {
    let mut sums = LANE_ORDER.map(|lane| sums[lane]);
    let mut count = LANES;
    while count > 1 {
        count /= 2;
        for i in 0..count {
            sums[i] = sums[2 * i] + sums[2 * i + 1];
        }
    }
    sums[0]
}

/// A product with float weights.
pub(crate) struct RowsArgs<'a, E> {
    /// Rows unchanged, or packed by [`pack_by_lane`] if there are enough for a tile.
    pub(crate) x: FloatInputs<'a>,
    /// `[rows, cols]`.
    pub(crate) values: &'a [E],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) out: Tile<'a, f32>,
    pub(crate) bias: Option<&'a [f32]>,
}

impl<E: FloatElement> GemmArgs for RowsArgs<'_, E> {
    fn is_grouped(&self) -> bool {
        false
    }

    /// Computes a tile of few rows.
    #[inline(always)]
    fn microkernel<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
    ) {
        let x = self.x.rows::<M>(row);
        let mut tile = [[simd.splat_f32(0.0); NP]; M];
        for b in 0..NP {
            let mut sums = [[simd.splat_f32(0.0); LANES]; M];
            self.running_sums::<S, M>(simd, x, panels[b], &mut sums);
            for i in 0..M {
                let mut sums = simd.transpose(sums[i]);
                let ordered = sums;
                for k in 0..LANES {
                    sums[k] = ordered[LANE_ORDER[k]];
                }
                let mut count = LANES;
                for _ in 0..LEVELS {
                    count /= 2;
                    for k in 0..count {
                        sums[k] = simd.add_f32(sums[2 * k], sums[2 * k + 1]);
                    }
                }
                tile[i][b] = sums[0];
            }
        }
        store_biased_tile(simd, &self.out, self.rows, self.bias, row, panels, tile);
    }

    fn unpacked_lines<S: Simd>(&self) -> Option<usize> {
        Some(LANES * lane_columns(self.cols))
    }

    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, simd: S, panel: usize, to: *mut u8) {
        let count = lane_columns(self.cols);
        for chunk in 0..count {
            let mut vectors = [simd.splat_f32(0.0); LANES];
            for lane in 0..LANES {
                vectors[lane] = self.chunk(simd, (panel * LANES + lane).min(self.rows - 1), chunk);
            }
            let columns = simd.transpose(vectors);
            for (place, lane) in LANE_ORDER.into_iter().enumerate() {
                let line = (place * count + chunk) * LINE_BYTES;
                // SAFETY: by this function's contract there are `unpacked_lines`; a line is 16 floats.
                simd.store_f32(columns[lane], unsafe { &mut *to.add(line).cast() });
            }
        }
    }

    /// Computes a tile of many rows, which are packed by [`pack_by_lane`].
    #[inline(always)]
    unsafe fn unpacked_microkernel<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        lines: [*const u8; NP],
    ) {
        let (x, count) = (self.x.rows::<M>(row), lane_columns(self.cols));
        let mut cursor = Cursor { x, lines, count };
        // SAFETY: rows of input have `count` floats for each running sum, and by this function's contract the panels have as
        // many lines.
        let tile = unsafe { cursor.sum16(simd) };
        store_biased_tile(simd, &self.out, self.rows, self.bias, row, panels, tile);
    }
}

impl<E: FloatElement> RowsArgs<'_, E> {
    /// The running sums of `M` rows of input with the rows of a panel, one after the other, so that weights are read in
    /// the order of memory. Rows past the last repeat it.
    #[inline(always)]
    fn running_sums<S: Simd, const M: usize>(
        &self,
        simd: S,
        x: [*const f32; M],
        panel: usize,
        sums: &mut [[S::F32; LANES]; M],
    ) {
        let whole = self.cols / LANES;
        for lane in 0..LANES {
            let start = (panel * LANES + lane).min(self.rows - 1) * self.cols;
            let row = &self.values[start..][..self.cols];
            let mut acc = [simd.splat_f32(0.0); M];
            for chunk in 0..whole {
                let at = chunk * LANES;
                simd.prefetch(row.as_ptr().wrapping_add(at).cast::<u8>().wrapping_add(PREFETCH_BYTES));
                // SAFETY: the row has `whole` chunks of this many values.
                let w = E::load(simd, unsafe { &*row.as_ptr().add(at).cast() });
                for i in 0..M {
                    // SAFETY: rows of input have as many floats as those of the weights.
                    let x = simd.load_f32(unsafe { &*x[i].add(at).cast() });
                    acc[i] = simd.fma_f32(x, w, acc[i]);
                }
            }
            if whole * LANES < self.cols {
                let w = partial(simd, &row[whole * LANES..]);
                for i in 0..M {
                    let mut lanes = [0.0; LANES];
                    for k in whole * LANES..self.cols {
                        // SAFETY: as above.
                        lanes[k - whole * LANES] = unsafe { *x[i].add(k) };
                    }
                    acc[i] = simd.fma_f32(simd.load_f32(&lanes), w, acc[i]);
                }
            }
            for i in 0..M {
                sums[i][lane] = acc[i];
            }
        }
    }

    /// 16 columns of a row. Missing ones are zeros.
    #[inline(always)]
    fn chunk<S: Simd>(&self, simd: S, row: usize, chunk: usize) -> S::F32 {
        let values = &self.values[row * self.cols + chunk * LANES..(row + 1) * self.cols];
        match values.first_chunk() {
            Some(values) => E::load(simd, values),
            None => partial(simd, values),
        }
    }
}

/// The read position in the operands of a tile of many rows.
struct Cursor<const M: usize, const NP: usize> {
    /// The inputs of the next running sum.
    x: [*const f32; M],
    /// The lines of the next running sum.
    lines: [*const u8; NP],
    /// Columns of a running sum.
    count: usize,
}

/// Defines a function that adds up twice as many running sums as `$half`.
macro_rules! add_twice {
    ($name:ident, $half:ident) => {
        /// Adds up the next running sums as a balanced tree. The first half waits in memory for the second.
        ///
        /// # Safety
        /// There must be as many, with `count` inputs and lines each.
        #[inline(always)]
        unsafe fn $name<S: Simd>(&mut self, simd: S) -> [[S::F32; NP]; M] {
            // SAFETY: by this function's contract.
            let (first, mut sums) = unsafe { (self.$half(simd), self.$half(simd)) };
            for i in 0..M {
                for b in 0..NP {
                    sums[i][b] = simd.add_f32(first[i][b], sums[i][b]);
                }
            }
            sums
        }
    };
}

impl<const M: usize, const NP: usize> Cursor<M, NP> {
    /// The next running sum.
    ///
    /// # Safety
    /// There must be `count` inputs and lines.
    #[inline(always)]
    unsafe fn sum1<S: Simd>(&mut self, simd: S) -> [[S::F32; NP]; M] {
        let mut acc = [[simd.splat_f32(0.0); NP]; M];
        // SAFETY: by this function's contract.
        unsafe { add_columns(simd, self.x, self.lines, self.count, &mut acc) };
        for i in 0..M {
            self.x[i] = self.x[i].wrapping_add(self.count);
        }
        for b in 0..NP {
            self.lines[b] = self.lines[b].wrapping_add(self.count * LINE_BYTES);
        }
        acc
    }

    add_twice!(sum2, sum1);
    add_twice!(sum4, sum2);
    add_twice!(sum8, sum4);
    add_twice!(sum16, sum8);
}

/// Loads fewer than 16 values, followed by zeros.
#[inline(always)]
fn partial<S: Simd, E: FloatElement>(simd: S, values: &[E]) -> S::F32 {
    let mut lanes = [0.0; LANES];
    for (lane, value) in lanes.iter_mut().zip(values) {
        *lane = value.widen();
    }
    simd.load_f32(&lanes)
}

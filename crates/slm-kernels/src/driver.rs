//! Splits one thread's part of a product into tiles.

use crate::schedule::DECODE_ROWS;
use crate::simd::{LINE_BYTES, Simd};
use crate::unpacked::with_scratch;
use crate::vectorize::Op;
use std::ops::Range;

/// Blocks that are multiplied side by side where rows are few and [`Job::SIDE_BY_SIDE`] asks for it.
pub(crate) const BLOCKS_TOGETHER: usize = 4;

/// A product of an input with blocks of weights.
pub(crate) trait Job {
    /// Whether few rows are multiplied with [`BLOCKS_TOGETHER`] blocks side by side, because one block at a time would wait
    /// for one sum after the other. If not, weights are read in the order in which they lie.
    const SIDE_BY_SIDE: bool;

    /// Whether rows have several groups, so that results, to which each group is added, should have
    /// registers too.
    fn is_grouped(&self) -> bool;
    /// Multiplies `M` rows from `row` on with `NB` blocks, which may repeat.
    fn strip<S: Simd, const M: usize, const NB: usize>(&self, simd: S, row: usize, blocks: [usize; NB]);

    /// Lines that a block takes once it is unpacked for many rows. None where nothing is to be unpacked.
    fn unpacked_lines<S: Simd>(&self) -> Option<usize> {
        None
    }

    /// Unpacks a block.
    ///
    /// # Safety
    /// `to` must be writable for [`Job::unpacked_lines`] lines and aligned to a line.
    unsafe fn unpack<S: Simd>(&self, _simd: S, _block: usize, _to: *mut u8) {}

    /// [`Job::strip`] with blocks that have been unpacked.
    ///
    /// # Safety
    /// `lines` must point to what [`Job::unpack`] has made of `blocks`.
    unsafe fn unpacked_strip<S: Simd, const M: usize, const NB: usize>(
        &self,
        simd: S,
        row: usize,
        blocks: [usize; NB],
        _lines: [*const u8; NB],
    ) {
        self.strip::<S, M, NB>(simd, row, blocks);
    }
}

/// Multiplies some rows of the input with some blocks of weights.
pub(crate) fn run<S: Simd, J: Job>(simd: S, job: &J, rows: Range<usize>, blocks: Range<usize>) {
    if rows.len() <= DECODE_ROWS {
        decode(simd, job, rows, blocks);
    } else {
        simd.tiles(job, rows, blocks);
    }
}

/// Few rows of input with a range of blocks.
fn decode<S: Simd, J: Job>(simd: S, job: &J, rows: Range<usize>, blocks: Range<usize>) {
    let mut block = blocks.start;
    if J::SIDE_BY_SIDE {
        while block + BLOCKS_TOGETHER <= blocks.end {
            let together: [usize; BLOCKS_TOGETHER] = std::array::from_fn(|i| block + i);
            few_rows(simd, job, rows.clone(), together);
            block += BLOCKS_TOGETHER;
        }
    }
    while block < blocks.end {
        few_rows(simd, job, rows.clone(), [block]);
        block += 1;
    }
}

/// Tiles of `M` rows and `NB` blocks, for [`Simd::tiles`]. Blocks that do not fill a tile are done with
/// repetitions of the last. Rows that do not fill one are done together with some that are done already, or,
/// if they are few, alone.
pub(crate) fn tiles<S: Simd, J: Job, const M: usize, const NB: usize>(
    simd: S,
    job: &J,
    rows: Range<usize>,
    blocks: Range<usize>,
) {
    let unpacked_lines = if rows.len() >= M { job.unpacked_lines::<S>() } else { None };
    let rest = rows.len() % M;
    let together = rows.len() >= M && (unpacked_lines.is_some() || rest > M / 2);
    let tiled = rows.start..if together { rows.end } else { rows.end - rest };
    let starts = || tiled.clone().step_by(M).map(|row| row.min(tiled.end - M));
    for block in blocks.clone().step_by(NB) {
        let at: [usize; NB] = std::array::from_fn(|i| (block + i).min(blocks.end - 1));
        match unpacked_lines {
            None => {
                starts().for_each(|row| simd.vectorize(Strip::<S, J, M, NB> { simd, job, row, blocks: at }));
            }
            Some(lines) => with_scratch(NB * lines, |scratch| {
                let to = std::array::from_fn(|i| scratch.wrapping_add(i * lines * LINE_BYTES));
                // SAFETY: the scratch memory has as many lines for each block.
                simd.vectorize(unsafe { Unpack::new(simd, job, at, to) });
                let lines = to.map(<*mut u8>::cast_const);
                starts().for_each(|row| {
                    // SAFETY: the blocks have just been unpacked to these lines.
                    simd.vectorize(unsafe { UnpackedStrip::<S, J, M, NB>::new(simd, job, row, at, lines) });
                });
            }),
        }
        few_rows(simd, job, tiled.end..rows.end, at);
    }
}

fn few_rows<S: Simd, J: Job, const NB: usize>(simd: S, job: &J, rows: Range<usize>, blocks: [usize; NB]) {
    let mut row = rows.start;
    while row + 4 <= rows.end {
        simd.vectorize(Strip::<S, J, 4, NB> { simd, job, row, blocks });
        row += 4;
    }
    if row + 2 <= rows.end {
        simd.vectorize(Strip::<S, J, 2, NB> { simd, job, row, blocks });
        row += 2;
    }
    if row < rows.end {
        simd.vectorize(Strip::<S, J, 1, NB> { simd, job, row, blocks });
    }
}

/// One call of [`Job::strip`].
struct Strip<'a, S, J, const M: usize, const NB: usize> {
    simd: S,
    job: &'a J,
    row: usize,
    blocks: [usize; NB],
}

impl<S: Simd, J: Job, const M: usize, const NB: usize> Op for Strip<'_, S, J, M, NB> {
    #[inline(always)]
    fn run(self) {
        self.job.strip::<S, M, NB>(self.simd, self.row, self.blocks);
    }
}

/// Calls of [`Job::unpack`].
struct Unpack<'a, S, J, const NB: usize> {
    simd: S,
    job: &'a J,
    blocks: [usize; NB],
    to: [*mut u8; NB],
}

impl<'a, S: Simd, J: Job, const NB: usize> Unpack<'a, S, J, NB> {
    /// # Safety
    /// Until it has run, each of `to` must be writable for [`Job::unpacked_lines`] lines and aligned to a line.
    unsafe fn new(simd: S, job: &'a J, blocks: [usize; NB], to: [*mut u8; NB]) -> Self {
        Self { simd, job, blocks, to }
    }
}

impl<S: Simd, J: Job, const NB: usize> Op for Unpack<'_, S, J, NB> {
    #[inline(always)]
    fn run(self) {
        for (block, to) in self.blocks.into_iter().zip(self.to) {
            // SAFETY: `new` has asked for that.
            unsafe { self.job.unpack(self.simd, block, to) }
        }
    }
}

/// One call of [`Job::unpacked_strip`].
struct UnpackedStrip<'a, S, J, const M: usize, const NB: usize> {
    simd: S,
    job: &'a J,
    row: usize,
    blocks: [usize; NB],
    lines: [*const u8; NB],
}

impl<'a, S: Simd, J: Job, const M: usize, const NB: usize> UnpackedStrip<'a, S, J, M, NB> {
    /// # Safety
    /// Until it has run, `lines` must point to what [`Job::unpack`] has made of `blocks`.
    #[inline(always)]
    unsafe fn new(simd: S, job: &'a J, row: usize, blocks: [usize; NB], lines: [*const u8; NB]) -> Self {
        Self { simd, job, row, blocks, lines }
    }
}

impl<S: Simd, J: Job, const M: usize, const NB: usize> Op for UnpackedStrip<'_, S, J, M, NB> {
    #[inline(always)]
    fn run(self) {
        // SAFETY: `new` has asked for that.
        unsafe { self.job.unpacked_strip::<S, M, NB>(self.simd, self.row, self.blocks, self.lines) }
    }
}

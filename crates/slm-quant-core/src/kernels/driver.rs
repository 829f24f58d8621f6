//! Splits one thread's part of a product into tiles.

use std::ops::Range;

use super::region::DECODE_ROWS;
use super::simd::Simd;
use super::vectorize::Op;

/// A product of an input with blocks of weights.
pub(crate) trait Job {
    /// Whether few rows are multiplied with four blocks side by side, because one block at a time would wait
    /// for one sum after the other. If not, weights are read in the order in which they lie.
    const SIDE_BY_SIDE: bool;

    /// Whether groups are so narrow that results, to which each group is added, should have registers too.
    fn has_narrow_groups(&self) -> bool;
    /// Multiplies `M` rows from `row` on with `NB` blocks, which may repeat.
    fn strip<S: Simd, const M: usize, const NB: usize>(&self, simd: S, row: usize, blocks: [usize; NB]);
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
        while block + 4 <= blocks.end {
            few_rows(simd, job, rows.clone(), [block, block + 1, block + 2, block + 3]);
            block += 4;
        }
    }
    while block < blocks.end {
        few_rows(simd, job, rows.clone(), [block]);
        block += 1;
    }
}

/// Tiles of `M` rows and `NB` blocks, for [`Simd::tiles`]. Rows that do not fill a tile go in smaller ones;
/// blocks that do not fill one are done with repetitions of the last.
pub(crate) fn tiles<S: Simd, J: Job, const M: usize, const NB: usize>(
    simd: S,
    job: &J,
    rows: Range<usize>,
    blocks: Range<usize>,
) {
    for block in blocks.clone().step_by(NB) {
        let at: [usize; NB] = std::array::from_fn(|i| (block + i).min(blocks.end - 1));
        let mut row = rows.start;
        while row + M <= rows.end {
            simd.vectorize(Strip::<S, J, M, NB> { simd, job, row, blocks: at });
            row += M;
        }
        few_rows(simd, job, row..rows.end, at);
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

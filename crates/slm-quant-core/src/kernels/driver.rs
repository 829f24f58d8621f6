//! Splits a product into tiles and tiles among threads.

use std::ops::Range;

use rayon::prelude::*;

use super::simd::{Op, Simd};

/// Most input rows that are handled as *decode*: each block of weights is read once for all of them, and
/// several blocks are read side by side because one stream of addresses does not saturate the memory.
const DECODE_ROWS: usize = 4;

/// Blocks that decode reads side by side.
const STREAMS: usize = 4;

/// Bytes of weights times rows of input below which starting threads costs more than it gains.
const SERIAL_WORK: usize = 96 * 1024;

/// Rows of input that a task of many rows takes, and bytes of weights: both stay in the second-level cache
/// of current cores.
const TASK_ROWS: usize = 192;
const TASK_BYTES: usize = 256 * 1024;

/// A product of an input with blocks of weights.
pub(crate) trait Job: Sync {
    /// Rows of the input.
    fn rows(&self) -> usize;
    /// Blocks of weights.
    fn blocks(&self) -> usize;
    /// Whether groups are so narrow that results, to which each group is added, should have registers too.
    fn has_narrow_groups(&self) -> bool;
    /// Bytes of a block.
    fn block_bytes(&self) -> usize;
    /// Multiplies `M` rows from `row` on with `NB` blocks, which may repeat.
    fn strip<S: Simd, const M: usize, const NB: usize>(&self, simd: S, row: usize, blocks: [usize; NB]);
}

/// Runs a job on all threads.
pub(crate) fn run<S: Simd, J: Job>(simd: S, job: &J) {
    let (rows, blocks) = (job.rows(), job.blocks());
    if rows == 0 {
        return;
    }
    let threads = rayon::current_num_threads();
    let serial = threads == 1 || rows * blocks * job.block_bytes() < SERIAL_WORK;
    if rows <= DECODE_ROWS {
        let tasks = if serial { 1 } else { threads.min(blocks) };
        split(tasks, |task| decode(simd, job, blocks * task / tasks..blocks * (task + 1) / tasks));
        return;
    }
    if serial {
        return simd.tiles(job, 0..rows, 0..blocks);
    }
    let per_task = (TASK_BYTES / job.block_bytes()).next_multiple_of(S::TILE_BLOCKS).max(S::TILE_BLOCKS);
    // At least a few tasks a thread, so that threads that are slower at the moment get fewer.
    let even = blocks.div_ceil(4 * threads).next_multiple_of(S::TILE_BLOCKS);
    let (row_tasks, block_tasks) = (rows.div_ceil(TASK_ROWS), blocks.div_ceil(per_task.min(even)));
    let per_task = per_task.min(even);
    split(row_tasks * block_tasks, |task| {
        let (row, block) = (task % row_tasks * TASK_ROWS, task / row_tasks * per_task);
        simd.tiles(job, row..rows.min(row + TASK_ROWS), block..blocks.min(block + per_task));
    });
}

fn split(tasks: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks == 1 {
        f(0);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// All rows of a small input with a range of blocks, read as several streams. The last stream may be
/// shorter; there the last block is done again.
fn decode<S: Simd, J: Job>(simd: S, job: &J, blocks: Range<usize>) {
    let length = blocks.len().div_ceil(STREAMS);
    for step in 0..length {
        let at: [usize; STREAMS] =
            std::array::from_fn(|stream| (blocks.start + stream * length + step).min(blocks.end - 1));
        few_rows(simd, job, 0..job.rows(), at);
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

//! A kernel out of vector operations, for any instruction set.

use slm_runtime::{SharedSlice, for_each_task};

use crate::QuantizedActivations;
use crate::Workspace;
use crate::blocked::Blocked;
use crate::driver;
use crate::float::FloatJob;
use crate::inputs::{Arranged, Form};
use crate::integer::{Floats, IntegerJob, Sums};
use crate::kernel::{Input, Kernel, Part};
use crate::simd::{LANES, Simd};
use crate::tile::Tile;

/// Every vector instruction set is a kernel.
impl<S: Simd> Kernel for S {
    type Weights = Blocked;

    const TILE_UNITS: usize = S::TILE_BLOCKS;

    fn arrange(self, x: Input<'_>, w: &Blocked, workspace: &mut Workspace) -> usize {
        let form = Form::new(self, x, w);
        workspace.slot(form, |arranged| arranged.fill(self, x, form))
    }

    fn part(self, w: &Blocked, part: Part<'_>) {
        let Part { x, workspace, slot, bias, out, units } = part;
        let rows = out.rows();
        let (arranged, form) = (workspace.arranged(slot), Form::new(self, x, w));
        match x {
            Input::Quantized(x) => {
                let out = Floats { out, bias };
                driver::run(self, &IntegerJob { x: arranged.codes(x, form), w, out }, rows, units);
            }
            Input::Float(x, _) => {
                let x = arranged.floats(x, form);
                driver::run(self, &FloatJob { x, w, out, bias }, rows, units);
            }
        }
    }

    fn accumulate(self, x: &QuantizedActivations, w: &Blocked, out: &mut [i32]) {
        let mut arranged = Arranged::default();
        let input = Input::Quantized(x);
        let form = Form::new(self, input, w);
        arranged.fill(self, input, form);
        let (out, groups) = (SharedSlice::new(out), w.groups_per_row());
        let per_task = S::TILE_BLOCKS;
        for_each_task(w.blocks().div_ceil(per_task), |task| {
            let blocks = task * per_task..w.blocks().min((task + 1) * per_task);
            let columns = blocks.start * LANES * groups..w.rows().min(blocks.end * LANES) * groups;
            // SAFETY: each task runs once, and has the rows of its blocks to itself.
            let out = unsafe { Tile::new(out, w.rows() * groups, 0..x.rows(), columns) };
            let job = IntegerJob { x: arranged.codes(x, form), w, out: Sums { out } };
            driver::run(self, &job, 0..x.rows(), blocks);
        });
    }
}

/// How far ahead of its reads a kernel asks for the scales of groups, which advance more slowly than
/// [`Simd::PREFETCH_BYTES`].
pub(crate) const SCALE_PREFETCH_BYTES: usize = 128;

/// The values of a block's lanes out of one value per row of weights; zeros where there is none.
#[inline(always)]
pub(crate) fn load_lanes<S: Simd>(simd: S, values: Option<&[f32]>, block: usize) -> S::F32 {
    let Some(values) = values else { return simd.splat_f32(0.0) };
    let values = &values[block * LANES..];
    if let Some(lanes) = values.first_chunk() {
        return simd.load_f32(lanes);
    }
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    simd.load_f32(&lanes)
}

/// Writes the results of a strip to rows `row..row + M` of a `[m, width]` output, as far as the width goes.
#[inline(always)]
pub(crate) fn store_tile<S: Simd, const M: usize, const NB: usize>(
    simd: S,
    out: &Tile<'_, f32>,
    width: usize,
    row: usize,
    blocks: [usize; NB],
    tile: &[[S::F32; NB]; M],
) {
    let mut lanes = [[[0.0; LANES]; NB]; M];
    for i in 0..M {
        for b in 0..NB {
            simd.store_f32(tile[i][b], &mut lanes[i][b]);
        }
    }
    for (i, lanes) in lanes.iter().enumerate() {
        for (&block, lanes) in blocks.iter().zip(lanes) {
            let count = LANES.min(width - block * LANES);
            out.write(row + i, block * LANES, &lanes[..count]);
        }
    }
}

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

/// Every vector instruction set is a kernel.
impl<S: Simd> Kernel for S {
    type Weights = Blocked;

    const TILE_UNITS: usize = S::TILE_BLOCKS;

    fn arrange(self, x: Input<'_>, w: &Blocked, workspace: &mut Workspace) -> usize {
        let form = Form::new(self, x, w);
        workspace.slot(form, |arranged| arranged.fill(self, x, form))
    }

    fn part(self, w: &Blocked, part: Part<'_>) {
        let Part { x, workspace, slot, bias, out, rows, units } = part;
        let arranged = workspace.arranged(slot);
        match x {
            Input::Quantized(x) => {
                let out = Floats { out, bias };
                driver::run(self, &IntegerJob { x: arranged.codes(x), w, out }, rows, units);
            }
            Input::Float(x, _) => {
                let x = arranged.floats(x);
                driver::run(self, &FloatJob { x, w, out, bias }, rows, units);
            }
        }
    }

    fn accumulate(self, x: &QuantizedActivations, w: &Blocked, out: &mut [i32]) {
        let mut arranged = Arranged::default();
        let input = Input::Quantized(x);
        arranged.fill(self, input, Form::new(self, input, w));
        let out = Sums { out: SharedSlice::new(out) };
        let job = IntegerJob { x: arranged.codes(x), w, out };
        let per_task = S::TILE_BLOCKS;
        for_each_task(w.blocks().div_ceil(per_task), |task| {
            let blocks = task * per_task..w.blocks().min((task + 1) * per_task);
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

/// Writes a tile to rows `row..row + M` of a `[m, width]` output, as far as the width goes.
///
/// The caller is the task that owns these rows and blocks.
#[inline(always)]
pub(crate) fn store_tile<S: Simd, const M: usize, const NB: usize>(
    simd: S,
    out: &SharedSlice<'_, f32>,
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
            // SAFETY: the driver gives each row and block to one task, so that no other thread writes
            // these cells.
            unsafe { out.write((row + i) * width + block * LANES, &lanes[..count]) }
        }
    }
}

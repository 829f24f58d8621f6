//! A kernel built on vector operations, for any instruction set.

use slm_runtime::{SharedSlice, for_each_task};

use crate::QuantizedActivations;
use crate::Workspace;
use crate::float::FloatArgs;
use crate::integer::{Floats, IntegerArgs, Sums};
use crate::kernel::{Input, Kernel, MatmulPart};
use crate::lhs::{LhsLayout, PackedLhs};
use crate::macrokernel;
use crate::packed_rhs::PackedRhs;
use crate::simd::{LANES, Simd};
use crate::tile::Tile;

/// Every vector instruction set is a kernel.
impl<S: Simd> Kernel for S {
    type Weights = PackedRhs;

    const PANELS_PER_TILE: usize = S::TILE_PANELS;

    fn pack_lhs(self, x: Input<'_>, w: &PackedRhs, workspace: &mut Workspace) -> usize {
        let layout = LhsLayout::new(self, x, w);
        workspace.slot(layout, |packed_lhs| packed_lhs.fill(self, x, layout))
    }

    fn part(self, w: &PackedRhs, part: MatmulPart<'_>) {
        let MatmulPart { x, workspace, slot, bias, out, panels } = part;
        let rows = out.rows();
        let (packed_lhs, layout) = (workspace.packed_lhs(slot), LhsLayout::new(self, x, w));
        match x {
            Input::Quantized(x) => {
                let out = Floats { out, bias };
                macrokernel::run(self, &IntegerArgs { x: packed_lhs.codes(x, layout), w, out }, rows, panels);
            }
            Input::Float(..) => {
                let x = packed_lhs.digits(layout);
                macrokernel::run(self, &FloatArgs { x, w, out, bias }, rows, panels);
            }
        }
    }

    fn accumulate(self, x: &QuantizedActivations, w: &PackedRhs, out: &mut [i32]) {
        let mut packed_lhs = PackedLhs::default();
        let input = Input::Quantized(x);
        let layout = LhsLayout::new(self, input, w);
        packed_lhs.fill(self, input, layout);
        let (out, groups) = (SharedSlice::new(out), w.groups_per_row());
        let per_task = S::TILE_PANELS;
        for_each_task(w.panels().div_ceil(per_task), |task| {
            let panels = task * per_task..w.panels().min((task + 1) * per_task);
            let columns = panels.start * LANES * groups..w.rows().min(panels.end * LANES) * groups;
            // SAFETY: each task runs once, and has the rows of its panels to itself.
            let out = unsafe { Tile::new(out, w.rows() * groups, 0..x.rows(), columns) };
            let args = IntegerArgs { x: packed_lhs.codes(x, layout), w, out: Sums { out } };
            macrokernel::run(self, &args, 0..x.rows(), panels);
        });
    }
}

/// [`Simd::TILE_PANELS`] of a value's type.
pub(crate) fn tile_panels<S: Simd>(_: S) -> usize {
    S::TILE_PANELS
}

/// Prefetch distance for the scales of groups, which advance more slowly than the codes ([`Simd::PREFETCH_BYTES`]).
pub(crate) const SCALE_PREFETCH_BYTES: usize = 128;

/// The lanes of a panel, loaded from one value per row of weights; zeros where there is none.
#[inline(always)]
pub(crate) fn load_lanes<S: Simd>(simd: S, values: Option<&[f32]>, panel: usize) -> S::F32 {
    let Some(values) = values else { return simd.splat_f32(0.0) };
    let values = &values[panel * LANES..];
    if let Some(lanes) = values.first_chunk() {
        return simd.load_f32(lanes);
    }
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    simd.load_f32(&lanes)
}

/// Writes the results of a microkernel to rows `row..row + M` of a `[m, width]` output, up to its width.
#[inline(always)]
pub(crate) fn store_tile<S: Simd, const M: usize, const NP: usize>(
    simd: S,
    out: &Tile<'_, f32>,
    width: usize,
    row: usize,
    panels: [usize; NP],
    tile: &[[S::F32; NP]; M],
) {
    let mut lanes = [[[0.0; LANES]; NP]; M];
    for i in 0..M {
        for b in 0..NP {
            simd.store_f32(tile[i][b], &mut lanes[i][b]);
        }
    }
    for (i, lanes) in lanes.iter().enumerate() {
        for (&panel, lanes) in panels.iter().zip(lanes) {
            let count = LANES.min(width - panel * LANES);
            out.write(row + i, panel * LANES, &lanes[..count]);
        }
    }
}

/// [`store_tile`] with the bias of each row of weights added.
#[allow(clippy::needless_range_loop, reason = "a tile has a row and a panel on every side")]
#[inline(always)]
pub(crate) fn store_biased_tile<S: Simd, const M: usize, const NP: usize>(
    simd: S,
    out: &Tile<'_, f32>,
    width: usize,
    bias: Option<&[f32]>,
    row: usize,
    panels: [usize; NP],
    mut tile: [[S::F32; NP]; M],
) {
    for b in 0..NP {
        let bias = load_lanes(simd, bias, panels[b]);
        for i in 0..M {
            tile[i][b] = simd.add_f32(tile[i][b], bias);
        }
    }
    store_tile(simd, out, width, row, panels, &tile);
}

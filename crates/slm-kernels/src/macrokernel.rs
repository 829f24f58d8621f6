//! The macrokernel: splits one thread's part of a product into tiles, and calls a microkernel for each.

use crate::schedule::DECODE_ROWS;
use crate::simd::{LINE_BYTES, Simd};
use crate::unpacked::with_scratch;
use crate::vectorize::Op;
use std::ops::Range;

/// A product of an input with panels of weights.
pub(crate) trait GemmArgs {
    /// Number of sums that an output needs while it is computed.
    const SUMS: usize = 1;

    /// Returns `true` if rows have several groups. Results, to which each group is added, then need separate registers.
    fn is_grouped(&self) -> bool;
    /// Multiplies `M` rows from `row` on with `NP` panels, which may contain the same panel repeatedly.
    fn microkernel<S: Simd, const M: usize, const NP: usize>(&self, simd: S, row: usize, panels: [usize; NP]);

    /// Lines of a panel that is unpacked for many rows; `None` if nothing needs to be unpacked.
    fn unpacked_lines<S: Simd>(&self) -> Option<usize> {
        None
    }

    /// Unpacks a panel.
    ///
    /// # Safety
    /// `to` must be writable for [`GemmArgs::unpacked_lines`] lines and aligned to a line.
    unsafe fn unpack<S: Simd>(&self, _simd: S, _block: usize, _to: *mut u8) {}

    /// [`GemmArgs::microkernel`] for unpacked panels.
    ///
    /// # Safety
    /// `lines` must point to what [`GemmArgs::unpack`] has made of `panels`.
    unsafe fn unpacked_microkernel<S: Simd, const M: usize, const NP: usize>(
        &self,
        simd: S,
        row: usize,
        panels: [usize; NP],
        _lines: [*const u8; NP],
    ) {
        self.microkernel::<S, M, NP>(simd, row, panels);
    }
}

/// Multiplies some rows of the input with some panels of weights.
pub(crate) fn run<S: Simd, J: GemmArgs>(simd: S, args: &J, rows: Range<usize>, panels: Range<usize>) {
    if rows.len() <= DECODE_ROWS {
        // Panel by panel, in the order in which they are stored.
        panels.for_each(|panel| few_rows(simd, args, rows.clone(), [panel]));
    } else {
        simd.tiles(args, rows, panels);
    }
}

/// Computes tiles of `M` rows and `NP` panels, for [`Simd::tiles`]. A tile that lacks panels repeats the last one. Rows
/// that do not fill a tile are computed together with some that are already done, or, if they are few, alone.
pub(crate) fn tiles<S: Simd, J: GemmArgs, const M: usize, const NP: usize>(
    simd: S,
    args: &J,
    rows: Range<usize>,
    panels: Range<usize>,
) {
    let unpacked_lines = if rows.len() >= M { args.unpacked_lines::<S>() } else { None };
    let rest = rows.len() % M;
    let together = rows.len() >= M && (unpacked_lines.is_some() || rest > M / 2);
    let tiled = rows.start..if together { rows.end } else { rows.end - rest };
    let starts = || tiled.clone().step_by(M).map(|row| row.min(tiled.end - M));
    for panel in panels.clone().step_by(NP) {
        let at: [usize; NP] = std::array::from_fn(|i| (panel + i).min(panels.end - 1));
        match unpacked_lines {
            None => {
                starts().for_each(|row| {
                    simd.vectorize(Microkernel::<S, J, M, NP> { simd, args, row, panels: at })
                });
            }
            Some(lines) => with_scratch(NP * lines, |scratch| {
                let to = std::array::from_fn(|i| scratch.wrapping_add(i * lines * LINE_BYTES));
                // SAFETY: the scratch memory has as many lines for each panel.
                simd.vectorize(unsafe { Unpack::new(simd, args, at, to) });
                let lines = to.map(<*mut u8>::cast_const);
                starts().for_each(|row| {
                    // SAFETY: the panels have just been unpacked to these lines.
                    simd.vectorize(unsafe {
                        UnpackedMicrokernel::<S, J, M, NP>::new(simd, args, row, at, lines)
                    });
                });
            }),
        }
        few_rows(simd, args, tiled.end..rows.end, at);
    }
}

fn few_rows<S: Simd, J: GemmArgs, const NP: usize>(
    simd: S,
    args: &J,
    rows: Range<usize>,
    panels: [usize; NP],
) {
    let mut row = rows.start;
    while row + 4 <= rows.end {
        simd.vectorize(Microkernel::<S, J, 4, NP> { simd, args, row, panels });
        row += 4;
    }
    if row + 2 <= rows.end {
        simd.vectorize(Microkernel::<S, J, 2, NP> { simd, args, row, panels });
        row += 2;
    }
    if row < rows.end {
        simd.vectorize(Microkernel::<S, J, 1, NP> { simd, args, row, panels });
    }
}

/// One call of [`GemmArgs::microkernel`].
struct Microkernel<'a, S, J, const M: usize, const NP: usize> {
    simd: S,
    args: &'a J,
    row: usize,
    panels: [usize; NP],
}

impl<S: Simd, J: GemmArgs, const M: usize, const NP: usize> Op for Microkernel<'_, S, J, M, NP> {
    #[inline(always)]
    fn run(self) {
        self.args.microkernel::<S, M, NP>(self.simd, self.row, self.panels);
    }
}

/// Calls of [`GemmArgs::unpack`].
struct Unpack<'a, S, J, const NP: usize> {
    simd: S,
    args: &'a J,
    panels: [usize; NP],
    to: [*mut u8; NP],
}

impl<'a, S: Simd, J: GemmArgs, const NP: usize> Unpack<'a, S, J, NP> {
    /// # Safety
    /// Until it has run, each of `to` must be writable for [`GemmArgs::unpacked_lines`] lines and aligned to a line.
    unsafe fn new(simd: S, args: &'a J, panels: [usize; NP], to: [*mut u8; NP]) -> Self {
        Self { simd, args, panels, to }
    }
}

impl<S: Simd, J: GemmArgs, const NP: usize> Op for Unpack<'_, S, J, NP> {
    #[inline(always)]
    fn run(self) {
        for (panel, to) in self.panels.into_iter().zip(self.to) {
            // SAFETY: `new` has asked for that.
            unsafe { self.args.unpack(self.simd, panel, to) }
        }
    }
}

/// One call of [`GemmArgs::unpacked_microkernel`].
struct UnpackedMicrokernel<'a, S, J, const M: usize, const NP: usize> {
    simd: S,
    args: &'a J,
    row: usize,
    panels: [usize; NP],
    lines: [*const u8; NP],
}

impl<'a, S: Simd, J: GemmArgs, const M: usize, const NP: usize> UnpackedMicrokernel<'a, S, J, M, NP> {
    /// # Safety
    /// Until it has run, `lines` must point to what [`GemmArgs::unpack`] has made of `panels`.
    #[inline(always)]
    unsafe fn new(simd: S, args: &'a J, row: usize, panels: [usize; NP], lines: [*const u8; NP]) -> Self {
        Self { simd, args, row, panels, lines }
    }
}

impl<S: Simd, J: GemmArgs, const M: usize, const NP: usize> Op for UnpackedMicrokernel<'_, S, J, M, NP> {
    #[inline(always)]
    fn run(self) {
        // SAFETY: `new` has asked for that.
        unsafe { self.args.unpacked_microkernel::<S, M, NP>(self.simd, self.row, self.panels, self.lines) }
    }
}

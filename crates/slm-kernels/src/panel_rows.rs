//! Reordering of codes from rows, one after the other, to panels of rows.

use rayon::prelude::*;
use slm_quant_core::Bits;

use crate::packed_rhs::{CacheLine, Shape, columns_per_line};
use crate::simd::LANES;
use crate::vectorize::{Op, vectorize};

/// Panels in a task when all threads pack.
const PANELS_PER_TASK: usize = 4;

/// The destination of some rows of a [`PackedRhs`](crate::packed_rhs::PackedRhs). The first row begins a panel.
#[derive(Debug)]
pub(crate) struct PanelRows<'a> {
    pub(crate) shape: Shape,
    pub(crate) rows: usize,
    pub(crate) lines_per_panel: usize,
    /// 0 if sums are not stored.
    pub(crate) sums_per_panel: usize,
    pub(crate) lines: &'a mut [CacheLine],
    pub(crate) sums: &'a mut [i32],
}

impl PanelRows<'_> {
    /// Splits into the rows of the first `panels` panels, and the rows after them.
    pub(crate) fn split_at(self, panels: usize) -> (Self, Self) {
        let Self { shape, rows, lines_per_panel, sums_per_panel, lines, sums } = self;
        let first_rows = rows.min(panels * LANES);
        let (first_lines, lines) = lines.split_at_mut(panels * lines_per_panel);
        let (first_sums, sums) = sums.split_at_mut(panels * sums_per_panel);
        let first = Self {
            shape,
            rows: first_rows,
            lines_per_panel,
            sums_per_panel,
            lines: first_lines,
            sums: first_sums,
        };
        (first, Self { shape, rows: rows - first_rows, lines_per_panel, sums_per_panel, lines, sums })
    }

    /// Packs `codes`: those of all these rows in canonical order.
    pub(crate) fn fill(self, codes: &[u8]) {
        debug_assert_eq!(codes.len(), self.rows * self.shape.bits.row_bytes(self.shape.cols));
        vectorize(Fill { rows: self, codes });
    }

    /// [`PanelRows::fill`] with the panels divided among threads.
    pub(crate) fn fill_on_all_threads(self, codes: &[u8]) {
        let mut tasks = Vec::new();
        let mut rest = self;
        while rest.rows > PANELS_PER_TASK * LANES {
            let (first, others) = rest.split_at(PANELS_PER_TASK);
            tasks.push(first);
            rest = others;
        }
        let task_bytes = PANELS_PER_TASK * LANES * rest.shape.bits.row_bytes(rest.shape.cols);
        tasks.push(rest);
        tasks.into_par_iter().zip(codes.par_chunks(task_bytes)).for_each(|(rows, codes)| rows.fill(codes));
    }
}

/// Runs [`PanelRows::fill`].
struct Fill<'a, 'b> {
    rows: PanelRows<'a>,
    codes: &'b [u8],
}

impl Op for Fill<'_, '_> {
    #[inline(always)]
    fn run(self) {
        let PanelRows { shape, lines_per_panel, sums_per_panel, lines, sums, .. } = self.rows;
        let panel_bytes = LANES * shape.bits.row_bytes(shape.cols);
        let panels = lines.chunks_exact_mut(lines_per_panel).zip(self.codes.chunks(panel_bytes));
        for (panel, (lines, codes)) in panels.enumerate() {
            match shape.bits {
                Bits::Int8 => pack_panel(shape, codes, lines, |codes| codes),
                Bits::Int4 => pack_panel(shape, codes, lines, store_int4),
            }
            // Summed while the panel is still in the cache.
            if sums_per_panel > 0 {
                let columns = lines.len() * columns_per_line(shape.bits);
                sums[panel * sums_per_panel..][..LANES].copy_from_slice(&shape.sums(lines, columns));
            }
        }
    }
}

/// Packs the codes of up to 16 rows. `store` converts 4 bytes of codes in canonical order to their stored form.
#[inline(always)]
fn pack_panel(shape: Shape, codes: &[u8], lines: &mut [CacheLine], store: impl Fn(u32) -> u32 + Copy) {
    let (bits, cols) = (shape.bits, shape.cols);
    let (per_line, per_byte) = (columns_per_line(bits), columns_per_line(bits) / 4);
    let row_bytes = bits.row_bytes(cols);
    let groups = (0..cols).step_by(shape.width).zip(lines.chunks_mut(shape.steps));
    for (first, lines) in groups {
        let end = cols.min(first + shape.width);
        // All rows side by side, as far as each has whole words.
        let mut whole = 0;
        if codes.len() == LANES * row_bytes && first.is_multiple_of(per_byte) {
            whole = (end - first) / per_line;
            let words: [&[[u8; 4]]; LANES] = std::array::from_fn(|lane| {
                codes[lane * row_bytes + first / per_byte..][..whole * 4].as_chunks().0
            });
            for (step, line) in lines[..whole].iter_mut().enumerate() {
                for (to, words) in line.0.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                    *to = store(u32::from_le_bytes(words[step])).to_le_bytes();
                }
            }
        }
        // The rest, one word after the other.
        let left = (first..end).step_by(per_line).zip(lines).skip(whole);
        for (col, line) in left {
            let count = per_line.min(end - col);
            for (row, to) in codes.chunks_exact(row_bytes).zip(line.0.as_chunks_mut::<4>().0) {
                *to = store(word(bits, row, col, count)).to_le_bytes();
            }
        }
    }
}

/// Up to a word of codes in canonical order: those of `count` columns of a row from `col` on, followed by zeros.
#[inline(always)]
fn word(bits: Bits, row: &[u8], col: usize, count: usize) -> u32 {
    match bits {
        Bits::Int8 => row[col..col + count].iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)),
        Bits::Int4 => {
            let nibble = |col: usize| u32::from(row[col / 2] >> (col % 2 * 4) & 0xf);
            (0..count).fold(0, |word, i| word | nibble(col + i) << (4 * i))
        }
    }
}

/// Eight consecutive INT4 codes in their stored form: plus 8, the first four in the low and the last four in the high
/// nibbles.
#[inline(always)]
fn store_int4(codes: u32) -> u32 {
    let half = |x: u32| {
        let x = (x | x << 8) & 0x00ff_00ff;
        (x | x << 4) & 0x0f0f_0f0f
    };
    (half(codes & 0xffff) | half(codes >> 16) << 4) ^ 0x8888_8888
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_are_spread_in_order() {
        assert_eq!((store_int4(0x7654_3210) ^ 0x8888_8888).to_le_bytes(), [0x40, 0x51, 0x62, 0x73]);
        assert_eq!(word(Bits::Int8, &[9, 1, 2, 3], 1, 3), 0x0003_0201);
        assert_eq!(word(Bits::Int4, &[0x10, 0x32, 0x04], 1, 4), 0x4321);
    }
}

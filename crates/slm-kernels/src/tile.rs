//! A rectangle of an output that belongs to one thread.

use std::marker::PhantomData;
use std::ops::Range;

use slm_runtime::SharedSlice;

/// Some columns of some rows of a row-major output, written by one thread.
///
/// A tile makes writing to a shared output safe. Its creator, the scheduler of a product, guarantees that no other tile
/// has the same cells. The tile stays on its thread and writes no cell outside itself.
#[derive(Debug)]
pub(crate) struct Tile<'a, T> {
    out: SharedSlice<'a, T>,
    /// Distance in cells from row to row of the output.
    width: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Neither `Send` nor `Sync`, so that writing needs no mutable reference.
    _of_one_thread: PhantomData<*mut T>,
}

impl<'a, T: Copy> Tile<'a, T> {
    /// The cells of `rows` and `columns` of an output with rows of `width` cells.
    ///
    /// # Safety
    /// While the tile lives, nothing else may access these cells.
    ///
    /// # Panics
    /// If the output does not have these cells.
    pub(crate) unsafe fn new(
        out: SharedSlice<'a, T>,
        width: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Self {
        let is_inside =
            columns.end <= width && rows.end.checked_mul(width).is_some_and(|end| end <= out.len());
        assert!(is_inside, "tile outside the output");
        Self { out, width, rows, columns, _of_one_thread: PhantomData }
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The address of a cell, for a prefetch. It need not exist.
    #[inline(always)]
    pub(crate) fn address(&self, row: usize, column: usize) -> *const u8 {
        self.out.address(row.wrapping_mul(self.width).wrapping_add(column)).cast()
    }

    /// Copies `values` to the cells of `row` from `column` on.
    ///
    /// # Panics
    /// If one of these cells is outside the tile.
    #[inline(always)]
    pub(crate) fn write(&self, row: usize, column: usize, values: &[T]) {
        let (rows, columns) = (&self.rows, &self.columns);
        let is_inside = rows.start <= row
            && row < rows.end
            && columns.start <= column
            && column <= columns.end
            && values.len() <= columns.end - column;
        assert!(is_inside, "cells outside the tile");
        // SAFETY: the cells are the tile's, hence inside the output (`Tile::new`), and nothing else accesses them.
        unsafe { self.out.write_unchecked(row * self.width + column, values) }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_tile_takes_its_own_cells_and_no_others() {
        let mut cells = [0; 4 * 6];
        {
            // SAFETY: there is one tile.
            let tile = unsafe { Tile::new(SharedSlice::new(&mut cells), 6, 1..3, 2..5) };
            tile.write(1, 2, &[1, 2, 3]);
            tile.write(2, 4, &[4]);
            tile.write(2, 5, &[]);
            for (row, column, count) in [(0, 2, 1), (3, 2, 1), (1, 1, 1), (1, 4, 2), (2, 5, 1), (1, 6, 0)] {
                let write = AssertUnwindSafe(|| tile.write(row, column, &[9, 9][..count]));
                assert!(catch_unwind(write).is_err(), "{row} {column} {count}");
            }
        }
        let mut expected = [0; 4 * 6];
        expected[8..11].copy_from_slice(&[1, 2, 3]);
        expected[16] = 4;
        assert_eq!(cells, expected);
    }

    #[test]
    fn a_tile_lies_inside_the_output() {
        let mut cells = [0; 4 * 6];
        let out = SharedSlice::new(&mut cells);
        for (width, rows, columns) in [(6, 0..5, 0..6), (6, 0..4, 0..7), (usize::MAX, 0..2, 0..1)] {
            // SAFETY: no cell is accessed.
            let tile = AssertUnwindSafe(|| unsafe { Tile::new(out, width, rows.clone(), columns.clone()) });
            assert!(catch_unwind(tile).is_err(), "{width} {rows:?} {columns:?}");
        }
    }
}

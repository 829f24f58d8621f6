//! Matrices in slices, and their columns in panels.

use std::ops::Range;

use slm_kernels::{KernelKind, transpose};

use crate::panel::PANEL;

/// A matrix in a slice: row-major, or the transpose of a row-major one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    /// `true` if `data` holds one column after the other.
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Wraps `data` as a row-major `[rows, cols]` matrix.
    ///
    /// # Panics
    /// If the length is not `rows * cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix: {rows} x {cols} values");
        Self { data, rows, cols, transposed: false }
    }

    /// The transpose, `[cols, rows]`, of the same data.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Number of rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Number of panels that the columns fill, the last one perhaps in part.
    pub fn panels(self) -> usize {
        self.cols.div_ceil(PANEL)
    }

    /// The values if they are in row-major order.
    pub(crate) fn row_major(self) -> Option<&'a [f32]> {
        (!self.transposed).then_some(self.data)
    }

    /// Copies rows `rows` of columns `PANEL * panel ..` to `out`, `[rows.len(), PANEL]`. Missing columns become zeros.
    pub(crate) fn copy_panel(self, panel: usize, rows: Range<usize>, out: &mut [f32]) {
        let first = panel * PANEL;
        let count = PANEL.min(self.cols - first);
        let (out, _) = out.as_chunks_mut::<PANEL>();
        if count < PANEL {
            out.as_flattened_mut().fill(0.0);
        }
        if self.transposed {
            let columns = &self.data[first * self.rows + rows.start..];
            transpose(
                KernelKind::best(),
                [count, rows.len()],
                columns,
                self.rows,
                out.as_flattened_mut(),
                PANEL,
            );
        } else {
            for (out, row) in out.iter_mut().zip(self.data[rows.start * self.cols..].chunks_exact(self.cols))
            {
                match row[first..].first_chunk::<PANEL>() {
                    Some(whole) => *out = *whole,
                    None => out[..count].copy_from_slice(&row[first..]),
                }
            }
        }
    }

    /// Copies columns `columns` of rows `rows` to `out`, row by row.
    pub(crate) fn copy_rows(self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        let length = columns.len();
        if self.transposed {
            let from = &self.data[columns.start * self.rows + rows.start..];
            transpose(KernelKind::best(), [length, rows.len()], from, self.rows, out, length);
        } else {
            let from = self.data[rows.start * self.cols..].chunks_exact(self.cols);
            for (out, row) in out.chunks_exact_mut(length).zip(from).take(rows.len()) {
                out.copy_from_slice(&row[columns.clone()]);
            }
        }
    }
}

//! Inputs in the form in which vector kernels read them.

use std::borrow::Cow;

use super::activations::{QuantizedActivations, stride};
use super::blocked::{Blocked, first};
use crate::Bits;

/// Columns of `row` at the positions where kernels expect them: groups one after the other, each padded
/// to `padded` columns with `fill`.
fn scatter<T: Copy>(row: &[T], width: usize, padded: usize, fill: T, out: &mut [T]) {
    out.fill(fill);
    for (from, to) in row.chunks(width).zip(out.chunks_mut(padded)) {
        to[..from.len()].copy_from_slice(from);
    }
}

/// Whether columns are where kernels expect them but for the end of the row.
fn is_contiguous(w: &Blocked) -> bool {
    w.groups_per_row() == 1 || w.padded_width() == w.group_width()
}

/// Quantized inputs in the form that a kernel reads.
pub(crate) struct Inputs<'a> {
    source: &'a QuantizedActivations,
    codes: Codes<'a>,
    /// Bytes from row to row.
    stride: usize,
    /// `[group][row]` sums of codes less the zero point; empty where no kernel needs them.
    group_sums: Vec<i32>,
}

enum Codes<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Less the zero point.
    Centered(Vec<i16>),
}

impl<'a> Inputs<'a> {
    /// Arranges `source` for the groups of `w`. `centered8`: for INT8 weights, as 16-bit codes less their
    /// zero points.
    pub(crate) fn new(source: &'a QuantizedActivations, w: &Blocked, centered8: bool) -> Self {
        let centered = centered8 && w.scheme().bits == Bits::Int8;
        let width = w.group_width();
        let (codes, stride) = if centered {
            let stride = stride(w.padded_cols() * 2);
            let mut codes = vec![0i16; source.rows() * stride / 2];
            let mut row_codes = vec![0; source.cols()];
            for (row, out) in codes.chunks_exact_mut(stride / 2).enumerate() {
                let zero_point = source.qparams(row).zero_point as i16;
                for (centered, &code) in row_codes.iter_mut().zip(source.row_codes(row)) {
                    *centered = i16::from(code) - zero_point;
                }
                scatter(&row_codes, width, w.padded_width(), 0, out);
            }
            (Codes::Centered(codes), stride)
        } else if is_contiguous(w) {
            // Rows are padded to whole cache lines, hence to whole lines of weights.
            let (codes, stride) = source.padded();
            (Codes::Bytes(Cow::Borrowed(codes)), stride)
        } else {
            let stride = stride(w.padded_cols());
            let mut codes = vec![0; source.rows() * stride];
            for (row, out) in codes.chunks_exact_mut(stride).enumerate() {
                let fill = source.qparams(row).zero_point as u8;
                scatter(source.row_codes(row), width, w.padded_width(), fill, out);
            }
            (Codes::Bytes(Cow::Owned(codes)), stride)
        };
        let mut group_sums = Vec::new();
        if w.needs_input_sums() {
            group_sums = vec![0; w.groups_per_row() * source.rows()];
            for row in 0..source.rows() {
                let zero_point = source.qparams(row).zero_point;
                for (group, codes) in source.row_codes(row).chunks(width).enumerate() {
                    let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
                    group_sums[group * source.rows() + row] = sum - zero_point * codes.len() as i32;
                }
            }
        }
        Self { source, codes, stride, group_sums }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.source.rows()
    }

    /// The codes of a row, readable for all columns of the weights they were arranged for.
    ///
    /// # Panics
    /// When `row` does not exist.
    pub(crate) fn row(&self, row: usize) -> *const u8 {
        match &self.codes {
            Codes::Bytes(codes) => codes[row * self.stride..][..self.stride].as_ptr(),
            Codes::Centered(codes) => codes[row * self.stride / 2..][..self.stride / 2].as_ptr().cast(),
        }
    }

    /// Scale of a row.
    #[inline(always)]
    pub(crate) fn scale(&self, row: usize) -> f32 {
        self.source.qparams(row).scale
    }

    /// Zero point of a row.
    #[inline(always)]
    pub(crate) fn zero_point(&self, row: usize) -> i32 {
        self.source.qparams(row).zero_point
    }

    /// Sums of a group less zero points, of `M` rows from `row` on.
    #[inline(always)]
    pub(crate) fn group_sums<const M: usize>(&self, row: usize, group: usize) -> &[i32; M] {
        first(&self.group_sums[group * self.source.rows() + row..])
    }
}

/// Float inputs in the form that a kernel reads.
pub(crate) struct FloatInputs<'a> {
    rows: usize,
    values: Cow<'a, [f32]>,
    stride: usize,
}

impl<'a> FloatInputs<'a> {
    /// Arranges a row-major `[m, cols]` input for the groups of `w`, padded with zeros.
    pub(crate) fn new(x: &'a [f32], m: usize, w: &Blocked) -> Self {
        let cols = w.cols();
        // Few rows need no care for cache sets.
        if is_contiguous(w) && w.padded_cols() == cols && (m <= 4 || stride(cols * 4) == cols * 4) {
            return Self { rows: m, values: Cow::Borrowed(x), stride: cols };
        }
        let stride = stride(w.padded_cols() * 4) / 4;
        let mut values = vec![0.0; m * stride];
        for (x, out) in x.chunks_exact(cols).zip(values.chunks_exact_mut(stride)) {
            scatter(x, w.group_width(), w.padded_width(), 0.0, out);
        }
        Self { rows: m, values: Cow::Owned(values), stride }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The values of a row, readable for all columns of the weights they were arranged for.
    ///
    /// # Panics
    /// When `row` does not exist.
    pub(crate) fn row(&self, row: usize) -> *const f32 {
        self.values[row * self.stride..][..self.stride].as_ptr()
    }
}

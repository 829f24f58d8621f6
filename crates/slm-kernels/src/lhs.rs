//! Inputs (left-hand sides of products) in the layout that vector kernels read.

use slm_quant_core::{Bits, Mapping, QParams};
use slm_runtime::{SharedSlice, for_each_chunk};

use crate::activations::{QuantizedActivations, stride};
use crate::fixed_point::{BLOCK, BlockParams, Digit, SplitRow, block_digits};
use crate::kernel::{ACTIVATION_OFFSET, Input};
use crate::packed_rhs::{PackedRhs, stored_offset};
use crate::rows::{lane_columns, pack_by_lane};
use crate::schedule::DECODE_ROWS;
use crate::simd::{LANES, Simd};
use crate::vectorize::Op;

/// The layout in which a kernel reads an input: columns in runs, each padded to `padded_run`. A run is a group. If only
/// the last group is padded, the run is the whole row, which is packed much faster than group by group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LhsLayout {
    values: Values,
    run: usize,
    padded_run: usize,
    /// Columns of a row, padding included.
    padded_cols: usize,
    /// Columns of a group.
    width: usize,
    groups: usize,
    /// The factor of the sums of codes less the offset, by group; `None` if these sums are not needed.
    sums: Option<i32>,
}

/// The form in which the values of a row are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    /// The input unchanged.
    Same,
    /// Codes with their groups padded.
    Padded,
    /// The input packed by [`pack_by_lane`].
    ByLane,
    /// Codes less [`ACTIVATION_OFFSET`], 8 bits.
    OffsetI8,
    /// Codes less the offset, 16 bits.
    OffsetI16,
    /// Digits of floats, 8 bits.
    DigitsI8,
    /// Digits of floats, 16 bits.
    DigitsI16,
}

impl LhsLayout {
    /// The layout of `x` that a kernel needs for `w`.
    pub(crate) fn new<S: Simd>(_: S, x: Input<'_>, w: &PackedRhs) -> Self {
        // Columns are already where kernels expect them, except at the end of the row.
        let contiguous = w.groups_per_row() == 1 || w.padded_width() == w.group_width();
        let values = match x {
            Input::Quantized(_) if S::WIDE_INPUT8 && w.scheme().bits == Bits::Int8 => Values::OffsetI16,
            Input::Quantized(_) if w.is_grouped() || S::SIGNED_INPUT => Values::OffsetI8,
            // Rows of codes are padded to whole cache lines, hence to whole lines of weights.
            Input::Quantized(_) if contiguous => Values::Same,
            Input::Quantized(_) => Values::Padded,
            Input::Float(..) if S::WIDE_INPUT8 && w.scheme().bits == Bits::Int8 => Values::DigitsI16,
            Input::Float(..) => Values::DigitsI8,
        };
        Self {
            values,
            run: if contiguous { w.cols() } else { w.group_width() },
            padded_run: if contiguous { w.padded_cols() } else { w.padded_width() },
            padded_cols: w.padded_cols(),
            width: w.group_width(),
            groups: w.groups_per_row(),
            sums: match x {
                Input::Quantized(_) => input_sums::<S>(w),
                Input::Float(..) => Some(group_factor::<S>(w)),
            },
        }
    }

    /// The layout of `rows` rows of `cols` floats that kernels need for float weights.
    pub(crate) fn of_floats<S: Simd>(_: S, rows: usize, cols: usize) -> Self {
        let tiled = rows > DECODE_ROWS && rows >= S::TILE_ROWS;
        let padded_cols = if tiled { LANES * lane_columns(cols) } else { cols };
        Self {
            values: if tiled { Values::ByLane } else { Values::Same },
            run: cols,
            padded_run: padded_cols,
            padded_cols,
            width: cols,
            groups: 1,
            sums: None,
        }
    }

    /// Number of blocks of digits in a row of `cols` columns.
    fn blocks(&self, cols: usize) -> usize {
        let last = cols - (self.groups - 1) * self.width;
        (self.groups - 1) * self.width.div_ceil(BLOCK) + last.div_ceil(BLOCK)
    }

    /// Offset that is subtracted from codes in products.
    fn offset(&self, params: QParams) -> i32 {
        if self.groups > 1 { ACTIVATION_OFFSET } else { params.zero_point }
    }
}

/// The factor of the sums of codes less the offset; `None` if these sums are not needed.
fn input_sums<S: Simd>(w: &PackedRhs) -> Option<i32> {
    match w.scheme().mapping {
        _ if w.is_grouped() => Some(group_factor::<S>(w)),
        Mapping::Affine => Some(1),
        _ => (w.scheme().bits == Bits::Int4).then_some(1),
    }
}

/// The factor of the sums of inputs that removes the offset of operands from sums of products. With zero points, it
/// leaves the multiplication by these and the offset to the kernel.
fn group_factor<S: Simd>(w: &PackedRhs) -> i32 {
    match w.scheme().mapping {
        Mapping::Affine => -1,
        _ => -operand_offset::<S>(w),
    }
}

/// Bias added to the operands of weights with several groups to a row, and to those of all weights in products with
/// floats.
pub(crate) fn operand_offset<S: Simd>(w: &PackedRhs) -> i32 {
    match w.scheme().bits {
        Bits::Int8 => S::OFFSET8,
        Bits::Int4 => stored_offset(Bits::Int4),
    }
}

/// An input packed in one layout. Its memory only grows.
#[derive(Debug, Default)]
pub(crate) struct PackedLhs {
    layout: Option<LhsLayout>,
    bytes: Vec<u8>,
    differences: Vec<i16>,
    floats: Vec<f32>,
    /// Distance in values from row to row.
    stride: usize,
    /// `[row][group]` sums of codes less the offset, times [`LhsLayout::sums`].
    sums: Vec<i32>,
    /// `[row][block]` parameters of digits.
    params: Vec<BlockParams>,
    /// Number of blocks in a row.
    blocks: usize,
}

impl PackedLhs {
    /// Returns `true` if the input was last packed in this layout.
    pub(crate) fn has(&self, layout: LhsLayout) -> bool {
        self.layout == Some(layout)
    }

    /// Packs an input.
    pub(crate) fn fill<S: Simd>(&mut self, simd: S, x: Input<'_>, layout: LhsLayout) {
        self.layout = Some(layout);
        let LhsLayout { run, padded_run, padded_cols, width, groups, .. } = layout;
        match (x, layout.values) {
            (Input::Quantized(x), Values::Same) => self.stride = x.padded().1,
            (Input::Quantized(x), Values::Padded) => {
                self.stride = stride(padded_cols);
                for_each_row(&mut self.bytes, x.rows(), self.stride, |row, out| {
                    scatter(x.row_codes(row), run, padded_run, x.qparams(row).zero_point as u8, out);
                });
            }
            (Input::Quantized(x), Values::OffsetI8) => {
                self.stride = stride(padded_cols);
                for_each_row(&mut self.bytes, x.rows(), self.stride, |row, out| {
                    let padding = layout.offset(x.qparams(row)) as u8;
                    simd.vectorize(SubtractToI8 { codes: x.row_codes(row), padding, run, padded_run, out });
                });
            }
            (Input::Quantized(x), Values::OffsetI16) => {
                self.stride = stride(padded_cols * 2) / 2;
                for_each_row(&mut self.differences, x.rows(), self.stride, |row, out| {
                    let (codes, offset) = (x.row_codes(row), layout.offset(x.qparams(row)) as i16);
                    simd.vectorize(SubtractToI16 { codes, offset, run, padded_run, out });
                });
            }
            (Input::Float(x, rows), Values::Same) => self.stride = x.len() / rows,
            (Input::Float(x, rows), Values::ByLane) => {
                let cols = x.len() / rows;
                self.stride = stride(padded_cols * 4) / 4;
                for_each_row(&mut self.floats, rows, self.stride, |row, out| {
                    simd.vectorize(PackByLane { row: &x[row * cols..][..cols], out });
                });
            }
            (Input::Float(x, rows), Values::DigitsI16) => {
                self.blocks = layout.blocks(x.len() / rows);
                self.stride = stride(2 * self.blocks * block_digits(width)) / 2;
                let params = (&mut self.params, self.blocks);
                split_rows(simd, x, rows, layout, (&mut self.differences, self.stride), params);
            }
            (Input::Float(x, rows), _) => {
                self.blocks = layout.blocks(x.len() / rows);
                self.stride = stride(self.blocks * block_digits(width));
                let params = (&mut self.params, self.blocks);
                split_rows(simd, x, rows, layout, (&mut self.bytes, self.stride), params);
            }
            (Input::Quantized(_), Values::ByLane | Values::DigitsI8 | Values::DigitsI16) => {
                unreachable!("layouts of floats")
            }
        }
        if let (Some(factor), Input::Quantized(x)) = (layout.sums, x) {
            for_each_row(&mut self.sums, x.rows(), groups, |row, out| {
                let (codes, offset) = (x.row_codes(row), layout.offset(x.qparams(row)));
                simd.vectorize(SumGroups { codes, offset, factor, width, out });
            });
        }
    }

    /// The codes in the layout that the kernel reads. `source` is the input that was packed.
    ///
    /// # Panics
    /// If the input was packed in another layout, in which rows might be too short.
    pub(crate) fn codes<'a>(&'a self, source: &'a QuantizedActivations, layout: LhsLayout) -> Inputs<'a> {
        assert!(self.has(layout) && layout.padded_cols <= self.stride, "inputs in another layout");
        let codes = match self.layout.map(|layout| layout.values) {
            Some(Values::OffsetI16) => Codes::I16(&self.differences),
            Some(Values::Padded | Values::OffsetI8) => Codes::Bytes(&self.bytes),
            _ => Codes::Bytes(source.padded().0),
        };
        let groups = self.layout.map_or(1, |layout| layout.groups);
        let has_sums = self.layout.is_some_and(|layout| layout.sums.is_some());
        Inputs { source, codes, stride: self.stride, groups, has_sums, sums: &self.sums }
    }

    /// The floats in the layout that the kernel reads. `source` is the input that was packed.
    ///
    /// # Panics
    /// As [`PackedLhs::codes`].
    pub(crate) fn floats<'a>(&'a self, source: &'a [f32], layout: LhsLayout) -> FloatInputs<'a> {
        assert!(self.has(layout) && layout.padded_cols <= self.stride, "inputs in another layout");
        let values = match self.layout.map(|layout| layout.values) {
            Some(Values::ByLane) => &self.floats,
            _ => source,
        };
        FloatInputs { values, stride: self.stride }
    }

    /// The digits in the layout that the kernel reads.
    ///
    /// # Panics
    /// As [`PackedLhs::codes`].
    pub(crate) fn digits(&self, layout: LhsLayout) -> Digits<'_> {
        let row = self.blocks * block_digits(layout.width);
        assert!(self.has(layout) && row <= self.stride, "inputs in another layout");
        let codes = match layout.values {
            Values::DigitsI16 => Codes::I16(&self.differences),
            _ => Codes::Bytes(&self.bytes),
        };
        Digits { codes, stride: self.stride, params: &self.params, blocks: self.blocks }
    }
}

/// Splits rows of floats into digits. `out` and `params` are paired with the number of values of a row.
fn split_rows<S: Simd, T: Digit>(
    simd: S,
    x: &[f32],
    rows: usize,
    layout: LhsLayout,
    (out, stride): (&mut Vec<T>, usize),
    (params, blocks): (&mut Vec<BlockParams>, usize),
) {
    if params.len() < rows * blocks {
        params.resize(rows * blocks, BlockParams::default());
    }
    let (cols, params) = (x.len() / rows, SharedSlice::new(params));
    for_each_row(out, rows, stride, |row, out| {
        // SAFETY: each row is visited once.
        let params = unsafe { params.cells(row * blocks..(row + 1) * blocks) };
        simd.vectorize(SplitRow {
            row: &x[row * cols..][..cols],
            width: layout.width,
            factor: layout.sums.unwrap_or(0),
            out,
            params,
        });
    });
}

/// Minimum number of rows that are packed on several threads.
const PARALLEL_ROWS: usize = 32;

/// Calls `f(row, values)` for `rows` rows of `stride` values, and grows `values` if necessary. It never shrinks: the
/// inputs of a forward pass have several lengths, and growing again would fill memory that is overwritten anyway.
fn for_each_row<T: Copy + Default + Send>(
    values: &mut Vec<T>,
    rows: usize,
    stride: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if values.len() < rows * stride {
        values.resize(rows * stride, T::default());
    }
    let values = &mut values[..rows * stride];
    if rows < PARALLEL_ROWS {
        return values.chunks_exact_mut(stride).enumerate().for_each(|(row, values)| f(row, values));
    }
    for_each_chunk(values, stride * (PARALLEL_ROWS / 4), |chunk, values| {
        for (i, values) in values.chunks_exact_mut(stride).enumerate() {
            f(chunk * (PARALLEL_ROWS / 4) + i, values);
        }
    });
}

/// Writes the codes of `row` to the positions where kernels expect them: one run after the other, each padded to
/// `padded_run` columns with `fill`.
fn scatter<T: Copy>(row: &[T], run: usize, padded_run: usize, fill: T, out: &mut [T]) {
    out.fill(fill);
    for (from, to) in row.chunks(run).zip(out.chunks_mut(padded_run)) {
        to[..from.len()].copy_from_slice(from);
    }
}

/// Runs [`pack_by_lane`].
struct PackByLane<'a> {
    row: &'a [f32],
    out: &'a mut [f32],
}

impl Op for PackByLane<'_> {
    #[inline(always)]
    fn run(self) {
        pack_by_lane(self.row, self.out);
    }
}

/// Subtracts [`ACTIVATION_OFFSET`] from the codes of a row and writes them where kernels expect them, with `padding`
/// elsewhere.
struct SubtractToI8<'a> {
    codes: &'a [u8],
    padding: u8,
    run: usize,
    padded_run: usize,
    out: &'a mut [u8],
}

impl Op for SubtractToI8<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { codes, padding: fill, run, padded_run, out } = self;
        for (codes, out) in codes.chunks(run).zip(out.chunks_mut(padded_run)) {
            let (out, padding) = out.split_at_mut(codes.len());
            padding.fill(fill ^ ACTIVATION_OFFSET as u8);
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = code ^ ACTIVATION_OFFSET as u8;
            }
        }
    }
}

/// Subtracts the offset from the codes of a row and writes them where kernels expect them, with zeros elsewhere.
struct SubtractToI16<'a> {
    codes: &'a [u8],
    offset: i16,
    run: usize,
    padded_run: usize,
    out: &'a mut [i16],
}

impl Op for SubtractToI16<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { codes, offset, run, padded_run, out } = self;
        for (codes, out) in codes.chunks(run).zip(out.chunks_mut(padded_run)) {
            let (out, padding) = out.split_at_mut(codes.len());
            padding.fill(0);
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = i16::from(code) - offset;
            }
        }
    }
}

/// Sums a row's codes less the offset by group, and multiplies the sums by a factor.
struct SumGroups<'a> {
    codes: &'a [u8],
    offset: i32,
    factor: i32,
    width: usize,
    out: &'a mut [i32],
}

impl Op for SumGroups<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { codes, offset, factor, width, out } = self;
        for (codes, out) in codes.chunks(width).zip(out) {
            let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
            // Part of a sum of products, and like these modulo 2^32.
            *out = (sum - offset * codes.len() as i32).wrapping_mul(factor);
        }
    }
}

/// Quantized inputs in the layout that a kernel reads.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    source: &'a QuantizedActivations,
    codes: Codes<'a>,
    /// Distance in codes from row to row.
    stride: usize,
    groups: usize,
    has_sums: bool,
    sums: &'a [i32],
}

/// Codes or digits.
#[derive(Clone, Copy)]
enum Codes<'a> {
    Bytes(&'a [u8]),
    I16(&'a [i16]),
}

impl Codes<'_> {
    /// Pointer to row `row` of rows of `stride` values.
    ///
    /// # Panics
    /// If the row does not exist.
    fn row(&self, row: usize, stride: usize) -> *const u8 {
        match self {
            Self::Bytes(codes) => codes[row * stride..][..stride].as_ptr(),
            Self::I16(codes) => codes[row * stride..][..stride].as_ptr().cast(),
        }
    }
}

impl Inputs<'_> {
    /// The codes of a row, readable for all columns of the weights they were packed for.
    ///
    /// # Panics
    /// If `row` does not exist.
    pub(crate) fn row(&self, row: usize) -> *const u8 {
        self.codes.row(row, self.stride)
    }

    /// The scale of a row.
    #[inline(always)]
    pub(crate) fn scale(&self, row: usize) -> f32 {
        self.source.qparams(row).scale
    }

    /// The zero point of a row.
    #[inline(always)]
    pub(crate) fn zero_point(&self, row: usize) -> i32 {
        self.source.qparams(row).zero_point
    }

    /// The sums of codes less the offset of each group of a row, times the layout's factor; empty if not needed.
    #[inline(always)]
    pub(crate) fn group_sums(&self, row: usize) -> &[i32] {
        if self.has_sums { &self.sums[row * self.groups..][..self.groups] } else { &[] }
    }
}

/// Float inputs in the layout that a kernel reads.
#[derive(Clone, Copy)]
pub(crate) struct FloatInputs<'a> {
    values: &'a [f32],
    stride: usize,
}

impl FloatInputs<'_> {
    /// The values of a row, readable for all columns of the weights they were packed for.
    ///
    /// # Panics
    /// If `row` does not exist.
    pub(crate) fn row(&self, row: usize) -> *const f32 {
        self.values[row * self.stride..][..self.stride].as_ptr()
    }

    /// [`FloatInputs::row`] of `M` rows from `first` on.
    ///
    /// # Panics
    /// If one of them does not exist.
    #[inline(always)]
    pub(crate) fn rows<const M: usize>(&self, first: usize) -> [*const f32; M] {
        std::array::from_fn(|i| self.row(first + i))
    }
}

/// The digits of floats in the layout that a kernel reads.
#[derive(Clone, Copy)]
pub(crate) struct Digits<'a> {
    codes: Codes<'a>,
    /// Distance in values from row to row.
    stride: usize,
    params: &'a [BlockParams],
    blocks: usize,
}

impl Digits<'_> {
    /// The digits of a row, readable for all blocks of the weights they were packed for.
    ///
    /// # Panics
    /// If `row` does not exist.
    pub(crate) fn row(&self, row: usize) -> *const u8 {
        self.codes.row(row, self.stride)
    }

    /// The parameters of the blocks of a row.
    ///
    /// # Panics
    /// If `row` does not exist.
    pub(crate) fn params(&self, row: usize) -> &[BlockParams] {
        &self.params[row * self.blocks..][..self.blocks]
    }
}

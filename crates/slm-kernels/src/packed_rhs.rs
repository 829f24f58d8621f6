//! Weights (right-hand sides of products) in the layout that vector kernels read.
//!
//! Rows are divided into panels of 16, one row to a lane. A panel is a run of 64-byte lines, group after group. A line
//! holds 4 bytes for each lane: 4 consecutive INT8 codes, or 8 consecutive INT4 codes, the first four in the low and
//! the last four in the high nibbles. INT4 codes are stored plus 8, so that a nibble is unsigned. Each group starts on
//! a line. The rest of its last line, and of the last panel's lanes, is padding. Scales and zero points are
//! `[panel][group][lane]`.
//!
//! Padding columns may hold anything: the input has its zero point there, so they contribute nothing.

use half::f16;
use rayon::prelude::*;
use slm_quant_core::{Bits, QParams, QuantScheme, QuantizedMatrix, Scales};
use slm_runtime::{HugeVec, Plain};

use crate::panel_rows::PanelRows;
use crate::simd::{LANES, LINE_BYTES, Simd};
use crate::vectorize::{Op, vectorize};

/// One line, aligned to a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct CacheLine(pub(crate) [u8; LINE_BYTES]);

impl CacheLine {
    pub(crate) const ZERO: Self = Self([0; LINE_BYTES]);
}

// SAFETY: plain bytes, for which zero is a valid value.
unsafe impl Plain for CacheLine {}

/// Scales in their stored type.
#[derive(Debug, Clone)]
enum PackedScales {
    F32(HugeVec<f32>),
    F16(HugeVec<f16>),
}

/// A matrix in panels of 16 rows.
#[derive(Debug, Clone)]
pub(crate) struct PackedRhs {
    rows: usize,
    cols: usize,
    scheme: QuantScheme,
    /// Columns per group.
    width: usize,
    groups: usize,
    /// Lines per group. The last group may have fewer columns, and then has `last_steps` lines.
    steps: usize,
    last_steps: usize,
    lines: HugeVec<CacheLine>,
    scales: PackedScales,
    zero_points: Option<HugeVec<i8>>,
    /// `[panel][lane]` sums of stored codes, padding included, for rows of one group.
    code_sums: HugeVec<i32>,
    /// `[panel][lane]` sums of weights, for rows of several groups: see [`PackedRhs::scaled_sums`].
    scaled_sums: HugeVec<f32>,
}

impl PackedRhs {
    /// A matrix without codes, scales and zero points. [`PackedRhs::rows_mut`] packs the codes,
    /// [`PackedRhs::set_params`] sets the rest.
    pub(crate) fn new(rows: usize, cols: usize, scheme: QuantScheme) -> Self {
        let width = scheme.granularity.group_width(cols).unwrap_or(cols);
        let groups = cols.div_ceil(width);
        let per_line = columns_per_line(scheme.bits);
        let mut packed = Self {
            rows,
            cols,
            scheme,
            width,
            groups,
            steps: width.div_ceil(per_line),
            last_steps: (cols - (groups - 1) * width).div_ceil(per_line),
            lines: HugeVec::zeroed(0),
            scales: PackedScales::F32(HugeVec::zeroed(0)),
            zero_points: None,
            code_sums: HugeVec::zeroed(0),
            scaled_sums: HugeVec::zeroed(0),
        };
        packed.lines = HugeVec::zeroed(packed.panels() * packed.lines_per_panel());
        if !packed.is_grouped() {
            packed.code_sums = HugeVec::zeroed(packed.panels() * LANES);
        }
        packed
    }

    /// Packs a matrix, on all threads.
    pub(crate) fn pack(matrix: &QuantizedMatrix) -> Self {
        let mut packed = Self::new(matrix.rows(), matrix.cols(), matrix.scheme());
        packed.rows_mut().fill_on_all_threads(matrix.codes());
        packed.set_params(matrix.scales(), matrix.zero_points());
        packed
    }

    /// The destination of the codes of all rows.
    pub(crate) fn rows_mut(&mut self) -> PanelRows<'_> {
        let sums_per_panel = if self.is_grouped() { 0 } else { LANES };
        let (rows, shape, lines_per_panel) = (self.rows, self.shape(), self.lines_per_panel());
        PanelRows {
            shape,
            rows,
            lines_per_panel,
            sums_per_panel,
            lines: &mut self.lines,
            sums: &mut self.code_sums,
        }
    }

    /// Sets scales and zero points, given in canonical order. All codes must have been packed before.
    pub(crate) fn set_params(&mut self, scales: &Scales, zero_points: Option<&[i8]>) {
        let (rows, groups) = (self.rows, self.groups);
        let per_tensor = self.scheme.granularity == slm_quant_core::Granularity::PerTensor;
        // Lanes past the last row repeat it. Their results are never stored.
        let order = (0..self.panels() * groups * LANES).map(|i| {
            let (panel, group, lane) = (i / LANES / groups, i / LANES % groups, i % LANES);
            if per_tensor { 0 } else { (panel * LANES + lane).min(rows - 1) * groups + group }
        });
        self.scales = match scales {
            Scales::F32(v) => PackedScales::F32(HugeVec::from_values(order.clone().map(|i| v[i]))),
            Scales::F16(v) => PackedScales::F16(HugeVec::from_values(order.clone().map(|i| v[i]))),
        };
        self.zero_points = zero_points.map(|z| HugeVec::from_values(order.map(|i| z[i])));
        if self.is_grouped() {
            let mut sums = HugeVec::zeroed(self.panels() * LANES);
            sums.par_chunks_mut(LANES).enumerate().for_each(|(panel, sums)| {
                vectorize(ScaleSums { packed_rhs: &*self, panel, sums });
            });
            self.scaled_sums = sums;
        }
    }

    /// The matrix in canonical order, exactly as it was before packing.
    pub(crate) fn unpack(&self) -> QuantizedMatrix {
        let bits = self.scheme.bits;
        let mut codes = vec![0u8; self.rows * bits.row_bytes(self.cols)];
        codes.par_chunks_mut(bits.row_bytes(self.cols)).enumerate().for_each(|(row, out)| {
            for col in 0..self.cols {
                let code = self.code(row, col).cast_unsigned();
                match bits {
                    Bits::Int8 => out[col] = code,
                    Bits::Int4 => out[col / 2] |= (code & 0xf) << (col % 2 * 4),
                }
            }
        });
        let pairs: Vec<(usize, usize)> = match self.scheme.granularity {
            slm_quant_core::Granularity::PerTensor => vec![(0, 0)],
            _ => (0..self.rows).flat_map(|r| (0..self.groups).map(move |g| (r, g))).collect(),
        };
        let index = |&(row, group): &(usize, usize)| self.scale_index(row, group);
        let scales = match &self.scales {
            PackedScales::F32(v) => Scales::F32(pairs.iter().map(|p| v[index(p)]).collect()),
            PackedScales::F16(v) => Scales::F16(pairs.iter().map(|p| v[index(p)]).collect()),
        };
        let zero_points = self.zero_points.as_ref().map(|z| pairs.iter().map(|p| z[index(p)]).collect());
        QuantizedMatrix::from_checked_parts(self.rows, self.cols, self.scheme, codes, scales, zero_points)
    }

    /// Outputs.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// The quantization scheme.
    pub(crate) fn scheme(&self) -> QuantScheme {
        self.scheme
    }

    /// Columns per group.
    pub(crate) fn group_width(&self) -> usize {
        self.width
    }

    /// Groups per row.
    pub(crate) fn groups_per_row(&self) -> usize {
        self.groups
    }

    /// Panels of 16 rows.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Bytes of a panel's codes.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.lines_per_panel() * LINE_BYTES
    }

    /// Lines of group `group`.
    #[inline(always)]
    pub(crate) fn steps(&self, group: usize) -> usize {
        if group + 1 == self.groups { self.last_steps } else { self.steps }
    }

    /// Returns `true` if all groups have the same number of lines.
    #[inline(always)]
    pub(crate) fn all_groups_have(&self, steps: usize) -> bool {
        self.steps == steps && self.last_steps == steps
    }

    /// Columns of a row in the packed layout, padding included.
    pub(crate) fn padded_cols(&self) -> usize {
        self.lines_per_panel() * columns_per_line(self.scheme.bits)
    }

    /// Columns of a group in the packed layout, padding included. The last group may have fewer.
    pub(crate) fn padded_width(&self) -> usize {
        self.steps * columns_per_line(self.scheme.bits)
    }

    /// First line of a panel.
    ///
    /// # Panics
    /// If `panel` does not exist.
    pub(crate) fn panel_lines(&self, panel: usize) -> *const u8 {
        assert!(panel < self.panels(), "panel outside the matrix");
        self.lines.as_ptr().wrapping_add(panel * self.lines_per_panel()).cast()
    }

    fn panel(&self, panel: usize) -> &[CacheLine] {
        let count = self.lines_per_panel();
        &self.lines[panel * count..][..count]
    }

    /// Scales of a panel, by group.
    #[inline(always)]
    pub(crate) fn scales(&self, panel: usize) -> LaneScales<'_> {
        match &self.scales {
            PackedScales::F32(v) => LaneScales::F32(self.of_panel(v, panel)),
            PackedScales::F16(v) => LaneScales::F16(self.of_panel(v, panel)),
        }
    }

    /// Zero points of a panel, by group; `None` if all are 0.
    #[inline(always)]
    pub(crate) fn zero_points(&self, panel: usize) -> Option<&[[i8; LANES]]> {
        self.zero_points.as_ref().map(|z| self.of_panel(z, panel))
    }

    /// The values of a panel out of values of all panels, by group.
    #[inline(always)]
    fn of_panel<'a, T>(&self, values: &'a [T], panel: usize) -> &'a [[T; LANES]] {
        &values.as_chunks().0[panel * self.groups..][..self.groups]
    }

    /// Returns `true` if rows have several groups.
    #[inline(always)]
    pub(crate) fn is_grouped(&self) -> bool {
        self.groups > 1
    }

    /// Sums of a panel's stored codes, padding included, for rows of one group.
    #[inline(always)]
    pub(crate) fn code_sums(&self, panel: usize) -> &[i32; LANES] {
        first(&self.code_sums[panel * LANES..])
    }

    /// Sums of a panel's weights, for rows of several groups: for ascending groups, `sum = weights * scale + sum`,
    /// rounded once, where `weights` is [`PackedRhs::group_sums`].
    #[inline(always)]
    pub(crate) fn scaled_sums(&self, panel: usize) -> &[f32; LANES] {
        first(&self.scaled_sums[panel * LANES..])
    }

    /// Sums of a group's codes less zero points, by lane. Lanes past the last row are arbitrary.
    #[inline(always)]
    pub(crate) fn group_sums(&self, panel: usize, group: usize) -> [i32; LANES] {
        let lines = &self.panel(panel)[group * self.steps..][..self.steps(group)];
        let columns = self.width.min(self.cols - group * self.width);
        let mut sums = self.shape().sums(lines, columns);
        let zero_points = self.zero_points(panel).map_or(&[0; LANES], |z| &z[group]);
        for (sum, &zero_point) in sums.iter_mut().zip(zero_points) {
            *sum -= (stored_offset(self.scheme.bits) + i32::from(zero_point)) * columns as i32;
        }
        sums
    }

    /// Bytes held in memory.
    pub(crate) fn byte_size(&self) -> usize {
        self.lines.len() * LINE_BYTES
            + match &self.scales {
                PackedScales::F32(v) => size_of_val::<[f32]>(v),
                PackedScales::F16(v) => size_of_val::<[f16]>(v),
            }
            + self.zero_points.as_ref().map_or(0, |z| z.len())
            + size_of_val::<[i32]>(&self.code_sums)
            + size_of_val::<[f32]>(&self.scaled_sums)
    }

    /// The code at (`row`, `col`).
    pub(crate) fn code(&self, row: usize, col: usize) -> i8 {
        let (group, within) = (col / self.width, col % self.width);
        let (step, at) = (within / columns_per_line(self.scheme.bits), within % 8);
        let line = row / LANES * self.lines_per_panel() + group * self.steps + step;
        let byte = self.lines[line].0[row % LANES * 4 + at % 4];
        match self.scheme.bits {
            Bits::Int8 => byte.cast_signed(),
            Bits::Int4 => (if at < 4 { byte & 0xf } else { byte >> 4 }).cast_signed() - 8,
        }
    }

    /// Parameters of scale `index`.
    pub(crate) fn qparams(&self, index: usize) -> QParams {
        QParams {
            scale: match &self.scales {
                PackedScales::F32(v) => v[index],
                PackedScales::F16(v) => v[index].to_f32(),
            },
            zero_point: self.zero_points.as_ref().map_or(0, |z| i32::from(z[index])),
        }
    }

    /// Index of the scale of row `row`, group `group`.
    pub(crate) fn scale_index(&self, row: usize, group: usize) -> usize {
        (row / LANES * self.groups + group) * LANES + row % LANES
    }

    fn lines_per_panel(&self) -> usize {
        (self.groups - 1) * self.steps + self.last_steps
    }

    fn shape(&self) -> Shape {
        Shape { bits: self.scheme.bits, cols: self.cols, width: self.width, steps: self.steps }
    }
}

/// The first `N` values of a slice, which must have that many.
#[inline(always)]
pub(crate) fn first<T, const N: usize>(values: &[T]) -> &[T; N] {
    let Some(first) = values.first_chunk() else { unreachable!("kernels stay within their operands") };
    first
}

/// The scales of a group by lane, in their stored type.
pub(crate) trait GroupScales {
    /// The scales as floats.
    fn load<S: Simd>(&self, simd: S) -> S::F32;
}

impl GroupScales for [f32; LANES] {
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::F32 {
        simd.load_f32(self)
    }
}

impl GroupScales for [f16; LANES] {
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::F32 {
        simd.load_f16(self)
    }
}

/// Scales of a panel in their stored type, by group.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LaneScales<'a> {
    F32(&'a [[f32; LANES]]),
    F16(&'a [[f16; LANES]]),
}

impl LaneScales<'_> {
    /// The scales of a group.
    #[inline(always)]
    pub(crate) fn load<S: Simd>(self, simd: S, group: usize) -> S::F32 {
        match self {
            Self::F32(v) => v[group].load(simd),
            Self::F16(v) => v[group].load(simd),
        }
    }

    /// Prefetches the scales `bytes` after those of a group.
    #[inline(always)]
    pub(crate) fn prefetch<S: Simd>(self, simd: S, group: usize, bytes: usize) {
        let address: *const u8 = match self {
            Self::F32(v) => v.as_ptr().wrapping_add(group).cast(),
            Self::F16(v) => v.as_ptr().wrapping_add(group).cast(),
        };
        simd.prefetch(address.wrapping_add(bytes));
    }

    #[inline(always)]
    fn get(self, group: usize, lane: usize) -> f32 {
        match self {
            Self::F32(v) => v[group][lane],
            Self::F16(v) => v[group][lane].to_f32(),
        }
    }
}

/// Bias that is added to a code when it is stored.
pub(crate) const fn stored_offset(bits: Bits) -> i32 {
    match bits {
        Bits::Int8 => 0,
        Bits::Int4 => 8,
    }
}

/// Computes [`PackedRhs::scaled_sums`] of a panel.
struct ScaleSums<'a> {
    packed_rhs: &'a PackedRhs,
    panel: usize,
    sums: &'a mut [f32],
}

impl Op for ScaleSums<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { packed_rhs, panel, sums } = self;
        let scales = packed_rhs.scales(panel);
        for group in 0..packed_rhs.groups {
            let weights = packed_rhs.group_sums(panel, group);
            for (lane, sum) in sums.iter_mut().enumerate() {
                *sum = (weights[lane] as f32).mul_add(scales.get(group, lane), *sum);
            }
        }
    }
}

/// The part of a matrix's shape that reordering needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) bits: Bits,
    pub(crate) cols: usize,
    pub(crate) width: usize,
    pub(crate) steps: usize,
}

impl Shape {
    /// Sums of a group's first `columns` stored codes, by lane.
    #[inline(always)]
    pub(crate) fn sums(self, lines: &[CacheLine], columns: usize) -> [i32; LANES] {
        let per_line = columns_per_line(self.bits);
        let mut sums = [0; LANES];
        for (step, line) in lines.iter().enumerate() {
            let mask = match (columns - step * per_line, self.bits) {
                (count, _) if count >= per_line => u32::MAX,
                (count, Bits::Int8) => first_bytes(count),
                // The low nibbles hold the first four codes, the high ones the last four.
                (count, Bits::Int4) => {
                    first_bytes(count) & 0x0f0f_0f0f | first_bytes(count.saturating_sub(4)) & 0xf0f0_f0f0
                }
            };
            for (sum, bytes) in sums.iter_mut().zip(line.0.as_chunks::<4>().0) {
                let bytes = (u32::from_le_bytes(*bytes) & mask).to_le_bytes();
                *sum += match self.bits {
                    Bits::Int8 => bytes.iter().map(|&b| i32::from(b.cast_signed())).sum::<i32>(),
                    Bits::Int4 => bytes.iter().map(|&b| i32::from(b & 0xf) + i32::from(b >> 4)).sum(),
                };
            }
        }
        sums
    }
}

/// A mask of the first `count` bytes of a word.
#[inline(always)]
fn first_bytes(count: usize) -> u32 {
    ((1u64 << (8 * count.min(4))) - 1) as u32
}

pub(crate) const fn columns_per_line(bits: Bits) -> usize {
    match bits {
        Bits::Int8 => 4,
        Bits::Int4 => 8,
    }
}

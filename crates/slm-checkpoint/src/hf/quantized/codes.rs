//! Codes of the weight of a layer.

use super::float8;
use slm_quant_core::{
    Bits, Granularity, Mapping, QuantScheme, QuantizedMatrix, ScaleDtype, Scales, pack_int4,
};

/// Minimum number of columns of a run with its own scale, for groups that are not consecutive columns.
const SHORTEST_RUN: usize = 8;

/// The number that a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CodeType {
    /// A signed integer of 1 to 8 bits.
    Int(u32),
    /// A float of 8 bits in the format E4M3.
    Float8,
}

impl CodeType {
    /// Number of bits of a code.
    pub(super) fn width(self) -> u32 {
        match self {
            Self::Int(bits) => bits,
            Self::Float8 => 8,
        }
    }

    /// Returns the width of codes that slm has, or what it does not have.
    fn bits(self) -> Result<Bits, String> {
        match self {
            Self::Int(4) => Ok(Bits::Int4),
            Self::Int(8) => Ok(Bits::Int8),
            other => Err(format!("slm has weights of 4 and 8 bits, not {other}")),
        }
    }
}

impl std::fmt::Display for CodeType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(1) => f.write_str("1 bit"),
            Self::Int(bits) => write!(f, "{bits} bits"),
            Self::Float8 => f.write_str("FP8 (E4M3)"),
        }
    }
}

/// Codes that represent `scale * (code - zero_point)`, from any file format.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Codes {
    pub(super) shape: [usize; 2],
    pub(super) code_type: CodeType,
    /// Signed integers, or the bits of floats, row-major.
    pub(super) codes: Vec<i8>,
    pub(super) groups: Groups,
    /// Scales in the order of rows, then groups.
    pub(super) scales: Vec<f32>,
    /// True if the file stores the scales in 16 bits.
    pub(super) half_scales: bool,
    /// Zero points in the order of the scales; `None` if all are 0, as for floats.
    pub(super) zero_points: Option<Vec<i8>>,
}

/// Grouping of the values that share a scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Groups {
    /// One group of all values.
    Tensor,
    /// Runs of this many columns of a row; the last run may be shorter.
    Columns(usize),
    /// Columns of a row with the same group index, which is below `count`.
    Indexed { of_columns: Vec<usize>, count: usize },
}

impl Groups {
    /// Number of groups in each row.
    fn per_row(&self, cols: usize) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Columns(width) => cols.div_ceil((*width).max(1)),
            Self::Indexed { count, .. } => *count,
        }
    }

    fn of_column(&self, column: usize) -> usize {
        match self {
            Self::Tensor => 0,
            Self::Columns(width) => column / (*width).max(1),
            Self::Indexed { of_columns, .. } => of_columns.get(column).copied().unwrap_or_default(),
        }
    }

    /// Creates groups from the index of each column; as runs of `width` columns if they are consecutive.
    pub(super) fn indexed(of_columns: Vec<usize>, count: usize, width: usize) -> Self {
        let is_run = |(at, &group): (usize, &usize)| group == at / width.max(1);
        match of_columns.iter().enumerate().all(is_run) && of_columns.len().div_ceil(width.max(1)) == count {
            true => Self::Columns(width),
            false => Self::Indexed { of_columns, count },
        }
    }
}

impl Codes {
    /// Rejects parts that do not fit together.
    pub(super) fn checked(self) -> Result<Self, String> {
        let [rows, cols] = self.shape;
        let count = match self.groups {
            Groups::Tensor => 1,
            _ => rows * self.groups.per_row(cols),
        };
        if self.codes.len() != rows * cols {
            return Err(format!("it has {} codes for a shape of {rows} x {cols}", self.codes.len()));
        }
        if let Groups::Indexed { of_columns, count } = &self.groups
            && (of_columns.len() != cols || of_columns.iter().any(|group| group >= count))
        {
            return Err(format!("its {cols} columns name groups that are not below {count}"));
        }
        let zeros = self.zero_points.as_ref().map_or(count, Vec::len);
        if self.scales.len() != count || zeros != count {
            return Err(format!(
                "it has {} scales and {zeros} zero points for {count} groups",
                self.scales.len()
            ));
        }
        if let Some(scale) = self.scales.iter().find(|scale| !scale.is_finite()) {
            return Err(format!("a scale is {scale}"));
        }
        let is_code = |code: i8| match self.code_type {
            CodeType::Int(bits) => i32::from(code) >> (bits - 1) == i32::from(code) >> 31,
            CodeType::Float8 => !float8::value(code.cast_unsigned()).is_nan(),
        };
        if let Some(code) = self.codes.iter().find(|&&code| !is_code(code)) {
            return Err(match self.code_type {
                CodeType::Int(_) => format!("a code is {code}"),
                CodeType::Float8 => "a code is NaN".to_owned(),
            });
        }
        Ok(self)
    }

    /// Index of the scale of a value.
    fn index(&self, row: usize, column: usize) -> usize {
        match self.groups {
            Groups::Tensor => 0,
            _ => row * self.groups.per_row(self.shape[1]) + self.groups.of_column(column),
        }
    }

    /// Returns the dequantized values, row-major.
    pub(super) fn values(&self) -> Vec<f32> {
        let [rows, cols] = self.shape;
        let numbers: Vec<f32> = match self.code_type {
            CodeType::Int(_) => Vec::new(),
            CodeType::Float8 => (0..=u8::MAX).map(float8::value).collect(),
        };
        let mut values = Vec::with_capacity(rows * cols);
        let per_row = self.groups.per_row(cols);
        for row in 0..rows {
            for column in 0..cols {
                let index = match self.groups {
                    Groups::Tensor => 0,
                    _ => row * per_row + self.groups.of_column(column),
                };
                let code = self.codes[row * cols + column];
                let number = match self.code_type {
                    CodeType::Int(_) => {
                        let zero = self.zero_points.as_ref().map_or(0, |zeros| i32::from(zeros[index]));
                        (i32::from(code) - zero) as f32
                    }
                    CodeType::Float8 => numbers[usize::from(code.cast_unsigned())],
                };
                values.push(number * self.scales[index]);
            }
        }
        values
    }

    /// Selects the rows `rows`, in that order.
    pub(super) fn select(self, rows: Option<&[usize]>) -> Self {
        let Some(rows) = rows else { return self };
        let cols = self.shape[1];
        let per_row = self.groups.per_row(cols);
        let of_rows = |width: usize, values: &[i8]| -> Vec<i8> {
            rows.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect()
        };
        let codes = of_rows(cols, &self.codes);
        let (scales, zero_points) = match self.groups {
            Groups::Tensor => (self.scales, self.zero_points),
            _ => {
                let scales = rows.iter().flat_map(|&row| &self.scales[row * per_row..(row + 1) * per_row]);
                (scales.copied().collect(), self.zero_points.map(|zeros| of_rows(per_row, &zeros)))
            }
        };
        Self { shape: [rows.len(), cols], codes, scales, zero_points, ..self }
    }

    /// Converts to a matrix of slm with the same integers and scales, or returns the reason why that is impossible.
    pub(super) fn into_matrix(mut self) -> Result<QuantizedMatrix, String> {
        let bits = self.code_type.bits()?;
        self.split_into_runs();
        let [rows, cols] = self.shape;
        let granularity = match &self.groups {
            Groups::Tensor => Granularity::PerTensor,
            Groups::Columns(width) if *width >= cols => Granularity::PerChannel,
            Groups::Columns(width) => Granularity::PerGroup { group_size: *width },
            Groups::Indexed { .. } => {
                return Err(
                    "its columns are grouped in the order of their activations (desc_act, g_idx), and here \
                            groups are runs of columns, of at least 8"
                        .to_owned(),
                );
            }
        };
        if self.zero_points.as_ref().is_some_and(|zeros| zeros.iter().all(|&zero| zero == 0)) {
            self.zero_points = None;
        }
        if self.zero_points.is_some()
            && let Some(scale) = self.scales.iter().find(|&&scale| scale < 0.0)
        {
            return Err(format!("a scale is {scale}, but scales next to zero points must be positive"));
        }
        self.fill_groups_of_zeros();
        let scheme = QuantScheme {
            bits,
            granularity,
            mapping: if self.zero_points.is_some() { Mapping::Affine } else { Mapping::Symmetric },
            scale_dtype: if self.half_scales { ScaleDtype::F16 } else { ScaleDtype::F32 },
        };
        let codes = match bits {
            Bits::Int8 => self.codes.iter().map(|code| code.cast_unsigned()).collect(),
            Bits::Int4 => {
                let width = bits.row_bytes(cols);
                let mut packed = vec![0; rows * width];
                for (row, out) in self.codes.chunks(cols).zip(packed.chunks_mut(width)) {
                    pack_int4(row, out).map_err(|error| error.to_string())?;
                }
                packed
            }
        };
        let scales = Scales::from_f32(self.scales, scheme.scale_dtype);
        QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, self.zero_points)
            .map_err(|error| error.to_string())
    }

    /// Converts groups that are not consecutive columns to runs of columns with repeated scales, unless the runs would
    /// be too short.
    fn split_into_runs(&mut self) {
        let [rows, cols] = self.shape;
        let Groups::Indexed { of_columns, count } = &self.groups else { return };
        // The largest width that divides every column at which the group changes.
        let changes = (1..cols).filter(|&column| of_columns[column] != of_columns[column - 1]);
        let width = changes.fold(cols, |mut width, mut column| {
            while column > 0 {
                (width, column) = (column, width % column);
            }
            width
        });
        if width < SHORTEST_RUN {
            return;
        }
        let of_runs: Vec<usize> = of_columns.iter().step_by(width).copied().collect();
        let index: Vec<usize> =
            (0..rows).flat_map(|row| of_runs.iter().map(move |group| row * count + group)).collect();
        self.scales = index.iter().map(|&at| self.scales[at]).collect();
        self.zero_points = self.zero_points.take().map(|zeros| index.iter().map(|&at| zeros[at]).collect());
        self.groups = Groups::Columns(width);
    }

    /// Replaces scales of 0 by 1 and their codes by the code of 0: the values are the same, and every scale is
    /// positive.
    fn fill_groups_of_zeros(&mut self) {
        if !self.scales.contains(&0.0) {
            return;
        }
        let [rows, cols] = self.shape;
        for row in 0..rows {
            for column in 0..cols {
                let index = self.index(row, column);
                if self.scales[index] == 0.0 {
                    self.codes[row * cols + column] =
                        self.zero_points.as_ref().map_or(0, |zeros| zeros[index]);
                }
            }
        }
        self.scales.iter_mut().filter(|scale| **scale == 0.0).for_each(|scale| *scale = 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes() -> Codes {
        Codes {
            shape: [2, 5],
            code_type: CodeType::Int(4),
            codes: vec![-8, 7, 0, 1, 2, 3, 4, 5, -1, -2],
            groups: Groups::Columns(2),
            scales: vec![0.5, 0.25, 2.0, 1.0, 0.0, 4.0],
            half_scales: true,
            zero_points: Some(vec![0, 1, 2, -1, 3, 0]),
        }
    }

    #[test]
    fn matrices_have_the_same_values() {
        let codes = codes().checked().unwrap();
        let values = codes.values();
        assert_eq!(values, [-4.0, 3.5, -0.25, 0.0, 0.0, 4.0, 5.0, 0.0, -0.0, -8.0]);
        let matrix = codes.clone().into_matrix().unwrap();
        assert_eq!(matrix.scheme().to_string(), "int4 group:2 affine f16-scales");
        for (at, value) in values.iter().enumerate() {
            let (row, column) = (at / 5, at % 5);
            let params = matrix.qparams(matrix.scale_index(row, column / 2));
            assert_eq!(
                (i32::from(matrix.code(row, column)) - params.zero_point) as f32 * params.scale,
                *value
            );
        }
        let second = codes.select(Some(&[1])).into_matrix().unwrap();
        assert_eq!((second.rows(), second.code(0, 0), second.scales().len()), (1, 3, 3));
    }

    #[test]
    fn groups_in_another_order_become_runs() {
        let codes = |of_columns: Vec<usize>| Codes {
            shape: [2, 32],
            codes: (0..64).map(|at| (at % 16) as i8 - 8).collect(),
            groups: Groups::indexed(of_columns, 3, 16),
            ..codes()
        };
        let swapped = [vec![1; 8], vec![0; 8], vec![2; 16]].concat();
        let matrix = codes(swapped.clone()).into_matrix().unwrap();
        assert_eq!(matrix.scheme().to_string(), "int4 group:8 affine f16-scales");
        // The fifth scale is 0 and is replaced, together with its codes.
        let values = codes(swapped.clone()).values();
        for (at, value) in values.into_iter().enumerate() {
            let params = matrix.qparams(matrix.scale_index(at / 32, at % 32 / 8));
            let code = i32::from(matrix.code(at / 32, at % 32)) - params.zero_point;
            assert_eq!(code as f32 * params.scale, value, "{at}");
        }
        let mut single = swapped;
        single.swap(0, 9);
        assert!(codes(single).into_matrix().unwrap_err().contains("at least 8"));
    }

    #[test]
    fn what_has_no_scheme_is_said() {
        let ordered = Codes { groups: Groups::indexed(vec![2, 0, 1, 0, 2], 3, 2), ..codes() };
        assert_eq!(ordered.values()[..3], [-20.0, 3.5, -0.25]);
        assert!(ordered.into_matrix().unwrap_err().contains("g_idx"));
        assert_eq!(Groups::indexed(vec![0, 0, 1, 1, 2], 3, 2), Groups::Columns(2));
        for (count, width) in [(3, 3), (4, 2)] {
            let groups = Groups::indexed(vec![0, 0, 1, 1, 2], count, width);
            assert!(matches!(groups, Groups::Indexed { .. }));
        }
        let beyond = Codes { groups: Groups::indexed(vec![2, 0, 1, 0, 3], 3, 2), ..codes() };
        assert!(beyond.checked().unwrap_err().contains("below 3"));
        let negative = Codes { scales: vec![-0.5; 6], ..codes() };
        assert!(negative.clone().into_matrix().unwrap_err().contains("positive"));
        let matrix = Codes { zero_points: None, ..negative }.into_matrix().unwrap();
        assert_eq!((matrix.scales().get(0), matrix.code(0, 0)), (-0.5, -8));
        assert!(Codes { scales: vec![1.0; 5], ..codes() }.checked().unwrap_err().contains("5 scales"));
        assert!(Codes { scales: vec![f32::NAN; 6], ..codes() }.checked().unwrap_err().contains("NaN"));
        assert!(Codes { codes: vec![0; 9], ..codes() }.checked().unwrap_err().contains("9 codes"));
        let narrow = Codes { code_type: CodeType::Int(3), ..codes() };
        assert_eq!(narrow.clone().checked().unwrap_err(), "a code is -8");
        assert!(narrow.into_matrix().unwrap_err().contains("not 3 bits"));
    }

    #[test]
    fn floats_have_values_and_no_matrix() {
        let codes = Codes {
            code_type: CodeType::Float8,
            codes: [0x38, 0x40, 0xc0, 0x7e, 0, 1, 0x39, 0xfe, 0x38, 0x38].map(u8::cast_signed).to_vec(),
            scales: vec![0.5, 0.25, 2.0, 1.0, -1.0, 4.0],
            zero_points: None,
            ..codes()
        };
        let values = codes.clone().checked().unwrap().values();
        assert_eq!(values, [0.5, 1.0, -0.5, 112.0, 0.0, 0.001953125, 1.125, 448.0, -1.0, 4.0]);
        assert_eq!(codes.clone().select(Some(&[1])).values(), values[5..]);
        assert!(codes.clone().into_matrix().unwrap_err().contains("FP8"));
        let nan = Codes { codes: vec![0x7f; 10], ..codes };
        assert!(nan.checked().unwrap_err().contains("NaN"));
    }
}

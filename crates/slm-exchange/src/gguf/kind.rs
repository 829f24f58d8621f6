//! The types of tensors.

use std::fmt;

/// A tensor type of ggml. Quantized types store rows as blocks of values that share scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorKind {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// Brain floats.
    Bf16,
    /// 64-bit floats.
    F64,
    /// 32 values: an f16 scale, 4-bit codes with an offset of 8.
    Q4_0,
    /// 32 values: an f16 scale and an f16 minimum, 4-bit codes.
    Q4_1,
    /// 32 values: an f16 scale, 5-bit codes with an offset of 16.
    Q5_0,
    /// 32 values: an f16 scale and an f16 minimum, 5-bit codes.
    Q5_1,
    /// 32 values: an f16 scale, signed 8-bit codes.
    Q8_0,
    /// 256 values with 4-bit scales and minima for each 16, 2-bit codes.
    Q2K,
    /// 256 values with 6-bit scales for each 16, 3-bit codes.
    Q3K,
    /// 256 values with 6-bit scales and minima for each 32, 4-bit codes.
    Q4K,
    /// 256 values with 6-bit scales and minima for each 32, 5-bit codes.
    Q5K,
    /// 256 values with 8-bit scales for each 16, 6-bit codes.
    Q6K,
}

/// Type, number in files, name, values per block, and bytes per block.
const KINDS: [(TensorKind, u32, &str, usize, usize); 14] = [
    (TensorKind::F32, 0, "F32", 1, 4),
    (TensorKind::F16, 1, "F16", 1, 2),
    (TensorKind::Q4_0, 2, "Q4_0", 32, 18),
    (TensorKind::Q4_1, 3, "Q4_1", 32, 20),
    (TensorKind::Q5_0, 6, "Q5_0", 32, 22),
    (TensorKind::Q5_1, 7, "Q5_1", 32, 24),
    (TensorKind::Q8_0, 8, "Q8_0", 32, 34),
    (TensorKind::Q2K, 10, "Q2_K", 256, 84),
    (TensorKind::Q3K, 11, "Q3_K", 256, 110),
    (TensorKind::Q4K, 12, "Q4_K", 256, 144),
    (TensorKind::Q5K, 13, "Q5_K", 256, 176),
    (TensorKind::Q6K, 14, "Q6_K", 256, 210),
    (TensorKind::F64, 28, "F64", 1, 8),
    (TensorKind::Bf16, 30, "BF16", 1, 2),
];

impl TensorKind {
    fn row(self) -> (u32, &'static str, usize, usize) {
        let found = KINDS.iter().find(|(kind, ..)| *kind == self);
        found.map_or((0, "F32", 1, 4), |&(_, id, name, values, bytes)| (id, name, values, bytes))
    }

    /// The type with the number `id`; `None` for an unsupported type.
    pub fn from_id(id: u32) -> Option<Self> {
        KINDS.iter().find(|(_, known, ..)| *known == id).map(|(kind, ..)| *kind)
    }

    /// The type's number in files.
    pub fn id(self) -> u32 {
        self.row().0
    }

    /// Number of values in a block; 1 for floats. Rows are whole numbers of blocks.
    pub fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Returns `true` if values are stored as codes with scales.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of `values` values in rows of whole blocks; `None` if the number overflows or is not a whole number of
    /// blocks.
    pub fn bytes(self, values: u64) -> Option<u64> {
        let len = self.block_len() as u64;
        if !values.is_multiple_of(len) {
            return None;
        }
        (values / len).checked_mul(self.block_bytes() as u64)
    }

    /// The names of all supported types, for messages.
    pub(crate) fn all_names() -> String {
        KINDS.iter().map(|(_, _, name, ..)| *name).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

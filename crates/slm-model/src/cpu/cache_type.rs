//! The type in which keys and values are stored.

use std::fmt;
use std::str::FromStr;

/// The type in which a [`CpuEngine`](super::CpuEngine) and a [`CpuBatch`](super::CpuBatch) store keys and values.
///
/// A value beyond the range of [`F16`](Self::F16) is an error, never an infinity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvCacheType {
    /// 32-bit floats, exact. Written `f32`. The default of the library.
    #[default]
    F32,
    /// 16-bit floats (IEEE 754 binary16): half the memory, and long contexts are read twice as fast. The default of
    /// `slm` for generation. Written `f16`.
    F16,
    /// 8-bit codes with a scale and an offset for each position and head: a little more than a quarter of the memory.
    /// Written `int8`.
    Int8,
    /// 4-bit codes in the same way: a sixth of the memory. Written `int4`.
    Int4,
}

impl KvCacheType {
    /// All types.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// The name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

impl fmt::Display for KvCacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvCacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("{text:?} is not a type of KV caches; use f32, f16, int8 or int4"))
    }
}

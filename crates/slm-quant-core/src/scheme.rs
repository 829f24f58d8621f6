//! Quantization schemes: width, granularity, mapping, and the integer range that follows.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Width of a weight code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// 4 bits, two codes to a byte.
    Int4,
    /// 8 bits, one code to a byte.
    Int8,
}

impl Bits {
    /// Number of bits.
    pub const fn count(self) -> u8 {
        match self {
            Self::Int4 => 4,
            Self::Int8 => 8,
        }
    }

    /// The signed two's-complement range of this width: `[-8, 7]` or `[-128, 127]`.
    pub const fn signed_range(self) -> QuantRange {
        match self {
            Self::Int4 => QuantRange::INT4,
            Self::Int8 => QuantRange::INT8,
        }
    }

    /// Bytes that `cols` codes of one row take; rows start on a byte boundary.
    #[inline]
    pub const fn row_bytes(self, cols: usize) -> usize {
        match self {
            Self::Int4 => cols.div_ceil(2),
            Self::Int8 => cols,
        }
    }
}

impl TryFrom<u8> for Bits {
    type Error = Error;

    fn try_from(bits: u8) -> Result<Self> {
        match bits {
            4 => Ok(Self::Int4),
            8 => Ok(Self::Int8),
            _ => Err(Error::Parse { what: "bits", found: bits.to_string(), expected: "8, 4" }),
        }
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> Self {
        bits.count()
    }
}

/// Inclusive range of integer codes, called `quant_min` and `quant_max` in the literature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantRange {
    quant_min: i32,
    quant_max: i32,
}

impl QuantRange {
    /// Signed 8-bit, `[-128, 127]`.
    pub const INT8: Self = Self { quant_min: -128, quant_max: 127 };
    /// Signed 8-bit without its lowest code, `[-127, 127]`.
    pub const INT8_NARROW: Self = Self { quant_min: -127, quant_max: 127 };
    /// Unsigned 8-bit, `[0, 255]`.
    pub const UINT8: Self = Self { quant_min: 0, quant_max: 255 };
    /// Signed 4-bit, `[-8, 7]`.
    pub const INT4: Self = Self { quant_min: -8, quant_max: 7 };
    /// Signed 4-bit without its lowest code, `[-7, 7]`.
    pub const INT4_NARROW: Self = Self { quant_min: -7, quant_max: 7 };
    /// Unsigned 4-bit, `[0, 15]`.
    pub const UINT4: Self = Self { quant_min: 0, quant_max: 15 };

    /// A range of at least two codes within `[-128, 255]`.
    ///
    /// # Errors
    /// [`Error::Parameter`] when `quant_min >= quant_max` or a bound needs more than 8 bits.
    pub fn new(quant_min: i32, quant_max: i32) -> Result<Self> {
        if quant_min >= quant_max || quant_min < -128 || quant_max > 255 || quant_max - quant_min > 255 {
            return Err(Error::Parameter {
                what: "quant range",
                detail: format!("[{quant_min}, {quant_max}] is empty or wider than 8 bits"),
            });
        }
        Ok(Self { quant_min, quant_max })
    }

    /// Lowest code.
    pub const fn quant_min(self) -> i32 {
        self.quant_min
    }

    /// Highest code.
    pub const fn quant_max(self) -> i32 {
        self.quant_max
    }

    /// Number of steps between the lowest and the highest code.
    pub const fn steps(self) -> i32 {
        self.quant_max - self.quant_min
    }

    /// Returns `true` if the range holds negative codes.
    pub const fn is_signed(self) -> bool {
        self.quant_min < 0
    }
}

/// Weights of a `[rows, cols]` matrix (`rows` outputs, `cols` inputs) that share one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Granularity {
    /// One scale for the matrix; scale shape `[1]`. Written `tensor`.
    #[default]
    PerTensor,
    /// One scale per row, that is per output feature; scale shape `[rows]`. Written `channel`.
    PerChannel,
    /// One scale per run of `group_size` inputs within a row; scale shape
    /// `[rows, ceil(cols / group_size)]`, where the last group of a row may be shorter. Written `group:N`.
    PerGroup {
        /// Inputs per group, 1 to `cols`.
        group_size: usize,
    },
}

impl Granularity {
    /// Columns that share a scale within one row.
    ///
    /// # Errors
    /// [`Error::GroupSize`] for a group size of zero or above `cols`.
    #[inline]
    pub fn group_width(self, cols: usize) -> Result<usize> {
        match self {
            Self::PerTensor | Self::PerChannel => Ok(cols),
            Self::PerGroup { group_size } if group_size == 0 || group_size > cols => {
                Err(Error::GroupSize { group_size, cols })
            }
            Self::PerGroup { group_size } => Ok(group_size),
        }
    }

    /// Number of scales that apply to one row: 1, or the number of groups.
    ///
    /// # Errors
    /// As [`Granularity::group_width`].
    pub fn groups_per_row(self, cols: usize) -> Result<usize> {
        Ok(cols.div_ceil(self.group_width(cols)?.max(1)))
    }

    /// Number of scales of a `[rows, cols]` matrix.
    ///
    /// # Errors
    /// As [`Granularity::group_width`].
    pub fn scale_count(self, rows: usize, cols: usize) -> Result<usize> {
        match self {
            Self::PerTensor => Ok(1),
            _ => Ok(rows * self.groups_per_row(cols)?),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerTensor => f.write_str("tensor"),
            Self::PerChannel => f.write_str("channel"),
            Self::PerGroup { group_size } => write!(f, "group:{group_size}"),
        }
    }
}

impl FromStr for Granularity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::Parse {
            what: "granularity",
            found: text.to_owned(),
            expected: "tensor, channel, group:N (N inputs per group, at least 1)",
        };
        match text {
            "tensor" => Ok(Self::PerTensor),
            "channel" => Ok(Self::PerChannel),
            _ => match text.strip_prefix("group:").and_then(|n| n.parse().ok()) {
                Some(group_size) if group_size > 0 => Ok(Self::PerGroup { group_size }),
                _ => Err(refuse()),
            },
        }
    }
}

/// Mapping of a range of values to a range of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mapping {
    /// `scale = max(lo / quant_min, hi / quant_max)`, zero point 0: neither end is clipped, and the lowest
    /// code is used when the negative side is the larger. torchao's `SYMMETRIC_NO_CLIPPING_ERR`. Written `symmetric`.
    #[default]
    Symmetric,
    /// `scale = max(-lo, hi) / ((quant_max - quant_min) / 2)`, as in PyTorch's symmetric observers. In a range that is
    /// not narrow, a value at the positive end is clipped by half a step. torchao's `SYMMETRIC`. Written
    /// `symmetric-torch`.
    SymmetricTorch,
    /// `scale = (hi - lo) / (quant_max - quant_min)` with a zero point. Written `affine`.
    Affine,
}

impl Mapping {
    /// Returns `true` if the zero point is always the middle of the range (0 for signed codes).
    pub const fn is_symmetric(self) -> bool {
        !matches!(self, Self::Affine)
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symmetric => "symmetric",
            Self::SymmetricTorch => "symmetric-torch",
            Self::Affine => "affine",
        })
    }
}

impl FromStr for Mapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "symmetric" => Ok(Self::Symmetric),
            "symmetric-torch" => Ok(Self::SymmetricTorch),
            "affine" => Ok(Self::Affine),
            _ => Err(Error::Parse {
                what: "mapping",
                found: text.to_owned(),
                expected: "symmetric, symmetric-torch, affine",
            }),
        }
    }
}

/// Type of stored scales. A scale is rounded to this type before it is used to quantize, so that the stored scale is
/// exactly the one used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ScaleDtype {
    /// 32-bit float.
    #[default]
    F32,
    /// 16-bit IEEE float.
    F16,
}

impl ScaleDtype {
    /// Bytes per scale.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

impl fmt::Display for ScaleDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for ScaleDtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => Err(Error::Parse { what: "scale dtype", found: text.to_owned(), expected: "f32, f16" }),
        }
    }
}

/// Quantization scheme of a weight matrix. Codes are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct QuantScheme {
    /// Width of a code.
    pub bits: Bits,
    /// Weights that share a scale.
    pub granularity: Granularity,
    /// Mapping of ranges to codes.
    pub mapping: Mapping,
    /// Type of stored scales.
    pub scale_dtype: ScaleDtype,
}

impl QuantScheme {
    /// The default scheme of a width: symmetric, per tensor, F32 scales.
    pub const fn per_tensor(bits: Bits) -> Self {
        Self {
            bits,
            granularity: Granularity::PerTensor,
            mapping: Mapping::Symmetric,
            scale_dtype: ScaleDtype::F32,
        }
    }

    /// The same scheme with another granularity.
    #[must_use]
    pub const fn with_granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// The same scheme with another mapping.
    #[must_use]
    pub const fn with_mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = mapping;
        self
    }

    /// The same scheme with another type of stored scale.
    #[must_use]
    pub const fn with_scale_dtype(mut self, scale_dtype: ScaleDtype) -> Self {
        self.scale_dtype = scale_dtype;
        self
    }

    /// Range of the codes.
    pub const fn range(&self) -> QuantRange {
        self.bits.signed_range()
    }
}

impl fmt::Display for QuantScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "int{} {} {}", self.bits.count(), self.granularity, self.mapping)?;
        match self.scale_dtype {
            ScaleDtype::F32 => Ok(()),
            ScaleDtype::F16 => f.write_str(" f16-scales"),
        }
    }
}

/// Scale and zero point of one tensor, channel or group: `x = (q - zero_point) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct QParams {
    /// Size of one step, finite. It may be negative only for signed codes with zero point 0; the lowest code then
    /// stands for the highest value.
    pub scale: f32,
    /// The code that means 0.0, inside the code range.
    pub zero_point: i32,
}

/// Activations that share one scale when scales are computed from the input (dynamic quantization).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ActivationGranularity {
    /// One scale per row of the input, that is per token: a token's result does not depend on what else is
    /// in the batch. Written `token`.
    #[default]
    PerToken,
    /// One scale for the whole input. Written `tensor`.
    PerTensor,
}

impl fmt::Display for ActivationGranularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerToken => "token",
            Self::PerTensor => "tensor",
        })
    }
}

impl FromStr for ActivationGranularity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "token" => Ok(Self::PerToken),
            "tensor" => Ok(Self::PerTensor),
            _ => Err(Error::Parse {
                what: "activation granularity",
                found: text.to_owned(),
                expected: "token, tensor",
            }),
        }
    }
}

/// Treatment of the input of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationQuant {
    /// Not quantized: floats times dequantized weights, summed in 32-bit floats (*weight-only*).
    Float,
    /// Quantized with parameters computed from the input itself.
    Dynamic(ActivationGranularity),
    /// Quantized with one scale and zero point in `[0, 255]`, fixed by calibration.
    Static(QParams),
}

impl ActivationQuant {
    /// The parameters fixed by calibration; `None` if there are none.
    pub fn static_params(self) -> Option<QParams> {
        match self {
            Self::Static(params) => Some(params),
            Self::Float | Self::Dynamic(_) => None,
        }
    }
}

/// Treatment of the input of a quantized linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QuantizationType {
    /// Quantized to 8 bits with parameters fixed by calibration. Written `static`.
    #[default]
    Static,
    /// Quantized to 8 bits with parameters computed from each input. Written `dynamic`.
    Dynamic,
    /// Kept in float. Written `weight-only`.
    WeightOnly,
}

impl fmt::Display for QuantizationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
            Self::WeightOnly => "weight-only",
        })
    }
}

impl FromStr for QuantizationType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "static" => Ok(Self::Static),
            "dynamic" => Ok(Self::Dynamic),
            "weight-only" => Ok(Self::WeightOnly),
            _ => Err(Error::Parse {
                what: "quantization type",
                found: text.to_owned(),
                expected: "static, dynamic, weight-only",
            }),
        }
    }
}

/// Serialization as the strings (or, for bits, the number) that users write.
#[cfg(feature = "serde")]
mod as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

    use super::{ActivationGranularity, Bits, Granularity, Mapping, QuantizationType, ScaleDtype};

    macro_rules! as_text {
        ($($name:ty),*) => {$(
            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                }
            }
        )*};
    }

    as_text!(Granularity, Mapping, ScaleDtype, ActivationGranularity, QuantizationType);

    impl Serialize for Bits {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u8(self.count())
        }
    }

    impl<'de> Deserialize<'de> for Bits {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            u8::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
        }
    }
}

//! Float types for storing values.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use safetensors::Dtype;
use slm_checkpoint::holds_exactly;

use crate::gguf::TensorKind;

/// A float type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754 binary16.
    F16,
    /// 16 bits, the upper half of a 32-bit float.
    Bf16,
}

impl FloatType {
    /// Returns the narrowest type that holds all of `values` exactly; BF16 if both 16-bit types do.
    pub(crate) fn narrowest(values: &[f32]) -> Self {
        let holds = |kind: &Self| holds_exactly(kind.dtype(), values);
        [Self::Bf16, Self::F16].into_iter().find(holds).unwrap_or(Self::F32)
    }

    /// Returns the type in safetensors files.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Returns the type in GGUF files.
    pub(crate) fn kind(self) -> TensorKind {
        match self {
            Self::F32 => TensorKind::F32,
            Self::F16 => TensorKind::F16,
            Self::Bf16 => TensorKind::Bf16,
        }
    }

    /// Returns the name in a `config.json`.
    pub(crate) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// Rounds `value` to the nearest value of this type.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Returns the largest relative change of a value when rounded to this type; infinite if a value is out of range.
    pub(crate) fn change(self, values: &[f32]) -> f64 {
        values.iter().fold(0.0, |most, &value| f64::max(most, relative_change(value, self.round(value))))
    }

    /// Appends `values`, rounded to nearest.
    pub(crate) fn write(self, out: &mut Vec<u8>, values: &[f32]) {
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => out.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
            Self::Bf16 => out.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        }
    }
}

/// `|after - before| / |before|`; 0 if nothing changes.
pub(crate) fn relative_change(before: f32, after: f32) -> f64 {
    if before.to_bits() == after.to_bits() {
        return 0.0;
    }
    ((f64::from(after) - f64::from(before)) / f64::from(before)).abs()
}

impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for FloatType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("must be f32, f16 or bf16, not {text:?}")),
        }
    }
}

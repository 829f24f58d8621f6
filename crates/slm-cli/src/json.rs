//! Serialization of numbers that JSON cannot represent.

use serde::Serializer;

/// Writes a finite number as a number and NaN or an infinity as a string, as checkpoints do.
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde's `serialize_with` asks for
pub(crate) fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(*value)
    } else if value.is_nan() {
        serializer.serialize_str("NaN")
    } else if *value > 0.0 {
        serializer.serialize_str("Infinity")
    } else {
        serializer.serialize_str("-Infinity")
    }
}

/// Same as [`number`], but writes null for `None`.
#[allow(clippy::ref_option)] // the signature that serde's `serialize_with` asks for
pub(crate) fn optional_number<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => number(value, serializer),
        None => serializer.serialize_none(),
    }
}

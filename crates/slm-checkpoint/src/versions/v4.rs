//! Version 4 and its migration to version 5.
//!
//! They differ in the types of float tensors. In version 4 these are F32, except that the embedding of a quantized
//! model can be F16 or BF16. In version 5 every float tensor can have any of the three types, so that a model imported
//! from 16-bit files does not grow. A program that supports only version 4 rejects version 5 with an error that names
//! both.

use super::{Migration, RawCheckpoint};
use crate::{QuantizationMetadata, Result};

/// The migration to version 5.
pub(super) const MIGRATION: Migration = Migration {
    from: 4,
    to: 5,
    changes: "float tensors may be F16 or BF16, as the source of the model has them",
    fixture: "fixtures/v4",
    apply,
};

fn apply(raw: &mut RawCheckpoint) -> Result<()> {
    raw.config.insert("format_version".to_owned(), 5.into());
    if let Some(metadata) = &mut raw.metadata {
        QuantizationMetadata::migrate_from_4(metadata);
    }
    Ok(())
}

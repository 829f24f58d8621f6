//! Version 4, and what makes version 5 of it.
//!
//! They differ in the types of float tensors. In version 4 these are F32, but for the embedding of a quantized model, which
//! may be F16 or BF16. In version 5 each may be any of the three, so that a model that was imported from 16-bit files takes
//! no more than these. A program that reads version 4 refuses version 5 and names both.

use super::{Migration, RawCheckpoint};
use crate::{QuantizationMetadata, Result};

/// To version 5.
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

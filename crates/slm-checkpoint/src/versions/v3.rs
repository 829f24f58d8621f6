//! Version 3, and what makes version 4 of it.
//!
//! They differ in this:
//!
//! - `quantization_metadata.json` of version 3 lists every scale and zero point of layers that are not quantized per
//!   group, which the tensors have too; version 4 has their count, extremes and mean;
//! - the embedding of a quantized model may be quantized in version 4, alone or as one table with a tied head, and
//!   where it is float it may be F16 or BF16.

use super::{Migration, RawCheckpoint};
use crate::{QuantizationMetadata, Result};

/// The step to version 4.
pub(super) const MIGRATION: Migration = Migration {
    from: 3,
    to: 4,
    changes: "the metadata no longer lists scales and zero points, which are in the tensors",
    fixture: "fixtures/v3",
    apply,
};

fn apply(raw: &mut RawCheckpoint) -> Result<()> {
    raw.config.insert("format_version".to_owned(), 4.into());
    if let Some(metadata) = &mut raw.metadata {
        QuantizationMetadata::migrate_from_3(metadata);
    }
    Ok(())
}

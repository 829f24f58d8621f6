//! Version 3 and its migration to version 4.
//!
//! Differences:
//!
//! - `quantization_metadata.json` of version 3 lists all scales and zero points of layers that are not quantized per
//!   group, although the tensors contain them too; version 4 has only their count, extremes and mean;
//! - the embedding of a quantized model can be quantized in version 4, separately or as one table with a tied head, and
//!   a float one can be F16 or BF16.

use super::{Migration, RawCheckpoint};
use crate::{QuantizationMetadata, Result};

/// The migration to version 4.
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

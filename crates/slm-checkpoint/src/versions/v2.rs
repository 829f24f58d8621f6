//! Version 2 and its migration to version 3.
//!
//! They differ only in `manifest.json`. In version 2 it contains the SHA-256 of every file, and of each 8 MiB of files
//! above 8 MiB, for verification. SHA-256 can only be computed one block after another: it kept two processors busy for
//! as long as the rest of loading took. Version 3 uses BLAKE3 for verification, keeps SHA-256 of whole files for users
//! and lineage, and adds a checksum of the manifest itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Migration, RawCheckpoint};
use crate::manifest::{FileRecord, records};
use crate::{Result, json};

/// The migration to version 3.
pub(super) const MIGRATION: Migration = Migration {
    from: 2,
    to: 3,
    changes: "files, and the chunks of large ones, are compared with BLAKE3 instead of SHA-256, and the manifest has \
              a checksum of its own",
    fixture: "fixtures/v2",
    apply,
};

fn apply(raw: &mut RawCheckpoint) -> Result<()> {
    let files = std::iter::once(&mut raw.config).chain(raw.metadata.as_mut());
    files.for_each(|file| drop(file.insert("format_version".to_owned(), 3.into())));
    Ok(())
}

/// The manifest of versions 1 and 2.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Present since version 2.
    #[serde(default, rename = "format_version")]
    _format_version: IgnoredAny,
    files: BTreeMap<String, File>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    size: u64,
    sha256: String,
    /// Present since version 2, for files with more than one chunk.
    #[serde(default)]
    chunks: Option<Chunks>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chunks {
    /// Size in bytes of every chunk but the last, which has the rest.
    size: u64,
    /// Checksum of each chunk, in order.
    sha256: Vec<String>,
}

/// Parses the bytes of the version 1 or 2 manifest at `path`.
pub(crate) fn read_manifest(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, FileRecord>> {
    let manifest: Manifest = json::parse(path, bytes)?;
    Ok(records(path, manifest.files, |File { size, sha256, chunks }| {
        FileRecord::with_sha256(size, sha256, chunks.map(|chunks| (chunks.size, chunks.sha256)))
    })?)
}

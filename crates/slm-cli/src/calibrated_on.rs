//! Detection of an evaluation on the text with which a checkpoint was calibrated.

use std::path::Path;

use slm_checkpoint::{Checkpoint, sha256_of_file};

use crate::error::Result;

/// Returns a warning if one of the files `texts` is the calibration text of `checkpoint`, as its lineage records it.
pub(crate) fn warning<'a>(
    checkpoint: &Checkpoint,
    texts: impl IntoIterator<Item = &'a Path>,
) -> Result<Option<String>> {
    let record = checkpoint.metadata().and_then(|metadata| metadata.lineage.calibration.as_ref());
    let Some(record) = record else { return Ok(None) };
    // A pipe was read already, and has no checksum in the lineage.
    for text in texts.into_iter().filter(|text| text.is_file()) {
        if sha256_of_file(text)? == record.text_sha256 {
            return Ok(Some(format!(
                "{} was calibrated on {} tokens of {}, and may look better on it than on other texts; measure on \
                 another text for figures to quote",
                checkpoint.dir().display(),
                record.tokens,
                text.display()
            )));
        }
    }
    Ok(None)
}

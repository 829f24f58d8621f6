//! Detection of an evaluation on a text that a checkpoint was calibrated with or trained on.

use std::path::Path;

use slm_checkpoint::{Checkpoint, sha256_of_file};

use crate::error::Result;

/// Returns a warning if `checkpoint` has seen one of the files `texts`, as its lineage records it.
pub(crate) fn warning<'a>(
    checkpoint: &Checkpoint,
    texts: impl IntoIterator<Item = &'a Path>,
) -> Result<Option<String>> {
    let Some(lineage) = checkpoint.metadata().map(|metadata| &metadata.lineage) else { return Ok(None) };
    let calibration = lineage.calibration.as_ref();
    let calibration =
        calibration.map(|record| (&record.text_sha256, format!("calibrated on {} tokens of", record.tokens)));
    let training = lineage.training.as_ref().map(|record| (&record.text_sha256, "trained on".to_owned()));
    let seen: Vec<_> = training.into_iter().chain(calibration).collect();
    if seen.is_empty() {
        return Ok(None);
    }
    // A pipe was read already, and has no checksum in the lineage.
    for text in texts.into_iter().filter(|text| text.is_file()) {
        let sha256 = sha256_of_file(text)?;
        if let Some((_, use_of)) = seen.iter().find(|(seen, _)| **seen == sha256) {
            return Ok(Some(format!(
                "{} was {use_of} {}, and may look better on it than on other texts; measure on another text for \
                 figures to quote",
                checkpoint.dir().display(),
                text.display()
            )));
        }
    }
    Ok(None)
}

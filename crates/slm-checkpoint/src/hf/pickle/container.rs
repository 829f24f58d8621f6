//! The pickles in a file written by `torch.save`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use pytorch_reader::MAX_PICKLE_SIZE;
use zip::ZipArchive;

/// Size limit in bytes for the pickles of a file that is not an archive; they precede its tensors.
const MAX_BARE_BYTES: u64 = 64 << 20;

/// Returns the bytes of each pickle in an archive, or the beginning of another file, which may continue after its last
/// pickle. The total size is limited to [`MAX_PICKLE_SIZE`].
pub(super) fn pickles(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let open = || File::open(path).map_err(|error| error.to_string());
    let (mut file, mut magic) = (open()?, [0; 4]);
    let is_archive = file.read_exact(&mut magic).is_ok() && magic == *b"PK\x03\x04";
    if !is_archive {
        let mut bytes = Vec::new();
        open()?.take(MAX_BARE_BYTES).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        return Ok(vec![bytes]);
    }
    let broken = |error: zip::result::ZipError| format!("its archive is damaged: {error}");
    let mut archive = ZipArchive::new(BufReader::new(open()?)).map_err(broken)?;
    let mut pickles = Vec::new();
    let mut left = MAX_PICKLE_SIZE;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(broken)?;
        if !entry.name().is_ok_and(|name| name.ends_with(".pkl")) {
            continue;
        }
        let mut bytes = Vec::new();
        let read = entry.take(left + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("its archive is damaged: {error}"))?;
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| format!("the pickles in its archive are above {MAX_PICKLE_SIZE} bytes"))?;
        pickles.push(bytes);
    }
    Ok(pickles)
}

//! Files that are no text, by how they begin.

use std::path::Path;

use crate::{Error, Result};

/// Beginning, name and remedy.
type Kind = (&'static [u8], &'static str, &'static str);

const UNPACK: &str = "unpack it first";
const EXPORT: &str = "export its text as UTF-8 or as JSON Lines of {\"text\": ...}";

const KINDS: [Kind; 15] = [
    (b"\x1f\x8b", "a gzip archive", "unpack it with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it with `unzstd`"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it with `unxz`"),
    (b"BZh", "a bzip2 archive", "unpack it with `bunzip2`"),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"PAR1", "a Parquet table", EXPORT),
    (b"ARROW1", "an Arrow table", EXPORT),
    (b"\x93NUMPY", "a NumPy array", "write token ids as JSON: {\"ids\": [[1, 2, ...], ...]}"),
    (b"SQLite format 3\0", "an SQLite database", EXPORT),
    (b"%PDF-", "a PDF document", EXPORT),
    (b"GGUF", "a GGUF model", "give a text"),
    (b"\xff\xfe\0\0", "UTF-32", "convert it with `iconv -f UTF-32 -t UTF-8`"),
    (b"\0\0\xfe\xff", "UTF-32", "convert it with `iconv -f UTF-32 -t UTF-8`"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer and not the file itself",
        "run `git lfs pull`, or download the file",
    ),
];

/// Refuses a file that begins with `head` and is known to be no text.
pub(super) fn check(path: &Path, head: &[u8]) -> Result<()> {
    let refuse =
        |what: &str, remedy| Err(Error::NotText { path: path.to_owned(), what: what.to_owned(), remedy });
    if let Some((_, what, remedy)) = KINDS.iter().find(|(begins, ..)| head.starts_with(begins)) {
        return refuse(what, remedy);
    }
    // The length of a header, and the header.
    if head.len() >= 16 && head[4..8] == [0; 4] && head[8] == b'{' {
        return refuse("a safetensors file", "give a text");
    }
    let marked = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
    // In UTF-16 every other byte of a Latin text is zero. That is valid UTF-8.
    let zeros = |from: usize| head.iter().skip(from).step_by(2).filter(|&&byte| byte == 0).count();
    let many = if head.len() < 8 || marked { usize::MAX } else { head.len() / 8 };
    match (zeros(0), zeros(1)) {
        (even, odd) if odd > many && even * 8 < odd => {
            refuse("UTF-16 without a byte order mark", "convert it with `iconv -f UTF-16LE -t UTF-8`")
        }
        (even, odd) if even > many && odd * 8 < even => {
            refuse("UTF-16 without a byte order mark", "convert it with `iconv -f UTF-16BE -t UTF-8`")
        }
        _ => {
            let text = String::from_utf8_lossy(&head[..head.len().min(64)]).to_ascii_lowercase();
            let text = text.trim_start_matches('\u{feff}').trim_start();
            if text.starts_with("<!doctype html") || text.starts_with("<html") {
                tracing::warn!(
                    "{}: begins like an HTML page, and its tags are read as text; if the page came in place of a \
                     download, download the file again",
                    path.display()
                );
            }
            Ok(())
        }
    }
}

//! Detection of files that are not text, by their first bytes.

use std::path::Path;

use super::warn_once;
use crate::{Error, Result};

/// First bytes, name and remedy.
type Kind = (&'static [u8], &'static str, &'static str);

const UNPACK: &str = "unpack it first";
const EXPORT: &str = "export its text as UTF-8 or as JSON Lines of {\"text\": ...}";

const IF_IDS: &str = "if they are token ids, write them as JSON: {\"ids\": [[1, 2, ...], ...]}";
const IDS: &str = "write token ids as JSON: {\"ids\": [[1, 2, ...], ...]}";

const KINDS: [Kind; 18] = [
    (b"\x1f\x8b", "a gzip archive", "unpack it with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it with `unzstd`"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it with `unxz`"),
    (b"BZh", "a bzip2 archive", "unpack it with `bunzip2`"),
    (
        b"PK\x03\x04",
        "a zip archive, or a document such as .docx, which is one",
        "unpack it, or export its text as UTF-8",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"PAR1", "a Parquet table", EXPORT),
    (b"ARROW1", "an Arrow table", EXPORT),
    (b"\x93NUMPY", "a NumPy array", IDS),
    (b"MMIDIDX", "an index of token ids (Megatron)", IDS),
    (b"{\\rtf", "a document in RTF", EXPORT),
    (b"\xd0\xcf\x11\xe0", "a document of Microsoft Office", EXPORT),
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

/// Rejects a file whose first bytes `head` show that it is not text.
pub(super) fn check(path: &Path, head: &[u8]) -> Result<()> {
    let refuse =
        |what: &str, remedy| Err(Error::NotText { path: path.to_owned(), what: what.to_owned(), remedy });
    if let Some((_, what, remedy)) = KINDS.iter().find(|(begins, ..)| head.starts_with(begins)) {
        return refuse(what, remedy);
    }
    if head.get(257..262) == Some(b"ustar") {
        return refuse("a tar archive", "unpack it with `tar -xf`");
    }
    // A safetensors file: the length of its header, then the header.
    if head.len() >= 16 && head[4..8] == [0; 4] && head[8] == b'{' {
        return refuse("a safetensors file", "give a text");
    }
    let marked = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
    // In UTF-16, every other byte of a Latin text is zero, and zero bytes are valid UTF-8.
    let zeros = |from: usize| head.iter().skip(from).step_by(2).filter(|&&byte| byte == 0).count();
    let many = if head.len() < 8 || marked { usize::MAX } else { head.len() / 8 };
    match (zeros(0), zeros(1)) {
        (even, odd) if even.max(odd) > many && is_named_binary(path) => {
            refuse("a file of numbers and no text", IDS)
        }
        (even, odd)
            if even.max(odd) > many && even.min(odd) * 8 < even.max(odd) && !is_utf16(head, odd > even) =>
        {
            refuse("a file of numbers and no text", IDS)
        }
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
            warn_of_tables(path, head);
            Ok(())
        }
    }
}

/// The error for a path that is not a file.
pub(super) fn no_file(path: &Path, what: &str, remedy: &'static str) -> Error {
    Error::NotText { path: path.to_owned(), what: what.to_owned(), remedy }
}

/// Returns `true` if a file is named like a binary file, such as nanoGPT's `train.bin`.
pub(super) fn is_named_binary(path: &Path) -> bool {
    has_extension(path, &["bin", "idx", "dat"])
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    extensions.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Returns `true` if the 16-bit units look like text: nearly no control characters.
fn is_utf16(head: &[u8], little_endian: bool) -> bool {
    let unit =
        |&unit: &[u8; 2]| if little_endian { u16::from_le_bytes(unit) } else { u16::from_be_bytes(unit) };
    let (units, _) = head.as_chunks::<2>();
    let control = units.iter().map(unit).filter(|unit| *unit < 32 && ![9, 10, 13].contains(unit)).count();
    control <= units.len() / 256
}

/// Warns if a table or a list of numbers is read as prose.
fn warn_of_tables(path: &Path, head: &[u8]) {
    if has_extension(path, &["csv", "tsv"]) {
        let what = "is called a table, and its separators and quotes are read as text; export the column with the text, \
                    as JSON Lines of {\"text\": ...}";
        warn_once(path, what);
    }
    let numbers = head.iter().all(|byte| byte.is_ascii_digit() || b" \t\r\n,;[]()".contains(byte));
    let separated = head.iter().filter(|byte| !byte.is_ascii_digit()).count();
    let json = head.trim_ascii_start().starts_with(b"[");
    if numbers && !json && separated >= 8 && head.iter().any(u8::is_ascii_digit) {
        let what = format!("holds nothing but numbers, and they are read as text; {IF_IDS}");
        warn_once(path, &what);
    }
}

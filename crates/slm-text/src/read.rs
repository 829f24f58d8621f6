//! Reading text files.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// Reads a whole UTF-8 text file, byte for byte as it is.
///
/// # Errors
/// - [`Error::Read`] if the file cannot be read.
/// - [`Error::NotUtf8`] with the offset of the first bad byte.
/// - [`Error::EmptyText`] if there is nothing but white space.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(path, &error))?;
    if text.trim().is_empty() {
        return Err(Error::EmptyText { path: path.to_owned(), bytes: text.len() });
    }
    Ok(text)
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> Error {
    let bytes = error.as_bytes();
    let offset = error.utf8_error().valid_up_to();
    let remedy = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            "the file starts like UTF-16, convert it with `iconv -f UTF-16 -t UTF-8`"
        }
        _ if error.utf8_error().error_len().is_none() => {
            "the last character is cut off, so the file is probably truncated"
        }
        _ if bytes.contains(&0) => "the file holds zero bytes, so it is probably not a text file",
        _ => "convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`",
    };
    Error::NotUtf8 {
        path: path.to_owned(),
        offset,
        line: 1 + bytes[..offset].iter().filter(|&&byte| byte == b'\n').count(),
        byte: bytes[offset],
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        read_text(file.path())
    }

    #[test]
    fn text_comes_back_byte_for_byte() {
        let text = "a\r\n\tb  é🙂\n\n";
        assert_eq!(read(text.as_bytes()).unwrap(), text);
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = read_text("no/such/file.txt").unwrap_err().to_string();
        assert!(message.contains("no/such/file.txt"), "{message}");
    }

    #[test]
    fn a_bad_byte_is_located() {
        let error = read(b"first\nsecond \xe9t\xe9\n").unwrap_err();
        assert!(matches!(error, Error::NotUtf8 { offset: 13, line: 2, byte: 0xe9, .. }), "{error}");
        assert!(error.to_string().contains("ISO-8859-1"), "{error}");
    }

    #[test]
    fn the_remedy_fits_the_damage() {
        assert!(read(b"\xff\xfea\0b\0").unwrap_err().to_string().contains("UTF-16"));
        assert!(read("né".as_bytes().split_last().unwrap().1).unwrap_err().to_string().contains("truncated"));
        assert!(read(b"\0\x80\0").unwrap_err().to_string().contains("zero bytes"));
    }

    #[test]
    fn white_space_is_no_text() {
        assert!(matches!(read(b"").unwrap_err(), Error::EmptyText { bytes: 0, .. }));
        assert!(matches!(read(b" \n\t").unwrap_err(), Error::EmptyText { bytes: 3, .. }));
    }
}

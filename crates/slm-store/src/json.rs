//! Reading and writing of small files, most of them JSON. Reads are limited in size; JSON is indented.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, StopFlag};

/// Size limit for configs and manifests, in bytes.
pub const SMALL: u64 = 16 << 20;
/// Size limit for tokenizers, tensor indexes and quantization metadata, in bytes.
pub const LARGE: u64 = 256 << 20;

/// Reads the bytes of `path`, at most `limit` of them. Returns `None` if the file does not exist.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::Io`].
pub fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "open")(error)),
    };
    let too_large = |found: u64| Error::TooLarge { path: path.to_owned(), found, limit };
    let size = file.metadata().map_err(Error::io(path, "read the size"))?.len();
    if size > limit {
        return Err(too_large(size));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(Some(bytes))
}

/// [`read_optional`] for a file that must exist.
///
/// # Errors
/// [`Error::Missing`], [`Error::TooLarge`], [`Error::Io`].
pub fn read(path: &Path, limit: u64, remedy: &str) -> Result<Vec<u8>> {
    read_optional(path, limit)?
        .ok_or_else(|| Error::Missing { path: path.to_owned(), remedy: remedy.to_owned() })
}

/// Parses the bytes of `path`.
///
/// # Errors
/// [`Error::Json`].
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(Error::json(path))
}

/// Formats `value` as indented JSON with a final newline.
///
/// # Errors
/// [`Error::Json`].
pub fn to_bytes<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(Error::json(path))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes a value as a new file of indented JSON, and syncs it to the disk.
///
/// # Errors
/// [`Error::Json`]; [`Error::Io`], also for a file that already exists.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_new(path, &to_bytes(path, value)?)
}

/// Writes a new file and syncs it to the disk.
///
/// # Errors
/// [`Error::Io`], also for a file that already exists.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    new_file(path, |file| file.write_all(bytes))
}

/// Lets `write` write a new file, whose path it is given, and syncs it to the disk.
///
/// # Errors
/// [`Error::Io`], also for a file that already exists.
pub fn create_new(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    new_file(path, |_| write(path))
}

/// Copies a file to a new one and syncs that to the disk, unless `stop` is set.
///
/// # Errors
/// [`Error::Io`], also for a file that already exists; [`Error::Stopped`].
pub fn copy_new(from: &Path, to: &Path, stop: &StopFlag) -> Result<()> {
    /// Bytes copied between two checks of the flag.
    const PIECE_BYTES: u64 = 16 << 20;
    let source = File::open(from).map_err(Error::io(from, "open"))?;
    new_file(to, |file| {
        loop {
            stop.check_io()?;
            if io::copy(&mut (&source).take(PIECE_BYTES), file)? == 0 {
                return Ok(());
            }
        }
    })
}

/// Creates a file, lets `write` fill it, and syncs it to the disk.
fn new_file(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let mut file = File::create_new(path).map_err(Error::io(path, "create"))?;
    write(&mut file).map_err(Error::io(path, "write"))?;
    file.sync_all().map_err(Error::io(path, "write to the disk"))
}

/// Serialization of a number that may be NaN or infinite. JSON has no such numbers; they are written as the strings
/// `"NaN"`, `"Infinity"` and `"-Infinity"`.
pub mod number {
    use serde::de::{Deserializer, Error as _, Unexpected};
    use serde::{Deserialize, Serializer};

    /// Writes a number.
    ///
    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if *value == f64::INFINITY => serializer.serialize_str("Infinity"),
            value if *value == f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            value => serializer.serialize_f64(*value),
        }
    }

    /// Reads a number.
    ///
    /// # Errors
    /// The errors of the deserializer, and a string other than these three.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Number {
            Finite(f64),
            Text(String),
        }
        match Number::deserialize(deserializer)? {
            Number::Finite(value) => Ok(value),
            Number::Text(text) => match text.as_str() {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                other => Err(D::Error::invalid_value(
                    Unexpected::Str(other),
                    &"a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.json");
        assert_eq!(read_optional(&path, 5).unwrap(), None);
        let missing = read(&path, 5, "write it").unwrap_err();
        assert!(matches!(missing, Error::Missing { remedy, .. } if remedy == "write it"));
        std::fs::write(&path, "[1,2]").unwrap();
        assert_eq!(read_optional(&path, 5).unwrap().as_deref(), Some(&b"[1,2]"[..]));
        assert_eq!(read(&path, 5, "").unwrap(), b"[1,2]");
        let too_large = read_optional(&path, 4).unwrap_err();
        assert!(matches!(too_large, Error::TooLarge { found: 5, limit: 4, .. }), "{too_large}");
        assert_eq!(parse::<Vec<u8>>(&path, b"[1,2]").unwrap(), [1, 2]);
        assert!(matches!(parse::<Vec<u8>>(&path, b"[1,").unwrap_err(), Error::Json { .. }));
        assert!(matches!(read_optional(&path.join("below"), 5).unwrap_err(), Error::Io { .. }));
    }
}

//! Decoding of text files: UTF-8 or UTF-16, byte order mark and line ends.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{kind, warn_once};
use crate::{Error, Result};

/// Number of bytes read at a time.
const CHUNK: usize = 64 << 10;
/// The byte order mark as a character.
const MARK: char = '\u{feff}';

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16 { big_endian: bool },
}

/// A file that is decoded in parts.
pub(super) struct Decoder {
    path: PathBuf,
    file: Box<dyn Read + Send>,
    encoding: Encoding,
    /// Bytes that were read but not decoded: the beginning of the file, or of a character.
    pending: Vec<u8>,
    /// Number of bytes decoded before `pending`, and number of line ends in them.
    offset: usize,
    lines: usize,
    /// True if the last character was a carriage return, which may be half of a line end.
    carriage_return: bool,
    ended: bool,
    /// True once the warning about zero bytes was given.
    zeros_seen: Cell<bool>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("path", &self.path)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// Opens a file, rejects content that is known not to be text, and skips a byte order mark.
    pub(super) fn open(path: &Path) -> Result<Self> {
        match File::open(path) {
            Ok(_) if path.is_dir() => Err(kind::no_file(path, "a directory", "name a file in it")),
            Ok(file) => Self::new(path, Box::new(file)),
            Err(_) if path.to_str().is_some_and(|path| path.contains("://")) => Err(kind::no_file(
                path,
                "an address, and nothing is downloaded",
                "download it, and name the file",
            )),
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        }
    }

    /// [`Decoder::open`] for another reader, which `path` names in messages.
    pub(super) fn new(path: &Path, file: Box<dyn Read + Send>) -> Result<Self> {
        let mut decoder = Self {
            path: path.to_owned(),
            file,
            encoding: Encoding::Utf8,
            pending: Vec::new(),
            offset: 0,
            lines: 0,
            carriage_return: false,
            ended: false,
            zeros_seen: Cell::new(false),
        };
        decoder.fill()?;
        kind::check(path, &decoder.pending)?;
        let (encoding, mark) = match decoder.pending[..] {
            [0xff, 0xfe, ..] => (Encoding::Utf16 { big_endian: false }, 2),
            [0xfe, 0xff, ..] => (Encoding::Utf16 { big_endian: true }, 2),
            [0xef, 0xbb, 0xbf, ..] => (Encoding::Utf8, 3),
            _ => (Encoding::Utf8, 0),
        };
        decoder.encoding = encoding;
        decoder.pending.drain(..mark);
        decoder.offset = mark;
        if mark > 0 {
            tracing::info!(
                "{}: {encoding:?} with a byte order mark, which is not part of the text",
                path.display()
            );
        }
        Ok(decoder)
    }

    /// Reads the next bytes of the file.
    fn fill(&mut self) -> Result<()> {
        let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut self.pending);
        let read = read.map_err(|source| Error::Read { path: self.path.clone(), source })?;
        self.ended = read == 0;
        Ok(())
    }

    /// Number of bytes of the file that were read.
    pub(super) fn position(&self) -> usize {
        self.offset + self.pending.len()
    }

    /// Appends the next part of the text. Returns `false` at the end.
    pub(super) fn read(&mut self, text: &mut String) -> Result<bool> {
        if self.ended && self.pending.is_empty() {
            if std::mem::take(&mut self.carriage_return) {
                text.push('\n');
            }
            return Ok(false);
        }
        let before = text.len();
        let taken = match self.encoding {
            Encoding::Utf8 => self.utf8(text)?,
            Encoding::Utf16 { big_endian } => self.utf16(text, big_endian)?,
        };
        self.offset += taken;
        self.pending.drain(..taken);
        if text[before..].contains(['\0', MARK]) {
            self.check_characters(text, before);
        }
        self.lines += text[before..].bytes().filter(|&byte| byte == b'\n').count();
        self.line_ends(text, before);
        self.fill()?;
        Ok(true)
    }

    /// Removes byte order marks from `text[from..]`, and warns of zero bytes.
    fn check_characters(&self, text: &mut String, from: usize) {
        let mut part = text.split_off(from);
        if let Some(at) = part.find('\0') {
            let line = 1 + self.lines + part[..at].matches('\n').count();
            let what = format!(
                "holds zero bytes, the first in line {line}; they are read as characters. If the file is not a text, or its \
                 download was not finished, give another"
            );
            if !self.zeros_seen.replace(true) {
                warn_once(&self.path, &what);
            }
        }
        if part.contains(MARK) {
            warn_once(
                &self.path,
                "has byte order marks inside, as files that were joined have; they are not part of the text",
            );
            part = part.replace(MARK, "");
        }
        text.push_str(&part);
    }

    /// Decodes all complete characters of `pending`. Returns the number of bytes decoded.
    fn utf8(&self, text: &mut String) -> Result<usize> {
        let error = match std::str::from_utf8(&self.pending) {
            Ok(all) => {
                text.push_str(all);
                return Ok(all.len());
            }
            Err(error) => error,
        };
        let valid = error.valid_up_to();
        let cut_off = error.error_len().is_none();
        if !cut_off || self.ended {
            return Err(self.not_utf8(valid, cut_off));
        }
        text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
        Ok(valid)
    }

    fn not_utf8(&self, valid: usize, cut_off: bool) -> Error {
        let byte = self.pending[valid];
        let remedy = if kind::is_named_binary(&self.path) {
            "if it holds token ids, write them as JSON: {\"ids\": [[1, 2, ...], ...]}"
        } else if cut_off {
            "the last character is cut off: the file is truncated, or in another encoding, which \
             `iconv -f ISO-8859-1 -t UTF-8` converts"
        } else if self.pending.contains(&0) {
            "the file holds zero bytes, so it is probably not a text file"
        } else if (0x80..0xa0).contains(&byte) {
            "convert it, for example with `iconv -f WINDOWS-1252 -t UTF-8`"
        } else {
            "convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`"
        };
        Error::NotUtf8 {
            path: self.path.clone(),
            offset: self.offset + valid,
            line: 1 + self.lines + self.pending[..valid].iter().filter(|&&byte| byte == b'\n').count(),
            byte,
            remedy,
        }
    }

    fn utf16(&self, text: &mut String, big_endian: bool) -> Result<usize> {
        let (units, rest) = self.pending.as_chunks::<2>();
        let mut units: Vec<u16> = units
            .iter()
            .map(|&unit| if big_endian { u16::from_be_bytes(unit) } else { u16::from_le_bytes(unit) })
            .collect();
        // Half of a surrogate pair waits for the other half.
        if !self.ended && units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
            units.pop();
        }
        let refuse = |at: usize| Error::NotText {
            path: self.path.clone(),
            what: format!("not UTF-16, as its byte order mark says, at byte {at}"),
            remedy: "save it as UTF-8",
        };
        if self.ended && !rest.is_empty() {
            return Err(refuse(self.offset + 2 * units.len()));
        }
        let mut at = self.offset;
        for character in char::decode_utf16(units.iter().copied()) {
            let character = character.map_err(|_| refuse(at))?;
            at += 2 * character.len_utf16();
            text.push(character);
        }
        Ok(2 * units.len())
    }

    /// Converts the line ends in `text[from..]` to `\n`.
    fn line_ends(&mut self, text: &mut String, from: usize) {
        if !self.carriage_return && !text[from..].contains('\r') {
            return;
        }
        warn_of_line_ends(&self.path);
        let part = text.split_off(from);
        let mut part = part.as_str();
        if std::mem::take(&mut self.carriage_return) {
            text.push('\n');
            part = part.strip_prefix('\n').unwrap_or(part);
        }
        if let Some(before) = part.strip_suffix('\r') {
            (part, self.carriage_return) = (before, true);
        }
        for (index, line) in part.split('\r').enumerate() {
            match index {
                0 => text.push_str(line),
                _ => {
                    text.push('\n');
                    text.push_str(line.strip_prefix('\n').unwrap_or(line));
                }
            }
        }
    }
}

/// Warns once about carriage returns in a file.
pub(super) fn warn_of_line_ends(path: &Path) {
    warn_once(
        path,
        "has carriage returns (CRLF line ends, as Windows writes them); they are read as plain line ends",
    );
}

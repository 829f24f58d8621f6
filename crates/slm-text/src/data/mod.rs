//! Files of text or token ids, in common formats.
//!
//! | file | what is read |
//! |---|---|
//! | UTF-8, with or without a byte order mark; UTF-16 with one | its text |
//! | JSON Lines of objects with a `text`, or of strings; a JSON list of either; JSON objects one after another | their texts, with an empty line between two |
//! | `{"ids": [[1, 2, ...], ...]}`; JSON Lines of lists of ids or of objects with `input_ids`, `ids` or `tokens` | sequences of token ids |
//!
//! The content determines the format, not the name: a text that only begins like JSON is read as text. Line ends of
//! Windows and classic Mac OS become `\n`, with a warning, as in Python. Archives, tables, weights, Git LFS pointers and
//! text in unknown encodings are rejected with an error that names them.

mod decode;
mod json;
mod kind;
mod lenient;
mod record;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::{Encoded, Error, Result, Tokenizer};
use decode::Decoder;
use json::{FileFormat, Lines, format, whole};
use record::Record;

/// Content of a data file.
#[derive(Debug)]
pub enum Data {
    /// A text, of which only the beginning has been read.
    Text(TextReader),
    /// Independent sequences of token ids: at least one, none of them empty.
    Ids(Vec<Vec<u32>>),
}

impl Data {
    /// Opens a file, or standard input for `-`, and detects its content.
    ///
    /// # Errors
    /// - [`Error::Read`] if the file cannot be read.
    /// - [`Error::NotUtf8`] and [`Error::NotText`] for a file that is not text; the former names the first bad byte.
    /// - [`Error::Ids`] and [`Error::Json`] for JSON without texts or token ids.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let (path, mut decoder) = match path.as_ref() {
            path if path == Path::new("-") => {
                let name = Path::new("standard input");
                if STDIN_READ.swap(true, Ordering::Relaxed) {
                    return Err(Error::NotText {
                        path: name.to_owned(),
                        what: "read already, for another option".to_owned(),
                        remedy: "give one of the two texts as a file",
                    });
                }
                (name, Decoder::new(name, Box::new(std::io::stdin()))?)
            }
            path => (path, Decoder::open(path)?),
        };
        let mut head = String::new();
        decoder.read(&mut head)?;
        match format(path, &mut head, &mut decoder)? {
            FileFormat::Prose => Ok(Self::Text(TextReader::new(path, Source::Plain { head, decoder }))),
            FileFormat::Whole => {
                while decoder.read(&mut head)? {}
                match whole(path, &head)? {
                    Record::Ids(ids) => Ok(Self::Ids(ids)),
                    Record::Texts(texts) => {
                        let text = texts.join(BETWEEN);
                        Ok(Self::Text(TextReader::new(path, Source::Ready(Some(text)))))
                    }
                }
            }
            format @ (FileFormat::Lines | FileFormat::Values) => {
                let mut lines = Lines::new(path, head, decoder, format);
                match lines.next()? {
                    Some(Record::Ids(mut ids)) => {
                        while let Some(record) = lines.next()? {
                            match record {
                                Record::Ids(more) => ids.extend(more),
                                Record::Texts(_) => return Err(lines.mixed()),
                            }
                        }
                        Ok(Self::Ids(ids))
                    }
                    first => {
                        let first = first.map(|record| match record {
                            Record::Texts(texts) => texts.join(BETWEEN),
                            Record::Ids(_) => String::new(),
                        });
                        Ok(Self::Text(TextReader::new(path, Source::Lines { first, lines: Box::new(lines) })))
                    }
                }
            }
        }
    }
}

/// True once standard input was opened, which can be read only once.
static STDIN_READ: AtomicBool = AtomicBool::new(false);

/// Warns once about a file.
fn warn_once(path: &Path, what: &str) {
    static GIVEN: Mutex<Vec<(PathBuf, String)>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !given.iter().any(|(known, said)| known == path && said == what) {
        tracing::warn!("{}: {what}", path.display());
        given.push((path.to_owned(), what.to_owned()));
    }
}

/// Separator between two texts of a JSON file, as in the usual evaluations on WikiText.
const BETWEEN: &str = "\n\n";

/// A text that is read in parts.
#[derive(Debug)]
pub struct TextReader {
    path: PathBuf,
    source: Source,
    /// Number of bytes of text so far.
    bytes: usize,
    /// True if the text so far contains more than white space.
    text: bool,
}

#[derive(Debug)]
enum Source {
    Plain { head: String, decoder: Decoder },
    Lines { first: Option<String>, lines: Box<Lines> },
    Ready(Option<String>),
}

impl TextReader {
    fn new(path: &Path, source: Source) -> Self {
        Self { path: path.to_owned(), source, bytes: 0, text: false }
    }

    /// Appends the next part to `text`. Returns `false` at the end.
    ///
    /// # Errors
    /// The errors of [`Data::open`], for later parts of the file; [`Error::EmptyText`] at the end of a file with only
    /// white space.
    pub fn read(&mut self, text: &mut String) -> Result<bool> {
        let before = text.len();
        let more = match &mut self.source {
            Source::Ready(ready) => {
                text.push_str(&ready.take().unwrap_or_default());
                false
            }
            Source::Plain { head, decoder } if head.is_empty() => decoder.read(text)?,
            Source::Plain { head, .. } => {
                text.push_str(&std::mem::take(head));
                true
            }
            Source::Lines { first, lines } => match first.take() {
                Some(first) => {
                    text.push_str(&first);
                    true
                }
                None => match lines.next()? {
                    Some(Record::Texts(texts)) => {
                        for more in texts {
                            text.push_str(BETWEEN);
                            text.push_str(&more);
                        }
                        true
                    }
                    Some(Record::Ids(_)) => return Err(lines.mixed()),
                    None => false,
                },
            },
        };
        let part = &text[before..];
        self.bytes += part.len();
        self.text |= !part.trim().is_empty();
        if !more && !self.text {
            return Err(Error::EmptyText { path: self.path.clone(), bytes: self.bytes });
        }
        Ok(more)
    }

    /// Reads the rest of the text.
    ///
    /// # Errors
    /// Same as [`TextReader::read`].
    pub fn read_to_end(mut self) -> Result<String> {
        let mut text = String::new();
        while self.read(&mut text)? {}
        Ok(text)
    }

    /// Encodes the text to at most `limit` token ids, without special tokens around it. It reads no more of the file
    /// than these require.
    ///
    /// # Errors
    /// The errors of [`TextReader::read`] and [`Tokenizer::encode`].
    pub fn encode(self, tokenizer: &Tokenizer, limit: usize) -> Result<Encoded> {
        self.encode_watched(tokenizer, limit, &mut |_| ())
    }

    /// [`TextReader::encode`] that calls `on_read` with the number of bytes of the file that were read so far.
    ///
    /// # Errors
    /// Same as [`TextReader::encode`].
    pub fn encode_watched(
        mut self,
        tokenizer: &Tokenizer,
        limit: usize,
        on_read: &mut dyn FnMut(usize),
    ) -> Result<Encoded> {
        tokenizer.encode_in_chunks(limit, &mut |text| {
            on_read(self.position());
            self.read(text)
        })
    }

    /// Number of bytes of the file that were read; 0 for a text that was read at once.
    fn position(&self) -> usize {
        match &self.source {
            Source::Plain { decoder, .. } => decoder.position(),
            Source::Lines { lines, .. } => lines.position(),
            Source::Ready(_) => 0,
        }
    }
}

/// Reads a whole text file: [`Data::open`] for a file that must contain text.
///
/// # Errors
/// The errors of [`Data::open`] and [`TextReader::read`]; [`Error::Ids`] for a file of token ids.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    match Data::open(path)? {
        Data::Text(reader) => reader.read_to_end(),
        Data::Ids(_) => Err(Error::Ids {
            path: path.to_owned(),
            detail: "holds token ids, and a text is needed here; give the text they were made from"
                .to_owned(),
        }),
    }
}

/// Reads a whole text without interpreting JSON. Byte order mark, encoding and line ends are handled as in
/// [`Data::open`]. Errors refer to the text as `name`.
///
/// # Errors
/// [`Error::Read`], [`Error::NotUtf8`], [`Error::NotText`].
pub fn read_plain(name: &Path, from: impl Read + Send + 'static) -> Result<String> {
    let mut decoder = Decoder::new(name, Box::new(from))?;
    let mut text = String::new();
    while decoder.read(&mut text)? {}
    Ok(text)
}

#[cfg(test)]
mod tests;

//! Reading a file at a position, from any thread.

use std::fs::File;
use std::io;
use std::time::SystemTime;

/// A file that is read by position. Nothing depends on a cursor, so that threads can share it.
#[derive(Debug)]
pub struct PositionedFile {
    file: File,
    /// Lock under which the cursor is set and used where the system has no positioned reads.
    #[cfg(not(unix))]
    cursor: std::sync::Mutex<()>,
}

impl PositionedFile {
    /// Reads from `file`.
    pub fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(not(unix))]
            cursor: std::sync::Mutex::new(()),
        }
    }

    /// Size in bytes, as it is now.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Time of the last write to the file, as the system has it now.
    pub fn modified(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }

    /// Fills `buffer` from `offset`.
    #[cfg(unix)]
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }

    /// Fills `buffer` from `offset`.
    #[cfg(not(unix))]
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        // A reader that panicked left no state behind but the cursor, which is set here.
        let _cursor = self.cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).read_exact(buffer)
    }
}

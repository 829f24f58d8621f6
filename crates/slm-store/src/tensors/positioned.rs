//! Positioned reads of a file, from any thread.

use std::fs::File;
use std::io;
use std::time::SystemTime;

use crate::StopFlag;

/// Bytes read between two checks of the stop flag.
const PIECE_BYTES: usize = 16 << 20;

/// A file that is read by position. It does not use a cursor, so threads can share it.
#[derive(Debug)]
pub struct PositionedFile {
    file: File,
    stop: StopFlag,
    /// Lock for setting and using the cursor, on systems without positioned reads.
    #[cfg(not(unix))]
    cursor: std::sync::Mutex<()>,
}

impl PositionedFile {
    /// Creates a reader of `file`.
    pub fn new(file: File) -> Self {
        Self {
            file,
            stop: StopFlag::NEVER,
            #[cfg(not(unix))]
            cursor: std::sync::Mutex::new(()),
        }
    }

    /// Makes all further reads fail once `stop` is set.
    pub fn stop_at(&mut self, stop: StopFlag) {
        self.stop = stop;
    }

    /// Flag that stops its reads.
    pub fn stop(&self) -> &StopFlag {
        &self.stop
    }

    /// Current size in bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Current time of the last modification.
    pub fn modified(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }

    /// Fills `buffer` from the byte offset `offset`.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        for (index, piece) in buffer.chunks_mut(PIECE_BYTES).enumerate() {
            self.stop.check_io()?;
            self.read_piece(piece, offset + (index * PIECE_BYTES) as u64)?;
        }
        Ok(())
    }

    #[cfg(unix)]
    fn read_piece(&self, piece: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, piece, offset)
    }

    #[cfg(not(unix))]
    fn read_piece(&self, piece: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        // A panic elsewhere can only leave a wrong cursor, which is set here.
        let _cursor = self.cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (&self.file).seek(SeekFrom::Start(offset))?;
        (&self.file).read_exact(piece)
    }
}

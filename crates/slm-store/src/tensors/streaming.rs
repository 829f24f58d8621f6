//! Reading of a whole file in one pass: every tensor goes to its destination, and every byte into the checksums.
//!
//! All threads read parts of the file that have their own checksums, a few hundred kilobytes at a time, so that bytes
//! are hashed, checked and packed while they are in the cache. A tensor is filled in units, such as the rows of codes
//! that are packed together. A unit that crosses the end of a part is called a *boundary*: its bytes are kept until the
//! threads on both sides have read them.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::destination::{Destination, Refused, Slot};
use crate::manifest::{Hasher, Parts};
use crate::{Error, Result};

/// Number of bytes read at once, unless a unit is larger. They fit into the cache of a core.
const BUFFER_BYTES: usize = 256 << 10;
/// Size in bytes of a part if the file has no checksums.
const PART_BYTES: u64 = 1 << 20;

/// A tensor of the file, and its destination.
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) place: Range<u64>,
    pub(super) destination: &'a mut Destination,
}

/// The file to read.
pub(super) struct Input<'a> {
    /// Size of the file in bytes.
    pub(super) size: u64,
    /// Checksums to compare with.
    pub(super) checksums: Option<Parts<'a>>,
    /// Fills a buffer from a byte offset.
    pub(super) read: &'a (dyn Fn(u64, &mut [u8]) -> Result<()> + Sync),
    /// Creates the error for an invalid tensor.
    pub(super) refuse: &'a (dyn Fn(&str, Refused) -> Error + Sync),
}

/// The reads of one part of the file, which one thread performs.
struct PartReads<'a> {
    chunks: Vec<Chunk<'a>>,
}

/// Consecutive bytes of one tensor.
struct Chunk<'a> {
    tensor: &'a str,
    place: Range<u64>,
    into: Into<'a>,
}

enum Into<'a> {
    /// The bytes fill the slot completely.
    Slot(Slot<'a>),
    /// The bytes go to an offset of a boundary.
    Boundary { boundary: usize, offset: usize },
}

/// A unit whose bytes are in several parts of the file.
struct Boundary<'a> {
    part: Option<Slot<'a>>,
    /// Allocated with the first bytes, and freed with the last.
    bytes: Vec<u8>,
    missing: usize,
}

/// Reads `tensors`, which must be sorted by position and not overlap.
pub(super) fn run(input: &Input<'_>, tensors: Vec<Tensor<'_>>) -> Result<()> {
    let part_bytes = input.checksums.map_or(PART_BYTES, |parts| parts.part_bytes()).max(1);
    let (reads, boundaries) = plan(input, part_bytes, tensors)?;
    let reads = Mutex::new(reads.into_iter().enumerate());
    let next = || reads.lock().unwrap_or_else(PoisonError::into_inner).next();
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).try_for_each(|_| {
        let mut buffer = Vec::new();
        while let Some((number, read)) = next() {
            let result = Reader { input, boundaries: &boundaries, buffer: &mut buffer, hasher: None }
                .read(number, read, part_bytes);
            if result.is_err() {
                // The other parts are no longer needed.
                while next().is_some() {}
                return result;
            }
        }
        Ok(())
    })
}

/// Plans the reads of each part of the file.
fn plan<'a>(
    input: &Input<'_>,
    part_bytes: u64,
    tensors: Vec<Tensor<'a>>,
) -> Result<(Vec<PartReads<'a>>, Vec<Mutex<Boundary<'a>>>)> {
    let count = input.size.div_ceil(part_bytes);
    let mut reads: Vec<PartReads<'a>> = (0..count).map(|_| PartReads { chunks: Vec::new() }).collect();
    let mut boundaries = Vec::new();
    for Tensor { name, place, destination } in tensors {
        let refuse = |refused| (input.refuse)(name, refused);
        let mut at = place.start;
        let mut rest = destination.slot();
        while rest.bytes() > 0 {
            let (number, end) = (at / part_bytes, (at / part_bytes + 1) * part_bytes);
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let whole = match rest.bytes() <= left {
                true => rest.bytes(),
                false => left / rest.unit_bytes() * rest.unit_bytes(),
            };
            if whole > 0 {
                let (part, others) = rest.split_at(whole).map_err(refuse)?;
                let place = at..at + whole as u64;
                at = place.end;
                reads[number as usize].chunks.push(Chunk { tensor: name, place, into: Into::Slot(part) });
                rest = others;
                continue;
            }
            let unit = rest.unit_bytes().min(rest.bytes());
            let (part, others) = rest.split_at(unit).map_err(refuse)?;
            let (start, end) = (at, at + unit as u64);
            while at < end {
                let number = at / part_bytes;
                let place = at..end.min((number + 1) * part_bytes);
                let into = Into::Boundary { boundary: boundaries.len(), offset: (at - start) as usize };
                at = place.end;
                reads[number as usize].chunks.push(Chunk { tensor: name, place, into });
            }
            boundaries.push(Mutex::new(Boundary { part: Some(part), bytes: Vec::new(), missing: unit }));
            rest = others;
        }
    }
    Ok((reads, boundaries))
}

/// The reader of one part of the file, on one thread.
struct Reader<'a, 'b> {
    input: &'a Input<'a>,
    boundaries: &'a [Mutex<Boundary<'b>>],
    buffer: &'a mut Vec<u8>,
    hasher: Option<Hasher>,
}

impl<'b> Reader<'_, 'b> {
    /// Reads part `number` of the file, and verifies its checksum.
    fn read(mut self, number: usize, read: PartReads<'b>, part_bytes: u64) -> Result<()> {
        self.hasher = self.input.checksums.map(|parts| parts.hasher(number));
        let mut at = number as u64 * part_bytes;
        let end = self.input.size.min(at + part_bytes);
        for Chunk { tensor, place, into } in read.chunks {
            self.pass_over(at..place.start)?;
            at = place.end;
            match into {
                Into::Slot(part) => self.fill(tensor, place.start, part)?,
                Into::Boundary { boundary, offset } => self.fill_boundary(tensor, place, boundary, offset)?,
            }
        }
        self.pass_over(at..end)?;
        match (self.input.checksums, self.hasher) {
            (Some(checksums), Some(hasher)) => checksums.check(number, hasher),
            _ => Ok(()),
        }
    }

    /// Returns the next `bytes` bytes, which begin at `at`.
    fn next(&mut self, at: u64, bytes: usize) -> Result<&[u8]> {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        let bytes = &mut self.buffer[..bytes];
        (self.input.read)(at, bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(bytes)
    }

    /// Reads bytes that belong to no tensor, for the checksum.
    fn pass_over(&mut self, Range { start, end }: Range<u64>) -> Result<()> {
        let mut at = start;
        while self.hasher.is_some() && at < end {
            let bytes = (end - at).min(BUFFER_BYTES as u64);
            self.next(at, bytes as usize)?;
            at += bytes;
        }
        Ok(())
    }

    fn fill(&mut self, tensor: &str, start: u64, part: Slot<'b>) -> Result<()> {
        let refuse = self.input.refuse;
        let step = (BUFFER_BYTES / part.unit_bytes()).max(1) * part.unit_bytes();
        let (mut at, mut rest) = (start, part);
        while rest.bytes() > 0 {
            let bytes = step.min(rest.bytes());
            let (first, others) = rest.split_at(bytes).map_err(|refused| refuse(tensor, refused))?;
            first.fill(self.next(at, bytes)?).map_err(|refused| refuse(tensor, refused))?;
            at += bytes as u64;
            rest = others;
        }
        Ok(())
    }

    fn fill_boundary(
        &mut self,
        tensor: &str,
        place: Range<u64>,
        boundary: usize,
        offset: usize,
    ) -> Result<()> {
        let refuse = self.input.refuse;
        let lock = &self.boundaries[boundary];
        let bytes = self.next(place.start, (place.end - place.start) as usize)?;
        let mut boundary = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(size) = boundary.part.as_ref().map(Slot::bytes) else { return Ok(()) };
        boundary.bytes.resize(size, 0);
        boundary.bytes[offset..][..bytes.len()].copy_from_slice(bytes);
        boundary.missing -= bytes.len();
        if boundary.missing > 0 {
            return Ok(());
        }
        let bytes = std::mem::take(&mut boundary.bytes);
        match boundary.part.take() {
            Some(part) => part.fill(&bytes).map_err(|refused| refuse(tensor, refused)),
            None => Ok(()),
        }
    }
}

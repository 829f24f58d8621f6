//! A work-stealing queue of ranges: work in a fixed order that threads divide among themselves at run time.
//!
//! Each thread has its own range, because memory is read fastest from end to end. But two threads are rarely equally
//! fast: one starts later, has less of the memory's bandwidth, or loses its core to another process for a while. So a
//! thread takes its range chunk by chunk from the front, and a thread with nothing left steals from the back of other
//! ranges.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::sync::AtomicU64;

/// Divisors of the rest of a range that give the size of a chunk: large at first, so that there are few chunks, and
/// small at the end, so that all threads end together.
const OWN_PART: usize = 8;
const OTHERS_PART: usize = 4;

/// The ranges of a region, one to a thread, from which idle threads steal.
#[derive(Debug, Default)]
pub struct StealQueue {
    ranges: Vec<StealRange>,
    /// Units of every chunk but the last of a range are a multiple of this.
    multiple: usize,
}

/// The rest of a range: its first unit in the low half, its end (exclusive) in the high half. Within a region the start
/// only grows and the end only shrinks, so no value occurs twice.
#[derive(Debug, Default)]
#[repr(align(64))]
struct StealRange(AtomicU64);

impl StealRange {
    fn left(word: u64) -> Range<usize> {
        (word as u32 as usize)..((word >> 32) as usize)
    }

    fn word(left: &Range<usize>) -> u64 {
        (left.end as u64) << 32 | left.start as u64
    }

    /// Takes the part of the range that `split` chooses, and leaves the rest.
    fn take(&self, split: impl Fn(Range<usize>) -> (Range<usize>, Range<usize>)) -> Option<Range<usize>> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let left = Self::left(word);
            if left.is_empty() {
                return None;
            }
            let (chunk, rest) = split(left);
            // The start and the end of the region order the memory accesses of chunks, so relaxed ordering suffices.
            match self.0.compare_exchange_weak(word, Self::word(&rest), Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(chunk),
                Err(now) => word = now,
            }
        }
    }
}

impl StealQueue {
    /// Replaces the ranges by those between `bounds`, which must ascend and fit in 32 bits. Chunks are multiples of
    /// `multiple` units.
    pub fn restart(&mut self, bounds: impl Iterator<Item = usize> + Clone, multiple: usize) {
        self.multiple = multiple.max(1);
        let ranges = bounds.clone().zip(bounds.skip(1));
        self.ranges.clear();
        self.ranges
            .extend(ranges.map(|(start, end)| StealRange(AtomicU64::new(StealRange::word(&(start..end))))));
    }

    /// The next chunk for `thread`; `None` when everything is taken.
    pub fn take(&self, thread: usize) -> Option<Range<usize>> {
        // Callers of it end a chunk where its range ends.
        let size = |left: &Range<usize>, part: usize| {
            (left.len() / part).next_multiple_of(self.multiple).max(self.multiple)
        };
        let own = self.ranges.get(thread)?.take(|left| {
            let at = left.end.min(left.start + size(&left, OWN_PART));
            (left.start..at, at..left.end)
        });
        own.or_else(|| {
            let mut others = (1..self.ranges.len()).map(|i| &self.ranges[(thread + i) % self.ranges.len()]);
            others.find_map(|range| {
                range.take(|left| {
                    let at = left.start.max(left.end.saturating_sub(size(&left, OTHERS_PART)));
                    (at..left.end, left.start..at)
                })
            })
        })
    }
}

#[cfg(all(test, loom))]
mod model;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn queue(bounds: &[usize], multiple: usize) -> StealQueue {
        let mut queue = StealQueue::default();
        queue.restart(bounds.iter().copied(), multiple);
        queue
    }

    #[test]
    fn one_thread_takes_its_run_from_the_front_and_the_others_from_the_back() {
        let queue = queue(&[0, 80, 100], 4);
        let mut chunks: Vec<_> = std::iter::from_fn(|| queue.take(0)).collect();
        let others = chunks.split_off(chunks.iter().position(|chunk| chunk.start >= 80).unwrap());
        assert_eq!(chunks[0], 0..12);
        assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].len() >= pair[1].len()));
        assert_eq!(chunks.last().unwrap().end, 80);
        assert_eq!(others[0], 92..100);
        assert!(others.windows(2).all(|pair| pair[0].start == pair[1].end));
        assert_eq!(others.last().unwrap().start, 80);
        assert!(chunks.iter().chain(&others).all(|chunk| chunk.len().is_multiple_of(4)));
        assert_eq!(queue.take(1), None);
    }

    #[test]
    fn many_threads_take_everything_once() {
        for multiple in [1, 3, 1000] {
            let queue = queue(&[0, 500, 501, 501, 900], multiple);
            let taken: Vec<_> = std::thread::scope(|scope| {
                let take = |thread| std::iter::from_fn(|| queue.take(thread)).collect::<Vec<_>>();
                let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || take(thread))).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            let mut times = [0; 900];
            taken.into_iter().flatten().for_each(|unit| times[unit] += 1);
            assert_eq!(times, [1; 900], "{multiple}");
        }
    }
}

//! Work in a fixed order that threads share out among themselves as they go.
//!
//! Each thread has a run of its own, because memory is read fastest from end to end. But two threads are rarely
//! equally fast: one starts later, has less of the memory's bandwidth, or loses its core to another process for a
//! while. So a thread takes its run piece by piece from the front, and one that has nothing left takes from the back of
//! what the others have.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::sync::AtomicU64;

/// A piece is this part of what its run has left: large at first, so that there are few, and small at the end, so that
/// all threads end together.
const OWN_PART: usize = 8;
const OTHERS_PART: usize = 4;

/// The runs of a region.
#[derive(Debug, Default)]
pub struct StealQueue {
    runs: Vec<Run>,
    /// Units of every piece but the last of a run are a multiple of this.
    least: usize,
}

/// What is left of a run: its first unit in the low half, the one after its last in the high half. Within a region the
/// one only grows and the other only shrinks, so a value that has been seen stands for one state alone.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Run(AtomicU64);

impl Run {
    fn left(word: u64) -> Range<usize> {
        (word as u32 as usize)..((word >> 32) as usize)
    }

    fn word(left: &Range<usize>) -> u64 {
        (left.end as u64) << 32 | left.start as u64
    }

    /// Takes what `split` makes of what is left, and leaves the rest.
    fn take(&self, split: impl Fn(Range<usize>) -> (Range<usize>, Range<usize>)) -> Option<Range<usize>> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let left = Self::left(word);
            if left.is_empty() {
                return None;
            }
            let (piece, rest) = split(left);
            // What pieces are computed from and to is ordered by the start and the end of the region.
            match self.0.compare_exchange_weak(word, Self::word(&rest), Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(piece),
                Err(now) => word = now,
            }
        }
    }
}

impl StealQueue {
    /// Begins anew with the runs between `bounds`, which ascend and fit in 32 bits, in pieces of a multiple of `least`
    /// units.
    pub fn restart(&mut self, bounds: impl Iterator<Item = usize> + Clone, least: usize) {
        self.least = least.max(1);
        let runs = bounds.clone().zip(bounds.skip(1));
        self.runs.clear();
        self.runs.extend(runs.map(|(start, end)| Run(AtomicU64::new(Run::word(&(start..end))))));
    }

    /// The next piece for `thread`; none when all is taken.
    pub fn take(&self, thread: usize) -> Option<Range<usize>> {
        // Callers of it end a piece where its run ends.
        let size = |left: &Range<usize>, part: usize| {
            (left.len() / part).next_multiple_of(self.least).max(self.least)
        };
        let own = self.runs.get(thread)?.take(|left| {
            let at = left.end.min(left.start + size(&left, OWN_PART));
            (left.start..at, at..left.end)
        });
        own.or_else(|| {
            let mut others = (1..self.runs.len()).map(|i| &self.runs[(thread + i) % self.runs.len()]);
            others.find_map(|run| {
                run.take(|left| {
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

    fn shares(bounds: &[usize], least: usize) -> StealQueue {
        let mut shares = StealQueue::default();
        shares.restart(bounds.iter().copied(), least);
        shares
    }

    #[test]
    fn one_thread_takes_its_run_from_the_front_and_the_others_from_the_back() {
        let shares = shares(&[0, 80, 100], 4);
        let mut pieces: Vec<_> = std::iter::from_fn(|| shares.take(0)).collect();
        let others = pieces.split_off(pieces.iter().position(|piece| piece.start >= 80).unwrap());
        assert_eq!(pieces[0], 0..12);
        assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].len() >= pair[1].len()));
        assert_eq!(pieces.last().unwrap().end, 80);
        assert_eq!(others[0], 92..100);
        assert!(others.windows(2).all(|pair| pair[0].start == pair[1].end));
        assert_eq!(others.last().unwrap().start, 80);
        assert!(pieces.iter().chain(&others).all(|piece| piece.len().is_multiple_of(4)));
        assert_eq!(shares.take(1), None);
    }

    #[test]
    fn many_threads_take_everything_once() {
        for least in [1, 3, 1000] {
            let shares = shares(&[0, 500, 501, 501, 900], least);
            let taken: Vec<_> = std::thread::scope(|scope| {
                let take = |thread| std::iter::from_fn(|| shares.take(thread)).collect::<Vec<_>>();
                let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || take(thread))).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            let mut times = [0; 900];
            taken.into_iter().flatten().for_each(|unit| times[unit] += 1);
            assert_eq!(times, [1; 900], "{least}");
        }
    }
}

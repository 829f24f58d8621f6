//! The working memory of a pass.

use std::ops::{Deref, DerefMut, Range};

use slm_runtime::HugeVec;

/// Rows of activations.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: HugeVec<f32>,
    from: usize,
    len: usize,
}

impl Buffer {
    /// Removes everything outside `ranges`, which are in ascending order.
    pub(super) fn keep(&mut self, ranges: &[Range<usize>]) {
        let from = self.from;
        if let [range] = ranges {
            (self.from, self.len) = (from + range.start, range.len());
            return;
        }
        self.len = 0;
        for range in ranges {
            self.data.copy_within(from + range.start..from + range.end, from + self.len);
            self.len += range.len();
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.from..][..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.from..][..self.len]
    }
}

/// Values that are added to others, with their factors.
pub(super) type Deltas<'a> = [Option<(&'a [f32], f32)>; 2];

/// The residual stream, with the additions that are pending. They are fused with the norm that reads the stream next.
#[derive(Debug)]
pub(crate) struct CpuStream {
    pub(super) x: Buffer,
    /// Values and their factors, in the order in which they were added.
    pub(super) pending: [Option<(Buffer, f32)>; 2],
}

impl CpuStream {
    pub(super) fn new(x: Buffer) -> Self {
        Self { x, pending: [None, None] }
    }

    /// The pending values, for [`CpuNorm::add_and_normalize`](super::norm::CpuNorm::add_and_normalize).
    pub(super) fn split(&mut self) -> (&mut [f32], Deltas<'_>) {
        let deltas = self.pending.each_ref();
        (&mut self.x, deltas.map(|delta| delta.as_ref().map(|(values, factor)| (&**values, *factor))))
    }
}

/// A pool of unused buffers, kept from operation to operation and from pass to pass.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<HugeVec<f32>>);

impl Pool {
    /// A buffer of `len` arbitrary values.
    pub(super) fn take(&mut self, len: usize) -> Buffer {
        let sizes = || self.0.iter().enumerate().map(|(index, data)| (data.len(), index));
        let smallest_that_fits = sizes().filter(|(size, _)| *size >= len).min();
        let data = match smallest_that_fits {
            Some((_, index)) => self.0.swap_remove(index),
            None => {
                // Replaces the largest buffer, so that there are never more buffers than are in use at once.
                if let Some((_, index)) = sizes().max() {
                    self.0.swap_remove(index);
                }
                HugeVec::zeroed(len)
            }
        };
        Buffer { data, from: 0, len }
    }

    /// Returns a buffer to the pool.
    pub(super) fn give(&mut self, buffer: Buffer) {
        self.0.push(buffer.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let mut pool = Pool::default();
        let (small, large) = (pool.take(10), pool.take(1000));
        assert_eq!((small.len(), large.len()), (10, 1000));
        let (small_at, large_at) = (small.as_ptr(), large.as_ptr());
        pool.give(large);
        pool.give(small);
        let again = pool.take(7);
        assert_eq!((again.as_ptr(), again.len()), (small_at, 7));
        assert_eq!(pool.take(7).as_ptr(), large_at);
        pool.give(again);
        // Buffers that are too small are replaced.
        assert_eq!(pool.take(2000).len(), 2000);
        assert!(pool.0.is_empty());
    }

    #[test]
    fn parts_are_kept_in_order() {
        let mut pool = Pool::default();
        let mut buffer = pool.take(6);
        buffer.copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        buffer.keep(std::slice::from_ref(&(1..6)));
        buffer.keep(&[0..1, 2..2, 3..5]);
        assert_eq!(*buffer, [2.0, 5.0, 6.0]);
        buffer.keep(std::slice::from_ref(&(1..3)));
        assert_eq!(*buffer, [5.0, 6.0]);
        pool.give(buffer);
        assert_eq!(pool.take(6)[0], 1.0);
    }
}

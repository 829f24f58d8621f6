//! One output buffer that several threads fill, each its own cells.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose disjoint cells several threads may write.
///
/// A tile of a matrix product is a rectangle of the output, which no safe split of a row-major slice can
/// express; this type carries the pointer to the threads and checks the bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedOut<'a, T> {
    ptr: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from a unique borrow that lives as long as this value, and `write` and `cells`
// require that no two threads touch the same cell.
unsafe impl<T: Send> Send for SharedOut<'_, T> {}
// SAFETY: as above; a shared reference gives no access beyond those two.
unsafe impl<T: Send> Sync for SharedOut<'_, T> {}

impl<'a, T> SharedOut<'a, T> {
    /// Wraps a buffer.
    pub(crate) fn new(out: &'a mut [T]) -> Self {
        Self { ptr: out.as_mut_ptr(), len: out.len(), _borrow: PhantomData }
    }

    /// Number of cells.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The cells of a range.
    ///
    /// # Safety
    /// Nothing else may access these cells while the result lives.
    pub(crate) unsafe fn cells(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the output");
        // SAFETY: the range was just checked to lie inside the borrowed buffer, and the caller owns it.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }

    /// Copies `values` to the cells from `index` on.
    ///
    /// # Safety
    /// No other thread may access these cells during the call.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, index: usize, values: &[T])
    where
        T: Copy,
    {
        assert!(index <= self.len && values.len() <= self.len - index, "tile outside the output");
        // SAFETY: the range was just checked to lie inside the borrowed buffer, the caller owns these
        // cells, and `values` cannot overlap a buffer that is uniquely borrowed.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.ptr.add(index), values.len()) }
    }
}

//! One output buffer that several threads fill, each its own cells.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose disjoint cells several threads may write.
///
/// A tile of a matrix product is a rectangle of the output, which no safe split of a row-major slice can
/// express; this type carries the pointer to the threads and checks the bounds.
#[derive(Debug, Clone, Copy)]
pub struct SharedSlice<'a, T> {
    ptr: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from a unique borrow that lives as long as this value, and `write` and `cells`
// require that no two threads touch the same cell.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above; a shared reference gives no access beyond those two.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Wraps a buffer.
    pub fn new(out: &'a mut [T]) -> Self {
        Self { ptr: out.as_mut_ptr(), len: out.len(), _borrow: PhantomData }
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The cells of a range.
    ///
    /// # Safety
    /// Nothing else may access these cells while the result lives.
    pub unsafe fn cells(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the output");
        // SAFETY: the range was just checked to lie inside the borrowed buffer, and the caller owns it.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }

    /// Copies `values` to the cells from `index` on.
    ///
    /// # Safety
    /// No other thread may access these cells during the call.
    #[inline(always)]
    pub unsafe fn write(&self, index: usize, values: &[T])
    where
        T: Copy,
    {
        assert!(index <= self.len && values.len() <= self.len - index, "tile outside the output");
        // SAFETY: the range was just checked to lie inside the borrowed buffer, the caller owns these
        // cells, and `values` cannot overlap a buffer that is uniquely borrowed.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.ptr.add(index), values.len()) }
    }
}

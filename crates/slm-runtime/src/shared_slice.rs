//! A mutable slice whose disjoint parts several threads write.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose disjoint cells several threads may write.
///
/// A tile of a matrix product is a rectangle of the output, which no safe split of a row-major slice can
/// express. This type carries the pointer to the threads; access to cells through it is `unsafe`.
#[derive(Debug, Clone, Copy)]
pub struct SharedSlice<'a, T> {
    ptr: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from a unique borrow that lives as long as this value, and `write_unchecked` and `cells`
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

    /// The address of a cell, for a prefetch. It need not exist.
    pub fn address(&self, index: usize) -> *const T {
        self.ptr.wrapping_add(index)
    }

    /// Returns `true` if there is no cell.
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

    /// Copies `values` to the cells from `index` on, which must exist.
    ///
    /// # Safety
    /// `index + values.len()` must be at most [`SharedSlice::len`], and nothing else may access these cells during the
    /// call.
    #[inline(always)]
    pub unsafe fn write_unchecked(&self, index: usize, values: &[T])
    where
        T: Copy,
    {
        debug_assert!(index <= self.len && values.len() <= self.len - index, "cells outside the buffer");
        // SAFETY: by this function's contract the cells lie inside the borrowed buffer and are the caller's, and `values`
        // cannot overlap a buffer that is uniquely borrowed.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.ptr.add(index), values.len()) }
    }
}

//! Memory for weights, in large pages if the system has them.
//!
//! The speed of a product with one row is the speed at which memory is read. With pages of 4 KiB a processor spends a
//! third of that time on address translation (on a virtual machine; less on others). Linux provides pages of 2 MiB on
//! request, but most matrices are smaller than a few of them. So arrays are placed next to each other on *arenas* of
//! many pages. The memory of a dropped array is reused by the next array that fits, because training packs weights
//! again in every step. An arena is returned to the system when the last array on it is dropped. Parts of it that no
//! array has covered yet take address space but no memory.
//!
//! For sanitizers (the feature `sanitize`) and Miri, each array has its own arena from the allocator, of exactly its
//! size: neighbours on an arena would hide a read or write beyond an array's end.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a large page, to which arenas are aligned.
const LARGE_PAGE: usize = 2 << 20;

/// Bytes of an arena, unless one array needs more.
const ARENA_BYTES: usize = 16 * LARGE_PAGE;

/// Bytes to which arrays are aligned: a cache line.
const ALIGN: usize = 64;

/// `true` if each array has its own arena.
const ALONE: bool = cfg!(any(feature = "sanitize", miri));

/// A type whose zero bytes are a value.
///
/// # Safety
/// Zero bytes must be a value of the type, its alignment must divide 64, and it must need no drop.
pub unsafe trait Plain: Copy + Send + Sync + fmt::Debug {}

// SAFETY: a number; zero bytes are zero.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for half::f16 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}
// SAFETY: as above.
unsafe impl Plain for i8 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: an array has the bytes of its values, one after the other, and none between them.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// An array of numbers of fixed length, in large pages if the system has them. It is made for data that is repeatedly
/// read from end to end, such as weights and KV caches.
///
/// Arrays are placed next to each other, so that small ones share pages. The memory of a dropped array is reused by
/// later ones. It returns to the system once all arrays that share its arena are dropped.
pub struct HugeVec<T: Plain> {
    start: NonNull<T>,
    len: usize,
    allocation: Allocation,
    _values: PhantomData<T>,
}

// SAFETY: the values belong to this array alone, and are such as may be sent.
unsafe impl<T: Plain> Send for HugeVec<T> {}
// SAFETY: the values change only through a mutable reference.
unsafe impl<T: Plain> Sync for HugeVec<T> {}

impl<T: Plain> HugeVec<T> {
    /// Creates an array of `len` values of zero bytes.
    pub fn zeroed(len: usize) -> Self {
        const { assert!(ALIGN.is_multiple_of(align_of::<T>())) };
        let bytes = len.saturating_mul(size_of::<T>());
        let allocation = reserve(bytes);
        // SAFETY: the allocation lies on the arena, and is aligned to a multiple of the type's alignment.
        let start = unsafe { allocation.arena.start.add(allocation.offset) }.cast();
        Self { start, len, allocation, _values: PhantomData }
    }

    /// Creates an array of the values of an iterator of known length.
    pub fn from_values(values: impl ExactSizeIterator<Item = T>) -> Self {
        let mut array = Self::zeroed(values.len());
        for (to, value) in array.iter_mut().zip(values) {
            *to = value;
        }
        array
    }
}

impl<T: Plain> Deref for HugeVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the array's part of the arena lives as long as `allocation`, no other array has it, and it has
        // been zero or written as values of the type since.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for HugeVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and this reference is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Clone for HugeVec<T> {
    fn clone(&self) -> Self {
        let mut values = Self::zeroed(self.len);
        values.copy_from_slice(self);
        values
    }
}

impl<T: Plain> Default for HugeVec<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Plain> fmt::Debug for HugeVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HugeVec")
            .field("len", &self.len)
            .field("on", &self.allocation.arena.start)
            .finish_non_exhaustive()
    }
}

/// Arenas that may have free bytes. Dropped ones are removed when a new one is added.
static ARENAS: Mutex<Vec<Weak<Arena>>> = Mutex::new(Vec::new());

/// A part of an arena with `bytes` bytes for an array, all zero.
fn reserve(bytes: usize) -> Allocation {
    if ALONE {
        return Allocation::on_new_arena(bytes, bytes).0;
    }
    let bytes = bytes.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
    let mut arenas = ARENAS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(allocation) = arenas.iter().find_map(|arena| Allocation::take(arena.upgrade()?, bytes)) {
        return allocation;
    }
    let (allocation, arena) = Allocation::on_new_arena(bytes, bytes.max(ARENA_BYTES));
    arenas.retain(|arena| arena.strong_count() > 0);
    arenas.push(arena);
    allocation
}

/// Bytes of an arena that belong to one array.
struct Allocation {
    arena: Arc<Arena>,
    offset: usize,
    bytes: usize,
}

impl Allocation {
    /// The first `bytes` bytes of a new arena of at least `arena_bytes`, and that arena.
    fn on_new_arena(bytes: usize, arena_bytes: usize) -> (Self, Weak<Arena>) {
        let arena = Arc::new(Arena::new(arena_bytes));
        // Nothing else refers to the arena yet, and it is large enough.
        arena.free.lock().unwrap_or_else(PoisonError::into_inner).take(bytes);
        let known = Arc::downgrade(&arena);
        (Self { arena, offset: 0, bytes }, known)
    }

    /// `bytes` contiguous bytes of zeros from `arena`, if it has that many.
    fn take(arena: Arc<Arena>, bytes: usize) -> Option<Self> {
        let (offset, used) = arena.free.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)?;
        // SAFETY: the bytes lie on the arena, and `take` gave them to nobody else.
        unsafe { arena.start.add(offset).write_bytes(0, used) };
        Some(Self { arena, offset, bytes })
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut free = self.arena.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.put(self.offset, self.bytes);
    }
}

/// The free list of an arena.
struct FreeList {
    /// Start and end of each run of free bytes, in ascending order. No two runs are adjacent.
    runs: Vec<(usize, usize)>,
    /// Offset from which on no byte has ever been used.
    fresh: usize,
}

impl FreeList {
    fn new(bytes: usize) -> Self {
        Self { runs: vec![(0, bytes)], fresh: 0 }
    }

    /// Takes `bytes` bytes. Returns their offset, and how many of them have been used before.
    fn take(&mut self, bytes: usize) -> Option<(usize, usize)> {
        let index = self.runs.iter().position(|&(start, end)| bytes <= end - start)?;
        let (start, end) = self.runs[index];
        if start + bytes == end {
            self.runs.remove(index);
        } else {
            self.runs[index].0 += bytes;
        }
        let used = self.fresh.saturating_sub(start).min(bytes);
        self.fresh = self.fresh.max(start + bytes);
        Some((start, used))
    }

    /// Returns bytes from [`FreeList::take`] to the list.
    fn put(&mut self, start: usize, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let (mut run, at) = ((start, start + bytes), self.runs.partition_point(|run| run.0 < start));
        if self.runs.get(at).is_some_and(|next| next.0 == run.1) {
            run.1 = self.runs.remove(at).1;
        }
        match at.checked_sub(1).map(|before| &mut self.runs[before]) {
            Some(before) if before.1 == run.0 => before.1 = run.1,
            _ => self.runs.insert(at, run),
        }
    }
}

/// A mapping that many arrays share, with its free list.
struct Arena {
    /// Aligned to [`LARGE_PAGE`], or to [`ALIGN`] if it is [`ALONE`].
    start: NonNull<u8>,
    free: Mutex<FreeList>,
    _mapping: system::Mapping,
}

// SAFETY: an arena is memory; who may access which part of it is the arrays' business.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Allocates at least `bytes` bytes of zeros, and exactly that many if it is [`ALONE`]. Aborts the process if
    /// memory runs out, as collections do.
    fn new(bytes: usize) -> Self {
        let bytes =
            if ALONE { bytes } else { bytes.checked_next_multiple_of(LARGE_PAGE).unwrap_or(usize::MAX) };
        let mapping = system::Mapping::new(bytes);
        Self { start: mapping.start(), free: Mutex::new(FreeList::new(bytes)), _mapping: mapping }
    }
}

#[cfg(all(target_os = "linux", not(any(feature = "sanitize", miri))))]
mod system {
    use super::{LARGE_PAGE, NonNull};
    use std::alloc::{Layout, handle_alloc_error};

    use memmap2::{Advice, MmapMut, MmapOptions};

    /// Memory from the system.
    pub(super) struct Mapping {
        start: NonNull<u8>,
        _map: MmapMut,
    }

    impl Mapping {
        /// Maps zeros with an aligned run of `bytes`, for which large pages are requested.
        pub(super) fn new(bytes: usize) -> Self {
            let mapped = bytes.saturating_add(LARGE_PAGE);
            let Ok(mut map) = MmapOptions::new().len(mapped).no_reserve_swap().map_anon() else {
                handle_alloc_error(Layout::from_size_align(bytes, 1).unwrap_or(Layout::new::<u8>()));
            };
            let offset = map.as_ptr().align_offset(LARGE_PAGE);
            // If the system rejects the advice (it has no large pages), the memory works without it.
            drop(map.advise_range(Advice::HugePage, offset, bytes));
            Self { start: NonNull::from(&mut map[offset..]).cast(), _map: map }
        }

        /// The first aligned byte.
        pub(super) fn start(&self) -> NonNull<u8> {
            self.start
        }
    }
}

#[cfg(any(not(target_os = "linux"), feature = "sanitize", miri))]
mod system {
    use super::{ALIGN, ALONE, LARGE_PAGE, NonNull};
    use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

    /// Memory from the allocator.
    pub(super) struct Mapping {
        start: NonNull<u8>,
        layout: Layout,
    }

    impl Mapping {
        /// Allocates an aligned run of `bytes` zeros.
        pub(super) fn new(bytes: usize) -> Self {
            let align = if ALONE { ALIGN } else { LARGE_PAGE };
            let Ok(layout) = Layout::from_size_align(bytes.max(1), align) else {
                handle_alloc_error(Layout::new::<u8>());
            };
            // SAFETY: the layout is of at least a byte.
            let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
                handle_alloc_error(layout);
            };
            Self { start, layout }
        }

        /// The first aligned byte.
        pub(super) fn start(&self) -> NonNull<u8> {
            self.start
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: allocated with this layout, and nothing refers to it any more.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_zero_disjoint_and_given_back() {
        let lengths = [0, 1, 63, 64, 4096, ARENA_BYTES / 8 + 1, 3, ARENA_BYTES + 5];
        let mut arrays: Vec<HugeVec<i8>> = lengths.iter().map(|&len| HugeVec::zeroed(len)).collect();
        for (i, array) in arrays.iter_mut().enumerate() {
            assert!(array.iter().all(|&v| v == 0));
            assert!(array.as_ptr().addr().is_multiple_of(ALIGN));
            array.fill(i as i8 + 1);
        }
        let copies = arrays.clone();
        for (i, (array, copy)) in arrays.iter().zip(&copies).enumerate() {
            assert!(array.iter().all(|&v| v == i as i8 + 1));
            assert_eq!(**array, **copy);
        }
        let arena = Arc::downgrade(&arrays[7].allocation.arena);
        drop(arrays);
        assert!(arena.upgrade().is_none());
        assert_eq!(copies[6][..], [7; 3]);
    }

    #[test]
    fn what_is_left_is_taken_again_and_zero() {
        // A separate arena, because other tests run at the same time.
        let arena = Arc::new(Arena::new(ARENA_BYTES));
        let take = |bytes: usize| Allocation::take(Arc::clone(&arena), bytes);
        let fill = |allocation: &Allocation| {
            // SAFETY: the part has as many bytes, and nobody else.
            unsafe { arena.start.add(allocation.offset).write_bytes(7, allocation.bytes) };
        };
        let mut parts: Vec<Allocation> = (1..=4).map(|i| take(64 * i).unwrap()).collect();
        assert_eq!(parts.iter().map(|allocation| allocation.offset / 64).collect::<Vec<_>>(), [0, 1, 3, 6]);
        parts.iter().for_each(fill);
        let (third, second) = (parts.remove(2), parts.remove(1));
        drop(third);
        drop(second);
        // The two dropped arrays make room for one of five lines, and the bytes after it still belong to the others.
        let whole = take(64 * 5).unwrap();
        assert_eq!(whole.offset, 64);
        // SAFETY: the part has as many bytes, and nobody writes to them.
        let bytes =
            unsafe { std::slice::from_raw_parts(arena.start.add(whole.offset).as_ptr(), whole.bytes) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert!(take(ARENA_BYTES).is_none());
        drop((parts, whole));
        assert_eq!(arena.free.lock().unwrap().runs, [(0, ARENA_BYTES)]);
    }
}

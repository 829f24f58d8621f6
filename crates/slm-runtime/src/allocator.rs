//! Settings of the system's allocator.

/// The number of allocations that get a mapping of their own, which ends with them, and the bytes that the allocator keeps at
/// the end of its heap.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
const KEPT: [(libc::c_int, libc::c_int); 2] =
    [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, libc::c_int::MAX)];

/// Lets the allocator keep freed memory for the next allocation, for programs that allocate the same tensors in every step.
/// Otherwise it would return the memory to the system, which clears each page before it hands the page out again. The
/// setting applies to the whole process, so only a program should choose it, not a library. It has no effect if the C
/// library is not glibc, or rejects it.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    for (parameter, bytes) in KEPT {
        // SAFETY: the call takes two numbers, and locks the allocator while it stores them.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// Returns freed memory to the system, from all threads: for the end of a phase that needs much more memory than the next.
/// It has no effect if the C library is not glibc.
pub fn release_freed_memory() {
    // SAFETY: the call takes the number of bytes to keep, and locks each heap while it looks for free pages.
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_allocated_and_freed_as_before() {
        super::keep_freed_memory();
        for len in [1, 1 << 20, 40 << 20] {
            let values = vec![7u8; len];
            assert!(values.iter().all(|value| *value == 7));
            drop(values);
            super::release_freed_memory();
        }
    }
}

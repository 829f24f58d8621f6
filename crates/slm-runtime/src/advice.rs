//! Large pages for memory that other code owns, in contrast to [`HugeVec`](crate::HugeVec).

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;

/// Asks the system to put `values` on large pages. Call it on memory from the allocator that is about to be written for
/// the first time: there are 512 times fewer page faults, which saves a tenth of the time of loading a model. Values do
/// not change, and the request is only a hint. On systems other than Linux it does nothing.
pub fn advise_huge_pages<T>(values: &mut [T]) {
    let range = values.as_mut_ptr_range();
    let before = range.start.cast::<u8>().align_offset(LARGE_PAGE);
    let bytes = size_of_val(values).saturating_sub(before) / LARGE_PAGE * LARGE_PAGE;
    if bytes > 0 {
        advise(range.start.cast::<u8>().wrapping_add(before), bytes);
    }
}

/// Asks for large pages for the `bytes` bytes from `start` on, which lie in one array.
#[cfg(all(target_os = "linux", not(miri)))]
fn advise(start: *mut u8, bytes: usize) {
    // SAFETY: the call reads and writes nothing, keeps every value, and is about addresses that belong to one array: the
    // caller has it borrowed mutably. Where the system has no large pages it fails, and nothing has changed.
    unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise(_start: *mut u8, _bytes: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_and_any_length_will_do() {
        for len in [0, 1, 1000, LARGE_PAGE / 4, LARGE_PAGE / 2 + 1, LARGE_PAGE + 3] {
            let mut values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            advise_huge_pages(&mut values);
            let mut part = vec![7.0; len];
            // Parts of an array too, wherever they begin.
            let odd = len.min(3);
            advise_huge_pages(&mut part[odd..]);
            assert!(values.iter().enumerate().all(|(i, &value)| value == i as f32));
            assert!(part.iter().all(|&value| value == 7.0));
        }
    }

    /// Checks in the system's report on the memory of this process, if there is one, that large pages were requested.
    /// The number that the system grants depends on what else is in memory.
    #[cfg(all(target_os = "linux", not(any(miri, feature = "sanitize"))))]
    #[test]
    fn large_pages_are_asked_for_where_that_makes_a_difference() {
        let setting =
            std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if !setting.contains("[madvise]") {
            println!("skipped: large pages are not given to who asks: {setting:?}");
            return;
        }
        let mut values = vec![0.0_f32; 8 << 20];
        advise_huge_pages(&mut values);
        let start = values.as_ptr().addr() + size_of_val(&*values) / 2;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let (mut inside, mut asked) = (false, false);
        for line in smaps.lines() {
            if let Some((first, last)) = line.split(' ').next().and_then(|range| range.split_once('-'))
                && let (Ok(first), Ok(last)) =
                    (usize::from_str_radix(first, 16), usize::from_str_radix(last, 16))
            {
                inside = (first..last).contains(&start);
            }
            if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                asked = flags.split_whitespace().any(|flag| flag == "hg");
            }
        }
        assert!(asked, "{smaps}");
    }
}

//! Memory of this process.

/// Peak resident memory in bytes so far; `None` if the system does not tell (only Linux does here).
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Lets [`peak_bytes`] count from now on. Where the system refuses (only Linux knows the request), it continues
/// counting from the start of the process.
pub(crate) fn reset_peak() {
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        tracing::debug!("peak memory counts from the start of the process: {error}");
    }
}

//! Memory usage of this process.

/// Peak resident memory in bytes so far. Returns `None` if the system does not report it; only Linux does here.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Restarts the measurement of [`peak_bytes`]. If the system does not support this (only Linux does), the peak since
/// the start of the process remains.
pub(crate) fn reset_peak() {
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        tracing::debug!("peak memory counts from the start of the process: {error}");
    }
}

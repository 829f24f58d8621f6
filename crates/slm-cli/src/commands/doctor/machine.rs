//! Properties of this machine; `None` if the system does not report them.

use std::fs;

use serde::Serialize;

/// Main memory.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    pub(super) available_bytes: u64,
}

/// Name of the processor.
pub(super) fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("CPU part"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// Instruction sets of this processor that kernels use.
#[cfg(target_arch = "x86_64")]
pub(super) fn instruction_sets() -> Vec<&'static str> {
    let all = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("AVX-512F", is_x86_feature_detected!("avx512f")),
        ("AVX-512BW", is_x86_feature_detected!("avx512bw")),
        ("AVX-512VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AVX-512BF16", is_x86_feature_detected!("avx512bf16")),
    ];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// Instruction sets of this processor that kernels use.
#[cfg(target_arch = "aarch64")]
pub(super) fn instruction_sets() -> Vec<&'static str> {
    let all = [
        ("NEON", std::arch::is_aarch64_feature_detected!("neon")),
        ("dot product", std::arch::is_aarch64_feature_detected!("dotprod")),
    ];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// Instruction sets of this processor that kernels use.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}

/// Size of main memory.
pub(super) fn memory() -> Option<Memory> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
    };
    Some(Memory { total_bytes: of("MemTotal")?, available_bytes: of("MemAvailable")? })
}

/// The setting of transparent huge pages: the word in brackets.
pub(super) fn huge_pages() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

//! Measures the time and memory for loading a checkpoint.
//!
//! ```text
//! cargo run --release -p slm-checkpoint --example load_time -- DIR
//! ```

use std::time::Instant;

use burn::tensor::Device;
use slm_checkpoint::{Checkpoint, OpenOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: load_time DIR")?;
    let verify = !std::env::args().any(|argument| argument == "--no-verify");
    let start = Instant::now();
    let checkpoint = Checkpoint::open_to_load(&dir, &OpenOptions { verify, ..OpenOptions::default() })?;
    let opened = start.elapsed().as_secs_f64();
    let model = checkpoint.load_model(&Device::flex())?;
    let loaded = start.elapsed().as_secs_f64();
    let bytes = checkpoint.weight_bytes();
    println!(
        "open {opened:.3} s (checksums: {verify}), load {:.3} s, together {loaded:.3} s; {:.1} MB of tensors, peak memory {}",
        loaded - opened,
        bytes as f64 / 1e6,
        peak(),
    );
    drop(model);
    Ok(())
}

/// Peak memory of this process. Only Linux reports it here.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("unknown".to_owned(), |line| line.trim().to_owned())
}

//! Speed of the kernels alone, beside what the processor can do at most, measured in the same run.
//!
//! `cargo bench -p slm-quant-core -- [kernel] [decode|cached|prefill] [case]`, with `RAYON_NUM_THREADS` to
//! choose the threads. *decode* is one row with weights from memory, *cached* one row with weights that
//! stay in cache, *prefill* 512 rows.

use std::hint::black_box;
use std::time::{Duration, Instant};

use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, KernelKind, PackedMatrix, QuantScheme,
    QuantizedMatrix, ScaleDtype, Scales, linear, measure_peak_ops, measure_read_bandwidth,
};

/// Outputs and inputs of the matrices of tinyllama-1.1b, and of the smaller smollm-135m.
const SHAPES: [(usize, usize); 7] =
    [(5632, 2048), (2048, 5632), (2048, 2048), (32_000, 2048), (1536, 576), (576, 1536), (576, 576)];

/// Bytes that the matrices of a decode run have together, so that none stays in cache.
const COLD_BYTES: usize = 320 << 20;

/// How long a case runs.
const TIME: Duration = Duration::from_millis(700);

fn schemes() -> [(&'static str, QuantScheme, ActivationQuant); 6] {
    let dynamic = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
    let channel = |bits| QuantScheme::per_tensor(bits).with_granularity(Granularity::PerChannel);
    let group = |bits| {
        QuantScheme::per_tensor(bits)
            .with_granularity(Granularity::PerGroup { group_size: 32 })
            .with_scale_dtype(ScaleDtype::F16)
    };
    [
        ("int8-channel", channel(Bits::Int8), dynamic),
        ("int8-group32", group(Bits::Int8), dynamic),
        ("int4-channel", channel(Bits::Int4), dynamic),
        ("int4-group32", group(Bits::Int4), dynamic),
        ("int8-channel-weight-only", channel(Bits::Int8), ActivationQuant::Float),
        ("int4-group32-weight-only", group(Bits::Int4), ActivationQuant::Float),
    ]
}

fn matrix(rows: usize, cols: usize, scheme: QuantScheme) -> QuantizedMatrix {
    let count = scheme.granularity.scale_count(rows, cols).unwrap();
    let codes = (0..rows * scheme.bits.row_bytes(cols)).map(|i| ((i * 2_654_435_761) >> 11) as u8).collect();
    let scales = Scales::from_f32(vec![0.01; count], scheme.scale_dtype);
    QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, None).unwrap()
}

/// Seconds of the fastest call of `f`, which is handed the numbers of its calls.
fn fastest(mut f: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut call = 0;
    while start.elapsed() < TIME || call < 3 {
        let start = Instant::now();
        f(call);
        best = best.min(start.elapsed().as_secs_f64());
        call += 1;
    }
    best
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let named = |kind: &[&str], name: &str| {
        let mut relevant = wanted.iter().filter(|w| kind.contains(&w.as_str())).peekable();
        relevant.peek().is_none() || relevant.any(|w| w == name)
    };
    let kinds: Vec<String> = KernelKind::available().iter().map(KernelKind::to_string).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let cases: Vec<&str> = schemes().iter().map(|s| s.0).collect();
    let regimes = ["decode", "cached", "prefill"];

    println!("threads {}", rayon::current_num_threads());
    let bandwidth = measure_read_bandwidth(3);
    println!("read bandwidth {:.1} GB/s", bandwidth / 1e9);
    let best_peak = measure_peak_ops(KernelKind::best(), 30).unwrap();
    for kernel in KernelKind::available().into_iter().rev() {
        if !named(&kinds, &kernel.to_string()) {
            continue;
        }
        let peak = measure_peak_ops(kernel, 30).unwrap();
        println!("{kernel}: peak {:.0} GOP/s", peak.unwrap_or(f64::NAN) / 1e9);
        for (name, scheme, quant) in schemes() {
            for (rows, cols) in SHAPES {
                for regime in regimes {
                    let slow = kernel == KernelKind::Scalar && (regime == "prefill" || rows > 10_000);
                    if !named(&cases, name) || !named(&regimes, regime) || slow {
                        continue;
                    }
                    let packed = PackedMatrix::new(matrix(rows, cols, scheme), kernel).unwrap();
                    let bytes = packed.byte_size() as f64;
                    let (m, copies) = match regime {
                        "decode" => (1, COLD_BYTES / packed.byte_size() + 1),
                        "cached" => (1, 1),
                        _ => (512, 1),
                    };
                    let copies = vec![packed; copies];
                    let x: Vec<f32> = (0..m * cols).map(|i| (i * 7919 % 255) as f32 / 127.0 - 1.0).collect();
                    let mut y = vec![0.0; m * rows];
                    let seconds = match regime {
                        // A pass over all copies, because single calls are too short to time well.
                        "decode" => {
                            fastest(|_| {
                                for w in &copies {
                                    linear(&x, m, w, &quant, None, &mut y).unwrap();
                                }
                            }) / copies.len() as f64
                        }
                        _ => fastest(|_| linear(&x, m, &copies[0], &quant, None, &mut y).unwrap()),
                    };
                    black_box(&y);
                    let operations = 2.0 * (m * rows * cols) as f64 / seconds;
                    println!(
                        "{kernel} {regime} {name} {m}x{cols}x{rows}: {:.1} us, {:.0} GOP/s ({:.1} % of {}'s peak), \
                         weights {:.1} GB/s ({:.1} % of bandwidth)",
                        seconds * 1e6,
                        operations / 1e9,
                        100.0 * operations / best_peak.unwrap_or(f64::NAN),
                        KernelKind::best(),
                        bytes / seconds / 1e9,
                        100.0 * bytes / seconds / bandwidth,
                    );
                }
            }
        }
    }
}

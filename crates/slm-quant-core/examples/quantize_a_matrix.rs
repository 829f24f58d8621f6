//! Quantizes a random weight matrix by every scheme and observer, and shows the size and the error of each.
//!
//! ```text
//! cargo run --release -p slm-quant-core --example quantize_a_matrix
//! ```
//!
//! Columns: the scheme; the observer that chose the ranges; the first scale; the signal to quantization
//! noise ratio (6 dB more is half the error); the share of weights clipped; the size of codes, scales and zero points
//! compared with 32-bit floats.

use slm_quant_core::{
    Bits, ErrorStats, Granularity, Mapping, ObserverKind, QuantScheme, QuantizedMatrix, Result, ScaleDtype,
    quantize_matrix,
};

const ROWS: usize = 192;
const COLS: usize = 344;

fn main() -> Result<()> {
    let weight = random_weight();
    println!("weight [{ROWS}, {COLS}], normal, rows of different size, one value in 5000 an outlier\n");
    println!(
        "{:<38} {:<15} {:>10} {:>8} {:>8} {:>7}",
        "scheme", "observer", "scale[0]", "SQNR dB", "clipped", "size"
    );
    for scheme in schemes() {
        for observer in ObserverKind::ALL {
            let quantized = quantize_matrix(&weight, ROWS, COLS, scheme, &observer)?;
            let stats = compare(&weight, &quantized)?;
            println!(
                "{:<38} {:<15} {:>10.6} {:>8.2} {:>7.3}% {:>6.4}x",
                scheme.to_string(),
                observer.to_string(),
                quantized.scales().get(0),
                stats.sqnr_db(),
                100.0 * stats.clipped_share().unwrap_or(0.0),
                quantized.byte_size() as f64 / (4 * weight.len()) as f64,
            );
        }
        println!();
    }
    Ok(())
}

/// Every width, granularity and mapping; 16-bit scales if there are enough scales for their size to matter.
fn schemes() -> Vec<QuantScheme> {
    let mut schemes = Vec::new();
    for bits in [Bits::Int8, Bits::Int4] {
        for granularity in
            [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 32 }]
        {
            for mapping in [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine] {
                schemes
                    .push(QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(mapping));
            }
        }
        let grouped =
            QuantScheme::per_tensor(bits).with_granularity(Granularity::PerGroup { group_size: 32 });
        schemes.push(grouped.with_scale_dtype(ScaleDtype::F16));
    }
    schemes
}

/// Error of the dequantized values, and the share of weights that are clipped.
fn compare(weight: &[f32], quantized: &QuantizedMatrix) -> Result<ErrorStats> {
    let mut stats = ErrorStats::default();
    stats.observe(weight, &quantized.dequantize())?;
    for (row, values) in weight.chunks(COLS).enumerate() {
        for (group, values) in values.chunks(quantized.group_width()).enumerate() {
            let qparams = quantized.qparams(quantized.scale_index(row, group));
            stats.observe_clipping(values, qparams, quantized.scheme().range())?;
        }
    }
    Ok(stats)
}

/// Normal values from a small generator, so that the table is the same on every machine.
fn random_weight() -> Vec<f32> {
    let mut state = 7_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..ROWS * COLS)
        .map(|i| {
            // A sum of twelve uniforms has variance 1 and is close to normal.
            let normal: f32 = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
            let size = 0.02 * (1.0 + (i / COLS % 4) as f32);
            if i % 5000 == 77 { 12.0 * size * normal.signum() } else { size * normal }
        })
        .collect()
}

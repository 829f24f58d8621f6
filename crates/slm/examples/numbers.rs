//! Quantization of a weight matrix without Burn: scales, codes and errors.

use slm::quant::{Bits, ErrorStats, Granularity, ObserverKind, QuantScheme, quantize_matrix};

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (rows, cols) = (4, 64);
    let weight: Vec<f32> = (0..rows * cols).map(|index| (index as f32 * 0.37).sin() / 8.0).collect();
    let mut found = Vec::new();
    for (bits, granularity) in [
        (Bits::Int8, Granularity::PerTensor),
        (Bits::Int8, Granularity::PerChannel),
        (Bits::Int4, Granularity::PerChannel),
        (Bits::Int4, Granularity::PerGroup { group_size: 32 }),
    ] {
        let scheme = QuantScheme::per_tensor(bits).with_granularity(granularity);
        let quantized = quantize_matrix(&weight, rows, cols, scheme, &ObserverKind::MinMax)?;
        let mut error = ErrorStats::default();
        error.observe(&weight, &quantized.dequantize())?;
        println!("{scheme}: {} bytes, {:.2} dB", quantized.byte_size(), error.sqnr_db());
        println!(
            "  first scale {:.6}, first codes {:?}",
            quantized.scales().get(0),
            [quantized.code(0, 0), quantized.code(0, 1),]
        );
        found.push(error.sqnr_db());
    }
    assert!(found[0] > 40.0 && found[2] > 15.0);
    Ok(())
}

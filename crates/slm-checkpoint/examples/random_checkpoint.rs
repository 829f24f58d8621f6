//! Writes a checkpoint with random weights in the shape of TinyLlama-1.1B, for measurements. This needs no real model
//! of that size, and never holds one in memory.
//!
//! ```text
//! cargo run --release -p slm-checkpoint --example random_checkpoint -- float DIR
//! cargo run --release -p slm-checkpoint --example random_checkpoint -- int8 DIR
//! ```
//!
//! A third argument names a `tokenizer.json` to copy next to the weights, for commands that read text.

use std::path::PathBuf;

use slm_checkpoint::{
    CheckpointWriter, FORMAT_VERSION, LayerMetadata, Layout, Lineage, QuantizationMetadata, QuantizationMode,
    SaveRequest, WeightError,
};
use slm_model::{ModelConfig, expected_tensors};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, QuantScheme, QuantizationType,
    QuantizedMatrix, ScaleDtype, Scales,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(form), Some(dir)) = (arguments.next(), arguments.next().map(PathBuf::from)) else {
        return Err("usage: random_checkpoint float|int8 DIR [TOKENIZER]".into());
    };
    let tokenizer = arguments.next().map(std::fs::read).transpose()?;
    let int8 = match form.as_str() {
        "float" => false,
        "int8" => true,
        other => return Err(format!("{other}: neither float nor int8").into()),
    };
    let mut config = ModelConfig::new(32_000, 2048, 5632, 22, 32, 2048);
    config.num_kv_heads = 4;
    config.tie_word_embeddings = false;

    let scheme = QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerChannel);
    let mut layout = Layout::new(&config);
    let tensors = expected_tensors(&config);
    let layer_of = |name: &str| name.trim_end_matches(".weight").to_owned();
    if int8 {
        for tensor in tensors.iter().filter(|tensor| tensor.linear_weight) {
            layout.quantize(&layer_of(&tensor.name), scheme, false)?;
        }
    }
    let mut random = Random(1);
    let mut layers = Vec::new();
    let mut writer = CheckpointWriter::create(&dir, &config, &layout, false)?;
    for tensor in &tensors {
        if int8 && tensor.linear_weight {
            let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
            let codes = (0..rows * cols).map(|_| (random.next() >> 56) as u8 ^ 0x80).collect::<Vec<_>>();
            // A symmetric mapping does not use -128.
            let codes = codes.into_iter().map(|code| if code == 0x80 { 0x81 } else { code }).collect();
            let scales = Scales::F32((0..rows).map(|_| 1e-4 + random.uniform() * 1e-4).collect());
            let matrix = QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, None)?;
            let layer = layer_of(&tensor.name);
            writer.write_quantized(&layer, &matrix, None)?;
            // There are no float weights to compare with.
            let error = WeightError { sqnr_db: f64::NAN, max_abs_error: f64::NAN, clipped_share: f64::NAN };
            layers.push(LayerMetadata::new(
                layer,
                &matrix,
                QuantizationType::Dynamic,
                ActivationQuant::Dynamic(ActivationGranularity::PerToken),
                error,
            ));
        } else {
            let values: Vec<f32> =
                (0..tensor.shape.iter().product()).map(|_| (random.uniform() - 0.5) * 0.08).collect();
            writer.write_f32(&tensor.name, &values)?;
        }
    }
    let metadata = QuantizationMetadata {
        format_version: FORMAT_VERSION,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: QuantizationMode::Ptq,
        quantization_type: QuantizationType::Dynamic,
        bits: scheme.bits,
        granularity: scheme.granularity,
        mapping: scheme.mapping,
        scale_dtype: ScaleDtype::F32,
        method: "rtn".to_owned(),
        weight_observer: "random".to_owned(),
        activation_observer: None,
        activation_granularity: Some(ActivationGranularity::PerToken),
        embedding: None,
        layers,
        skipped: Vec::new(),
        lineage: Lineage::default(),
    };
    let request = SaveRequest {
        metadata: int8.then_some(&metadata),
        tokenizer_json: tokenizer.as_deref(),
        ..SaveRequest::default()
    };
    println!("{}", writer.finish(&request)?.display());
    Ok(())
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }
}

//! Small models to write and damage.
#![allow(dead_code)] // Each test binary uses its own part.

use std::path::Path;
use std::sync::Arc;

use blake3::hazmat::HasherExt;
use burn::tensor::Device;
use serde_json::{Value, json};
use slm_checkpoint::{
    CalibrationRecord, Checkpoint, FORMAT_VERSION, LayerMetadata, Lineage, QuantizationMetadata,
    QuantizationMode, SaveRequest, SkippedLayer, TokenizerInfo, WeightError, save, sha256,
};
use slm_kernels::{KernelKind, PackedMatrix};
use slm_model::{ModelConfig, Transformer};
use slm_nn::{Linear, NamedLinears};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, ObserverKind, QParams, QuantScheme,
    QuantizationType, QuantizedMatrix, quantize_matrix,
};

/// A tokenizer with ids 0 to 8.
pub(crate) const TOKENIZER: &str = r#"{"added_tokens":[{"id":8,"content":"<s>","single_word":false,"lstrip":false,
    "rstrip":false,"normalized":false,"special":true}],
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"d":3,"e":4,"f":5,"g":6,"h":7},"merges":[]}}"#;

/// 2 layers, odd sizes.
pub(crate) fn small_config() -> ModelConfig {
    let mut config = ModelConfig::new(11, 12, 7, 2, 2, 16);
    config.num_kv_heads = 1;
    config
}

/// The smallest possible model, for tests that go through every byte.
pub(crate) fn tiniest_model() -> Transformer {
    let mut config = ModelConfig::new(9, 4, 3, 1, 2, 4);
    config.num_kv_heads = 1;
    Transformer::new(&config, 1, &Device::flex()).unwrap()
}

pub(crate) fn small_model() -> Transformer {
    Transformer::new(&small_config(), 1, &Device::flex()).unwrap()
}

pub(crate) fn request(metadata: Option<&QuantizationMetadata>) -> SaveRequest<'_> {
    SaveRequest {
        tokenizer_json: Some(TOKENIZER.as_bytes()),
        tokenizer: TokenizerInfo { bos_token_id: Some(8), eos_token_ids: vec![8, 2], chat: None },
        metadata,
        ..SaveRequest::default()
    }
}

/// A float checkpoint at `dir`.
pub(crate) fn save_float(dir: &Path) {
    save(dir, &small_model(), &request(None), false).unwrap();
}

/// A quantized checkpoint at `dir`.
pub(crate) fn save_quantized(dir: &Path, scheme: QuantScheme, activation: ActivationQuant) -> Transformer {
    let mut model = small_model();
    let metadata = quantize(&mut model, scheme, activation, &["layers.0.mlp.up_proj"]);
    save(dir, &model, &request(Some(&metadata)), false).unwrap();
    model
}

pub(crate) fn static_activation() -> ActivationQuant {
    ActivationQuant::Static(QParams { scale: 0.037, zero_point: 131 })
}

pub(crate) fn affine_groups() -> QuantScheme {
    QuantScheme::per_tensor(Bits::Int4)
        .with_granularity(Granularity::PerGroup { group_size: 5 })
        .with_mapping(Mapping::Affine)
}

/// Quantizes every linear layer except those in `skip`.
pub(crate) fn quantize(
    model: &mut Transformer,
    scheme: QuantScheme,
    activation: ActivationQuant,
    skip: &[&str],
) -> QuantizationMetadata {
    let (quantization_type, activation_granularity) = match activation {
        ActivationQuant::Static(_) => (QuantizationType::Static, None),
        ActivationQuant::Dynamic(granularity) => (QuantizationType::Dynamic, Some(granularity)),
        ActivationQuant::Float => (QuantizationType::WeightOnly, None),
    };
    let (mut layers, mut skipped) = (Vec::new(), Vec::new());
    model.for_each_linear_mut(&mut |name, linear| {
        let (rows, cols) = (linear.out_features(), linear.in_features());
        if skip.contains(&name) {
            let reason = "named by a skip pattern".to_owned();
            skipped.push(SkippedLayer { name: name.to_owned(), shape: [rows, cols], reason });
            return;
        }
        let weight = linear.float_weight().unwrap().into_data().try_into_vec::<f32>().unwrap();
        let matrix = quantize_matrix(&weight, rows, cols, scheme, &ObserverKind::MinMax).unwrap();
        let error = WeightError { sqnr_db: f64::INFINITY, max_abs_error: 0.125, clipped_share: f64::NAN };
        layers.push(LayerMetadata::new(name, &matrix, quantization_type, activation, error));
        let packed = PackedMatrix::new(matrix, KernelKind::select().unwrap()).unwrap();
        let bias = linear.bias.as_ref().map(|bias| bias.val());
        *linear = Linear::from_packed(Arc::new(packed), activation, bias).unwrap();
    });
    QuantizationMetadata {
        format_version: FORMAT_VERSION,
        program_version: "0.1.0".to_owned(),
        mode: QuantizationMode::Ptq,
        quantization_type,
        bits: scheme.bits,
        granularity: scheme.granularity,
        mapping: scheme.mapping,
        scale_dtype: scheme.scale_dtype,
        method: "rtn".to_owned(),
        weight_observer: "min-max".to_owned(),
        activation_observer: None,
        activation_granularity,
        embedding: None,
        layers,
        skipped,
        lineage: Lineage {
            source_sha256: Some(sha256(b"source")),
            calibration: Some(CalibrationRecord { text_sha256: sha256(b"text"), tokens: 4 }),
            transforms: None,
            training: None,
        },
    }
}

/// Record of a file with one chunk, for a manifest of the current version.
pub(crate) fn record(bytes: &[u8]) -> Value {
    json!({ "size": bytes.len(), "sha256": sha256(bytes), "blake3": blake3::hash(bytes).to_hex().as_str() })
}

/// The chaining values of the chunks of `size` bytes of a file, in the form of a current manifest.
pub(crate) fn chunk_values(bytes: &[u8], size: usize) -> Vec<String> {
    let value = |(index, chunk): (usize, &[u8])| {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset((index * size) as u64).update(chunk);
        blake3::Hash::from(hasher.finalize_non_root()).to_hex().to_string()
    };
    bytes.chunks(size).enumerate().map(value).collect()
}

/// Updates the checksum of a current manifest.
pub(crate) fn seal(manifest: &mut Value) {
    let files = serde_json::to_vec(&manifest["files"]).unwrap();
    manifest["files_blake3"] = blake3::hash(&files).to_hex().as_str().into();
}

/// Converts a checkpoint of the current version to version 2.
pub(crate) fn to_version_2(dir: &Path) {
    let mut files = serde_json::Map::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut bytes = std::fs::read(&path).unwrap();
        if ["config.json", "quantization_metadata.json"].contains(&&*name) {
            let mut value: Value = serde_json::from_slice(&bytes).unwrap();
            value["format_version"] = 2.into();
            bytes = serde_json::to_vec(&value).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        if name != "manifest.json" {
            files.insert(name, json!({ "size": bytes.len(), "sha256": sha256(&bytes) }));
        }
    }
    let manifest = json!({ "format_version": 2, "files": files });
    std::fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// The content of a model: bits of float tensors, and packed weights.
#[derive(Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) floats: Vec<(String, Vec<u32>)>,
    pub(crate) packed: Vec<(String, QuantizedMatrix, ActivationQuant)>,
}

pub(crate) fn content(model: &Transformer) -> Content {
    let (mut floats, mut packed) = (Vec::new(), Vec::new());
    let done = model.for_each_tensor::<std::convert::Infallible>(&mut |name, data| {
        let values = data.try_into_vec::<f32>().unwrap();
        floats.push((name.to_owned(), values.into_iter().map(f32::to_bits).collect()));
        Ok(())
    });
    let Ok(()) = done;
    model.for_each_linear(&mut |name, linear| {
        if let Some(weight) = linear.packed() {
            packed.push((name.to_owned(), weight.matrix().unpack(), weight.activation()));
        }
    });
    Content { floats, packed }
}

pub(crate) fn load(dir: &Path) -> slm_checkpoint::Result<Transformer> {
    Checkpoint::open(dir)?.load_model(&Device::flex())
}

pub(crate) fn per_token() -> ActivationQuant {
    ActivationQuant::Dynamic(ActivationGranularity::PerToken)
}

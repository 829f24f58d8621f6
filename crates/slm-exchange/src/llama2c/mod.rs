//! Import of files of llama2.c (`stories15M.bin`).

mod header;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use slm_checkpoint::hf::{ImportOptions, ImportReport};
use slm_checkpoint::{
    CheckpointWriter, ImportedLayers, Layout, Lineage, SaveRequest, TokenizerInfo, layer_of,
};
use slm_model::{ExpectedTensor, ModelConfig, expected_tensors};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, QuantScheme, QuantizationType,
    QuantizedMatrix, ScaleDtype, Scales,
};

use self::header::{Llama2cFile, quantized_layer};
use crate::llama_cpp::rows;
use crate::{Error, Result};

pub use self::header::{explain_bin, is_llama2c};

/// Imports the llama2.c file `path` as a checkpoint in `out`. The floats of versions 0 and 1 stay floats; the 8-bit
/// codes of version 2 are kept.
///
/// `tokenizer` is the path of a llama2.c `tokenizer.bin`, a `tokenizer.model` or a `tokenizer.json`. The default is the
/// `tokenizer.bin` in the directory of the file.
///
/// # Errors
/// [`Error::Damaged`] naming the part of the file; [`Error::Unsupported`] for another version, and for groups that span
/// rows; errors of writing a checkpoint.
pub fn import_llama2c(
    path: &Path,
    out: &Path,
    options: &ImportOptions,
    tokenizer: Option<&Path>,
) -> Result<ImportReport> {
    let mut file = Llama2cFile::open(path)?;
    file.stop_at(options.stop.clone());
    let model = file.model.clone();
    if file.group_size.is_none() && (options.dequantize || options.dynamic) {
        return Err(slm_checkpoint::Error::import_of_floats(path, options.dequantize).into());
    }
    let tokenizer = tokenizer::read(path, tokenizer, model.vocab_size)?;
    let tensors = expected_tensors(&model);
    let keeps_codes = |tensor: &ExpectedTensor| file.is_quantized(&tensor.name) && !options.dequantize;
    let mut layout = Layout::new(&model);
    for tensor in tensors.iter().filter(|tensor| keeps_codes(tensor)) {
        let declared =
            layout.quantize(&quantized_layer(&model, &tensor.name), scheme(path, &file, tensor)?, false);
        declared.map_err(|error| damaged(path, &tensor.name, error.to_string()))?;
    }
    let mut writer = CheckpointWriter::create(out, &model, &layout, options.overwrite)?;
    writer.stop_at(options.stop.clone());
    let granularity = ActivationGranularity::PerToken;
    let (activation, quantization_type) = match options.dynamic {
        true => (ActivationQuant::Dynamic(granularity), QuantizationType::Dynamic),
        false => (ActivationQuant::Float, QuantizationType::WeightOnly),
    };
    let mut layers = ImportedLayers::new(quantization_type, granularity);
    for tensor in &tensors {
        let order = order(&model, tensor);
        if keeps_codes(tensor) {
            let matrix = matrix(path, &file, tensor, order.as_deref())?;
            layers.write(&mut writer, &quantized_layer(&model, &tensor.name), &matrix, activation)?;
            continue;
        }
        let values = match file.is_quantized(&tensor.name) {
            true => dequantized(path, &file, tensor)?,
            false => file.floats(path, &tensor.name)?,
        };
        let width = tensor.shape.last().copied().unwrap_or(1);
        writer.write_f32(&tensor.name, &ordered(&values, width, order.as_deref()))?;
        if let (true, &[rows, cols]) = (tensor.linear_weight, &tensor.shape[..]) {
            layers.skip(layer_of(&tensor.name), [rows, cols], "float in the file".to_owned());
        }
    }
    let quantized_layers = layers.len();
    let sha256 = file.sha256(path)?;
    let lineage = Lineage { source_sha256: Some(sha256.clone()), ..Lineage::default() };
    let metadata = layers.metadata("rtn", lineage);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let size = std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default();
    let files = BTreeMap::from([(name, json!({ "size": size, "sha256": sha256 }))]);
    let has_tokens = model.vocab_size > tokenizer::END as usize;
    let info = TokenizerInfo {
        bos_token_id: has_tokens.then_some(tokenizer::BEGIN),
        // Models of llama2.c end a text with the token that begins the next one.
        eos_token_ids: if has_tokens { vec![tokenizer::BEGIN, tokenizer::END] } else { Vec::new() },
        chat: None,
    };
    let written = writer.finish(&SaveRequest {
        tokenizer_json: tokenizer.as_ref().ok().map(String::as_bytes),
        tokenizer: info,
        metadata: metadata.as_ref(),
        lineage: Some(
            json!({ "imported_from": "llama2.c", "architecture": "LlamaForCausalLM", "files": files }),
        ),
        ..SaveRequest::default()
    })?;
    let what = match (file.group_size, options.dequantize) {
        (None, _) => format!("version {}: floats, kept as floats", file.version),
        (Some(group), true) => format!("8-bit codes in groups of {group}: dequantized to floats"),
        (Some(group), false) => format!("8-bit codes in groups of {group}: the same codes and scales"),
    };
    let count =
        tensors.iter().filter(|tensor| file.group_size.is_none() || file.is_quantized(&tensor.name)).count();
    let notes: Vec<String> = tokenizer.as_ref().err().cloned().into_iter().collect();
    Ok(ImportReport {
        path: written,
        architecture: "llama2.c",
        config: model,
        has_tokenizer: tokenizer.is_ok(),
        tensors: vec![format!("{count} tensors of {what}")],
        chat: None,
        unrecognized_fields: Vec::new(),
        warnings: notes,
        quantized_layers,
        quantization_type: (quantized_layers > 0).then_some(quantization_type),
    })
}

fn damaged(path: &Path, tensor: &str, problem: String) -> Error {
    Error::damaged_file(path, "llama2.c", tensor, problem)
}

/// For each row of the checkpoint, the row of the file: those of q and k are interleaved in files.
fn order(model: &ModelConfig, tensor: &ExpectedTensor) -> Option<Vec<usize>> {
    let interleaved = ["q_proj.weight", "k_proj.weight"].iter().any(|end| tensor.name.ends_with(end));
    let rows = *tensor.shape.first()?;
    interleaved.then(|| rows::inverse(&rows::interleaved(rows, model.head_dim, model.head_dim)))
}

/// Reorders rows of `width` values.
fn ordered<T: Copy>(values: &[T], width: usize, order: Option<&[usize]>) -> Vec<T> {
    match order {
        None => values.to_vec(),
        Some(order) => {
            order.iter().flat_map(|&row| &values[row * width..(row + 1) * width]).copied().collect()
        }
    }
}

/// The scheme of the codes of a tensor.
fn scheme(path: &Path, file: &Llama2cFile, tensor: &ExpectedTensor) -> Result<QuantScheme> {
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let group_size = file.group_size.unwrap_or(cols);
    if !cols.is_multiple_of(group_size) {
        let problem = format!(
            "tensor {} is quantized in groups of {group_size} that go across its rows of {cols}",
            tensor.name
        );
        return Err(slm_checkpoint::Error::NeedsDequantizing { path: path.to_owned(), problem }.into());
    }
    Ok(QuantScheme {
        bits: Bits::Int8,
        granularity: Granularity::PerGroup { group_size },
        mapping: Mapping::Symmetric,
        scale_dtype: ScaleDtype::F32,
    })
}

/// Creates a matrix with the same codes and scales. A group of zeros gets the scale 1.
fn matrix(
    path: &Path,
    file: &Llama2cFile,
    tensor: &ExpectedTensor,
    order: Option<&[usize]>,
) -> Result<QuantizedMatrix> {
    let scheme = scheme(path, file, tensor)?;
    let (mut codes, mut scales) = file.codes(path, &tensor.name)?;
    let [rows, cols] = tensor.shape[..] else {
        return Err(damaged(path, &tensor.name, "is not a matrix".to_owned()));
    };
    let group = file.group_size.unwrap_or(cols);
    for (scale, codes) in scales.iter_mut().zip(codes.chunks_mut(group)) {
        if *scale == 0.0 {
            *scale = 1.0;
            codes.fill(0);
        }
    }
    let codes = ordered(&codes, cols, order);
    let scales = Scales::F32(ordered(&scales, cols / group, order));
    QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, None)
        .map_err(|error| damaged(path, &tensor.name, error.to_string()))
}

/// Dequantizes a tensor.
fn dequantized(path: &Path, file: &Llama2cFile, tensor: &ExpectedTensor) -> Result<Vec<f32>> {
    let (codes, scales) = file.codes(path, &tensor.name)?;
    let group = file.group_size.unwrap_or(codes.len().max(1));
    let values = codes.chunks(group).zip(scales);
    Ok(values
        .flat_map(|(codes, scale)| codes.iter().map(move |code| f32::from(code.cast_signed()) * scale))
        .collect())
}

//! Hugging Face directories survive a round trip: every tensor has the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::{import, models, name, quantize};
use safetensors::SafeTensors;
use slm_exchange::{ExportOptions, Format, export};
use slm_quant_core::QuantizationType;

type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

/// The tensors of all safetensors files in `dir`.
fn tensors(dir: &Path) -> Tensors {
    let mut tensors = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let is_model = name(&path).starts_with("model") && name(&path).ends_with(".safetensors");
        if !is_model {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let content = (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec());
            tensors.insert(name, content);
        }
    }
    tensors
}

#[test]
fn every_tensor_comes_back_with_its_bytes() {
    let root = tempfile::tempdir().unwrap();
    for dir in models() {
        let label = name(&dir);
        let float = import(&dir, &root.path().join(label));
        let out = root.path().join(format!("{label}-hf"));
        let report = export(float.dir(), &out, &ExportOptions::new(Format::HuggingFace)).unwrap();
        assert!(report.is_exact(), "{label}");
        let (before, after) = (tensors(&dir), tensors(&out));
        for (tensor, content) in &after {
            // Files of GPT-2 have names with or without their prefix.
            let bare = tensor.strip_prefix("transformer.").unwrap_or(tensor);
            let source = before.get(tensor).or_else(|| before.get(bare));
            let Some(source) = source else { panic!("{label}: {tensor} is new") };
            // Gemma's norms are stored minus 1, so digits below the precision of 1 + weight are lost.
            if label == "tiny-gemma3" && tensor.ends_with("norm.weight") {
                let plus_one = |bytes: &[u8]| -> Vec<f32> {
                    bytes.as_chunks().0.iter().map(|&bytes| 1.0 + f32::from_le_bytes(bytes)).collect()
                };
                assert_eq!(plus_one(&content.2), plus_one(&source.2), "{label}: {tensor}");
                continue;
            }
            assert_eq!(content, source, "{label}: {tensor}");
        }
        let again = import(&out, &root.path().join(format!("{label}-again")));
        assert_eq!(again.config().model, float.config().model, "{label}");
        assert_eq!(again.config().tokenizer, float.config().tokenizer, "{label}");
        assert_eq!(again.tokenizer_json(), float.tokenizer_json(), "{label}");
        for tensor in float.tensor_names() {
            let read =
                |checkpoint: &slm_checkpoint::Checkpoint| checkpoint.tensors().read_bytes(tensor).unwrap();
            assert_eq!(read(&again), read(&float), "{label}: {tensor}");
        }
    }
}

#[test]
fn a_quantized_model_becomes_floats_with_its_values() {
    let root = tempfile::tempdir().unwrap();
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-phi3") else { return };
    let float = import(&dir, &root.path().join("float"));
    let quantized =
        quantize(&float, &root.path().join("q"), "int4:group:32", QuantizationType::WeightOnly, None);
    let out = root.path().join("hf");
    let strict = ExportOptions { strict: true, ..ExportOptions::new(Format::HuggingFace) };
    let error = export(quantized.dir(), &out, &strict).unwrap_err().to_string();
    assert!(error.contains("floats only"), "{error}");
    export(quantized.dir(), &out, &ExportOptions::new(Format::HuggingFace)).unwrap();
    let back = import(&out, &root.path().join("back"));
    for layer in &quantized.metadata().unwrap().layers {
        let (matrix, _) = quantized.read_quantized(&layer.name).unwrap().unwrap();
        let values = back.tensors().read_f32(&format!("{}.weight", layer.name)).unwrap();
        for row in 0..matrix.rows() {
            for column in 0..matrix.cols() {
                let params = matrix.qparams(matrix.scale_index(row, column / matrix.group_width()));
                let expected = f32::from(matrix.code(row, column)) * params.scale;
                assert_eq!(values[row * matrix.cols() + column], expected, "{}", layer.name);
            }
        }
    }
}

//! compressed-tensors directories, decoded by a script that follows the rules of that package.

use std::fs;

use crate::support::{import, models, name, quantize, run};
use slm_exchange::{ExportOptions, Fidelity, Format, export};
use slm_quant_core::QuantizationType;
use slm_testing::peer_python;

const CASES: [(&str, QuantizationType); 9] = [
    ("int8:channel", QuantizationType::Dynamic),
    ("int8:tensor", QuantizationType::Dynamic),
    ("int8:channel:affine", QuantizationType::Dynamic),
    ("int8:channel", QuantizationType::Static),
    ("int8:tensor", QuantizationType::Static),
    ("int8:channel", QuantizationType::WeightOnly),
    ("int4:group:32", QuantizationType::WeightOnly),
    ("int4:group:32:affine:f16", QuantizationType::WeightOnly),
    ("int4:group:32", QuantizationType::Dynamic),
];

#[test]
fn codes_scales_and_ranges_are_the_checkpoints() {
    let root = tempfile::tempdir().unwrap();
    let mut pairs = String::new();
    for dir in models() {
        // Two families with a layer for each of slm's, and rows that are whole groups.
        if !["tiny-llama", "tiny-qwen2"].contains(&name(&dir)) {
            continue;
        }
        let float = import(&dir, &root.path().join(name(&dir)));
        for (index, (scheme, kind)) in CASES.into_iter().enumerate() {
            let label = format!("{}-{index}", name(&dir));
            let quantized = quantize(&float, &root.path().join(format!("{label}-slm")), scheme, kind, None);
            let out = root.path().join(&label);
            let strict = ExportOptions { strict: true, ..ExportOptions::new(Format::CompressedTensors) };
            // Inputs that a static model leaves dynamic create two groups, which the script does not support.
            let report = export(quantized.dir(), &out, &strict).unwrap();
            assert!(report.is_exact(), "{label}");
            let config = fs::read_to_string(out.join("config.json")).unwrap();
            if !config.contains("group_1") {
                pairs += &format!("{}\t{}\n", quantized.dir().display(), out.display());
            }
        }
    }
    if let (false, Some(python)) = (pairs.is_empty(), peer_python("safetensors")) {
        let list = root.path().join("pairs");
        fs::write(&list, pairs).unwrap();
        run(&python, "check_compressed.py", &[&list]);
    }
}

#[test]
fn what_has_no_form_there_is_refused_or_float() {
    let root = tempfile::tempdir().unwrap();
    for dir in models() {
        let label = name(&dir).to_owned();
        if !["tiny-gpt2", "tiny-phi3", "tiny-gpt-neox"].contains(&label.as_str()) {
            continue;
        }
        let float = import(&dir, &root.path().join(&label));
        let options = ExportOptions::new(Format::CompressedTensors);
        let error = export(float.dir(), &root.path().join("none"), &options).unwrap_err().to_string();
        assert!(error.contains("not quantized"), "{error}");
        let kind = QuantizationType::Dynamic;
        let quantized = quantize(&float, &root.path().join(format!("{label}-q")), "int8:channel", kind, None);
        let out = root.path().join(format!("{label}-out"));
        let result = export(quantized.dir(), &out, &options);
        match label.as_str() {
            // All layers but the head have another class.
            "tiny-gpt2" => {
                let report = result.unwrap();
                let conv = report.tensors.iter().find(|tensor| tensor.name.ends_with("c_fc.weight")).unwrap();
                assert!(
                    matches!(&conv.fidelity, Fidelity::Dequantized { because, .. } if because.contains("Conv1D"))
                );
            }
            // Fused layers contain the rows of several layers of slm.
            _ => assert!(result.unwrap().is_exact(), "{label}"),
        }
    }
}

//! Import of models that llm-compressor quantized: the saved codes give the logits that transformers computes from
//! them.

mod support;

use std::fs;

use burn::tensor::Device;
use slm_model::window_logits;
use slm_quant_core::QuantizationType;
use slm_testing::peer_python;
use support::{import, models, name, run};

use QuantizationType::{Dynamic, WeightOnly};

#[test]
fn what_llm_compressor_saves_is_computed_the_same() {
    let Some(python) = peer_python("llmcompressor, transformers") else { return };
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let root = tempfile::tempdir().unwrap();
    run(&python, "make_llm_compressor.py", &[&dir, root.path()]);
    for (recipe, kind, scheme) in [
        ("gptq-w4a16", WeightOnly, "int4 group:32 symmetric"),
        ("w8a16", WeightOnly, "int8 channel symmetric"),
        ("w8a8", Dynamic, "int8 channel symmetric"),
    ] {
        let dir = root.path().join(recipe);
        let checkpoint = import(&dir, &root.path().join(format!("{recipe}-slm")));
        let metadata = checkpoint.metadata().unwrap();
        assert_eq!(metadata.quantization_type, kind, "{recipe}");
        // Seven in each of three layers; the head stays float.
        assert_eq!(metadata.layers.len(), 21, "{recipe}");
        assert!(metadata.layers.iter().all(|layer| layer.scheme.to_string().starts_with(scheme)), "{recipe}");
        let ids: Vec<u32> = serde_json::from_slice(&fs::read(dir.join("ids.json")).unwrap()).unwrap();
        let ours = window_logits(&checkpoint.load_model(&Device::flex()).unwrap(), &ids).unwrap();
        let theirs = fs::read(dir.join("logits")).unwrap();
        let theirs = theirs.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        assert_eq!(ours.len(), theirs.len(), "{recipe}");
        let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("llm-compressor, {recipe}: logits differ by {worst:.1e} at most");
        // With quantized inputs, one may fall on the other side of a tie between two codes.
        assert!(worst < if kind == WeightOnly { 1e-3 } else { 0.5 }, "{recipe}: {worst}");
    }
}

//! Import of models quantized by llm-compressor: the imported codes give the logits that transformers computes from
//! them.

use crate::support::{computed, import, models, name, run};
use serde_json::{Value, json};
use slm_quant_core::QuantizationType;
use slm_testing::peer_python;

use QuantizationType::{Dynamic, Static, WeightOnly};

#[test]
fn what_llm_compressor_saves_is_computed_the_same() {
    let Some(python) = peer_python("llmcompressor, transformers") else { return };
    let Some(dir) = models().into_iter().find(|dir| name(dir) == "tiny-llama") else { return };
    let root = tempfile::tempdir().unwrap();
    run(&python, "make_llm_compressor.py", &[&dir, root.path()]);
    let cases = [
        ("gptq-w4a16", WeightOnly, "int4 group:32 symmetric"),
        ("w8a16", WeightOnly, "int8 channel symmetric"),
        ("w8a8", Dynamic, "int8 channel symmetric"),
        ("w8a8-static", Static, "int8 channel symmetric"),
    ]
    .map(|(recipe, kind, scheme)| {
        let dir = root.path().join(recipe);
        let checkpoint = import(&dir, &root.path().join(format!("{recipe}-slm")));
        let metadata = checkpoint.metadata().unwrap();
        assert_eq!(metadata.quantization_type, kind, "{recipe}");
        // Seven in each of three layers; the head stays float.
        assert_eq!(metadata.layers.len(), 21, "{recipe}");
        assert!(metadata.layers.iter().all(|layer| layer.scheme.to_string().starts_with(scheme)), "{recipe}");
        let mut case: Value = computed(&checkpoint, root.path(), recipe);
        case["directory"] = json!(dir);
        case
    });
    let list = root.path().join("list.json");
    std::fs::write(&list, serde_json::to_vec(&cases).unwrap()).unwrap();
    run(&python, "check_transformers.py", &[&list]);
}

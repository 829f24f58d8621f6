//! Models in other formats: imports give the same logits.

use std::collections::BTreeMap;

use slm_tests::importing::{logits, whole};
use slm_tests::{Sandbox, Tensor, model};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const LAYERS: usize = 2;

/// Rows of queries or keys in llama2.c's order: in each head, the values that rotate together are adjacent.
fn interleaved((shape, values): &Tensor, heads: usize) -> Vec<f32> {
    let (rows, cols) = (shape[0], shape[1]);
    let half = rows / heads / 2;
    let mut out = Vec::new();
    for head in 0..heads {
        for pair in 0..half {
            for part in 0..2 {
                let row = head * 2 * half + part * half + pair;
                out.extend_from_slice(&values[row * cols..(row + 1) * cols]);
            }
        }
    }
    out
}

/// The llama2.c file, version 1, of a tied Llama.
fn llama2c(tensors: &BTreeMap<String, Tensor>, numbers: [u32; 7]) -> Vec<u8> {
    let mut out = 0x616b_3432_u32.to_le_bytes().to_vec();
    out.extend(1_u32.to_le_bytes());
    out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    out.push(1);
    out.resize(256, 0);
    let mut put = |values: &[f32]| out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    let layer = |number: usize, part: &str| &tensors[&format!("model.layers.{number}.{part}.weight")];
    for part in ["input_layernorm", "post_attention_layernorm"] {
        (0..LAYERS).for_each(|number| put(&layer(number, part).1));
    }
    put(&tensors["model.norm.weight"].1);
    put(&tensors["model.embed_tokens.weight"].1);
    for (part, heads) in [("self_attn.q_proj", HEADS), ("self_attn.k_proj", KV_HEADS)] {
        (0..LAYERS).for_each(|number| put(&interleaved(layer(number, part), heads)));
    }
    for part in ["self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"] {
        (0..LAYERS).for_each(|number| put(&layer(number, part).1));
    }
    out
}

#[test]
fn a_file_of_llama2c_computes_what_the_model_does() {
    let (sandbox, expected) = whole();
    let source = model();
    let size = |name: &str| source.config[name].as_u64().unwrap() as u32;
    let numbers = [
        size("hidden_size"),
        size("intermediate_size"),
        LAYERS as u32,
        HEADS as u32,
        KV_HEADS as u32,
        size("vocab_size"),
        size("max_position_embeddings"),
    ];
    sandbox.put("stories.bin", llama2c(&source.tensors, numbers));
    let result =
        sandbox.slm("import stories.bin --tokenizer hf/tokenizer.json --out out --overwrite --json").json();
    assert_eq!((&result["architecture"], &result["has_tokenizer"]), (&"llama2.c".into(), &true.into()));
    assert_eq!(logits(&sandbox), expected);
    // An import without a tokenizer prints a warning.
    let outcome = sandbox.slm("import stories.bin --out bare");
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("path of the tokenizer"), "{outcome}");
    assert!(outcome.stdout.contains("no tokenizer") && outcome.stdout.contains("--tokenizer"), "{outcome}");
    sandbox.refuses(
        "import stories.bin --out new --dequantize",
        1,
        &["stories.bin", "--dequantize", "leave"],
    );
    sandbox.refuses("import hf --tokenizer hf/tokenizer.json --out new", 2, &["--tokenizer", "llama2.c"]);
    sandbox.refuses("import stories.bin --type static --out new", 2, &["--type", "slm ptq"]);
}

#[test]
fn a_quantized_checkpoint_goes_out_and_comes_back() {
    let (sandbox, _) = whole();
    let ptq = "ptq --checkpoint out --type dynamic --granularity channel --no-eval --out quantized";
    sandbox.slm(ptq).success();
    sandbox.slm("export quantized --format compressed-tensors --out w8a8").success();
    let outcome = sandbox.slm("import w8a8 --out back").success();
    assert!(outcome.stdout.contains("the same codes and scales, int8 channel"), "{outcome}");
    for name in ["quantized", "back"] {
        sandbox.slm(&format!("logits --checkpoint {name} --ids ids.json --out {name}.safetensors")).success();
    }
    let read = |name: &str| slm_tests::read_tensors(sandbox.path(name));
    assert_eq!(read("quantized.safetensors"), read("back.safetensors"));
    sandbox.slm("import w8a8 --dequantize --out floats").success();
    assert!(!sandbox.path("floats/quantization_metadata.json").exists());
    sandbox.refuses(
        "import w8a8 --type dynamic --out new",
        1,
        &["w8a8", "leave the option `dynamic` out", "--type"],
    );
    sandbox.refuses("import hf --dequantize --out new", 1, &["hf", "--dequantize", "leave"]);
}

#[test]
fn files_of_a_checkpoint_are_not_replaced_and_missing_files_are_named() {
    let sandbox = Sandbox::with_model();
    for file in ["model.safetensors", "manifest.json"] {
        let line = format!("export model --format gguf --out model/{file} --overwrite");
        sandbox.refuses(&line, 1, &[file, "part of a checkpoint", "choose another output"]);
    }
    sandbox.refuses("export model --format hf --out model --overwrite", 1, &["model", "not overwritten"]);
    for line in ["import nope.gguf --out new", "import a/nope.gguf --out new", "import nope.bin --out new"] {
        sandbox.refuses(line, 1, &["nope", "not found; name a file that exists"]);
    }
    sandbox.slm_with("export model --format gguf --out", &["my model.gguf"], &[]).success();
    sandbox.refuses_with(
        "inspect",
        &["my model.gguf"],
        &[],
        1,
        &["slm import 'my model.gguf' --out my-model"],
    );
}

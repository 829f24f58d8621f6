//! The model and text that most tests use, created once per test program.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use slm_text::corpus::Corpus;

use crate::{HuggingFace, Sandbox};

/// Files of a directory by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A text of several stories.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| Corpus::new(7).text(12))
}

/// The model, which a test can change and write.
pub fn model() -> HuggingFace {
    static MODEL: OnceLock<HuggingFace> = OnceLock::new();
    MODEL.get_or_init(|| HuggingFace::llama(text())).clone()
}

/// The model as a float checkpoint, created by `slm import`.
pub fn checkpoint() -> &'static Files {
    static CHECKPOINT: OnceLock<Files> = OnceLock::new();
    CHECKPOINT.get_or_init(|| {
        let sandbox = Sandbox::new();
        model().write(sandbox.path("hf"));
        sandbox.slm("import hf --out model").success();
        files(&sandbox, "model")
    })
}

/// The model in INT8, as `slm ptq` creates it by default.
pub fn quantized() -> &'static Files {
    static QUANTIZED: OnceLock<Files> = OnceLock::new();
    QUANTIZED.get_or_init(|| {
        let sandbox = Sandbox::with_model();
        sandbox.slm("ptq --checkpoint model --calibration text.txt --out int8").success();
        files(&sandbox, "int8")
    })
}

/// The config of a run of `steps` short steps, each of which writes a resumable checkpoint.
pub fn train_config(steps: usize) -> String {
    format!(
        "
[model]
vocab_size = 300
hidden_size = 16
intermediate_size = 32
num_layers = 1
num_heads = 2
max_position_embeddings = 64

[training]
steps = {steps}
batch_size = 1
sequence_length = 16
save_interval = 1
"
    )
}

fn files(sandbox: &Sandbox, name: &str) -> Files {
    let entries = fs::read_dir(sandbox.path(name)).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

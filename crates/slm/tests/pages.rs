//! Runs the pieces of programs that README and documentation show. Each of their lines is a line of an example or of this
//! file.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use slm::checkpoint::Checkpoint;
use slm::model::{GenerateOptions, SamplingOptions, generate};
use slm::prelude::*;
use slm_text::Tokenizer;

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The module of docs/library.md.
#[derive(Module, Debug, NamedLinears)]
struct Block {
    norm: burn::nn::LayerNorm,
    up: Linear,
    gate: Option<Linear>,
    down: Vec<Linear>,
}

impl Block {
    fn new(device: &Device) -> Self {
        let linear = |inputs, outputs| burn::nn::LinearConfig::new(inputs, outputs).init(device).into();
        let norm = burn::nn::LayerNormConfig::new(64).init(device);
        Self { norm, up: linear(64, 96), gate: Some(linear(64, 96)), down: vec![linear(96, 64)] }
    }
}

/// The module of the README, which its layout makes one line.
#[rustfmt::skip]
mod readme {
    use super::*;

    #[derive(Module, Debug, NamedLinears)]
    pub(super) struct Mlp { pub(super) up: Linear, pub(super) down: Linear }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn a_block_is_saved_and_loaded() -> Result {
    let device = Device::flex();
    let mut module = Block::new(&device);
    let (quantized, report) = Quantizer::int8().convert(Block::new(&device))?;
    let dir = report.save(&quantized, "net-int8")?;
    slm::load(&mut module, &dir)?;
    let mut names = Vec::new();
    module.for_each_linear(&mut |name, linear| {
        assert!(linear.packed().is_some(), "{name}");
        names.push(name.to_owned());
    });
    assert_eq!(names, ["up", "gate", "down.0"]);
    Ok(())
}

fn a_perceptron_is_quantized_saved_and_loaded() -> Result {
    let device = Device::flex();
    let mlp = || readme::Mlp {
        up: burn::nn::LinearConfig::new(32, 64).init(&device).into(),
        down: burn::nn::LinearConfig::new(64, 8).init(&device).into(),
    };
    let (quantized, report) = Quantizer::int8().convert(mlp())?;
    report.save(&quantized, "mlp-int8")?;
    let mut other = mlp();
    slm::load(&mut other, "mlp-int8")?;
    fs::remove_dir_all("mlp-int8")?;
    let dir = report.save(&quantized, "mlp-int8")?;
    slm::load(&mut other, &dir)?;
    Ok(())
}

fn a_checkpoint_continues_a_prompt() -> Result {
    fs::create_dir("my-model-int4")?;
    for entry in fs::read_dir(root().join("models/stories"))? {
        let path = entry?.path();
        fs::copy(&path, Path::new("my-model-int4").join(path.file_name().unwrap()))?;
    }
    let checkpoint = Checkpoint::open("my-model-int4")?;
    let model = checkpoint.load_model(&Device::flex())?;
    let tokenizer = checkpoint.tokenizer_json().ok_or("the checkpoint has no tokenizer")?;
    let tokenizer = Tokenizer::from_json(std::str::from_utf8(tokenizer)?, "my-model-int4")?;
    let prompt_ids = tokenizer.encode_prompt("Once upon a time")?.ids;
    let options =
        GenerateOptions { max_new_tokens: 4, sampling: SamplingOptions::default(), stop_ids: Vec::new() };
    let mut stream = tokenizer.stream();
    let output = generate(&model, &prompt_ids, &options, |id| {
        print!("{}", stream.push(id).unwrap_or_default());
        ControlFlow::Continue(())
    })?;
    assert_eq!(output.ids.len(), 4);
    Ok(())
}

/// Pieces of programs name files in the working directory, so that this is the only test of this program.
#[test]
fn the_pieces_of_programs_run() {
    let dir = tempfile::tempdir().unwrap();
    std::env::set_current_dir(&dir).unwrap();
    a_block_is_saved_and_loaded().unwrap();
    a_perceptron_is_quantized_saved_and_loaded().unwrap();
    a_checkpoint_continues_a_prompt().unwrap();

    let examples =
        fs::read_dir(root().join("crates/slm/examples")).unwrap().map(|entry| entry.unwrap().path());
    let sources = examples.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap());
    let sources: String = sources.chain([include_str!("pages.rs").replace("pub(super) ", "")]).collect();
    let known: BTreeSet<&str> = sources.lines().map(code).collect();
    for page in ["README.md", "docs/library.md", "docs/tutorials/library.md", "docs/tutorials/four-bits.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let blocks = text.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        for line in blocks.flat_map(str::lines).map(code) {
            assert!(known.contains(line), "{page}: {line:?} is in no example, and not in tests/pages.rs");
        }
    }
}

/// Returns a line without indentation and comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim()
}

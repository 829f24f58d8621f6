//! GGUF exports in llama.cpp: logits, perplexity and greedy continuations compared with those of slm.
//!
//! Both get the same ids. Float models must agree, and so must quantized models with the same inputs: `llama-logits`
//! multiplies the values that ggml dequantizes by float inputs. llama.cpp's own kernels round the inputs of quantized
//! layers to 8 bits in blocks of 32, which slm does not do, so their logits differ by that rounding. A token of a
//! continuation may then differ if slm's two best tokens are closer than the rounding.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{import, models, name, quantize, run, values};
use burn::tensor::Device;
use half::bf16;
use slm_checkpoint::{Checkpoint, TokenizerInfo};
use slm_exchange::{ExportOptions, FloatType, Format, ImportOptions, export, import_gguf};
use slm_model::{EMBED_TOKENS, LM_HEAD, TOKEN_TABLE, Transformer, expected_tensors, window_logits};
use slm_quant_core::QuantizationType;
use slm_testing::{llama_cpp, peer_python, shared};
use slm_text::Tokenizer;

/// Scheme, and type of its tensors in the file.
const SCHEMES: [(&str, &str); 4] = [
    ("float", "F32"),
    ("int8:channel:f16", "Q8_0"),
    ("int4:group:32:f16", "Q4_0"),
    ("int4:group:32:affine:f16", "Q4_1"),
];
/// Largest relative difference of the perplexities with the same weights and inputs.
const SAME_INPUTS_LIMIT: f64 = 1e-3;
/// Maximum difference between two logits whose order llama.cpp's 16-bit table of GELU may swap.
const TABLE_GAP: f32 = 1e-3;
const PROMPT: usize = 16;
const GREEDY: usize = 32;

/// llama.cpp's methods of multiplying quantized matrices.
#[derive(Clone, Copy)]
enum Inputs {
    /// Its own kernels, which round the inputs.
    Own,
    /// Multiplication in floats.
    Float,
    /// Multiplication in floats, with inputs rounded as in the kernels.
    Rounded,
}

impl Inputs {
    fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Float => "float",
            Self::Rounded => "rounded",
        }
    }
}

/// The outputs of two programs for the same ids.
#[derive(Debug)]
struct Comparison {
    ours: f64,
    theirs: f64,
    /// Largest difference of a logit.
    max_difference: f32,
    /// Number of generated tokens that slm also ranks first.
    same: usize,
    /// Largest margin by which slm prefers its best token to llama.cpp's.
    worst_gap: f32,
}

impl Comparison {
    fn relative(&self) -> f64 {
        (self.theirs / self.ours - 1.0).abs()
    }
}

fn read_f32(path: &Path) -> Vec<f32> {
    fs::read(path).unwrap().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Sum of the negative log-likelihoods of all ids except the first.
fn loss(logits: &[f32], ids: &[u32]) -> f64 {
    let vocabulary = logits.len() / ids.len();
    let rows = logits.chunks(vocabulary).zip(&ids[1..]);
    rows.map(|(row, &next)| {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|value| f64::from(value - most).exp()).sum();
        total.ln() - f64::from(row[next as usize] - most)
    })
    .sum()
}

/// Runs `program` on a GGUF file and slm's model on the same ids. The first [`PROMPT`] ids of the first window are
/// continued.
fn compare(
    program: &Path,
    file: &Path,
    model: &Transformer,
    windows: &[Vec<u32>],
    inputs: Inputs,
) -> Comparison {
    let dir = file.parent().unwrap();
    let (ids, out) = (dir.join("ids"), dir.join("logits"));
    let prompt = &windows[0][..PROMPT];
    let line = |ids: &[u32]| ids.iter().map(|id| format!("{id} ")).collect::<String>() + "\n";
    let lines: Vec<String> =
        std::iter::once(line(prompt)).chain(windows.iter().map(|ids| line(ids))).collect();
    fs::write(&ids, lines.concat()).unwrap();
    let mut command = Command::new(program);
    let output =
        command.args([file, &ids, &out]).args([&GREEDY.to_string(), inputs.name()]).output().unwrap();
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let generated: Vec<u32> = text.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(generated.len(), GREEDY);

    let theirs = read_f32(&out);
    let vocabulary = model.config().vocab_size;
    let mut found = Comparison { ours: 0.0, theirs: 0.0, max_difference: 0.0, same: 0, worst_gap: 0.0 };
    let (mut at, mut count) = (PROMPT * vocabulary, 0);
    for ids in windows {
        let ours = window_logits(model, ids).unwrap();
        let theirs = &theirs[at..at + ours.len()];
        at += ours.len();
        count += ids.len() - 1;
        found.ours += loss(&ours, ids);
        found.theirs += loss(theirs, ids);
        let difference = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        found.max_difference = found.max_difference.max(difference);
    }
    found.ours = (found.ours / f64::from(count as u32)).exp();
    found.theirs = (found.theirs / f64::from(count as u32)).exp();
    assert_eq!(at, theirs.len(), "{}: another vocabulary", file.display());
    let all = [prompt, &generated].concat();
    let ours = window_logits(model, &all).unwrap();
    for (row, &token) in ours.chunks(vocabulary).skip(PROMPT - 1).zip(&generated) {
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let gap = best - row[token as usize];
        found.same += usize::from(gap == 0.0);
        found.worst_gap = found.worst_gap.max(gap);
    }
    found
}

/// A GGUF file of a checkpoint with 32-bit floats.
struct Exported {
    file: PathBuf,
    label: String,
    model: Transformer,
}

impl Exported {
    fn new(checkpoint: &Checkpoint, kind: &str, dir: &Path) -> Self {
        let file = dir.join(format!("{kind}.gguf"));
        let options = ExportOptions {
            float_type: Some(FloatType::F32),
            overwrite: true,
            ..ExportOptions::new(Format::Gguf)
        };
        let report = export(checkpoint.dir(), &file, &options).unwrap();
        let label = format!("{} {kind}", name(dir));
        assert!(
            report.tensors.iter().any(|tensor| tensor.kind == kind) || label.starts_with("stories260k"),
            "{label}"
        );
        Self { file, label, model: checkpoint.load_model(&Device::flex()).unwrap() }
    }

    fn compare(&self, program: &Path, windows: &[Vec<u32>], inputs: Inputs) -> Comparison {
        let found = compare(program, &self.file, &self.model, windows, inputs);
        println!(
            "{}, {} inputs: perplexity {:.4}, llama.cpp {:.4} ({:.1e}); logits differ by {:.1e} at most; {} of {GREEDY} \
             tokens the same, the others within {:.1e}",
            self.label,
            inputs.name(),
            found.ours,
            found.theirs,
            found.relative(),
            found.max_difference,
            found.same,
            found.worst_gap
        );
        found
    }

    /// Checks that perplexity and continuation are the same. A token may differ if slm's two best tokens are closer
    /// than `gap`.
    fn require_same(&self, program: &Path, windows: &[Vec<u32>], inputs: Inputs, gap: f32) {
        let found = self.compare(program, windows, inputs);
        assert!(found.relative() < SAME_INPUTS_LIMIT && found.worst_gap <= gap, "{}: {found:?}", self.label);
    }
}

/// Checks a model with every scheme; `limit` is the largest difference of the perplexities if llama.cpp rounds inputs.
/// Returns the GGUF files with their sources.
fn check_all(
    program: &Path,
    float: &Checkpoint,
    windows: &[Vec<u32>],
    dir: &Path,
    limit: f64,
) -> Vec<(Checkpoint, Exported)> {
    let mut files = Vec::new();
    for (scheme, kind) in SCHEMES {
        let checkpoint = match scheme {
            "float" => Checkpoint::open(float.dir()).unwrap(),
            scheme => quantize(float, &dir.join(kind), scheme, QuantizationType::WeightOnly, None),
        };
        let exported = Exported::new(&checkpoint, kind, dir);
        let gap = if scheme == "float" { 0.0 } else { TABLE_GAP };
        exported.require_same(program, windows, Inputs::Float, gap);
        if scheme != "float" {
            let found = exported.compare(program, windows, Inputs::Own);
            assert!(found.relative() < limit, "{}: {found:?}", exported.label);
            assert!(found.worst_gap <= found.max_difference, "{}: {found:?}", exported.label);
        }
        files.push((checkpoint, exported));
    }
    files
}

#[test]
fn llama_cpp_computes_the_same_logits() {
    let Some(program) = llama_cpp("llama-logits") else { return };
    let root = tempfile::tempdir().unwrap();
    for dir in models() {
        let label = name(&dir).to_owned();
        let float = import(&dir, &root.path().join(format!("{label}-slm")));
        let text = fs::read_to_string(shared().unwrap().join("data/tinyshakespeare.txt")).unwrap();
        let tokenizer = Tokenizer::from_file(float.tokenizer_path().unwrap()).unwrap();
        let ids = tokenizer.encode_with_special_tokens(&text[..2000]).unwrap();
        let windows: Vec<Vec<u32>> = ids.chunks_exact(96).take(3).map(<[u32]>::to_vec).collect();
        let work = root.path().join(&label);
        fs::create_dir(&work).unwrap();
        // Logits of random models are in the tens, and rounded inputs change the perplexity by up to 1 %.
        let files = check_all(&program, &float, &windows, &work, 0.02);
        // The values of Q4_0, dequantized to floats.
        let (quantized, _) = &files[2];
        let dequantized = work.join("hf");
        export(quantized.dir(), &dequantized, &ExportOptions::new(Format::HuggingFace)).unwrap();
        let dequantized = import(&dequantized, &work.join("dequantized"));
        Exported::new(&dequantized, "F32", &work).require_same(&program, &windows, Inputs::Own, 0.0);
        fs::remove_dir_all(&work).unwrap();
    }
}

/// The Hugging Face directory of SmolLM2-135M-Instruct, if the environment variable `SLM_REAL` names it.
fn real_model() -> Option<PathBuf> {
    let source = std::env::var_os("SLM_REAL").map(PathBuf::from);
    if source.is_none() {
        println!("skipped: SLM_REAL does not name the directory of a real model");
    }
    source
}

/// Ten kilobytes of an encyclopedia.
fn article() -> Option<String> {
    let text = fs::read_to_string(shared()?.join("data/wikitext2-valid.txt")).unwrap();
    let start = text.ceil_char_boundary(text.len() - 120_000);
    let end = text.floor_char_boundary(start + 10_000);
    Some(text[start..end].to_owned())
}

/// Splits the ids of `text` into windows of 512.
fn windows_of(checkpoint: &Checkpoint, text: &str) -> Vec<Vec<u32>> {
    let ids = Tokenizer::from_file(checkpoint.tokenizer_path().unwrap()).unwrap().encode(text).unwrap();
    ids.chunks_exact(512).take(2).map(<[u32]>::to_vec).collect()
}

#[test]
fn llama_cpp_computes_the_same_of_a_real_model() {
    let (Some(source), Some(program), Some(text)) = (real_model(), llama_cpp("llama-logits"), article())
    else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let float = import(&source, &root.path().join("slm"));
    let windows = windows_of(&float, &text);
    let work = root.path().join("smollm2");
    fs::create_dir(&work).unwrap();
    // llama.cpp rounds inputs to 8 bits, which changes the perplexity of Q8_0 by 0.1 % and that of Q4_0 by 0.6 %.
    let files = check_all(&program, &float, &windows, &work, 1e-2);
    // Rounding the inputs as llama.cpp does explains its perplexity. The rest is due to the order of sums, which rounds
    // a few inputs to the next code.
    let own = files[2].1.compare(&program, &windows, Inputs::Own);
    let rounded = files[2].1.compare(&program, &windows, Inputs::Rounded);
    assert!((own.theirs / rounded.theirs - 1.0).abs() < 5e-3, "{own:?} {rounded:?}");
    let mut pairs = String::new();
    for (checkpoint, Exported { file, .. }) in &files {
        pairs += &format!("{}\t{}\n", checkpoint.dir().display(), file.display());
        let Some(metadata) = checkpoint.metadata() else { continue };
        let options = ImportOptions { overwrite: true, ..ImportOptions::default() };
        let back = Checkpoint::open(import_gguf(file, &work.join("back"), &options).unwrap().path).unwrap();
        for layer in &metadata.layers {
            let (ours, _) = checkpoint.read_quantized(&layer.name).unwrap().unwrap();
            let (theirs, _) = back.read_quantized(&layer.name).unwrap().unwrap();
            assert_eq!(ours.codes(), theirs.codes(), "{}: {}", file.display(), layer.name);
            assert_eq!(ours.zero_points(), theirs.zero_points(), "{}: {}", file.display(), layer.name);
        }
    }
    if let Some(python) = peer_python("gguf") {
        let list = root.path().join("pairs");
        // Values of Q4_1 differ from the checkpoint's if offsets are rounded.
        let exact: String = pairs
            .lines()
            .filter(|line| !line.ends_with("Q4_1.gguf"))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&list, exact).unwrap();
        run(&python, "check_gguf.py", &[&list]);
    }
}

/// The file in which the real model was published: its values are exact, and those of the Hugging Face directory were
/// rounded.
#[test]
fn the_published_file_of_a_real_model_is_computed_the_same() {
    let (Some(source), Some(text)) = (real_model(), article()) else { return };
    let published = source.with_file_name("SmolLM2-135M-Instruct.Q4_1.gguf");
    if !published.is_file() {
        println!("skipped: no {}", published.display());
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let rounded = import(&source, &root.path().join("hf"));
    // Keeps files that are written next to it in this directory.
    let file = root.path().join("Q4_1.gguf");
    fs::copy(&published, &file).unwrap();
    let report = import_gguf(&file, &root.path().join("gguf"), &ImportOptions::default()).unwrap();
    let exact = Checkpoint::open(report.path).unwrap();
    assert_eq!(exact.config().model, rounded.config().model);
    for tensor in expected_tensors(&exact.config().model) {
        let theirs = rounded.tensors().read_f32(&tensor.name).unwrap();
        for (ours, theirs) in values_of(&exact, &tensor.name).into_iter().zip(theirs) {
            assert_eq!(bf16::from_f32(ours).to_f32(), theirs, "{}", tensor.name);
        }
    }
    let windows = windows_of(&exact, &text);
    assert_eq!(windows, windows_of(&rounded, &text));
    let (info, other) = (&exact.config().tokenizer, &rounded.config().tokenizer);
    assert_eq!((info.bos_token_id, &info.eos_token_ids), (other.bos_token_id, &other.eos_token_ids));
    let template = |info: &TokenizerInfo| info.chat.as_ref().map(|chat| chat.template.trim().to_owned());
    assert_eq!(template(info), template(other));
    let model = exact.load_model(&Device::flex()).unwrap();
    if let Some(program) = llama_cpp("llama-logits") {
        let label = "the published file".to_owned();
        Exported { file, label, model }.require_same(&program, &windows, Inputs::Float, TABLE_GAP);
    }
}

/// The values of slm's tensor `name`, dequantized if necessary. A tied head has those of the embedding.
fn values_of(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let layer = name.strip_suffix(".weight").unwrap_or(name);
    let layers = if name == EMBED_TOKENS { &[TOKEN_TABLE, LM_HEAD][..] } else { &[layer] };
    let found = layers.iter().find_map(|layer| checkpoint.read_quantized(layer).unwrap());
    found.map_or_else(|| checkpoint.tensors().read_f32(name).unwrap(), |(matrix, _)| values(&matrix))
}

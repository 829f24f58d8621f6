//! 4,000 damaged models of other programs: checkpoints of GPTQ, AWQ, compressed-tensors and in FP8, pickles with and without an
//! archive, a SentencePiece tokenizer, files of llama2.c. None panics, none uses more memory than its files could need,
//! and each is rejected with an error that names a file, or becomes a checkpoint that opens.
//!
//! Half of the damage is at the beginnings of files, where the headers are.
//!
//! The test is a separate program with one test, so that nothing else allocates memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::Path;

use peak_alloc::PeakAlloc;
use serde_json::{Map, Value, json};
use slm_checkpoint::{Checkpoint, hf};
use slm_exchange::{ImportOptions, import_llama2c};
use slm_testing::Random;
use zip::write::SimpleFileOptions;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MUTATIONS: usize = 4_000;
/// Memory in bytes that an import needs for the smallest files: names of layers, tables of a tokenizer, buffers.
const FIXED_BYTES: usize = 24 << 20;

const HIDDEN: usize = 16;
const INNER: usize = 32;
const VOCAB: usize = 40;

type Files = BTreeMap<String, Vec<u8>>;
/// Type, shape and bytes.
type Tensors = BTreeMap<String, (&'static str, Vec<usize>, Vec<u8>)>;

fn below(random: &mut Random, limit: usize) -> usize {
    (random.bits() % limit.max(1) as u64) as usize
}

fn floats(shape: &[usize], random: &mut Random) -> Vec<u8> {
    let count = shape.iter().product::<usize>();
    (0..count).flat_map(|_| (random.normal().abs() * 0.1 + 0.01).to_le_bytes()).collect()
}

fn integers(count: usize, random: &mut Random) -> Vec<u8> {
    (0..count).map(|_| random.bits() as u8).collect()
}

/// The linear layers of the only layer: `[outputs, inputs]`.
fn linears() -> [(&'static str, [usize; 2]); 7] {
    [
        ("self_attn.q_proj", [HIDDEN, HIDDEN]),
        ("self_attn.k_proj", [HIDDEN, HIDDEN]),
        ("self_attn.v_proj", [HIDDEN, HIDDEN]),
        ("self_attn.o_proj", [HIDDEN, HIDDEN]),
        ("mlp.gate_proj", [INNER, HIDDEN]),
        ("mlp.up_proj", [INNER, HIDDEN]),
        ("mlp.down_proj", [HIDDEN, INNER]),
    ]
}

fn float_tensors(random: &mut Random) -> Tensors {
    let mut tensors = Tensors::new();
    for (name, shape) in [
        ("model.embed_tokens", vec![VOCAB, HIDDEN]),
        ("model.norm", vec![HIDDEN]),
        ("model.layers.0.input_layernorm", vec![HIDDEN]),
        ("model.layers.0.post_attention_layernorm", vec![HIDDEN]),
    ] {
        let bytes = floats(&shape, random);
        tensors.insert(format!("{name}.weight"), ("F32", shape, bytes));
    }
    tensors
}

fn config(quantization: Option<Value>) -> Vec<u8> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 32, "tie_word_embeddings": true, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "rope_theta": 1e4,
    });
    if let Some(quantization) = quantization {
        config["quantization_config"] = quantization;
    }
    serde_json::to_vec(&config).unwrap()
}

fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A directory whose linear layers have the tensors that `parts` returns.
fn quantized(
    description: Value,
    random: &mut Random,
    parts: impl Fn([usize; 2]) -> Vec<(&'static str, &'static str, Vec<usize>)>,
) -> Files {
    let mut tensors = float_tensors(random);
    for (name, shape) in linears() {
        for (part, dtype, part_shape) in parts(shape) {
            let count = part_shape.iter().product::<usize>();
            let bytes = match (part, dtype) {
                ("weight_shape", _) => shape.iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect(),
                ("g_idx", _) => (0..count as i32).flat_map(|at| (at / 8).to_le_bytes()).collect(),
                (_, "F32") => floats(&part_shape, random),
                (_, "I8") => integers(count, random),
                // Without NaN.
                (_, "F8_E4M3") => integers(count, random).iter().map(|bits| bits & 0xfe).collect(),
                _ => integers(count * 4, random),
            };
            tensors.insert(format!("model.layers.0.{name}.{part}"), (dtype, part_shape, bytes));
        }
    }
    Files::from([
        ("config.json".to_owned(), config(Some(description))),
        ("model.safetensors".to_owned(), safetensors(&tensors)),
    ])
}

/// The pickle of a state_dict, as torch writes it.
fn pickle(tensors: &Tensors) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    fn number(out: &mut Vec<u8>, number: usize) {
        out.push(b'J');
        out.extend((number as u32).to_le_bytes());
    }
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (key, (name, (_, shape, bytes))) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        number(&mut out, bytes.len() / 4);
        out.extend(b"tQK\0(");
        shape.iter().for_each(|&dim| number(&mut out, dim));
        out.extend(b"t(");
        for at in 0..shape.len() {
            number(&mut out, shape[at + 1..].iter().product());
        }
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn pickled(random: &mut Random, archive: bool) -> Files {
    let mut tensors = float_tensors(random);
    for (name, shape) in linears() {
        let bytes = floats(&shape, random);
        tensors.insert(format!("model.layers.0.{name}.weight"), ("F32", shape.to_vec(), bytes));
    }
    let main = pickle(&tensors);
    let bytes = match archive {
        true => {
            let mut file = zip::ZipWriter::new(Cursor::new(Vec::new()));
            let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            let mut entry = |name: &str, bytes: &[u8]| {
                file.start_file(format!("archive/{name}"), options).unwrap();
                file.write_all(bytes).unwrap();
            };
            entry("data.pkl", &main);
            for (key, (_, _, bytes)) in tensors.values().enumerate() {
                entry(&format!("data/{key}"), bytes);
            }
            entry("version", b"3\n");
            file.finish().unwrap().into_inner()
        }
        false => {
            let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
            let mut out = magic.to_vec();
            out.extend(b"\x80\x02}(X\x0d\0\0\0little_endian\x88u.");
            out.extend(main);
            out.extend(b"\x80\x02](");
            for key in 0..tensors.len() {
                out.extend([b"X".to_vec(), (key.to_string().len() as u32).to_le_bytes().to_vec()].concat());
                out.extend(key.to_string().bytes());
            }
            out.extend(b"e.");
            for (_, _, bytes) in tensors.values() {
                out.extend((bytes.len() as u64 / 4).to_le_bytes());
                out.extend(bytes);
            }
            out
        }
    };
    Files::from([
        ("config.json".to_owned(), config(None)),
        ("pytorch_model.bin".to_owned(), bytes),
        ("tokenizer.model".to_owned(), sentence_piece()),
    ])
}

/// A SentencePiece model of byte pairs, letters and a few words.
fn sentence_piece() -> Vec<u8> {
    let mut out = Vec::new();
    let mut piece = |text: &str, score: f32, kind: u8| {
        let mut inner = vec![0x0a, text.len() as u8];
        inner.extend(text.as_bytes());
        inner.push(0x15);
        inner.extend(score.to_le_bytes());
        inner.extend([0x18, kind]);
        out.extend([0x0a, inner.len() as u8]);
        out.extend(inner);
    };
    for (text, kind) in [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("\u{2581}", 1)] {
        piece(text, 0.0, kind);
    }
    for (number, letter) in ('a'..='z').enumerate() {
        piece(&letter.to_string(), -30.0 - number as f32, 1);
    }
    for (number, word) in ["th", "the", "he", "in", "\u{2581}t"].into_iter().enumerate() {
        piece(word, -1.0 - number as f32, 1);
    }
    // trainer_spec: model_type 2.
    out.extend([0x12, 0x02, 0x18, 0x02]);
    out
}

/// A file of llama2.c with its tokenizer.
fn llama2c(random: &mut Random, version: u32) -> Files {
    let numbers = [HIDDEN, INNER, 1, 2, 2, VOCAB, 32];
    let numbers = numbers.iter().flat_map(|&number| (number as u32).to_le_bytes());
    let mut out = Vec::new();
    let matrices: usize = linears().iter().map(|(_, [rows, cols])| rows * cols).sum();
    match version {
        0 => {
            out.extend(numbers);
            out.extend(floats(&[VOCAB * HIDDEN + 3 * HIDDEN + matrices + 32 * HIDDEN / 2], random));
        }
        _ => {
            out.extend(0x616b_3432_u32.to_le_bytes());
            out.extend(version.to_le_bytes());
            out.extend(numbers);
            out.push(1);
            out.extend(8_u32.to_le_bytes());
            out.resize(256, 0);
            out.extend(floats(&[3 * HIDDEN], random));
            let sizes = linears().map(|(_, [rows, cols])| rows * cols);
            for size in [VOCAB * HIDDEN].into_iter().chain(sizes) {
                out.extend(integers(size, random));
                out.extend(floats(&[size / 8], random));
            }
        }
    }
    let mut tokens = 8_u32.to_le_bytes().to_vec();
    for id in 0..VOCAB {
        let text = match id {
            0 => "<unk>".to_owned(),
            1 => "\n<s>\n".to_owned(),
            2 => "\n</s>\n".to_owned(),
            3 => " ".to_owned(),
            id if id < 30 => char::from(b'a' + id as u8 - 4).to_string(),
            id => format!("t{}", char::from(b'a' + id as u8 - 30)),
        };
        tokens.extend((-(id as f32)).to_le_bytes());
        tokens.extend((text.len() as u32).to_le_bytes());
        tokens.extend(text.bytes());
    }
    Files::from([("model.bin".to_owned(), out), ("tokenizer.bin".to_owned(), tokens)])
}

/// Number of originals before those that slm has no scheme for, and dequantizes.
const WITH_SCHEME: usize = 8;

fn originals() -> Vec<Files> {
    let random = &mut Random(3);
    let gptq = json!({ "quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": false, "sym": false });
    let awq = json!({ "quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm" });
    let fp8 = json!({ "quant_method": "fp8", "weight_block_size": [12, 12] });
    let compressed = |format: &str, bits: u32, strategy: &str| {
        json!({
            "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head", "re:.*embed"],
            "config_groups": { "group_0": {
                "targets": ["Linear"],
                "weights": { "num_bits": bits, "type": "int", "symmetric": false, "strategy": strategy, "group_size": 8 },
                "input_activations": if format == "int-quantized" {
                    json!({ "num_bits": 8, "strategy": "tensor", "dynamic": false })
                } else {
                    Value::Null
                },
            } },
        })
    };
    vec![
        quantized(gptq, random, |[outputs, inputs]| {
            vec![
                ("qweight", "I32", vec![inputs / 8, outputs]),
                ("qzeros", "I32", vec![inputs / 8, outputs / 8]),
                ("scales", "F32", vec![inputs / 8, outputs]),
                ("g_idx", "I32", vec![inputs]),
            ]
        }),
        quantized(awq, random, |[outputs, inputs]| {
            vec![
                ("qweight", "I32", vec![inputs, outputs / 8]),
                ("qzeros", "I32", vec![inputs / 8, outputs / 8]),
                ("scales", "F32", vec![inputs / 8, outputs]),
            ]
        }),
        quantized(compressed("pack-quantized", 4, "group"), random, |[outputs, inputs]| {
            vec![
                ("weight_packed", "I32", vec![outputs, inputs / 8]),
                ("weight_shape", "I64", vec![2]),
                ("weight_scale", "F32", vec![outputs, inputs / 8]),
                ("weight_zero_point", "I32", vec![outputs / 8, inputs / 8]),
            ]
        }),
        quantized(compressed("int-quantized", 8, "channel"), random, |[outputs, inputs]| {
            vec![
                ("weight", "I8", vec![outputs, inputs]),
                ("weight_scale", "F32", vec![outputs, 1]),
                ("weight_zero_point", "I8", vec![outputs, 1]),
                ("input_scale", "F32", vec![1]),
                ("input_zero_point", "I8", vec![1]),
            ]
        }),
        pickled(random, true),
        pickled(random, false),
        llama2c(random, 0),
        llama2c(random, 2),
        quantized(compressed("pack-quantized", 3, "group"), random, |[outputs, inputs]| {
            vec![
                ("weight_packed", "I32", vec![outputs, (inputs * 3).div_ceil(32)]),
                ("weight_shape", "I64", vec![2]),
                ("weight_scale", "F32", vec![outputs, inputs / 8]),
                ("weight_zero_point", "I32", vec![(outputs * 3).div_ceil(32), inputs / 8]),
            ]
        }),
        quantized(fp8, random, |[outputs, inputs]| {
            vec![
                ("weight", "F8_E4M3", vec![outputs, inputs]),
                ("weight_scale_inv", "F32", vec![outputs.div_ceil(12), inputs.div_ceil(12)]),
            ]
        }),
    ]
}

/// Damages one of the files.
fn damage(files: &mut Files, random: &mut Random) {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = &names[below(random, names.len())];
    let Some(bytes) = files.get_mut(name) else { return };
    for _ in 0..=below(random, 3) {
        if bytes.len() < 16 {
            return;
        }
        let end = if below(random, 2) == 0 { bytes.len().min(600) } else { bytes.len() };
        let at = below(random, end - 9);
        match below(random, 8) {
            0 => bytes[at] = random.bits() as u8,
            1 => bytes[at] ^= 1 << below(random, 8),
            2 => {
                let number =
                    [0, u64::MAX, 1 << below(random, 63), below(random, 64) as u64][below(random, 4)];
                bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            // Changes a digit of a JSON text.
            3 => {
                let digits: Vec<usize> = (0..end).filter(|&at| bytes[at].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    bytes[digits[below(random, digits.len())]] = b'0' + below(random, 10) as u8;
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let part = bytes[at..(at + below(random, 100)).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
            6 => drop(bytes.drain(at..(at + below(random, 100)).min(bytes.len()))),
            _ => bytes[at..at + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]),
        }
    }
}

fn import(dir: &Path, out: &Path, number: usize) -> Result<(), String> {
    let file = dir.join("model.bin");
    let options = ImportOptions { dequantize: number >= WITH_SCHEME, ..ImportOptions::default() };
    match file.exists() {
        true => {
            let imported = import_llama2c(&file, out, &options, None);
            imported.map(|_| ()).map_err(|error| error.to_string())
        }
        false => hf::import_with(dir, out, &options).map(|_| ()).map_err(|error| error.to_string()),
    }
}

#[test]
fn damaged_models_are_refused_by_name_or_work() {
    let root = tempfile::tempdir().unwrap();
    let (dir, out) = (root.path().join("damaged"), root.path().join("out"));
    let originals = originals();
    let write = |files: &Files| {
        fs::create_dir(&dir).unwrap();
        for (name, bytes) in files {
            File::create(dir.join(name)).unwrap().write_all(bytes).unwrap();
        }
    };
    for (number, files) in originals.iter().enumerate() {
        write(files);
        import(&dir, &out, number).unwrap_or_else(|error| panic!("original {number}: {error}"));
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert_eq!(checkpoint.is_quantized(), ![4, 5, 6, 8, 9].contains(&number), "original {number}");
        assert_eq!(out.join("tokenizer.json").exists(), (4..8).contains(&number), "original {number}");
        fs::remove_dir_all(&dir).unwrap();
        fs::remove_dir_all(&out).unwrap();
    }
    let random = &mut Random(7);
    let (mut refused, mut imported) = (0, 0);
    for number in 0..MUTATIONS {
        let original = number % originals.len();
        let mut files = originals[original].clone();
        damage(&mut files, random);
        write(&files);
        let size: usize = files.values().map(Vec::len).sum();
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        match import(&dir, &out, original) {
            Err(message) => {
                let named = message.contains("damaged") || message.contains("out");
                assert!(named && message.len() < 20_000, "{number}: {message}");
                refused += 1;
            }
            Ok(()) => {
                Checkpoint::open(&out).unwrap();
                imported += 1;
            }
        }
        let used = MEMORY.peak_usage().saturating_sub(before);
        assert!(used < FIXED_BYTES + 16 * size, "{number}: {used} bytes for files of {size}");
        fs::remove_dir_all(&dir).unwrap();
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
    }
    println!("{refused} refused, {imported} imported");
    assert!(refused > MUTATIONS / 4 && imported > MUTATIONS / 50, "{refused} refused, {imported} imported");
}

//! 4,000 damaged GGUF files: none panics, none uses more memory than the file could need, and each is rejected with an
//! error that names the file, or becomes a checkpoint that opens.
//!
//! Half of the damage respects the format: it changes a length, a count, a type, a dimension, an offset, a number or a
//! text of the header. The rest is damage as from disks and networks.
//!
//! The test is a separate program with one test, so that nothing else allocates memory.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use peak_alloc::PeakAlloc;
use slm_checkpoint::{Checkpoint, SaveRequest, TokenizerInfo, save};
use slm_exchange::gguf::{GgufFile, GgufWriter, TensorDecl, TensorKind, Value};
use slm_exchange::{ExportOptions, Format, ImportOptions, export, import_gguf};
use slm_model::{ModelConfig, Transformer};
use slm_testing::Random;
use slm_text::Tokenizer;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MUTATIONS: usize = 4_000;
/// Memory in bytes that an import needs for the smallest file: names of layers, tables of a tokenizer, buffers.
const FIXED_BYTES: usize = 24 << 20;

/// A float file with a tokenizer, as slm writes it.
fn base(dir: &Path) -> Vec<u8> {
    let text = "Once upon a time there was a cat. The cat sat on the mat, and the mat was red.\n".repeat(3);
    let tokenizer = Tokenizer::train(&text, 270).unwrap().to_json().unwrap();
    let model = Transformer::new(&ModelConfig::new(272, 32, 64, 2, 2, 32), 1, &Device::flex()).unwrap();
    let info = TokenizerInfo { bos_token_id: Some(0), eos_token_ids: vec![0], chat: None };
    let request =
        SaveRequest { tokenizer_json: Some(tokenizer.as_bytes()), tokenizer: info, ..SaveRequest::default() };
    let saved = save(dir.join("float"), &model, &request, false).unwrap();
    let out = dir.join("base.gguf");
    export(&saved, &out, &ExportOptions::new(Format::Gguf)).unwrap();
    fs::read(out).unwrap()
}

/// The same file as another program writes it: without slm's keys, with blocks of several types.
fn foreign(dir: &Path) -> Vec<u8> {
    let file = GgufFile::open(&dir.join("base.gguf")).unwrap();
    let own = |key: &str| key.starts_with("slm.") || key == "tokenizer.huggingface.json";
    let pairs: Vec<(String, Value)> = file
        .metadata()
        .iter()
        .filter(|(key, _)| !own(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let kinds = [TensorKind::Q8_0, TensorKind::Q4_0, TensorKind::Q4_1, TensorKind::Q5_0, TensorKind::Q5_1];
    let mut declared = Vec::new();
    for (index, tensor) in file.tensors().iter().enumerate() {
        let kind = if tensor.shape.len() == 2 { kinds[index % kinds.len()] } else { tensor.kind };
        declared.push(TensorDecl { name: tensor.name.clone(), kind, shape: tensor.shape.clone() });
    }
    let out = dir.join("foreign.gguf");
    let mut writer = GgufWriter::create(&out, &pairs, declared.clone()).unwrap();
    for (tensor, decl) in file.tensors().iter().zip(&declared) {
        match decl.kind.is_quantized() {
            // Small scales and arbitrary codes.
            true => {
                let block = |at: usize| if at < 2 { [0x00, 0x20][at] } else { (at * 37 % 251) as u8 };
                let size = decl.kind.block_bytes();
                let data: Vec<u8> = (0..decl.bytes().unwrap() as usize).map(|at| block(at % size)).collect();
                writer.write(&decl.name, &data).unwrap();
            }
            false => writer.write(&decl.name, &file.read(tensor).unwrap()).unwrap(),
        }
    }
    writer.finish().unwrap();
    fs::read(out).unwrap()
}

/// A number below `limit`.
fn below(random: &mut Random, limit: usize) -> usize {
    (random.bits() % limit.max(1) as u64) as usize
}

/// Damages `bytes`, whose first `header` bytes precede the data of tensors.
fn damage(bytes: &mut Vec<u8>, header: usize, random: &mut Random) {
    let header = header.min(bytes.len());
    for _ in 0..=below(random, 3) {
        let at = below(random, header.max(1)).min(bytes.len().saturating_sub(9));
        let number = |random: &mut Random| match below(random, 6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << below(random, 63),
            3 => below(random, 64) as u64,
            4 => i64::MIN.cast_unsigned(),
            _ => below(random, 1 << 20) as u64,
        };
        if bytes.len() < 16 {
            return;
        }
        match below(random, 9) {
            // A length, a count, a dimension or an offset, or any other bytes at that position.
            0 | 1 => {
                let value = number(random).to_le_bytes();
                bytes[at..at + 8].copy_from_slice(&value);
            }
            // A type.
            2 => bytes[at..at + 4].copy_from_slice(&(below(random, 40) as u32).to_le_bytes()),
            3 => bytes[at] = below(random, 256) as u8,
            4 => bytes[at] ^= 1 << below(random, 8),
            // One of the first numbers of the header: version, counts.
            5 => {
                let at = [4, 8, 16][below(random, 3)];
                let value = number(random).to_le_bytes();
                bytes[at..at + 8].copy_from_slice(&value);
            }
            6 => bytes.truncate(below(random, bytes.len())),
            // Duplicates or removes a part.
            7 => {
                let end = (at + below(random, 200)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let end = (at + below(random, 200)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    // Also changes numbers in the data of tensors, especially scales.
    if below(random, 4) == 0 && bytes.len() > header + 8 {
        let at = header + below(random, bytes.len() - header - 4);
        bytes[at..at + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
    }
}

/// The approximate offset of the data of tensors.
fn header_len(path: &Path, bytes: &[u8]) -> usize {
    let file = GgufFile::open(path).unwrap();
    let data: u64 = file.tensors().iter().map(|tensor| file.read(tensor).unwrap().len() as u64).sum();
    bytes.len().saturating_sub(data as usize)
}

#[test]
fn damaged_files_are_refused_by_name_or_work() {
    let root = tempfile::tempdir().unwrap();
    let bases = [
        (base(root.path()), root.path().join("base.gguf")),
        (foreign(root.path()), root.path().join("foreign.gguf")),
    ];
    let options = ImportOptions { dynamic: true, ..ImportOptions::default() };
    for (bytes, path) in &bases {
        let out = root.path().join("whole");
        import_gguf(path, &out, &options).unwrap();
        Checkpoint::open(&out).unwrap().load_model(&Device::flex()).unwrap();
        fs::remove_dir_all(&out).unwrap();
        assert!(header_len(path, bytes) > 1000);
    }
    let headers: Vec<usize> = bases.iter().map(|(bytes, path)| header_len(path, bytes)).collect();
    let random = &mut Random(7);
    let (mut refused, mut imported) = (0, 0);
    let (path, out) = (root.path().join("damaged.gguf"), root.path().join("out"));
    for number in 0..MUTATIONS {
        let which = number % bases.len();
        let mut bytes = bases[which].0.clone();
        damage(&mut bytes, headers[which], random);
        fs::write(&path, &bytes).unwrap();
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        match import_gguf(&path, &out, &options) {
            Err(error) => {
                let message = error.to_string();
                let named = message.contains("damaged.gguf") || message.contains("out");
                assert!(named && message.len() < 20_000, "{number}: {message}");
                refused += 1;
            }
            Ok(_) => {
                Checkpoint::open(&out).unwrap();
                imported += 1;
            }
        }
        let used = MEMORY.peak_usage().saturating_sub(before);
        assert!(
            used < FIXED_BYTES + 16 * bytes.len(),
            "{number}: {used} bytes for a file of {}",
            bytes.len()
        );
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
    }
    println!("{refused} refused, {imported} imported");
    assert!(refused > MUTATIONS / 4 && imported > MUTATIONS / 50, "{refused} refused, {imported} imported");
}

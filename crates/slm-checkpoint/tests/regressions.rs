//! Findings of fuzzing, and seeds of each kind. Every reader in `slm_checkpoint::fuzzing` and `slm_text::fuzzing` runs
//! on every file of `fixtures/` and `regressions/`, and on every truncation of the smaller ones. For `SLM_FUZZ_SECONDS`
//! seconds, each reader also runs on random changes of the files for it:
//! ```text
//! SLM_FUZZ_SECONDS=600 cargo test --release -p slm-checkpoint --test regressions -- --nocapture
//! ```
//!
//! `regressions/` contains files made by hand. A folder in it that is named after a reader contains the findings of
//! cargo-fuzz for that reader, from which `fuzz/run` starts.

#[path = "support/random.rs"]
mod random;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use random::Random;
use slm_checkpoint::fuzzing;
use slm_text::fuzzing as text;

/// A reader with its name, and the suffix of the names of its files.
type Reader = (&'static str, fn(&[u8]), &'static str);

const READERS: [Reader; 10] = [
    ("safetensors", fuzzing::safetensors, ".safetensors"),
    ("burnpack", fuzzing::burnpack, ".bpk"),
    ("config", fuzzing::config, "config.json"),
    ("metadata", fuzzing::metadata, "quantization_metadata.json"),
    ("manifest", fuzzing::manifest, "manifest.json"),
    ("tokenizer", fuzzing::tokenizer, "tokenizer.json"),
    ("tokenizer_load", text::tokenizer, "tokenizer.json"),
    ("ids", text::ids, "ids.json"),
    ("pickle", fuzzing::pickle, ".bin"),
    ("sentencepiece", text::sentencepiece, ".model"),
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

fn kept() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    files(&root.join("fixtures"), &mut found);
    files(&root.join("tests/regressions"), &mut found);
    found.sort();
    found
}

/// Returns `true` if `path` is a finding of cargo-fuzz for the reader `name`.
fn found_for(path: &Path, name: &str) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with(Path::new("regressions").join(name)))
}

#[test]
fn no_reader_panics_on_what_is_kept() {
    for path in kept() {
        let bytes = fs::read(&path).unwrap();
        READERS.iter().for_each(|(_, read, _)| read(&bytes));
        let by_hand = !READERS.iter().any(|(name, _, _)| found_for(&path, name));
        if by_hand && bytes.len() < 4096 {
            (0..bytes.len()).for_each(|len| READERS.iter().for_each(|(_, read, _)| read(&bytes[..len])));
        }
    }
}

#[test]
fn no_reader_panics_on_random_changes() {
    let seconds = std::env::var("SLM_FUZZ_SECONDS").map_or(0.2, |text| text.parse().expect("a number"));
    let kept = kept();
    let mut random = Random(6);
    for (name, read, ending) in READERS {
        let fits =
            |path: &&PathBuf| path.to_str().is_some_and(|p| p.ends_with(ending)) || found_for(path, name);
        let seeds: Vec<Vec<u8>> = kept.iter().filter(fits).map(|path| fs::read(path).unwrap()).collect();
        assert!(seeds.len() > 3, "{name}");
        let (start, mut runs) = (Instant::now(), 0_u64);
        while start.elapsed() < Duration::from_secs_f64(seconds) || runs < 100 {
            let mut bytes = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(6) {
                change(&mut bytes, &seeds[random.below(seeds.len())], &mut random);
            }
            read(&bytes);
            runs += 1;
        }
        println!("{name}: {runs} runs on changes of {} files", seeds.len());
    }
}

/// Fragments that are likely to confuse a reader, in text and in binary.
const TOKENS: [&[u8]; 20] = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e400",
    b"18446744073709551615",
    b"9223372036854775808",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[[[[[[[",
    b"{\"a\":",
    b",",
    b"\\ud800",
    b"\xff",
    b"\0\0\0\0\0\0\0\x80",
    b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x9f",
    b"\xbf",
    b"\x7f",
];

/// Makes one change: flips a bit, changes a number, inserts a token or a piece of this or another file, or removes a
/// part.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    // Headers come first and are the most error-prone.
    let near = |len: usize, random: &mut Random| {
        let len = if random.below(2) == 0 { len.min(2048) } else { len };
        random.below(len.max(1))
    };
    let at = near(bytes.len(), random);
    match random.below(7) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        2 => drop(
            bytes.splice(at.min(bytes.len())..at.min(bytes.len()), TOKENS[random.below(20)].iter().copied()),
        ),
        3 => {
            let token = TOKENS[random.below(20)];
            let end = bytes.len().min(at + token.len());
            bytes.splice(at.min(end)..end, token.iter().copied());
        }
        4 => {
            let from = near(other.len(), random);
            let piece = &other[from.min(other.len())..other.len().min(from + random.below(256))];
            bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece.iter().copied());
        }
        5 => drop(bytes.drain(at.min(bytes.len())..bytes.len().min(at + random.below(64)))),
        _ => bytes.truncate(at),
    }
}

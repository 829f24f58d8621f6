//! SentencePiece models, compared with the library that trained them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use slm_testing::{peer_python, shared_dir};
use slm_text::Tokenizer;
use slm_text::sentencepiece::{Algorithm, Frame, Piece, PieceKind, SentencePiece};

/// Models of all kinds, trained by the library, give the same ids and texts.
#[test]
fn ids_are_those_of_the_library() {
    let (Some(python), Some(data)) = (peer_python("sentencepiece"), shared_dir("data")) else { return };
    let root = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/train_sentencepiece.py");
    let output =
        Command::new(python).arg(script).arg(data.join("tinyshakespeare.txt")).arg(root.path()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let mut compared = 0;
    let mut differ = Vec::new();
    for entry in fs::read_dir(root.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "model") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let model = SentencePiece::parse(&fs::read(&path).unwrap(), name).unwrap();
        assert_eq!(model.algorithm == Algorithm::Unigram, name.starts_with("unigram"), "{name}");
        let tokenizer = Tokenizer::from_json(&model.to_json(&Frame::default()), name).unwrap();
        assert_eq!(tokenizer.vocab_size(), model.pieces.len(), "{name}");
        let cases: Value = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let text = case[0].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case[1].clone()).unwrap();
            let found = tokenizer.encode(text).unwrap();
            if found != ids {
                differ.push(format!("{name}: {text:?}: {ids:?}, here {found:?}"));
            } else if !ids.contains(&model.unknown_id) {
                let decoded = tokenizer.decode_with_special_tokens(&ids).unwrap();
                if decoded != case[2].as_str().unwrap() {
                    differ.push(format!("{name}: {:?} decoded as {decoded:?}", case[2]));
                }
            }
            compared += 1;
        }
    }
    assert!(differ.is_empty(), "{} of {compared}:\n{}", differ.len(), differ.join("\n"));
    assert!(compared > 200, "{compared}");
}

fn piece(text: &str, score: f32, kind: PieceKind) -> Piece {
    Piece { text: text.to_owned(), score, kind }
}

/// A model of a few pieces: `ab` scores better than `bc`, so `abc` becomes `ab` and `c`.
fn model(algorithm: Algorithm) -> SentencePiece {
    SentencePiece {
        pieces: vec![
            piece("<unk>", 0.0, PieceKind::Unknown),
            piece("<s>", 0.0, PieceKind::Control),
            piece("</s>", 0.0, PieceKind::Control),
            piece("\u{2581}", -3.0, PieceKind::Normal),
            piece("a", -4.0, PieceKind::Normal),
            piece("b", -5.0, PieceKind::Normal),
            piece("c", -6.0, PieceKind::Normal),
            piece("ab", -1.0, PieceKind::Normal),
            piece("bc", -2.0, PieceKind::Normal),
            piece("<user>", 0.0, PieceKind::UserDefined),
        ],
        algorithm,
        unknown_id: 0,
        bos_id: Some(1),
        eos_id: Some(2),
        byte_fallback: false,
        character_map: Vec::new(),
        add_space_prefix: false,
        collapse_spaces: true,
    }
}

#[test]
fn scores_and_rules_hold() {
    for (algorithm, abc) in [(Algorithm::BytePairs, [7, 6]), (Algorithm::Unigram, [4, 8])] {
        let mut model = model(algorithm);
        let frame = Frame { begin: Some(1), end: Some(2), added: vec![(10, "<new>".to_owned(), false)] };
        let tokenizer = Tokenizer::from_json(&model.to_json(&frame), "test").unwrap();
        // The unigram model prefers `a` and `bc` (-6) to `ab` and `c` (-7).
        assert_eq!(tokenizer.encode("abc").unwrap(), abc, "{algorithm:?}");
        assert_eq!(tokenizer.encode_with_special_tokens("a").unwrap(), [1, 4, 2]);
        assert_eq!(tokenizer.encode("  a   b ").unwrap(), [4, 3, 5]);
        assert_eq!(tokenizer.encode("a<user>b<new>").unwrap(), [4, 9, 5, 10]);
        assert_eq!(tokenizer.encode("axx").unwrap(), [4, 0]);
        model.add_space_prefix = true;
        model.collapse_spaces = false;
        let tokenizer = Tokenizer::from_json(&model.to_json(&Frame::default()), "test").unwrap();
        assert_eq!(tokenizer.encode("a  b").unwrap(), [3, 4, 3, 3, 5]);
        assert_eq!(tokenizer.decode(&[3, 4, 3, 3, 5]).unwrap(), "a  b");
    }
}

#[test]
fn what_is_no_model_is_refused() {
    for (bytes, part) in [
        (&b""[..], "unknown"),
        (b"\x0a\xff\xff\xff\xff\x0f", "not a SentencePiece model"),
        (b"IQ== 0\nIg== 1\n", "tiktoken"),
        (b"\x0a\x05\x0a\x01a\x18\x09", "type 9"),
        (b"\x12\x02\x18\x03", "WORD"),
        (b"\x12\x02\x18\x04", "CHAR"),
        (b"\x1a\x02\x28\x00", "spaces"),
        (b"\x0a\x02\x18\x02", "piece 0"),
    ] {
        let error = SentencePiece::parse(bytes, "tokenizer.model").unwrap_err().to_string();
        assert!(error.contains("tokenizer.model") && error.contains(part), "{bytes:?}: {error}");
    }
}

/// Damaged models are rejected or become tokenizers that do not panic, and none uses more memory than its bytes
/// justify.
#[test]
fn damaged_models_do_no_harm() {
    let Some(dir) = shared_dir("tokenizers") else { return };
    let whole = fs::read(dir.join("mistral-v1/tokenizer.model")).unwrap();
    // Keeps only the first pieces: a message may end after any of them.
    let end = 2000 + whole[2000..].iter().position(|&byte| byte == 0x0a).unwrap();
    let small = &whole[..end];
    let random = &mut slm_testing::Random(11);
    let mut parsed = 0;
    for _ in 0..3000 {
        let mut bytes = small.to_vec();
        for _ in 0..1 + random.bits() % 4 {
            let at = (random.bits() % bytes.len() as u64) as usize;
            match random.bits() % 4 {
                0 => bytes[at] = random.bits() as u8,
                1 => bytes[at] ^= 1 << (random.bits() % 8),
                2 => bytes.truncate(at.max(8)),
                _ => drop(bytes.splice(at..at, (0..5).map(|_| 0xff))),
            }
        }
        let Ok(model) = SentencePiece::parse(&bytes, "damaged") else { continue };
        assert!(model.pieces.len() <= bytes.len());
        parsed += 1;
        if let Ok(tokenizer) = Tokenizer::from_json(&model.to_json(&Frame::default()), "damaged") {
            drop(tokenizer.encode("Hello, w\u{f6}rld"));
        }
    }
    println!("{parsed} of 3000 were read");
    assert!(parsed > 100, "{parsed}");
}

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::corpus::Corpus;

fn in_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    read(&path)
}

fn read(bytes: &[u8]) -> Result<String> {
    in_file("text.txt", bytes, |path| read_text(path))
}

fn refusal(name: &str, bytes: &[u8]) -> String {
    in_file(name, bytes, |path| match Data::open(path) {
        Ok(Data::Text(reader)) => reader.read_to_end().unwrap_err().to_string(),
        Ok(Data::Ids(ids)) => panic!("{ids:?}"),
        Err(error) => error.to_string(),
    })
}

fn ids(name: &str, bytes: &[u8]) -> Vec<Vec<u32>> {
    in_file(name, bytes, |path| match Data::open(path).unwrap() {
        Data::Ids(ids) => ids,
        Data::Text(reader) => panic!("{reader:?}"),
    })
}

#[test]
fn a_plain_text_comes_back_as_it_is() {
    let text = "a\n\tb  é🙂\n\n";
    assert_eq!(read(text.as_bytes()).unwrap(), text);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let text = "é🙂 and more\n";
    assert_eq!(read(&[b"\xef\xbb\xbf", text.as_bytes()].concat()).unwrap(), text);
    let units: Vec<u16> = text.encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    assert_eq!(read(&[b"\xff\xfe", &little[..]].concat()).unwrap(), text);
    assert_eq!(read(&[b"\xfe\xff", &big[..]].concat()).unwrap(), text);
    // Without the mark, it would be read as text with zero characters.
    assert!(refusal("t.txt", &little).contains("UTF-16LE"));
    assert!(refusal("t.txt", &big).contains("UTF-16BE"));
    assert!(refusal("t.txt", b"\xff\xfea\0b").contains("not UTF-16"), "half a unit");
    assert!(refusal("t.txt", b"\xff\xfe\x00\xd8a\0").contains("at byte 2"), "half a pair");
}

#[test]
fn line_ends_of_every_system_are_line_ends() {
    assert_eq!(read(b"a\r\nb\rc\n\r\n\r\rd\r").unwrap(), "a\nb\nc\n\n\n\nd\n");
    // Covers every position at which two parts of the file meet.
    for before in 65_530..65_540 {
        let bytes = ["x".repeat(before).as_bytes(), b"\r\ny\rz"].concat();
        assert_eq!(read(&bytes).unwrap()[before..], *"\ny\nz");
    }
    assert_eq!(in_file("t.jsonl", b"{\"text\": \"a\\r\\nb\"}\r\n", |path| read_text(path)).unwrap(), "a\nb");
}

#[test]
fn characters_may_lie_across_the_parts_of_a_file() {
    for before in 65_532..65_538 {
        let text = format!("{}🙂é", "x".repeat(before));
        assert_eq!(read(text.as_bytes()).unwrap(), text);
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&[b"\xff\xfe", &units[..]].concat()).unwrap(), text);
        let units: Vec<u8> = text[before / 2..].encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&[b"\xff\xfe", &units[..]].concat()).unwrap(), text[before / 2..]);
    }
}

#[test]
fn bad_bytes_are_located() {
    let error = read(b"first\nsecond \xe9t\xe9\n").unwrap_err();
    assert!(matches!(error, Error::NotUtf8 { offset: 13, line: 2, byte: 0xe9, .. }), "{error}");
    assert!(error.to_string().contains("ISO-8859-1"), "{error}");
    let far = [Corpus::new(1).text(100).as_bytes(), b"\xe9"].concat();
    let Error::NotUtf8 { offset, line, .. } = read(&[&far[..], b" "].concat()).unwrap_err() else { panic!() };
    assert_eq!(offset, far.len() - 1);
    assert_eq!(line, 1 + far.iter().filter(|&&byte| byte == b'\n').count());
    assert!(read("né".as_bytes().split_last().unwrap().1).unwrap_err().to_string().contains("truncated"));
    assert!(read(b"\0\x80\0").unwrap_err().to_string().contains("zero bytes"));
    assert!(read_text("no/such/file.txt").unwrap_err().to_string().contains("no/such/file.txt"));
}

#[test]
fn white_space_is_no_text() {
    assert!(matches!(read(b"").unwrap_err(), Error::EmptyText { bytes: 0, .. }));
    assert!(matches!(read(b" \n\t").unwrap_err(), Error::EmptyText { bytes: 3, .. }));
    assert!(matches!(read(b"\xef\xbb\xbf").unwrap_err(), Error::EmptyText { bytes: 0, .. }));
}

#[test]
fn other_files_are_refused_by_name() {
    for (head, name) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0"[..], "gzip"),
        (b"PK\x03\x04\x14\0", "zip"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"\x93NUMPY\x01\0v\0", "NumPy"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"\x40\0\0\0\0\0\0\0{\"a\":{}}", "safetensors"),
        (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 6\n", "git lfs pull"),
    ] {
        let message = refusal("data.txt", head);
        assert!(message.contains("data.txt") && message.contains(name), "{message}");
    }
}

#[test]
fn texts_in_json_are_read() {
    for (name, content) in [
        ("t.jsonl", "{\"text\": \"One é.\"}\n{\"text\": \"Two.\", \"id\": 7}\n"),
        ("t.txt", "{\"text\": \"One é.\"}\n\n{\"text\": \"Two.\"}"),
        ("t.jsonl", "\u{feff}\"One é.\"\n\"Two.\"\n"),
        ("t.json", "[{\"text\": \"One é.\"},\n {\"text\": \"Two.\"}]"),
        ("t.json", "[\"One é.\", \"Two.\"]"),
        (
            "t.json",
            "[\n  {\n    \"review\": \"One é.\",\n    \"stars\": 3\n  },\n  {\"review\": \"Two.\"}\n]",
        ),
    ] {
        let text = in_file(name, content.as_bytes(), |path| read_text(path)).unwrap();
        assert_eq!(text, "One é.\n\nTwo.", "{content}");
    }
    assert_eq!(in_file("t.json", b"{\"text\": \"Alone.\"}", |path| read_text(path)).unwrap(), "Alone.");
}

#[test]
fn ids_in_json_are_ids() {
    for (name, content) in [
        ("ids.json", "{\"ids\": [[1, 2], [3]]}"),
        ("ids.txt", "{\"ids\":[[1,2],[3]]}\n"),
        ("ids.json", "[[1, 2], [3]]"),
        ("ids.json", "[{\"input_ids\": [1, 2], \"attention_mask\": [1, 1]}, {\"input_ids\": [3]}]"),
        ("ids.jsonl", "[1, 2]\n[3]\n"),
        ("ids.jsonl", "{\"input_ids\": [1, 2]}\n{\"input_ids\": [3]}\n"),
        ("ids", "{\"tokens\": [1, 2]}\n{\"tokens\": [3]}\n"),
    ] {
        assert_eq!(ids(name, content.as_bytes()), [vec![1, 2], vec![3]], "{content}");
    }
    assert_eq!(ids("ids.json", b"[5, 6]"), [[5, 6]]);
    let message = in_file("ids.json", b"[5, 6]", |path| read_text(path)).unwrap_err().to_string();
    assert!(message.contains("ids.json") && message.contains("token ids"), "{message}");
}

#[test]
fn prose_that_begins_like_json_is_prose() {
    for text in [
        "[1] Introduction\nOnce upon a time.\n",
        "[1]\nOnce upon a time.\n",
        "[Music]\nOnce upon a time.\n",
        "{ a brace } and more",
        "{\n  x = 1\n}\n",
        "[",
        "[1, 2, 3",
        "\"Once,\" she said.",
    ] {
        assert_eq!(read(text.as_bytes()).unwrap(), text);
    }
}

#[test]
fn json_that_holds_neither_is_refused_with_the_place() {
    for (name, content, parts) in [
        ("t.json", "{\"text\": ", &["EOF"][..]),
        ("t.json", "Once upon a time", &["no JSON"]),
        ("t.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": 3", &["line 3"]),
        ("t.txt", "{\"text\": \"a\"}\n{\"text\": \"b\"}\nprose", &["line 3"]),
        ("t.jsonl", "{\"text\": \"a\"}\n[1, 2]\n", &["line 2", "mixed"]),
        ("t.json", "[\"a\", [1]]", &["[1]", "mixed"]),
        (
            "t.jsonl",
            "{\"a\": \"x\", \"b\": \"y\"}\n{\"a\": \"x\", \"b\": \"y\"}\n",
            &["line 1", "\"a\", \"b\"", "under \"text\""],
        ),
        ("t.jsonl", "{\"messages\": []}\n{\"messages\": []}", &["messages", "chat template"]),
        ("t.json", "{\"ids\": [[-1]]}", &["-1", "expected {\"ids\""]),
        ("t.json", "[[1], []]", &["[1]", "list of token ids"]),
        ("t.json", "[]", &["empty list"]),
    ] {
        let message = refusal(name, content.as_bytes());
        for part in parts.iter().chain(&[name]) {
            assert!(message.contains(part), "{content}: {part:?} is not in {message}");
        }
    }
}

#[test]
fn a_limit_stops_the_reading() {
    let tokenizer = Tokenizer::train(&Corpus::new(1).text(200), 400).unwrap();
    let text = Corpus::new(2).text(3000);
    let all = tokenizer.encode(&text).unwrap();
    let mut bytes = text.clone().into_bytes();
    bytes.extend(b"\xff this part is never read");
    in_file("text.txt", &bytes, |path| {
        for limit in [0, 1, 512, 20_000] {
            let Data::Text(reader) = Data::open(path).unwrap() else { panic!() };
            let encoded = reader.encode(&tokenizer, limit).unwrap();
            assert_eq!(encoded.ids, all[..limit]);
            assert_eq!(tokenizer.decode_with_special_tokens(&encoded.ids).unwrap(), text[..encoded.bytes]);
        }
        let Data::Text(reader) = Data::open(path).unwrap() else { panic!() };
        assert!(matches!(reader.encode(&tokenizer, usize::MAX), Err(Error::NotUtf8 { .. })));
    });
}

#[test]
fn a_whole_text_has_all_its_bytes() {
    let tokenizer = Tokenizer::train(&Corpus::new(1).text(200), 400).unwrap();
    for text in ["Tom", "Tom sat.  \n\n", "d\u{e9}j\u{e0} vu ", &Corpus::new(2).text(3000)] {
        in_file("text.txt", text.as_bytes(), |path| {
            let Data::Text(reader) = Data::open(path).unwrap() else { panic!() };
            let encoded = reader.encode(&tokenizer, usize::MAX).unwrap();
            assert_eq!((encoded.ids, encoded.bytes), (tokenizer.encode(text).unwrap(), text.len()));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), name in "[a-z]\\.(txt|json|jsonl)") {
        in_file(&name, &bytes, |path| match Data::open(path) {
            Ok(Data::Text(reader)) => drop(reader.read_to_end()),
            Ok(Data::Ids(ids)) => assert!(!ids.is_empty() && ids.iter().all(|ids| !ids.is_empty())),
            Err(error) => assert!(error.to_string().contains(&name)),
        });
    }

    #[test]
    fn any_text_comes_back(text in "[^\r\0\u{feff}\\[{]\\PC{0,200}[\n ]{0,3}\\PC{0,40}") {
        prop_assume!(!text.trim().is_empty() && !text.contains('\r'));
        prop_assert_eq!(read(text.as_bytes()).unwrap(), text);
    }
}

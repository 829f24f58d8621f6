//! More formats of texts and token ids: those of Python, jq, pandas and tokenizers, and files that are not text.

use serde_json::{Value, json};
use slm_tests::{Outcome, Sandbox, text};

/// Evaluates `content`, which must succeed, and returns the result.
#[track_caller]
fn eval(sandbox: &Sandbox, name: &str, content: impl AsRef<[u8]>, window: usize) -> (Value, Outcome) {
    sandbox.put(name, content);
    let outcome = sandbox.slm(&format!("eval --checkpoint model --data {name} --window {window} --json"));
    assert_eq!(outcome.code, Some(0), "{outcome}");
    (serde_json::from_str(&outcome.stdout).unwrap(), outcome)
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn texts_as_programs_write_them() {
    let sandbox = Sandbox::with_model();
    let at = text().len() / 2 + text()[text().len() / 2..].find('\n').unwrap();
    let (a, b) = (text()[..at].trim(), text()[at..].trim());
    let (joined, _) = eval(&sandbox, "joined.txt", format!("{a}\n\n{b}"), 64);
    let (ra, rb) = (json!({ "text": a }), json!({ "text": b }));
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    let nan = |value: &Value| value.to_string().replacen('{', "{\"score\": NaN, \"loss\": -Infinity, ", 1);
    for (name, content, part) in [
        ("jq.json", format!("{}\n{}\n", pretty(&ra), pretty(&rb)), ""),
        ("jq.jsonl", pretty(&ra) + &pretty(&rb), ""),
        ("one-line.json", format!("{ra}{rb}"), ""),
        ("nan.jsonl", format!("{}\n{}\n", nan(&ra), nan(&rb)), ""),
        ("nan.txt", format!("{}\n{}\n", nan(&ra), nan(&rb)), ""),
        ("columns.json", json!({ "text": [a, b], "n": [1, 2] }).to_string(), ""),
        ("data.json", json!({ "version": "1.0", "data": [ra, rb] }).to_string(), ""),
        (
            "rows.json",
            json!({ "rows": [{ "row_idx": 0, "row": ra }, { "row_idx": 1, "row": rb }] }).to_string(),
            "",
        ),
        ("capitals.jsonl", lines(&[json!({ "Text": a }), json!({ "Text": b })]), ""),
        (
            "articles.jsonl",
            lines(&[json!({ "article": a, "id": "x" }), json!({ "article": b, "id": "y" })]),
            "",
        ),
        (
            "null.jsonl",
            lines(&[json!({ "text": null }), ra.clone(), json!({ "text": null }), rb.clone()]),
            "null",
        ),
        (
            "both.jsonl",
            lines(&[json!({ "text": a, "input_ids": [1, 2] }), json!({ "text": b, "input_ids": [3] })]),
            "the texts are read",
        ),
    ] {
        let (found, outcome) = eval(&sandbox, name, content, 64);
        assert_eq!(found["perplexity"], joined["perplexity"], "{outcome}");
        assert_eq!(part.is_empty(), outcome.stderr.is_empty(), "{outcome}");
        assert!(outcome.stderr.contains(part), "{outcome}");
    }
    // Unpaired surrogates, which JSON can represent and UTF-8 cannot, become U+FFFD.
    let (replaced, _) = eval(&sandbox, "replaced.txt", format!("{a}\u{fffd}"), 64);
    let half = json!({ "text": a }).to_string().replace("\"}", "\\ud83d\"}");
    assert_eq!(eval(&sandbox, "half.jsonl", half, 64).0["perplexity"], replaced["perplexity"]);
}

#[test]
fn strings_about_a_text_are_not_the_text() {
    let sandbox = Sandbox::with_model();
    let turn = json!([{ "role": "user", "content": text() }]);
    for (name, record, parts) in [
        ("a.jsonl", json!({ "id": "x".repeat(500), "messages": turn }), &["messages", "chat template"][..]),
        (
            "b.json",
            json!({ "id": "x".repeat(500), "conversations": turn }),
            &["conversations", "chat template"],
        ),
        (
            "c.jsonl",
            json!({ "url": "http://example.com/".repeat(90), "n": 1 }),
            &["\"url\"", "under \"text\""],
        ),
        ("d.jsonl", json!({ "doc_id": "x".repeat(500) }), &["doc_id", "under \"text\""]),
        ("e.jsonl", json!({ "name": "x".repeat(500), "pages": [{ "a": 1 }] }), &["pages", "under \"text\""]),
        (
            "f.jsonl",
            json!({ "instruction": "a", "input": "b", "output": "c" }),
            &["instruction", "under \"text\""],
        ),
    ] {
        sandbox.put(name, lines(&[record.clone(), record]));
        sandbox.refuses(&format!("eval --checkpoint model --data {name}"), 1, &[&[name], parts].concat());
    }
}

#[test]
fn ids_as_tokenizers_write_them() {
    let sandbox = Sandbox::with_model();
    let ids: Vec<u32> = (0..40).map(|at| at * 7 % 300).collect();
    let (plain, _) = eval(&sandbox, "plain.json", json!({ "ids": [ids, ids] }).to_string(), 32);
    let padded: Vec<u32> = ids.iter().copied().chain([0; 20]).collect();
    let mask: Vec<u32> = (0..60).map(|at| u32::from(at < 40)).collect();
    let record = json!({ "input_ids": padded, "attention_mask": mask, "labels": [-100, 1] });
    for (name, content) in [
        ("padded.jsonl", lines(&[record.clone(), record.clone()])),
        ("batch.json", json!({ "input_ids": [padded, padded], "attention_mask": [mask, mask] }).to_string()),
    ] {
        let (found, outcome) = eval(&sandbox, name, content, 32);
        assert_eq!(found["perplexity"], plain["perplexity"], "{outcome}");
        assert!(outcome.stderr.contains("padding"), "{outcome}");
    }
    for (name, content, parts) in [
        ("negative.jsonl", lines(&[json!({ "input_ids": [1, -100, 2] })]), &["-100", "not a token id"][..]),
        ("float.jsonl", lines(&[json!({ "input_ids": [1, 2.5] })]), &["2.5", "not a token id"]),
        ("deep.json", json!([[[[1, 2]]]]).to_string(), &["lists inside lists"]),
        (
            "empty.jsonl",
            lines(&[json!({ "input_ids": [1, 2] }), json!({ "input_ids": [] })]),
            &["line 2", "empty list"],
        ),
        ("large.jsonl", lines(&[json!([1, 5_000_000_000_u64])]), &["5000000000", "not a token id"]),
        ("beyond.jsonl", lines(&[json!([1, 2]), json!([1, 320])]), &["320"]),
        ("mixed.jsonl", lines(&[json!([1, 2]), json!({ "text": "x" })]), &["line 2", "mixed"]),
    ] {
        sandbox.put(name, content);
        sandbox.refuses(
            &format!("eval --checkpoint model --data {name} --window 2"),
            1,
            &[&[name], parts].concat(),
        );
    }
}

#[test]
fn what_is_no_text_is_called_what_it_is() {
    let sandbox = Sandbox::with_model();
    let ids =
        (0..4000_u16).map(|at| at.wrapping_mul(31) % 320).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let wide =
        (0..4000_u32).map(|at| at.wrapping_mul(31) % 320).flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    let tar = [&[b'a'; 257][..], b"ustar\x0000", &[0; 250]].concat();
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    for (name, content, parts) in [
        ("train.bin", ids.clone(), &["numbers", "token ids as JSON"][..]),
        ("train.u16", ids, &["numbers", "token ids as JSON"]),
        ("wide.bin", wide, &["token ids"]),
        ("a.idx", b"MMIDIDX\0\0\x01\0".to_vec(), &["Megatron", "token ids as JSON"]),
        ("a.tar", tar, &["tar archive"]),
        ("a.rtf", b"{\\rtf1\\ansi Once upon a time}".to_vec(), &["RTF"]),
        ("a.docx", b"PK\x03\x04....".to_vec(), &[".docx"]),
        ("windows.txt", [b"\x93Once\x94 ".repeat(200), b"x".to_vec()].concat(), &["0x93", "WINDOWS-1252"]),
        ("cut.txt", b"caf\xe9".to_vec(), &["truncated", "ISO-8859-1"]),
    ] {
        sandbox.put(name, content);
        sandbox.refuses(&format!("eval --checkpoint model --data {name}"), 1, &[&[name], parts].concat());
    }
    let refuses = |data: &str, parts: &[&str]| {
        drop(sandbox.refuses(&format!("eval --checkpoint model --data {data}"), 1, parts));
    };
    refuses("folder", &["folder is a directory", "name a file"]);
    refuses("https://example.com/a.txt", &["an address", "download it"]);
}

#[test]
fn what_is_odd_about_a_text_is_said() {
    let sandbox = Sandbox::with_model();
    let (plain, _) = eval(&sandbox, "plain.txt", text(), 64);
    let half = text().len() / 2 + text()[text().len() / 2..].find('\n').unwrap() + 1;
    let joined = format!("\u{feff}{}\u{feff}{}", &text()[..half], &text()[half..]);
    let (found, outcome) = eval(&sandbox, "joined.txt", joined, 64);
    assert_eq!(found["perplexity"], plain["perplexity"], "{outcome}");
    assert!(outcome.stderr.contains("byte order marks inside"), "{outcome}");
    for (name, content, part) in [
        ("zeros.txt", format!("{}{}", text(), "\0".repeat(2000)), "zero bytes"),
        ("table.csv", text().to_owned(), "a table"),
        ("ids.txt", (0..400).map(|id| format!("{id} ")).collect(), "nothing but numbers"),
    ] {
        let (_, outcome) = eval(&sandbox, name, content, 64);
        assert!(outcome.stderr.contains(part) && outcome.stderr.contains(name), "{outcome}");
        assert_eq!(outcome.stderr.matches("warning: ").count(), 1, "{outcome}");
    }
}

/// Standard input can be read only once, and messages name it.
#[test]
fn standard_input_is_one_text() {
    use std::io::Write;
    use std::process::Stdio;

    let sandbox = Sandbox::with_model();
    let run = |line: &str, input: &str| {
        let mut command = sandbox.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The program may fail before it reads standard input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Outcome::of(line, child.wait_with_output().unwrap())
    };
    let eval = "eval --checkpoint model --json --data";
    let plain = sandbox.slm(&format!("{eval} text.txt")).json();
    assert_eq!(run(&format!("{eval} -"), text()).json()["perplexity"], plain["perplexity"]);
    if cfg!(unix) {
        assert_eq!(run(&format!("{eval} /dev/stdin"), text()).json()["perplexity"], plain["perplexity"]);
    }
    run(&format!("{eval} -"), "").fails(1, &["standard input holds no text"]);
    run("ptq --checkpoint model --calibration - --eval - --out new", text())
        .fails(1, &["standard input", "read already", "as a file"]);
    run("ptq --checkpoint model --calibration - --out new", text()).success();
    let logits = "logits --checkpoint model --ids - --out logits";
    run(logits, r#"{"ids": [[1, 2]]}"#).success();
}

/// A limit bounds the text that is read, and the memory: 512 tokens of 20 MB.
#[cfg(target_os = "linux")]
#[test]
fn a_big_text_takes_no_memory() {
    let sandbox = Sandbox::with_model();
    sandbox.put("big.txt", text().repeat(20_000_000 / text().len()));
    sandbox.put("line.txt", "x".repeat(20_000_000));
    let peak = |data: &str| -> (u64, f64) {
        let start = std::time::Instant::now();
        let mut command =
            sandbox.command(&format!("eval --checkpoint model --data {data} --max-tokens 512 --json"));
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        loop {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let high = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let high = high.and_then(|high| high.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(high.unwrap_or(0));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                return (peak, start.elapsed().as_secs_f64());
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    };
    let (small, _) = peak("text.txt");
    for data in ["big.txt", "line.txt"] {
        let (big, seconds) = peak(data);
        assert!(big < small + 60_000, "{data}: {big} kB, a small text: {small} kB");
        assert!(seconds < 30.0, "{data}: {seconds} s");
    }
}

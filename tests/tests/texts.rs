//! Common formats of texts and token ids: each is recognized, or rejected with its kind.

use serde_json::{Value, json};
use slm_tests::{Sandbox, model, quantized, text};

fn perplexity(sandbox: &Sandbox, data: &str) -> f64 {
    let outcome = sandbox.slm(&format!("eval --checkpoint model --data {data} --json"));
    assert_eq!(outcome.code, Some(0), "{outcome}");
    serde_json::from_str::<Value>(&outcome.stdout).unwrap()["perplexity"].as_f64().unwrap()
}

#[test]
fn one_text_has_one_perplexity_in_whatever_form_it_comes() {
    let sandbox = Sandbox::with_model();
    let plain = perplexity(&sandbox, "text.txt");
    let utf16 = |bytes: fn(u16) -> [u8; 2]| {
        let units = std::iter::once(0xfeff).chain(text().encode_utf16());
        units.flat_map(bytes).collect::<Vec<u8>>()
    };
    let half = text().len() / 2;
    let half = half + text()[half..].find("\n").unwrap();
    let (before, after) = text().split_at(half);
    // JSON texts are joined by an empty line, which is already at that place here.
    let joined = format!("{before}\n\n{}", after.trim_start());
    sandbox.put("joined.txt", &joined);
    let of_joined = perplexity(&sandbox, "joined.txt");
    let record = |text: &str| json!({ "text": text }).to_string();
    for (name, content, expected, warns) in [
        ("bom.txt", ["\u{feff}", text()].concat().into_bytes(), plain, false),
        ("little.txt", utf16(u16::to_le_bytes), plain, false),
        ("big.txt", utf16(u16::to_be_bytes), plain, false),
        ("windows.txt", text().replace('\n', "\r\n").into_bytes(), plain, true),
        ("mac.txt", text().replace('\n', "\r").into_bytes(), plain, true),
        ("one.json", record(text()).into_bytes(), plain, false),
        ("two.jsonl", [record(before), record(after.trim_start())].join("\n").into_bytes(), of_joined, false),
        ("two.txt", [record(before), record(after.trim_start())].join("\n").into_bytes(), of_joined, false),
        ("list.json", json!([before, after.trim_start()]).to_string().into_bytes(), of_joined, false),
    ] {
        sandbox.put(name, content);
        let outcome = sandbox.slm(&format!("eval --checkpoint model --data {name} --json"));
        assert_eq!(outcome.code, Some(0), "{outcome}");
        let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(found["perplexity"].as_f64(), Some(expected), "{name}: {outcome}");
        assert_eq!(outcome.stderr.contains("carriage returns"), warns, "{outcome}");
        assert_eq!(outcome.stderr.is_empty(), !warns, "{outcome}");
    }
}

#[test]
fn token_ids_are_never_read_as_prose() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    sandbox.slm("sample --checkpoint model --sequences 3 --length 40 --out ids.json").success();
    let ids: Vec<Vec<u32>> = serde_json::from_value(sandbox.read_json("ids.json")["ids"].clone()).unwrap();
    sandbox.put(
        "other.jsonl",
        ids.iter().map(|ids| json!({ "input_ids": ids }).to_string() + "\n").collect::<String>(),
    );
    let eval = |file: &str| sandbox.slm(&format!("eval --checkpoint model --data {file} --json")).json();
    let found = eval("ids.json");
    // Windows of 64 do not span two sequences.
    assert_eq!((&found["tokens"], &found["windows"]), (&(3 * 39).into(), &3.into()));
    assert_eq!(eval("other.jsonl")["perplexity"], found["perplexity"]);
    // The model predicts its own text better than any other text.
    assert!(found["perplexity"].as_f64().unwrap() < perplexity(&sandbox, "text.txt"), "{found}");
    let compare = sandbox.slm("compare model int8 --data ids.json --json").json();
    let same = compare["perplexity_a"].as_f64().unwrap() / found["perplexity"].as_f64().unwrap() - 1.0;
    assert!(same.abs() < 1e-6, "{compare}");
    let ptq = "ptq --checkpoint model --calibration ids.json --window 32 --out new --overwrite --json";
    assert_eq!(sandbox.slm(ptq).json()["calibration_tokens"], 80);
    let ptq = "ptq --checkpoint model --calibration text.txt --eval ids.json --out new --overwrite --json";
    assert_eq!(sandbox.slm(ptq).json()["evaluated_tokens"], 3 * 39);

    sandbox.put("foreign.json", r#"{"ids": [[1, 320]]}"#);
    for line in [
        "eval --checkpoint model --data foreign.json",
        "compare model int8 --data foreign.json",
        "ptq --checkpoint model --calibration foreign.json --out more",
    ] {
        sandbox.refuses(line, 1, &["foreign.json", "ids[0] has token 320", "320 tokens"]);
    }
}

#[test]
fn a_limit_stops_the_reading() {
    let sandbox = Sandbox::with_model();
    // Invalid bytes follow the megabyte of text: a reader that does not stop reports them.
    let mut big = text().repeat(1 + (1 << 20) / text().len()).into_bytes();
    big.extend(b"\xff");
    sandbox.put("big.txt", big);
    let lines: String = (0..5000).map(|_| json!({"text": &text()[..200]}).to_string() + "\n").collect();
    sandbox.put("big.jsonl", lines + "{\"text\": 7}\n");
    for file in ["big.txt", "big.jsonl"] {
        let json =
            sandbox.slm(&format!("eval --checkpoint model --data {file} --max-tokens 256 --json")).json();
        assert_eq!(json["tokens"], 4 * 63);
        sandbox.slm(&format!("compare model model --data {file} --max-tokens 256")).success();
        let ptq = "ptq --checkpoint model --calibration-tokens 256 --eval-tokens 128 --out new --overwrite";
        sandbox.slm(&format!("{ptq} --calibration {file} --eval {file}")).success();
        sandbox.refuses(&format!("eval --checkpoint model --data {file}"), 1, &[file]);
    }
    let small = sandbox.slm("eval --checkpoint model --data text.txt --max-tokens 256 --json").json();
    let big = sandbox.slm("eval --checkpoint model --data big.txt --max-tokens 256 --json").json();
    assert_eq!(small["perplexity"], big["perplexity"]);
}

#[test]
fn other_files_are_refused_by_name_by_every_command() {
    let sandbox = Sandbox::with_model();
    sandbox.put("run.toml", "[training]\nsteps = 2\nsequence_length = 16\n");
    let cases: [(&str, &[u8], &[&str]); 6] = [
        ("a.txt.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", &["gzip", "gunzip"]),
        ("a.parquet", b"PAR1\x15\x04\x15\x10", &["Parquet"]),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", &["git lfs pull"]),
        ("a.jsonl", b"{\"a\": 1}\n{\"a\": 2}\n", &["line 1", "\"a\"", "under \"text\""]),
        ("b.jsonl", b"{\"text\": \"x\"}\n{\"text\": \"y\"\n", &["second line"]),
        ("a.json", b"{\"text\": \"x\"", &["JSON"]),
    ];
    for (file, content, parts) in cases {
        sandbox.put(file, content);
        for line in [
            "eval --checkpoint model --data FILE",
            "compare model model --data FILE",
            "ptq --checkpoint model --calibration FILE --out new",
            "ptq --checkpoint model --calibration text.txt --eval FILE --out new",
            "qat --checkpoint model --config run.toml --data FILE --out new",
            "finetune --checkpoint model --config run.toml --data FILE --out new",
        ] {
            sandbox.refuses(&line.replace("FILE", file), 1, &[&[file], parts].concat());
        }
    }
}

/// The tokenizer of the model, with a token that it puts before prompts.
fn with_bos() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut model = model();
    let mut tokenizer: Value = serde_json::from_str(&model.tokenizer).unwrap();
    let special = json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
    let sequence = |id: &str, type_id: u32| json!({"Sequence": {"id": id, "type_id": type_id}});
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [special, sequence("A", 0)],
        "pair": [special, sequence("A", 0), sequence("B", 1)],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    });
    model.tokenizer = tokenizer.to_string();
    model.write(sandbox.path("hf"));
    sandbox.put("text.txt", text());
    sandbox.slm("import hf --out model").success();
    sandbox
}

#[test]
fn windows_may_begin_with_the_token_that_prompts_begin_with() {
    let sandbox = with_bos();
    let plain = sandbox.slm("eval --checkpoint model --data text.txt --window 32 --json").json();
    let bos = sandbox.slm("eval --checkpoint model --data text.txt --window 32 --bos --json").json();
    assert_eq!((&plain["bos"], &bos["bos"]), (&false.into(), &true.into()));
    // The first token of a window is scored too.
    let count = |json: &Value, key: &str| json[key].as_u64().unwrap();
    assert_eq!(count(&bos, "tokens") - count(&plain, "tokens"), count(&bos, "windows"));
    // Token ids give the same result.
    let ids = sandbox.slm_with(
        "generate --checkpoint model --max-new-tokens 0 --json",
        &["--prompt", &text()[..60]],
        &[],
    );
    let ids: Vec<u32> = serde_json::from_value(ids.json()["prompt_ids"].clone()).unwrap();
    assert_eq!(ids[0], 0);
    sandbox.put("start.txt", &text()[..60]);
    sandbox.put("ids.json", json!({ "ids": [ids] }).to_string());
    let window = ids.len() - 1;
    let of =
        |line: &str| sandbox.slm(&format!("eval --checkpoint model {line} --json")).json()["nll"].clone();
    assert_eq!(
        of(&format!("--data start.txt --window {window} --bos")),
        of(&format!("--data ids.json --window {}", window + 1))
    );
    sandbox.refuses(
        "eval --checkpoint model --data text.txt --window 64 --bos",
        2,
        &["--window 64", "2 to 63"],
    );
    // A model without such a token reports an error.
    let none = Sandbox::with_model();
    none.refuses("eval --checkpoint model --data text.txt --bos", 2, &["--bos", "no beginning-of-sequence"]);
}

#[test]
fn static_ranges_are_calibrated_on_what_prompts_begin_with() {
    let sandbox = with_bos();
    let ptq = |options: &str| {
        let line = format!("ptq --checkpoint model --calibration text.txt --overwrite {options}");
        sandbox.slm(&line).success();
    };
    ptq("--out with");
    ptq("--out without --no-calibration-bos");
    assert_ne!(sandbox.read("with/model.safetensors"), sandbox.read("without/model.safetensors"));
    // Without such a token, nothing changes.
    let none = Sandbox::with_model();
    none.slm("ptq --checkpoint model --calibration text.txt --out a").success();
    none.slm("ptq --checkpoint model --calibration text.txt --out b --no-calibration-bos").success();
    assert_eq!(none.read("a/model.safetensors"), none.read("b/model.safetensors"));
}

#[test]
fn commands_agree_on_the_perplexity_of_one_text() {
    let sandbox = Sandbox::with_model();
    sandbox.put(
        "run.toml",
        "[training]\nsteps = 2\nbatch_size = 1\nsequence_length = 16\nvalidation_fraction = 0.1\n",
    );
    let float = |line: &str, key: &str| sandbox.slm(&format!("{line} --json")).json()[key].clone();
    let eval = float("eval --checkpoint model --data text.txt --max-tokens 512", "perplexity");
    let same = "--eval text.txt --eval-tokens 512 --overwrite --out";
    let ptq = float(&format!("ptq --checkpoint model --calibration text.txt {same} a"), "perplexity_float");
    let qat = format!("qat --checkpoint model --config run.toml --data text.txt {same} b");
    let finetune = format!("finetune --checkpoint model --config run.toml --data text.txt {same} c");
    assert_eq!(eval, ptq);
    assert_eq!(eval, float(&qat, "perplexity_float"));
    assert_eq!(eval, float(&finetune, "perplexity_before"));
    // Both hold out the same part of a text, and report it.
    let ptq = sandbox.slm("ptq --checkpoint model --calibration text.txt --overwrite --out a --json").json();
    let qat = sandbox
        .slm("qat --checkpoint model --config run.toml --data text.txt --overwrite --out b --json")
        .json();
    assert_eq!(
        (&ptq["perplexity_float"], &ptq["evaluated_on"]),
        (&qat["perplexity_float"], &qat["evaluated_on"])
    );
    assert!(ptq["evaluated_on"].as_str().unwrap().contains("the end of text.txt"), "{ptq}");
    let said = sandbox.slm("ptq --checkpoint model --calibration text.txt --overwrite --out a").success();
    assert!(said.stdout.contains("the end of text.txt") && said.stdout.contains('±'), "{said}");
}

#[test]
fn weights_alone_are_quantized_with_a_text_to_evaluate_on_alone() {
    let sandbox = Sandbox::with_model();
    let line = "ptq --checkpoint model --type weight-only --eval text.txt --out new --json";
    assert!(sandbox.slm(line).json()["perplexity_float"].is_f64());
    let parts = ["--calibration FILE"];
    sandbox.refuses("ptq --checkpoint model --eval text.txt --out more", 2, &parts);
}

#[test]
fn a_model_writes_its_own_calibration_text() {
    let sandbox = Sandbox::with_model();
    let ptq = |options: &str| sandbox.slm(&format!("ptq --checkpoint model --overwrite --out q {options}"));
    let sampled = ptq("--sample-calibration --calibration-tokens 300 --eval text.txt --json").json();
    assert_eq!(sampled["calibration_sampled"], true);
    assert_eq!(sampled["calibration_tokens"], 300);
    assert_eq!(sampled["observer"], "weighted-mse");
    let record = sandbox.slm("inspect q --json").json();
    assert!(record.to_string().contains("\"tokens\":300"), "{record}");
    let words = ptq("--sample-calibration --calibration-tokens 300 --eval text.txt").stdout;
    assert!(words.contains("over 300 tokens that the model wrote"), "{words}");

    for (options, expected) in [
        ("--sample-calibration", "perplexities need a text that the model did not write: add --eval FILE"),
        ("--no-eval", "or --sample-calibration, with which the model writes one"),
        (
            "--sample-calibration --calibration-tokens 5 --no-eval",
            "--calibration-tokens 5: less than a window",
        ),
    ] {
        let outcome = ptq(options);
        assert_eq!(outcome.code, Some(2), "{outcome}");
        assert!(outcome.stderr.contains(expected), "{outcome}");
    }
    let unused = ptq("--sample-calibration --type weight-only --granularity channel --no-eval");
    assert!(unused.stderr.contains("--sample-calibration has no effect"), "{unused}");
    let without = ptq("--type weight-only --no-eval").stdout;
    assert!(without.contains("Nothing was calibrated on a text."), "{without}");
}

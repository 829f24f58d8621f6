//! Generation: all sources of prompts, and all ways to stop.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};
use slm_tests::{Sandbox, model};

const GENERATE: &str = "generate --checkpoint model --json";

fn ids(json: &Value, key: &str) -> Vec<u32> {
    serde_json::from_value(json[key].clone()).unwrap()
}

#[test]
fn a_prompt_may_be_anything_from_anywhere() {
    let sandbox = Sandbox::with_model();
    let line = format!("{GENERATE} --max-new-tokens 2");
    let given = |prompt: &str| sandbox.slm_with(&line, &[&format!("--prompt={prompt}")], &[]).json();
    for prompt in ["- First item", "-1", "--- title", "--json", "Once upon a time"] {
        let expected = given(prompt);
        assert_eq!(expected["prompt"], prompt);
        let dashed = sandbox.slm_with(&line, &["--prompt", prompt], &[]).json();
        assert_eq!(dashed["ids"], expected["ids"], "{prompt}");
        // A file or a pipe, with or without a line end and a byte order mark.
        let marked = format!("\u{feff}{prompt}\r\n");
        for content in [prompt, &format!("{prompt}\n"), &marked] {
            sandbox.put("prompt.txt", content);
            let outcome = sandbox.slm(&format!("{line} --prompt-file prompt.txt"));
            let json: Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert_eq!(json["prompt_ids"], expected["prompt_ids"], "{outcome}");
            for from in ["--prompt -", "--prompt-file -", ""] {
                let mut command = sandbox.command(&format!("{line} {from}"));
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                let json: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(json["prompt_ids"], expected["prompt_ids"], "{from}: {content:?}");
            }
        }
    }
    // A file of JSON is a prompt like any other.
    sandbox.put("prompt.json", "{\"text\": \"x\"}");
    let json = sandbox.slm(&format!("{line} --prompt-file prompt.json")).json();
    assert_eq!(json["prompt"], "{\"text\": \"x\"}");
    sandbox.refuses(&format!("{line} --prompt-file nowhere"), 1, &["nowhere"]);
    let mut command = sandbox.command("generate --checkpoint model");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no tokens"));
}

#[test]
fn it_says_why_it_stopped() {
    let sandbox = Sandbox::with_model();
    let generate = |options: &str| {
        let outcome = sandbox.slm(&format!("{GENERATE} --prompt Once {options}"));
        assert_eq!(outcome.code, Some(0), "{outcome}");
        (serde_json::from_str::<Value>(&outcome.stdout).unwrap(), outcome.stderr)
    };
    let (few, said) = generate("--max-new-tokens 5 --ignore-eos");
    assert_eq!(
        (&few["stop"], &few["stopped_by"], said.as_str()),
        (&"max_new_tokens".into(), &Value::Null, "")
    );
    // All defaults: generation fills the 64 positions and reports that.
    let (all, said) = generate("--ignore-eos");
    assert_eq!(all["stop"], "context_full");
    assert_eq!(ids(&all, "prompt_ids").len() + ids(&all, "ids").len(), 65);
    assert!(said.contains("64 positions are full"), "{said}");
    // The same if more tokens are requested than fit.
    for more in [65, u64::MAX] {
        let (cut, said) = generate(&format!("--ignore-eos --max-new-tokens {more}"));
        assert_eq!((&cut["stop"], &cut["ids"]), (&"context_full".into(), &all["ids"]));
        assert!(said.contains("64 positions are full"), "{said}");
    }
    // A part of this text as the stop text ends the next run, however it is split into tokens, and is not printed.
    let written = all["text"].as_str().unwrap();
    let from = written.floor_char_boundary(written.len() / 2);
    let part: String = written[from..].chars().take(3).collect();
    let line = format!("{GENERATE} --prompt Once --ignore-eos");
    let stopped = sandbox.slm_with(&line, &["--stop", "not in there", "--stop", &part], &[]);
    let stopped: Value = serde_json::from_str(&stopped.stdout).unwrap();
    assert_eq!((&stopped["stop"], &stopped["stopped_by"]), (&"stop_text".into(), &part.as_str().into()));
    assert_eq!(stopped["text"], written[..written.find(&part).unwrap()]);
    let shown =
        sandbox.slm_with("generate --checkpoint model --prompt Once --ignore-eos", &["--stop", &part], &[]);
    assert_eq!(shown.stdout, format!("Once{}\n", stopped["text"].as_str().unwrap()));
    sandbox.refuses_with(&line, &["--stop", ""], &[], 2, &["--stop", "empty"]);
}

/// A tokenizer that puts a token before prompts.
fn with_bos() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut model = model();
    model.put_bos_before_prompts();
    model.write(sandbox.path("hf"));
    sandbox
}

#[test]
fn a_prompt_begins_with_one_beginning_of_sequence() {
    let sandbox = with_bos();
    sandbox.slm("import hf --out model").success();
    let line = format!("{GENERATE} --max-new-tokens 0");
    let plain = sandbox.slm_with(&line, &["--prompt", "Once"], &[]).json();
    assert_eq!(ids(&plain, "prompt_ids")[0], 0);
    let spelled = sandbox.slm_with(&line, &["--prompt", "<|endoftext|>Once"], &[]);
    assert!(spelled.stderr.contains("once, not twice"), "{spelled}");
    let json: Value = serde_json::from_str(&spelled.stdout).unwrap();
    assert_eq!(json["prompt_ids"], plain["prompt_ids"]);
    // A config that disables the token has no effect, and a warning says so.
    fs::write(sandbox.path("hf/tokenizer_config.json"), r#"{"add_bos_token": false}"#).unwrap();
    let outcome = sandbox.slm("import hf --out model --overwrite");
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(
        outcome.stderr.contains("add_bos_token is false") && outcome.stderr.contains("all the same"),
        "{outcome}"
    );
}

#[test]
fn stop_texts_may_lie_across_tokens_and_be_special_tokens() {
    let sandbox = Sandbox::with_model();
    let line = format!("{GENERATE} --prompt Once --ignore-eos --max-new-tokens 40");
    let all = sandbox.slm(&line).json();
    let written = all["text"].as_str().unwrap();
    let chars: Vec<char> = written.chars().collect();
    for (from, len) in [(0, 1), (0, 5), (3, 9), (7, 2), (chars.len() - 3, 2)] {
        let stop: String = chars[from..from + len].iter().collect();
        // A repeated beginning of the stop text does not hide it.
        let other = format!("{stop}\u{1}");
        let json = sandbox.slm_with(&line, &["--stop", &other, "--stop", &stop], &[]).json();
        assert_eq!(json["text"], written[..written.find(&stop).unwrap()], "{stop:?}");
        assert_eq!(json["stopped_by"], stop);
    }
    // A special token is never part of the text: it ends the text as a token.
    let mut model = model();
    let first = ids(&all, "ids")[0];
    let mut tokenizer: Value = serde_json::from_str(&model.tokenizer).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let (token, _) = vocabulary.iter().find(|(_, id)| **id == first).unwrap();
    let token = token.clone();
    tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "id": first, "content": token, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true }));
    model.tokenizer = tokenizer.to_string();
    model.write(sandbox.path("hf"));
    sandbox.slm("import hf --out special").success();
    let line = "generate --checkpoint special --json --prompt Once --ignore-eos --max-new-tokens 5";
    let json = sandbox.slm_with(line, &["--stop", &token], &[]).json();
    assert_eq!((&json["stop"], &json["stopped_by"]), (&"stop_text".into(), &token.as_str().into()), "{json}");
    assert_eq!(ids(&json, "ids"), [0; 0]);
}

/// Numbers as other programs accept them are understood; other odd numbers are errors.
#[test]
fn odd_numbers_are_understood_or_blamed() {
    let sandbox = Sandbox::with_model();
    let line = format!("{GENERATE} --prompt Once --ignore-eos --max-new-tokens 20 --temperature 1 --seed 5");
    let plain = ids(&sandbox.slm(&line).json(), "ids");
    for all in ["--top-k 0", "--top-k -1", "--top-k 100000", "--top-p 1", "--repetition-penalty 1"] {
        assert_eq!(ids(&sandbox.slm(&format!("{line} {all}")).json(), "ids"), plain, "{all}");
    }
    assert_ne!(ids(&sandbox.slm(&format!("{line} --top-k 1")).json(), "ids"), plain);
    let greedy = format!("{GENERATE} --prompt Once --ignore-eos --max-new-tokens 5 --temperature");
    assert_eq!(
        sandbox.slm(&format!("{greedy} 0")).json()["ids"],
        sandbox.slm(&format!("{greedy} 1e-9")).json()["ids"]
    );
    for (option, code) in [
        ("--max-new-tokens -1", 2),
        ("--seed -1", 2),
        ("--top-k -2", 2),
        ("--seed 99999999999999999999", 2),
        ("--temperature -1", 2),
    ] {
        let outcome =
            sandbox.refuses(&format!("generate --checkpoint model --prompt Once {option}"), code, &[]);
        let (name, value) = option.split_once(' ').unwrap();
        assert!(
            outcome.stderr.contains(name.trim_start_matches('-')) && outcome.stderr.contains(value),
            "{outcome}"
        );
    }
    let none = format!("{GENERATE} --prompt Once --max-new-tokens 0");
    assert_eq!(
        (&sandbox.slm(&none).json()["text"], ids(&sandbox.slm(&none).json(), "ids")),
        (&"".into(), vec![])
    );
    sandbox.refuses(
        "generate --checkpoint model --prompt Once --prompt Twice",
        2,
        &["--prompt", "multiple times"],
    );
    sandbox.put("long.txt", slm_tests::text());
    sandbox.refuses(
        "generate --checkpoint model --prompt-file long.txt",
        1,
        &["max_position_embeddings 64", "shorten"],
    );
}

#[test]
fn end_tokens_of_the_tokenizer_files_end_it() {
    let sandbox = Sandbox::with_model();
    let first =
        ids(&sandbox.slm(&format!("{GENERATE} --prompt Once --max-new-tokens 1 --ignore-eos")).json(), "ids")
            [0];
    // Only tokenizer_config.json declares that the model's first word ends the text.
    let mut model = model();
    model.config["eos_token_id"] = Value::Null;
    let tokenizer: Value = serde_json::from_str(&model.tokenizer).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let (token, _) = vocabulary.iter().find(|(_, id)| **id == first).unwrap();
    model.write(sandbox.path("hf"));
    for config in [json!({ "eos_token": token }), json!({ "eos_token": {"content": token, "special": true} })]
    {
        fs::write(sandbox.path("hf/tokenizer_config.json"), config.to_string()).unwrap();
        sandbox.slm("import hf --out ending --overwrite").success();
        let json = sandbox.slm("generate --checkpoint ending --json --prompt Once --max-new-tokens 3").json();
        assert_eq!(
            (&json["stop"], &json["stopped_by"]),
            (&"end_of_text".into(), &token.as_str().into()),
            "{json}"
        );
        assert_eq!(ids(&json, "ids"), [0; 0]);
        let on = "generate --checkpoint ending --json --prompt Once --max-new-tokens 3 --ignore-eos";
        assert_eq!(ids(&sandbox.slm(on).json(), "ids")[0], first);
    }
}

/// The model's tokens are bytes: at a high temperature it generates invalid UTF-8.
#[test]
fn any_bytes_can_be_written() {
    let sandbox = Sandbox::with_model();
    let mut bad = 0;
    for seed in 0..12 {
        let line = format!("--prompt Once --ignore-eos --max-new-tokens 60 --temperature 5 --seed {seed}");
        let json = sandbox.slm(&format!("{GENERATE} {line}")).json();
        let written = json["text"].as_str().unwrap();
        assert_eq!(ids(&json, "ids").len(), 60);
        bad += usize::from(written.contains('\u{fffd}'));
        let shown = sandbox.slm(&format!("generate --checkpoint model {line}")).success();
        assert_eq!(shown.stdout, format!("Once{written}\n"));
    }
    assert!(bad > 6, "{bad} texts with bytes that are no UTF-8");
}

#[test]
fn penalties_and_filters_do_what_they_say() {
    let sandbox = Sandbox::with_model();
    let generate = |options: &str| {
        ids(
            &sandbox
                .slm(&format!("{GENERATE} --prompt Once --ignore-eos --max-new-tokens 50 {options}"))
                .json(),
            "ids",
        )
    };
    let plain = generate("");
    let distinct = |ids: &[u32]| ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct(&plain) < 50);
    assert_eq!(distinct(&generate("--presence-penalty 100")), 50);
    assert_eq!(distinct(&generate("--frequency-penalty 100")), 50);
    assert!(distinct(&generate("--repetition-penalty 5")) > distinct(&plain));
    assert_eq!(generate("--temperature 1 --min-p 0.99999"), plain);
    assert_ne!(generate("--temperature 1 --min-p 0.01"), plain);
    for option in [
        "--min-p 1",
        "--min-p -0.5",
        "--repetition-penalty 0",
        "--presence-penalty NaN",
        "--frequency-penalty inf",
    ] {
        let named = option.replace(' ', " is ");
        sandbox.refuses(&format!("generate --checkpoint model --prompt Once {option}"), 2, &[&named, "use "]);
    }
}

#[test]
fn several_prompts_are_answered_in_order_by_lines_of_json() {
    let sandbox = Sandbox::with_model();
    let prompts = [
        json!({"prompt": "Once", "max_tokens": 3, "id": "a"}),
        json!({"prompt": "Tom and", "temperature": 1.0, "seed": 5}),
        json!({"prompt": "Once", "stop": ["e", "a"], "id": {"n": 2}}),
    ];
    let text = prompts.iter().map(|prompt| format!("{prompt}\n")).collect::<String>();
    sandbox.put("prompts.jsonl", &text);
    let line = "generate --checkpoint model --ignore-eos --max-new-tokens 6";
    let outcome = sandbox.slm(&format!("{line} --prompts prompts.jsonl")).success();
    let found: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 3, "{outcome}");
    // Each answer equals that of its prompt alone.
    let single = |prompt: &str, options: &str| {
        sandbox.slm_with(&format!("{line} --json {options}"), &["--prompt", prompt], &[]).json()
    };
    for (found, (prompt, options)) in found.iter().zip([
        ("Once", "--max-new-tokens 3"),
        ("Tom and", "--temperature 1 --seed 5"),
        ("Once", "--stop e --stop a"),
    ]) {
        let line = options.replace("--max-new-tokens 3", "");
        let alone = match options.contains("--max-new-tokens") {
            true => sandbox.slm(&format!("{GENERATE} --ignore-eos --prompt Once --max-new-tokens 3")).json(),
            false => single(prompt, &line),
        };
        for key in ["prompt", "text", "ids", "prompt_ids", "stop", "stopped_by"] {
            assert_eq!(found[key], alone[key], "{key}: {outcome}");
        }
    }
    assert_eq!(
        (&found[0]["id"], &found[1]["id"], &found[2]["id"]),
        (&json!("a"), &Value::Null, &json!({"n": 2}))
    );
    // The same from standard input.
    let mut child = sandbox
        .command(&format!("{line} --prompts -"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let piped = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    for (line, found) in piped.lines().zip(&found) {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["ids"], found["ids"]);
    }
    sandbox.put("bad.jsonl", "{\"prompt\": \"Once\"}\n{\"text\": \"Once\"}\n");
    let refused =
        sandbox.refuses(&format!("{line} --prompts bad.jsonl"), 1, &["bad.jsonl", "line 2", "`text`"]);
    assert_eq!(refused.stdout, "");
    sandbox.refuses(&format!("{line} --prompts bad.jsonl --prompt Once"), 2, &["--prompts", "--prompt"]);
}

//! Conversations with a model, typed by users and sent by programs.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use slm_tests::{Outcome, Sandbox, model};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}\
                        {% if add_generation_prompt %}assistant: {% endif %}";

/// A sandbox with the checkpoint `model`, imported with a chat template.
fn with_template(setting: &Value) -> Sandbox {
    let sandbox = Sandbox::new();
    model().write(sandbox.path("hf"));
    sandbox.put("hf/tokenizer_config.json", setting.to_string());
    sandbox.slm("import hf --out model").success();
    sandbox
}

fn settings() -> Value {
    json!({ "chat_template": TEMPLATE, "eos_token": { "content": "<|endoftext|>" } })
}

/// Runs `slm chat` with `lines` on standard input.
fn chat(sandbox: &Sandbox, options: &str, lines: &str) -> Outcome {
    let line = format!("chat {options}");
    let mut command = sandbox.command(&line);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    Outcome::of(line, child.wait_with_output().unwrap())
}

fn number(json: &Value, key: &str) -> f64 {
    json[key].as_f64().unwrap_or_else(|| panic!("{key} in {json}"))
}

fn replies(outcome: Outcome) -> Vec<Value> {
    outcome.success().stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn answers_follow_the_template_and_the_history() {
    let sandbox = with_template(&settings());
    let options = "--checkpoint model --max-new-tokens 3 --json";
    let spoken = replies(chat(&sandbox, options, "Tom\n\n/save talk.json\nAnna\n/reset\nTom\n"));
    assert_eq!(spoken.len(), 3);
    for reply in &spoken {
        assert_eq!(reply["role"], "assistant");
        assert!(["end_of_turn", "max_new_tokens", "context_full"].contains(&reply["stop"].as_str().unwrap()));
    }
    assert_eq!(spoken[0]["content"], spoken[2]["content"], "a conversation that was reset begins anew");
    assert_eq!(spoken[0]["prompt_tokens"], spoken[2]["prompt_tokens"]);
    assert!(number(&spoken[1], "prompt_tokens") > number(&spoken[0], "prompt_tokens"));
    // The first turn is kept for the second one, except for the last tokens, which merge with the answer.
    assert_eq!(spoken[0]["prompt_tokens_kept"], 0);
    assert!(number(&spoken[1], "prompt_tokens_kept") > number(&spoken[0], "prompt_tokens") / 2.0);
    assert!(number(&spoken[1], "prompt_tokens_kept") < number(&spoken[1], "prompt_tokens"));
    let saved = sandbox.read_json("talk.json");
    let first = spoken[0]["content"].as_str().unwrap();
    assert_eq!(
        saved["messages"],
        json!([{ "role": "user", "content": "Tom" }, { "role": "assistant", "content": first }])
    );

    // Rendering the conversation by hand gives the same answer.
    let prompt = "user: Tom<|endoftext|>\nassistant: ";
    let line = "generate --checkpoint model --max-new-tokens 3 --json --prompt";
    let by_hand = sandbox.slm_with(line, &[prompt], &[]).json();
    assert_eq!(by_hand["text"], spoken[0]["content"]);

    // A system message comes first, from the option or typed.
    let told = replies(chat(&sandbox, &format!("{options} --system Short."), "Tom\n"));
    let typed = replies(chat(&sandbox, options, "Anna\n/system Short.\nTom\n"));
    assert_eq!(told[0]["prompt_tokens"], typed[1]["prompt_tokens"]);
    assert!(number(&told[0], "prompt_tokens") > number(&spoken[0], "prompt_tokens"));
}

#[test]
fn the_template_goes_with_the_model_when_it_is_quantized() {
    let sandbox = with_template(&settings());
    sandbox.put("text.txt", slm_tests::text());
    sandbox.slm("ptq --checkpoint model --calibration text.txt --out int8").success();
    let spoken = replies(chat(&sandbox, "--checkpoint int8 --max-new-tokens 2 --json", "Tom\n"));
    assert_eq!(spoken.len(), 1);
    let config = sandbox.read_json("int8/config.json");
    assert_eq!(config["tokenizer"]["chat"]["template"], TEMPLATE);
}

#[test]
fn what_goes_wrong_in_a_turn_does_not_end_the_conversation() {
    let refusing = "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}x";
    let sandbox = with_template(&json!({ "chat_template": refusing }));
    let long = "word ".repeat(200);
    let options = "--checkpoint model --max-new-tokens 2";
    let outcome = chat(
        &sandbox,
        options,
        &format!("no\n/temperature hot\n/nonsense\n/stats\nyes\n/stats\n/help\n{long}\n"),
    );
    assert_eq!(outcome.code, Some(0), "{outcome}");
    for part in ["not that", "/temperature takes a number", "unknown command /nonsense"] {
        assert!(outcome.stderr.contains(part), "{outcome}");
    }
    assert!(
        outcome.stdout.contains("nothing was answered yet") && outcome.stdout.contains("tokens/s"),
        "{outcome}"
    );
    assert!(outcome.stdout.contains("/reset"), "{outcome}");

    sandbox.put("all.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
    let outcome =
        chat(&sandbox, &format!("{options} --template all.jinja"), &format!("{long}\nTom\n/stats\n"));
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("64 positions; /reset"), "{outcome}");
    assert!(outcome.stdout.contains("prompt"), "{outcome}");
}

#[test]
fn a_model_without_a_usable_template_says_what_to_do() {
    let sandbox = Sandbox::with_model();
    sandbox.refuses("chat --checkpoint model", 1, &["no chat template", "--template", "slm generate"]);
    sandbox.put("bad.jinja", "{% if %}");
    sandbox.refuses("chat --checkpoint model --template bad.jinja", 1, &["bad.jinja", "line 1"]);
    sandbox.refuses("chat --checkpoint model --template none.jinja", 1, &["none.jinja"]);

    // Such a model can be imported for other uses, with a warning that its template is invalid.
    let sandbox = Sandbox::new();
    model().write(sandbox.path("hf"));
    sandbox.put("hf/chat_template.jinja", "{% for %}");
    let outcome = sandbox.slm("import hf --out model");
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("chat template"), "{outcome}");
    sandbox.put("hf/tokenizer_config.json", r#"{"chat_template": 5}"#);
    let outcome = sandbox.slm("import hf --out other");
    assert_eq!(outcome.code, Some(0), "{outcome}");
    std::fs::remove_file(sandbox.path("hf/chat_template.jinja")).unwrap();
    sandbox.refuses("import hf --out third", 1, &["tokenizer_config.json", "chat_template"]);
}

/// SmolLM2-135M-Instruct, if the environment variable `SLM_REAL` names its Hugging Face directory.
#[test]
fn a_real_model_knows_a_capital() {
    let Some(source) = std::env::var_os("SLM_REAL") else {
        println!("skipped: SLM_REAL does not name the directory of a real model");
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.slm_with("import --out float", &[Path::new(&source).to_str().unwrap()], &[]).success();
    let line = "ptq --checkpoint float --type dynamic --no-eval";
    sandbox.slm(&format!("{line} --granularity channel --out int8")).success();
    let line = "ptq --checkpoint float --type weight-only --no-eval --bits 4";
    sandbox.slm(&format!("{line} --granularity group:32 --out int4")).success();
    for checkpoint in ["float", "int8", "int4"] {
        let options = format!("--checkpoint {checkpoint} --json --max-new-tokens 40");
        let spoken = replies(chat(&sandbox, &options, "What is the capital of France?\n"));
        let answer = spoken[0]["content"].as_str().unwrap();
        assert!(answer.contains("Paris"), "{checkpoint}: {answer}");
        assert_eq!(spoken[0]["stop"], "end_of_turn", "{checkpoint}: {answer}");
    }
}

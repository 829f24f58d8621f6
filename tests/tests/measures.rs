//! Schemes of single layers, quantized embeddings, and the measures of `slm eval`.

use serde_json::Value;
use slm_tests::{Sandbox, model, text};

fn number(json: &Value, pointer: &str) -> f64 {
    json.pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{pointer} is no number in {json}"))
}

/// A sandbox with the float model and a text.
fn imported() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.put("text.txt", text());
    model().write(sandbox.path("hf"));
    sandbox.slm("import hf --out model").success();
    sandbox
}

#[test]
fn an_embedding_and_single_layers_are_quantized_as_the_user_says() {
    let sandbox = imported();
    let ptq = "ptq --checkpoint model --calibration text.txt --eval text.txt --type dynamic --granularity channel --json";
    let layers =
        "--layer layers.*=int4:group:8 --layer layers.0.mlp.*=float --layer layers.0.mlp.up_proj=int8:tensor";
    let plain = sandbox.slm(&format!("{ptq} --out copy")).json();
    let mixed = sandbox.slm(&format!("{ptq} --embeddings int8 {layers} --out mixed")).json();
    assert_eq!((&plain["tied_head_copied"], &plain["embedding_shared"]), (&true.into(), &false.into()));
    assert_eq!((&mixed["tied_head_copied"], &mixed["embedding_shared"]), (&false.into(), &true.into()));
    let scheme = |name: &str| {
        let layers = mixed["layers"].as_array().unwrap();
        layers
            .iter()
            .find(|layer| layer["name"] == name)
            .map(|layer| layer["scheme"].as_str().unwrap().to_owned())
    };
    assert_eq!(scheme("lm_head").unwrap(), "int8 channel symmetric");
    assert_eq!(scheme("layers.0.self_attn.q_proj").unwrap(), "int4 group:8 symmetric");
    assert_eq!(scheme("layers.0.mlp.up_proj").unwrap(), "int8 tensor symmetric");
    assert_eq!(scheme("layers.0.mlp.down_proj"), None);
    assert!(mixed["other_schemes"]["int4 group:8 symmetric"].as_array().unwrap().len() > 3);

    // The file contains one table instead of a separate embedding, and the model is smaller.
    let inspect = sandbox.slm("inspect mixed --json").json();
    let tensors = inspect["tensors"].as_array().unwrap();
    assert!(tensors.iter().all(|tensor| !tensor["name"].as_str().unwrap().starts_with("embed_tokens")));
    assert!(number(&mixed, "/sizes/model_after") < number(&plain, "/sizes/model_after"));
    for line in [
        "inspect mixed",
        "inspect mixed --layer lm_head",
        "generate --checkpoint mixed --prompt The --max-new-tokens 4",
    ] {
        sandbox.slm(line).success();
    }
    let compare = sandbox.slm("compare model mixed --data text.txt --json").json();
    assert!(number(&compare, "/kl_divergence") > 0.0);
    // All CPU devices use the same table.
    let quantized = number(&mixed, "/perplexity_quantized");
    for device in slm_tests::CPU_DEVICES {
        let line = format!("eval --checkpoint mixed --data text.txt --device {device} --json");
        let perplexity = number(&sandbox.slm(&line).json(), "/perplexity");
        let tolerance = if *device == "flex" { 1e-6 } else { 0.02 };
        assert!((perplexity / quantized - 1.0).abs() < tolerance, "{device}: {perplexity} {quantized}");
    }

    sandbox.refuses(
        &format!("{ptq} --layer layers.0.mlp.upproj=int8 --out x"),
        1,
        &["upproj", "layers.0.mlp.up_proj"],
    );
    sandbox.refuses(&format!("{ptq} --layer lm_head=int3 --out x"), 2, &["int3", "int8"]);
    sandbox.refuses(
        &format!("{ptq} --embeddings int8 --skip lm_head --out x"),
        1,
        &["embeddings", "lm_head"],
    );
    let finetune = "finetune --checkpoint mixed --data text.txt --window 16 --eval-tokens 64 --out x --set training.sequence_length=16";
    sandbox.refuses(finetune, 1, &["embedding", "--embeddings"]);
}

#[test]
fn divergence_from_a_reference_is_measured() {
    let sandbox = imported();
    sandbox.put("other.txt", text().chars().rev().collect::<String>());
    sandbox.slm("ptq --checkpoint model --calibration text.txt --type weight-only --out int8").success();
    let line =
        "eval --checkpoint int8 --data text.txt --data other.txt --reference model --noise-floor --json";
    let eval = sandbox.slm(line).json();
    let plain = sandbox.slm("eval --checkpoint int8 --data text.txt --json").json();
    assert!(
        (number(&eval, "/texts/0/perplexity") / number(&plain, "/perplexity") - 1.0).abs() < 1e-9,
        "{eval}"
    );
    assert_eq!(number(&eval, "/texts/0/tokens") + number(&eval, "/texts/1/tokens"), number(&eval, "/tokens"));
    let kl = |name: &str| number(&eval, &format!("/divergence/kl_{name}"));
    assert!(
        0.0 < kl("median") && kl("median") <= kl("p90") && kl("p90") <= kl("p99") && kl("p99") <= kl("max")
    );
    assert!(kl("mean") > 10.0 * number(&eval, "/noise_floor/kl_mean"), "{eval}");
    let agreement = number(&eval, "/divergence/top1_agreement");
    assert!(agreement > 0.5 && agreement <= 1.0);
    assert!(number(&eval, "/divergence/rms_probability_change") > 0.0);
    // A model does not diverge from itself.
    let same = sandbox.slm("eval --checkpoint model --data text.txt --reference model --json").json();
    assert_eq!(number(&same, "/divergence/kl_max"), 0.0);
    assert_eq!(number(&same, "/divergence/top1_agreement"), 1.0);
    assert!(
        (number(&same, "/perplexity") / number(&same, "/divergence/perplexity_reference") - 1.0).abs()
            < 1e-12
    );
}

#[test]
fn overlapping_windows_score_every_token_with_more_context() {
    let sandbox = imported();
    let line = "eval --checkpoint model --data text.txt --window 32";
    let strided = sandbox.slm(&format!("{line} --stride 8 --json")).json();
    let ids = slm_text::Tokenizer::from_json(&model().tokenizer, "").unwrap().encode(text()).unwrap();
    assert_eq!((&strided["tokens"], &strided["stride"]), (&(ids.len() - 1).into(), &8.into()));
    assert!(sandbox.slm(&format!("{line} --stride 32 --json")).json()["stride"].is_null());
    sandbox.refuses(&format!("{line} --stride 33"), 2, &["--stride 33", "1 to 32"]);
}

#[test]
fn bits_per_byte_count_the_bytes_of_the_text() {
    let sandbox = Sandbox::with_model();
    let eval = "eval --checkpoint model --data";
    // With overlapping windows every token but the first is scored.
    let whole = sandbox.slm(&format!("{eval} text.txt --window 32 --stride 16 --json")).json();
    let bits = number(&whole, "/nll") * (number(&whole, "/tokens") + 1.0) / std::f64::consts::LN_2;
    let expected = bits / text().len() as f64;
    let found = number(&whole, "/bits_per_byte");
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} and {expected}");
    // The bytes are those of the tokens that were read.
    let begun = number(
        &sandbox.slm(&format!("{eval} text.txt --window 32 --max-tokens 64 --json")).json(),
        "/bits_per_byte",
    );
    assert!(begun / found > 0.5 && begun / found < 2.0, "{begun} and {found}");
    let shown = sandbox.slm(&format!("{eval} text.txt")).success().stdout;
    assert!(shown.lines().next().unwrap().ends_with("bits per byte)"), "{shown}");
    sandbox.put("ids.jsonl", "[1, 2, 3, 4, 5, 6]\n[7, 8, 9, 10, 11]\n");
    let ids = sandbox.slm(&format!("{eval} ids.jsonl --json")).json();
    assert!(ids["bits_per_byte"].is_null() && ids["nll"].is_number(), "{ids}");
}

#[test]
fn multiple_choice_questions_are_counted() {
    let sandbox = imported();
    // The model's own likelihoods decide. Each question is asked with both answers, so one of the two is correct.
    let line = |answer: &str| {
        format!("{{\"context\": \"The\", \"choices\": [\"a\", \"the end\"], \"answer\": {answer}}}\n")
    };
    sandbox.put("both.jsonl", format!("{}\n{}", line("0"), line("\"the end\"")));
    let both = sandbox.slm("eval --checkpoint model --choices both.jsonl --json").json();
    assert_eq!((&both["choices"]["questions"], &both["perplexity"]), (&2.into(), &Value::Null));
    assert_eq!(number(&both, "/choices/accuracy"), 0.5);
    assert_eq!(number(&both, "/choices/accuracy_normalized"), 0.5);
    for (content, part) in [
        ("{\"context\": \"a\", \"choices\": [\"b\"], \"answer\": 0}", "two choices"),
        ("{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 2}", "answer"),
        ("{\"context\": \"a\"}", "choices"),
        ("", "no question"),
    ] {
        sandbox.put("bad.jsonl", content);
        sandbox.refuses("eval --checkpoint model --choices bad.jsonl", 1, &["bad.jsonl", part]);
    }
}

#[test]
fn ptq_ends_with_a_verdict_that_names_the_text() {
    let sandbox = imported();
    let line = "ptq --checkpoint model --calibration text.txt --type weight-only";
    let run = sandbox.slm(&format!("{line} --out int8")).success();
    assert!(run.stdout.contains("the end of text.txt"), "{run}");
    assert!(run.stdout.contains("too short to tell"), "{run}");
    let json = sandbox.slm(&format!("{line} --eval text.txt --out again --json")).json();
    assert_eq!(json["quality"]["text"], "text.txt");
    let rise = number(&json, "/perplexity_quantized") / number(&json, "/perplexity_float") - 1.0;
    assert!((number(&json, "/quality/rise") - rise).abs() < 1e-12, "{json}");
}

#[test]
fn a_measurement_on_the_calibration_text_says_so() {
    let sandbox = imported();
    sandbox.slm("ptq --checkpoint model --calibration text.txt --no-eval --out int8").success();
    sandbox.put("copy.txt", text());
    sandbox.put("other.txt", format!("{}\n", text()));
    for (line, warns) in [
        ("eval --checkpoint int8", true),
        ("eval --checkpoint model", false),
        ("eval --checkpoint model --checkpoint int8", true),
        ("compare model int8", true),
    ] {
        for text in ["text.txt", "copy.txt", "other.txt"] {
            let expected = warns && text != "other.txt";
            let line = format!("{line} --data {text} --max-tokens 512");
            let shown = sandbox.slm(&line).success().stdout;
            let warning = shown.lines().find(|line| line.starts_with("warning: "));
            assert_eq!(warning.is_some(), expected, "{line}:\n{shown}");
            if let Some(warning) = warning {
                let parts = ["int8 was calibrated on", text, "another text"];
                assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
            }
        }
    }
    let run = "--set training.batch_size=1 --set training.sequence_length=16";
    sandbox
        .slm(&format!("finetune --checkpoint int8 --data other.txt --steps 1 --out tuned {run}"))
        .success();
    let shown = sandbox.slm("eval --checkpoint tuned --data other.txt --max-tokens 512").success().stdout;
    assert!(shown.contains("warning: tuned was trained on other.txt, and may look better"), "{shown}");
    let json = sandbox.slm("eval --checkpoint int8 --data text.txt --max-tokens 512 --json").json();
    assert!(json["warning"].as_str().unwrap().contains("text.txt"), "{json}");
    let json = sandbox.slm("compare model int8 --data other.txt --json").json();
    assert!(json.get("warning").is_none(), "{json}");
}

/// An embedding that is not the head's table counts among the schemes.
#[test]
fn a_table_with_a_scheme_of_its_own_is_summed_up_with_the_layers() {
    let sandbox = Sandbox::new();
    sandbox.put("text.txt", text());
    let mut untied = model();
    let table = untied.tensors["model.embed_tokens.weight"].clone();
    untied.tensors.insert("lm_head.weight".to_owned(), table);
    untied.config["tie_word_embeddings"] = false.into();
    untied.write(sandbox.path("hf"));
    sandbox.slm("import hf --out model").success();
    let ptq = "ptq --checkpoint model --type weight-only --bits 4 --granularity group:16 --no-eval --embeddings int8";
    let json = sandbox.slm(&format!("{ptq} --out int4 --json")).json();
    assert_eq!(
        json["other_schemes"]["int8 group:16 symmetric"],
        serde_json::json!(["embed_tokens"]),
        "{json}"
    );
    let shown = sandbox.slm(&format!("{ptq} --layer *=int8:channel --out int8")).success().stdout;
    let weights = shown.lines().find(|line| line.starts_with("weights  ")).unwrap();
    assert!(weights.contains(" mixed,"), "{shown}");
    for (dir, expected) in [("int4", "mixed"), ("model", "f32")] {
        let bench = format!("bench --checkpoint {dir} --prompt 4 --generate 1 --repeats 1 --json");
        assert_eq!(sandbox.slm(&bench).json()["weights"], expected, "{dir}");
    }
}

//! Commands that help users: `explain`, `config`, `doctor`, `completions`.

use slm_tests::Sandbox;

#[test]
fn terms_are_explained_and_near_misses_answered() {
    let sandbox = Sandbox::new();
    let all = sandbox.slm("explain").success().stdout;
    for term in ["SQNR", "scale", "zero point", "perplexity", "KL divergence", "GPTQ", "group"] {
        assert!(all.contains(term), "{term} is not in\n{all}");
        let said = sandbox.slm_with("explain", &[term], &[]).success().stdout;
        assert!(said.to_lowercase().starts_with(&term.to_lowercase()), "{said}");
        assert!(said.lines().count() > 3 && said.lines().all(|line| line.chars().count() <= 80), "{said}");
    }
    assert_eq!(
        sandbox.slm("explain zero point").success().stdout,
        sandbox.slm("explain zero-point").success().stdout
    );
    let json = sandbox.slm("explain db --json").json();
    assert_eq!(json["terms"][0]["term"], "SQNR");
    assert!(sandbox.slm("explain --json").json()["terms"].as_array().unwrap().len() > 30);
    sandbox.refuses("explain perplexitty", 2, &["no term \"perplexitty\"", "did you mean perplexity"]);
    sandbox.refuses("explain xyzzy", 2, &["slm explain lists"]);
}

#[test]
fn configs_are_written_checked_and_explained() {
    let sandbox = Sandbox::with_model();
    for (name, suits) in [
        ("train", &["slm train"][..]),
        ("ptq", &["slm ptq --config"]),
        ("qat", &["slm qat", "slm finetune", "slm ptq --config"]),
        ("finetune", &["slm qat", "slm finetune"]),
    ] {
        sandbox.slm(&format!("config init {name} --out {name}.toml")).success();
        let printed = sandbox.slm(&format!("config init {name}")).success().stdout;
        assert_eq!(printed.as_bytes(), sandbox.read(&format!("{name}.toml")));
        let json = sandbox.slm(&format!("config check {name}.toml --json")).json();
        assert_eq!(json["suits"], serde_json::json!(suits));
        sandbox.refuses(
            &format!("config init {name} --out {name}.toml"),
            1,
            &["already exists", "--overwrite"],
        );
    }
    // The model has 64 positions, and the default is 128.
    let short = "--set training.sequence_length=32 --set training.weight_decay=0";
    let check = format!("config check finetune.toml --checkpoint model {short}");
    assert!(sandbox.slm(&check).success().stdout.contains("valid"));
    sandbox.refuses("config check finetune.toml --checkpoint model", 1, &["sequence_length", "64"]);
    sandbox.put("wrong.toml", "[training]\nsteps = 10\nlearning_rat = 1\n");
    sandbox.refuses("config check wrong.toml", 1, &["wrong.toml", "learning_rat", "learning_rate"]);
    sandbox.refuses(
        "config check train.toml --set training.beta1=2",
        1,
        &["--set training.beta1=2", "beta1"],
    );
    sandbox.put("empty.toml", "");
    sandbox.refuses("config check empty.toml", 1, &["empty.toml", "neither [training] nor [quantization]"]);

    let said = sandbox.slm("config explain granularity").success().stdout;
    assert!(
        said.contains("quantization.granularity") && said.contains("group:N") && said.contains("\"tensor\"")
    );
    assert_eq!(sandbox.slm("config explain observer --json").json()["keys"].as_array().unwrap().len(), 2);
    assert!(sandbox.slm("config explain training --json").json()["keys"].as_array().unwrap().len() > 15);
    sandbox.refuses("config explain learning_rte", 2, &["did you mean training.learning_rate"]);
}

#[test]
fn a_setting_takes_the_place_of_a_value_of_a_config_of_ptq() {
    let sandbox = Sandbox::with_model();
    sandbox.slm("config init ptq --out ptq.toml").success();
    let ptq = "ptq --config ptq.toml --checkpoint model --no-eval --json --out";
    let set = "--set quantization.quantization_type=weight-only";
    let json = sandbox.slm(&format!("{ptq} new {set} --set quantization.granularity=group:16")).json();
    assert_eq!((&json["type"], &json["granularity"]), (&"weight-only".into(), &"group:16".into()));
    // An option takes precedence over --set.
    let json = sandbox.slm(&format!("{ptq} other {set} --granularity channel")).json();
    assert_eq!(json["granularity"], "channel");
    sandbox.refuses(&format!("{ptq} no --set quantization.bits=4"), 1, &["bits", "quantization_bits"]);
    // Without a config, the defaults are changed.
    let json = sandbox.slm(&format!("ptq --checkpoint model --no-eval --json --out bare {set}")).json();
    assert_eq!(json["type"], "weight-only");
    let line = "ptq --checkpoint model --no-eval --out no --set";
    sandbox.refuses(&format!("{line} bits=4"), 1, &["--set bits=4", "quantization.quantization_bits"]);
    sandbox.refuses(
        &format!("{line} training.steps=4"),
        1,
        &["`training`", "--set", "known are quantization"],
    );
}

#[test]
fn the_doctor_describes_this_machine() {
    let sandbox = Sandbox::with_model();
    let json = sandbox.slm("doctor --no-measure --json").json();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    let available = json["kernels_available"].as_array().unwrap();
    assert!(available.contains(&json["kernel"]) && available[0] == "scalar", "{json}");
    assert!(json["cores"].as_u64().unwrap() > 0 && json["read_bytes_per_second"].is_null(), "{json}");
    assert_eq!(json["memory"].is_object(), cfg!(target_os = "linux"), "{json}");
    let inspect = sandbox.slm("inspect model --json").json();
    assert_eq!(json["kernel"], inspect["kernel"]);
    let forced = sandbox.slm_with("doctor --no-measure", &[], &[("SLM_KERNEL", "scalar")]).success().stdout;
    assert!(forced.contains("kernel scalar") && forced.contains("SLM_KERNEL=scalar"), "{forced}");
    let measured = sandbox.slm("doctor --json").json();
    let rate = measured["read_bytes_per_second"].as_f64().unwrap();
    assert!(rate > 1e7 && rate < 1e13, "{rate}");
}

#[test]
fn shells_and_manuals_know_every_command() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.slm(&format!("completions {shell}")).success().stdout;
        for word in ["ptq", "granularity", "explain", "completions"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    let json = sandbox.slm("completions man --out man1 --json").json();
    let files = json["files"].as_array().unwrap();
    assert!(
        files.len() > 20 && files.contains(&"slm-ptq.1".into()) && files.contains(&"slm.1".into()),
        "{json}"
    );
    let page = String::from_utf8(sandbox.read("man1/slm-ptq.1")).unwrap();
    assert!(
        page.contains(".TH slm-ptq 1") && page.contains("granularity") && page.contains("Examples:"),
        "{page}"
    );
    sandbox.refuses("completions man --out man1", 1, &["already exists", "--overwrite"]);
    sandbox.slm("completions man --out man1 --overwrite").success();
    sandbox.refuses("completions man", 2, &["--out"]);
    sandbox.refuses("completions bash --out there", 2, &["standard output"]);
    sandbox.refuses("completions tcsh", 2, &["bash", "zsh"]);
}

#[test]
fn a_command_line_that_nearly_fits_is_answered_with_one_that_does() {
    let sandbox = Sandbox::with_model();
    for (line, example) in [
        ("train", "slm train --config my-config.toml"),
        ("config init", "slm config init ptq"),
        ("export model", "slm export my-model-int4 --format gguf"),
        ("completions", "slm completions bash"),
    ] {
        sandbox.refuses(line, 2, &["required", "For example:", example]);
    }
    for (line, command) in [
        ("pqt", "'ptq'"),
        ("quantize", "'ptq'"),
        ("generat", "'generate'"),
        ("chat model", "'--checkpoint model'"),
    ] {
        sandbox.refuses(line, 2, &[command]);
    }
}

/// `-q` prints only the result, and nothing on standard error.
#[test]
fn quiet_commands_print_their_result() {
    let sandbox = Sandbox::with_model();
    for (line, result) in [
        ("ptq --checkpoint model --calibration text.txt --out int8", "UNCLEAR: "),
        ("eval --checkpoint int8 --data text.txt", "perplexity "),
        ("compare model int8 --data text.txt --max-tokens 128", "GOOD: KL divergence"),
        ("inspect int8", "quantized model, static"),
        ("sensitivity --checkpoint model --data text.txt --max-tokens 128", ""),
        ("export int8 --format hf --out hf", "wrote hf"),
        ("import hf --out again", "imported LlamaForCausalLM"),
        ("bench --checkpoint int8 --prompt 4 --generate 2 --repeats 1", "reads a prompt at "),
        ("sample --checkpoint model --sequences 1 --length 4 --out s.json", "1 sequences"),
        ("corpus --stories 3 --out c.txt", "wrote 3 stories"),
        ("doctor --no-measure", "slm "),
    ] {
        let said = sandbox.slm(&format!("{line} -q")).success().stdout;
        let lines = said.trim_end().lines().count();
        assert!(said.starts_with(result) && (1..=2).contains(&lines), "slm {line} -q\n{said}");
        assert!(said.lines().next().is_some_and(|line| line.len() > 10), "{said}");
    }
}

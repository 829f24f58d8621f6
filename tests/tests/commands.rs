//! The commands in normal use.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;
use slm_tests::{Sandbox, model, quantized, read_tensors, text};

/// Number of linear layers of the model, including the head.
const LAYERS: usize = 15;
const TYPES: [&str; 3] = ["static", "dynamic", "weight-only"];

fn number(json: &Value, field: &str) -> f64 {
    json[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {json}"))
}

fn keys(json: &Value) -> Vec<&str> {
    json.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_model_goes_from_import_to_comparison() {
    let sandbox = Sandbox::new();
    sandbox.put("text.txt", text());
    let source = model();
    source.write(sandbox.path("hf"));
    let import = sandbox.slm("import hf --out model --json").json();
    assert_eq!(import["architecture"], "LlamaForCausalLM");
    let values: usize = source.tensors.values().map(|(_, values)| values.len()).sum();
    assert_eq!(import["parameters"], values);
    assert_eq!(
        (&import["has_tokenizer"], &import["unrecognized_fields"]),
        (&true.into(), &Value::Array(vec![]))
    );

    let eval = sandbox.slm("eval --checkpoint model --data text.txt --json").json();
    assert_eq!(
        keys(&eval),
        [
            "bits_per_byte",
            "bos",
            "device",
            "nll",
            "perplexity",
            "seconds",
            "tokens",
            "total_nll",
            "weight_bytes",
            "window",
            "windows"
        ]
    );
    let (perplexity, nll) = (number(&eval, "perplexity"), number(&eval, "nll"));
    assert!((perplexity.ln() - nll).abs() < 1e-12 && nll > 0.0, "{eval}");
    assert_eq!((&eval["window"], &eval["device"]), (&64.into(), &"flex".into()));
    // Every token is scored except the first one of each window; a last window of one token has none.
    let ids = slm_text::Tokenizer::from_json(&source.tokenizer, "").unwrap().encode(text()).unwrap();
    let windows = ids.len() / 64 + usize::from(ids.len() % 64 >= 2);
    assert_eq!(
        (&eval["windows"], &eval["tokens"]),
        (&windows.into(), &(ids.len() - ids.len().div_ceil(64)).into())
    );
    let part =
        sandbox.slm("eval --checkpoint model --data text.txt --max-tokens 100 --window 32 --json").json();
    assert_eq!((&part["tokens"], &part["windows"]), (&96.into(), &4.into()));

    let ptq = "ptq --checkpoint model --calibration text.txt --type dynamic --granularity channel --out int8 --json";
    let ptq = sandbox.slm(ptq).json();
    assert_eq!(ptq["layers"].as_array().unwrap().len(), LAYERS);
    for (field, value) in
        [("type", "dynamic"), ("granularity", "channel"), ("source", "model"), ("device", "flex")]
    {
        assert_eq!(ptq[field], value);
    }
    assert_eq!((&ptq["bits"], &ptq["tied_head_copied"]), (&8.into(), &true.into()));
    assert!(number(&ptq, "peak_memory_bytes") > 1e6 || !cfg!(target_os = "linux"), "{ptq}");
    for layer in ptq["layers"].as_array().unwrap() {
        assert!(number(layer, "sqnr_db") > 35.0, "{layer}");
        assert!(number(layer, "scale_min") > 0.0 && number(layer, "scale_min") < number(layer, "scale_max"));
        assert!(number(layer, "clipped_share") < 0.01 && number(layer, "max_abs_error") > 0.0, "{layer}");
        assert_eq!((&layer["zero_point_min"], &layer["zero_point_max"]), (&0.into(), &0.into()));
        assert!(!layer["kernel"].as_str().unwrap().is_empty());
    }

    let all = sandbox.slm("inspect int8 --json").json();
    assert_eq!((&all["quantized"], &all["model"]["hidden_size"]), (&true.into(), &64.into()));
    assert_eq!(all["quantization"]["layers"].as_array().unwrap().len(), LAYERS);
    let bytes: u64 = all["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!((&all["weight_bytes"], &ptq["sizes"]["model_after"]), (&bytes.into(), &bytes.into()));
    let said = sandbox.slm("inspect int8").success().stdout;
    for origin in
        ["tokens of text.txt with SHA-256 ", "made from         model, model.safetensors with SHA-256 "]
    {
        assert!(said.contains(origin), "{said}");
    }
    let float = sandbox.slm("inspect model --json").json();
    assert_eq!((&float["quantized"], &float["quantization"]), (&false.into(), &Value::Null));
    assert_eq!(float["weight_bytes"], ptq["sizes"]["model_before"]);

    let compare = sandbox.slm("compare model int8 --data text.txt --max-tokens 600 --json").json();
    assert_eq!(compare["layers"].as_array().unwrap().len(), LAYERS);
    assert!(number(&compare, "kl_divergence") > 0.0 && number(&compare, "kl_divergence") < 0.01, "{compare}");
    assert!(number(&compare, "top1_agreement") > 0.9 && number(&compare, "max_abs_logit_difference") > 0.0);
    let eval = sandbox.slm("eval --checkpoint model --data text.txt --max-tokens 600 --json").json();
    assert!((number(&compare, "perplexity_a") / number(&eval, "perplexity") - 1.0).abs() < 1e-6);
    let same = sandbox.slm("compare int8 int8 --data text.txt --max-tokens 200 --json").json();
    assert_eq!((number(&same, "kl_divergence"), number(&same, "top1_agreement")), (0.0, 1.0));
    assert_eq!(same["layers"][0]["sqnr_db"], "Infinity");

    // Text output reports the same, and prints nothing on standard error.
    for line in [
        "eval --checkpoint int8 --data text.txt --max-tokens 200",
        "compare model int8 --data text.txt --max-tokens 200",
        "inspect int8",
        "generate --checkpoint int8 --prompt Once --max-new-tokens 4",
        "ptq --checkpoint model --calibration text.txt --out again",
    ] {
        let outcome = sandbox.slm(line).success();
        assert!(!outcome.stdout.starts_with('{') && !outcome.stdout.trim().is_empty(), "{outcome}");
        let numbers =
            !["NaN", "inf"].iter().any(|text| outcome.stdout.split_whitespace().any(|w| &w == text));
        assert!(numbers, "{outcome}");
    }
}

/// For every width, granularity and type, the reported perplexity is that of the written checkpoint, and eight bits do
/// little harm.
#[test]
fn every_scheme_can_be_quantized_and_evaluated() {
    let sandbox = Sandbox::with_model();
    for (bits, worst) in [(8, 1.05), (4, 1.6)] {
        for granularity in ["tensor", "channel", "group:24"] {
            for kind in TYPES {
                let scheme = format!("--bits {bits} --granularity {granularity} --type {kind}");
                let rest =
                    "--calibration text.txt --eval text.txt --eval-tokens 512 --out new --overwrite --json";
                let ptq = sandbox.slm(&format!("ptq --checkpoint model {rest} {scheme}")).json();
                let eval = "eval --checkpoint new --data text.txt --max-tokens 512 --json";
                let eval = sandbox.slm(eval).json();
                assert_eq!(ptq["perplexity_quantized"], eval["perplexity"], "{scheme}");
                assert_eq!(
                    (&ptq["nll_quantized"], &ptq["evaluated_tokens"]),
                    (&eval["nll"], &eval["tokens"])
                );
                let ratio = number(&ptq, "perplexity_quantized") / number(&ptq, "perplexity_float");
                assert!(ratio > 1.0 / worst && ratio < worst, "{scheme}: {ratio}");
                let layers = ptq["layers"].as_array().unwrap();
                // Static inputs have parameters; those that lose most with one scale are dynamic instead.
                for layer in layers {
                    assert_eq!(layer["activation"].is_object(), layer["input"] == "static", "{layer}");
                    assert!(
                        layer["input"] == kind || (kind, &layer["input"]) == ("static", &"dynamic".into())
                    );
                }
                let metadata = sandbox.read_json("new/quantization_metadata.json");
                assert_eq!(metadata["layers"].as_array().unwrap().len(), LAYERS);
                // Inputs are observed if they are quantized, or if they improve the ranges of weights.
                let weighted = bits == 4 || granularity == "tensor";
                let observed = kind != "weight-only" || weighted;
                assert_eq!(ptq["calibration_tokens"].as_u64().unwrap() > 0, observed, "{scheme}");
                let observer = if weighted { "weighted-mse" } else { "min-max" };
                assert_eq!((&ptq["observer"], &ptq["method"]), (&observer.into(), &"rtn".into()), "{scheme}");
                assert_eq!(metadata["weight_observer"], observer, "{scheme}");
            }
        }
    }
    let text = "ptq --checkpoint model --calibration text.txt --eval text.txt --eval-tokens 512 --json --out";
    let float = sandbox.slm("eval --checkpoint model --data text.txt --max-tokens 512 --json").json();
    for (name, options) in [
        ("affine", "--mapping affine"),
        ("torch", "--mapping symmetric-torch --bits 4 --granularity group:16"),
        ("f16", "--scale-dtype f16 --bits 4 --granularity group:16"),
        ("min-max", "--observer min-max --activation-observer min-max"),
        ("moving-average", "--activation-observer moving-average:0.1"),
        ("gptq", "--method gptq --bits 4 --granularity group:16 --type weight-only"),
        ("histogram", "--observer histogram --activation-observer histogram"),
        ("percentile", "--observer percentile:99.99 --activation-observer percentile"),
        ("per-tensor-activations", "--type dynamic --activation-granularity tensor"),
    ] {
        let ptq = sandbox.slm(&format!("{text} {name} {options}")).json();
        assert_eq!(ptq["perplexity_float"], float["perplexity"]);
        let ratio = number(&ptq, "perplexity_quantized") / number(&float, "perplexity");
        assert!(ratio > 0.75 && ratio < 1.3, "{name}: {ratio}");
    }
}

#[test]
fn linear_layers_shrink_as_promised() {
    let sandbox = Sandbox::with_model();
    for (options, most) in [
        ("--bits 8 --granularity tensor", 0.2505),
        ("--bits 4 --granularity tensor", 0.1255),
        ("--bits 4 --granularity group:32", 0.1570),
        ("--bits 4 --granularity group:32 --scale-dtype f16", 0.1410),
    ] {
        for kind in TYPES {
            let line = "ptq --checkpoint model --calibration text.txt --out new --overwrite --json";
            let ptq = sandbox.slm(&format!("{line} {options} --type {kind}")).json();
            let ratio = number(&ptq["sizes"], "linear_ratio");
            assert!(ratio <= most && ratio > most * 0.98, "{options} --type {kind}: {ratio}");
            // The same according to the tensors on disk: the tensors of linear layers are those that the float model
            // lacks, or has under the same name with another type.
            let inspect = sandbox.slm("inspect new --json").json();
            let names: Vec<_> = inspect["quantization"]["layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| l["name"].clone())
                .collect();
            let is_linear = |tensor: &Value| {
                let tensor = tensor["name"].as_str().unwrap();
                names.iter().any(|name| tensor.starts_with(&format!("{}.", name.as_str().unwrap())))
            };
            let tensors = inspect["tensors"].as_array().unwrap().iter().filter(|tensor| is_linear(tensor));
            let on_disk: u64 = tensors.map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
            let before = number(&ptq["sizes"], "linear_before");
            assert!(on_disk as f64 / before <= most, "{options} --type {kind}: {on_disk} of {before} bytes");
        }
    }
}

#[test]
fn skipped_layers_are_reported_everywhere() {
    let sandbox = Sandbox::with_model();
    let line = "ptq --checkpoint model --calibration text.txt --skip lm_head --skip layers.0.mlp.*";
    let said = sandbox.slm(&format!("{line} --out said")).success();
    let json = sandbox.slm(&format!("{line} --out new --json")).json();
    let metadata = sandbox.read_json("new/quantization_metadata.json");
    let inspect = sandbox.slm("inspect new").success();
    let expected = [
        ("layers.0.mlp.gate_proj", "layers.0.mlp.*", "128x64"),
        ("layers.0.mlp.up_proj", "layers.0.mlp.*", "128x64"),
        ("layers.0.mlp.down_proj", "layers.0.mlp.*", "64x128"),
        ("lm_head", "lm_head", "320x64"),
    ];
    let skipped = json["skipped"].as_array().unwrap();
    assert_eq!(json["skipped"], metadata["skipped"]);
    assert_eq!((skipped.len(), json["layers"].as_array().unwrap().len()), (4, LAYERS - 4));
    assert_eq!(json["tied_head_copied"], false);
    for ((name, pattern, shape), record) in expected.iter().zip(skipped) {
        let reason = record["reason"].as_str().unwrap();
        assert_eq!(record["name"], *name);
        assert!(reason.contains(pattern), "{reason}");
        let line = format!("left float: {name} ({shape}): {reason}");
        assert!(said.stdout.contains(&line), "{line}\n{said}");
        assert!(inspect.stdout.contains(&format!("left float: {name} ({reason})")), "{inspect}");
    }
    assert!(!said.stdout.contains("The head was tied"), "{said}");
    let float = read_tensors(sandbox.path("model/model.safetensors"));
    let kept = read_tensors(sandbox.path("new/model.safetensors"));
    let name = "layers.0.mlp.up_proj.weight";
    assert!(kept[name].1 == float[name].1, "{name} was changed");
}

#[test]
fn a_layer_is_shown_in_full() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    let options = "--calibration text.txt --bits 4 --granularity group:24 --mapping affine --out int4";
    sandbox.slm(&format!("ptq --checkpoint model {options}")).success();
    let name = "layers.1.self_attn.v_proj";
    for (dir, scales, codes) in [("model", 0, 0), ("int8", 1, 256), ("int4", 32 * 3, 16)] {
        let view = sandbox.slm(&format!("inspect {dir} --layer {name} --json")).json();
        assert_eq!((&view["name"], &view["shape"]), (&name.into(), &serde_json::json!([32, 64])));
        assert_eq!(view["qparams"].as_array().unwrap().len(), scales, "{dir}");
        assert_eq!(view["codes"].as_array().unwrap().len(), codes, "{dir}");
        let count = |bin: &Value| bin[2].as_u64().unwrap();
        let total: u64 = view["values"]["histogram"].as_array().unwrap().iter().map(count).sum();
        assert_eq!(total, 32 * 64);
        let coded: u64 = view["codes"].as_array().unwrap().iter().map(|c| c["count"].as_u64().unwrap()).sum();
        assert_eq!(coded, if codes == 0 { 0 } else { 32 * 64 });
        let said = sandbox.slm(&format!("inspect {dir} --layer {name}")).success().stdout;
        assert!(said.starts_with(&format!("{name}: 32 outputs x 64 inputs")), "{said}");
        assert_eq!(said.contains("scale and zero point"), scales > 0, "{said}");
    }
    // An affine group of random weights almost never has its zero point in the middle.
    let view = sandbox.slm(&format!("inspect int4 --layer {name} --json")).json();
    assert!(view["qparams"].as_array().unwrap().iter().any(|qparams| qparams["zero_point"] != 0));
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    sandbox.slm("ptq --checkpoint model --calibration text.txt --out again").success();
    for file in ["model.safetensors", "quantization_metadata.json", "config.json", "tokenizer.json"] {
        assert!(sandbox.read(&format!("again/{file}")) == quantized()[file], "{file} differs");
    }
    let corpus = |options: &str, name: &str| {
        sandbox.slm(&format!("corpus --stories 30 {options} --out {name}")).success();
        sandbox.read(name)
    };
    assert!(corpus("--seed 5", "a") == corpus("--seed 5", "b"));
    assert!(corpus("--seed 6", "c") != sandbox.read("a"));
    let json = sandbox.slm("corpus --stories 30 --seed 5 --out d --json").json();
    assert_eq!((&json["stories"], &json["seed"]), (&30.into(), &5.into()));
    assert_eq!(json["bytes"], sandbox.read("d").len());
    assert!((number(&json, "nats") / number(&json, "bytes") - number(&json, "nats_per_byte")).abs() < 1e-9);

    let generate = |options: &str| {
        let line = format!("generate --checkpoint model --prompt Once --max-new-tokens 40 --json {options}");
        let json = sandbox.slm(&line).json();
        assert_eq!(json["prompt"], "Once");
        assert!(json["ids"].as_array().unwrap().len() <= 40);
        (json["ids"].clone(), json["text"].clone())
    };
    assert_eq!(generate("--ignore-eos"), generate("--ignore-eos --seed 9"));
    let sampling = "--ignore-eos --temperature 1.0 --top-k 40 --top-p 0.95";
    let first = generate(&format!("{sampling} --seed 3"));
    assert_eq!(first.0.as_array().unwrap().len(), 40);
    assert_eq!(first, generate(&format!("{sampling} --seed 3")));
    assert_ne!(first, generate(&format!("{sampling} --seed 4")));
    // Text output is the prompt and the same text.
    let said =
        sandbox.slm("generate --checkpoint model --prompt Once --max-new-tokens 40 --ignore-eos").success();
    assert_eq!(said.stdout, format!("Once{}\n", generate("--ignore-eos").1.as_str().unwrap()));
}

/// Compares all logits of every checkpoint for every device and kernel.
#[test]
fn devices_and_kernels_agree() {
    let sandbox = Sandbox::with_model();
    let ids: Vec<Vec<u64>> =
        [1, 7, 64].iter().map(|len| (0..*len).map(|i| (i * 37 + len * 11) % 320).collect()).collect();
    sandbox.put("ids.json", serde_json::json!({ "ids": ids }).to_string());
    let kernels = sandbox.slm("inspect model --json").json()["kernels_available"].clone();
    let kernels: Vec<&str> = kernels.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(kernels.contains(&"scalar"), "{kernels:?}");

    let logits = |checkpoint: &str, device: &str, kernel: &str| {
        let line = "logits --ids ids.json --out logits --overwrite --json";
        let line = format!("{line} --checkpoint {checkpoint} --device {device}");
        let json = sandbox.slm_with(&line, &[], &[("SLM_KERNEL", kernel)]).json();
        assert_eq!(json["shapes"], serde_json::json!([[1, 320], [7, 320], [64, 320]]));
        let tensors = read_tensors(sandbox.path("logits"));
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["logits.0", "logits.1", "logits.2"]);
        assert_eq!(tensors["logits.2"].0, [64, 320]);
        tensors.into_values().flat_map(|(_, values)| values).collect::<Vec<f32>>()
    };
    let generated = |checkpoint: &str, device: &str, kernel: &str| {
        let line = "generate --prompt Once --max-new-tokens 32 --ignore-eos --json";
        let line = format!("{line} --checkpoint {checkpoint} --device {device}");
        sandbox.slm_with(&line, &[], &[("SLM_KERNEL", kernel)]).json()["ids"].clone()
    };
    let difference = |a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    // The other devices are compared with Flex.
    let others = &slm_tests::CPU_DEVICES[1..];
    let schemes = [
        ("a", "--type static"),
        ("b", "--type dynamic --bits 4 --granularity group:24"),
        ("c", "--type weight-only --bits 4 --granularity channel"),
        ("d", "--type weight-only --mapping affine"),
    ];
    for (name, scheme) in schemes {
        let line = format!("ptq --checkpoint model --calibration text.txt --out {name} {scheme}");
        sandbox.slm(&line).success();
        let reference = logits(name, "flex", "scalar");
        let greedy = generated(name, "flex", "scalar");
        assert!(
            reference.iter().all(|value| value.is_finite()) && difference(&reference, &[0.0; 72 * 320]) > 1.0
        );
        for kernel in &kernels {
            let worst = difference(&reference, &logits(name, "flex", kernel));
            assert!(worst <= 1e-4, "{scheme} with {kernel}: {worst}");
            assert_eq!(greedy, generated(name, "flex", kernel), "{scheme} with {kernel}");
        }
        // Other float operations may move an activation across a rounding boundary.
        let edge = if scheme.contains("weight-only") { 1e-4 } else { 2e-2 };
        for device in others {
            let worst = difference(&reference, &logits(name, device, kernels[kernels.len() - 1]));
            assert!(worst <= edge, "{scheme} on {device}: {worst}");
        }
    }
    let (flex, greedy) = (logits("model", "flex", "scalar"), generated("model", "flex", "scalar"));
    for device in others {
        assert!(difference(&flex, &logits("model", device, "scalar")) <= 1e-4);
        assert_eq!(greedy, generated("model", device, "scalar"));
    }
    let perplexity = |checkpoint: &str, device: &str| {
        let line = format!(
            "eval --checkpoint {checkpoint} --data text.txt --max-tokens 500 --json --device {device}"
        );
        let json = sandbox.slm(&line).json();
        assert_eq!(json["device"], device);
        number(&json, "perplexity")
    };
    let gpu = cfg!(feature = "wgpu").then_some("wgpu");
    for device in others.iter().copied().chain(gpu) {
        // Float activations agree to float precision. An 8-bit activation across a rounding boundary changes the logits
        // of its position and of later ones by up to 2e-2, as above.
        for (checkpoint, tolerance) in [("model", 1e-5), ("c", 1e-5), ("d", 1e-5), ("a", 1e-2), ("b", 1e-2)] {
            let ratio = perplexity(checkpoint, device) / perplexity(checkpoint, "flex");
            assert!((ratio - 1.0).abs() < tolerance, "{checkpoint} on {device}: {ratio}");
        }
    }
    #[cfg(feature = "wgpu")]
    assert!(difference(&flex, &logits("model", "wgpu", "scalar")) <= 1e-3);
}

#[test]
fn the_default_output_is_replaced() {
    let sandbox = Sandbox::with_model();
    let line = "ptq --checkpoint model --calibration text.txt --json --type weight-only --bits 4 --granularity group:16";
    for _ in 0..2 {
        let json = sandbox.slm(line).json();
        assert!(json["output"].as_str().unwrap().ends_with("out/ptq-int4-weight-only-group-16"), "{json}");
    }
    sandbox.put("out/ptq-int4-weight-only-group-16/notes.txt", "mine");
    sandbox.refuses(line, 1, &["ptq-int4-weight-only-group-16", "notes.txt", "not overwritten"]);
}

/// As in `slm inspect DIR | head -1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    // Much more than fits into a pipe, so that writing continues after the reader has closed it.
    for line in ["inspect int8 --json", "inspect int8 --layer lm_head --json", "inspect int8"] {
        let mut command = sandbox.command(line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert!(!first.is_empty());
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{line}");
    }
}

/// Ctrl-C while a file is written: the program reports it and leaves nothing behind.
#[cfg(unix)]
#[test]
fn an_interrupted_command_leaves_nothing() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("corpus --stories 1000000000 --out new");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let entries = || std::fs::read_dir(sandbox.path("")).unwrap().count();
    // Once it writes, it handles signals.
    while entries() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), stderr.starts_with("error: interrupted")),
        (Some(130), true),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
    assert_eq!(entries(), 0);
}

#[test]
fn words_about_work_go_to_standard_error() {
    let sandbox = Sandbox::with_model();
    let line = "generate --checkpoint model --prompt Once --max-new-tokens 3 --json";
    let outcome = sandbox.slm(&format!("{line} -v"));
    assert_eq!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("tokens/s"), "{outcome}");
    let fields: BTreeMap<String, Value> = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(fields.contains_key("decode_tokens_per_second"), "{outcome}");
    sandbox.slm(&format!("{line} -q")).json();
}

/// Speeds are not checked, but everything else in the report is.
#[test]
fn bench_says_what_it_measured_and_by_which_kernel() {
    let sandbox = Sandbox::with_model();
    sandbox.slm("ptq --checkpoint model --calibration text.txt --type weight-only --out int8").success();
    let line = "bench --checkpoint int8 --prompt 16 --generate 4 --repeats 1 --json";
    let bench = sandbox.slm(line).json();
    let kernels = bench["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 1);
    assert_eq!(kernels[0]["layers"], LAYERS);
    let of_layers = bench["layers"].as_array().unwrap();
    assert_eq!(of_layers.len(), LAYERS);
    assert!(of_layers.iter().all(|layer| layer["kernel"] == kernels[0]["kernel"]), "{bench}");
    let sum: u64 = of_layers.iter().map(|layer| layer["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bench["weight_bytes_per_token"], sum);
    assert_eq!(bench["runs"].as_array().unwrap().len(), 1);
    assert_eq!(bench["runs"][0]["decode_bandwidth_share"], bench["decode_bandwidth_share"]);
    assert_eq!((&bench["prompt_tokens"], &bench["decode_tokens"]), (&16.into(), &4.into()));
    let inspect = sandbox.slm("inspect int8 --json").json();
    let layers = inspect["quantization"]["layers"].as_array().unwrap();
    let bytes: u64 = layers.iter().map(|layer| layer["bytes_after"].as_u64().unwrap()).sum();
    // The kernel's layout may pad each layer's rows to whole blocks.
    let read = bench["weight_bytes_per_token"].as_u64().unwrap();
    assert!(read >= bytes && read < bytes * 3, "{read} of {bytes}");
    for field in ["prefill_tokens_per_second", "decode_tokens_per_second", "read_bytes_per_second"] {
        assert!(number(&bench, field) > 0.0, "{field}: {bench}");
    }
    let no_text = ["--type static", "random weights have no text to calibrate on", "--checkpoint"];
    sandbox.refuses("bench --type static --prompt 4 --generate 1", 2, &no_text);
    // The default prompt fits the model, and one that does not is refused before anything is measured.
    let positions =
        sandbox.read_json("int8/config.json")["model"]["max_position_embeddings"].as_u64().unwrap();
    let default = sandbox.slm("bench --checkpoint int8 --generate 4 --repeats 1 --json").json();
    assert_eq!(default["prompt_tokens"], (positions - 4).min(512));
    let too_long = format!("bench --checkpoint int8 --prompt {positions} --generate 4");
    sandbox.refuses(&too_long, 2, &["--prompt", "give --prompt", "int8"]);
    sandbox.refuses(&format!("bench --checkpoint int8 --generate {positions}"), 2, &["give --generate"]);
}

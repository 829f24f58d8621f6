//! Invalid input: rejected with a message that names the place, the problem and the remedy, without a panic, and with
//! nothing written.

use std::fs;

use slm_tests::{HuggingFace, Sandbox, model, quantized, text};

/// A quantization of the model, to which the option under test is added.
const PTQ: &str = "ptq --checkpoint model --calibration text.txt --out new";

/// A change of a Hugging Face model, and the texts that the error message must contain.
type Change = (fn(&mut HuggingFace), &'static [&'static str]);

/// Creates a float model, its quantized version and a text.
fn both() -> Sandbox {
    let sandbox = Sandbox::with_model();
    sandbox.put_dir("int8", quantized());
    sandbox
}

/// Creates a changed Hugging Face model in `hf`.
fn hugging_face(change: impl FnOnce(&mut HuggingFace)) -> Sandbox {
    let sandbox = Sandbox::new();
    let mut model = model();
    change(&mut model);
    model.write(sandbox.path("hf"));
    sandbox
}

#[test]
fn missing_files_are_named() {
    let sandbox = Sandbox::with_model();
    sandbox.put("ids.json", r#"{"ids": [[1, 2]]}"#);
    for line in [
        "import nowhere --out new",
        "ptq --checkpoint nowhere --calibration text.txt --out new",
        "ptq --checkpoint model --calibration nowhere --out new",
        "ptq --checkpoint model --calibration text.txt --eval nowhere --out new",
        "ptq --checkpoint model --calibration text.txt --config nowhere --out new",
        "eval --checkpoint nowhere --data text.txt",
        "eval --checkpoint model --data nowhere",
        "logits --checkpoint nowhere --ids ids.json --out new",
        "logits --checkpoint model --ids nowhere --out new",
        "generate --checkpoint nowhere --prompt x",
        "inspect nowhere",
        "compare model nowhere --data text.txt",
        "compare model model --data nowhere",
    ] {
        let outcome = sandbox.refuses(line, 1, &["nowhere"]);
        let says =
            ["not found", "No such file or directory"].iter().any(|text| outcome.stderr.contains(text));
        assert!(says, "{outcome}");
    }
    let no_text = "ptq --checkpoint model --out new";
    sandbox.refuses(no_text, 2, &["static quantization needs a text", "--calibration FILE"]);
    sandbox.refuses("ptq --checkpoint nowhere --out new", 1, &["nowhere", "not found"]);
}

#[test]
fn incomplete_directories_are_refused() {
    for (file, remedy) in [("config.json", "not found"), ("model.safetensors", "not found")] {
        let sandbox = hugging_face(|_| ());
        fs::remove_file(sandbox.path("hf").join(file)).unwrap();
        sandbox.refuses("import hf --out new", 1, &["hf", file, remedy]);
    }
    for file in ["manifest.json", "model.safetensors", "tokenizer.json", "config.json"] {
        let sandbox = Sandbox::with_model();
        fs::remove_file(sandbox.path("model").join(file)).unwrap();
        sandbox.refuses("eval --checkpoint model --data text.txt", 1, &["model", file]);
    }
    let sandbox = both();
    fs::remove_file(sandbox.path("int8/quantization_metadata.json")).unwrap();
    sandbox.refuses("inspect int8", 1, &["int8", "quantization_metadata.json"]);
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.refuses(
        "inspect empty",
        1,
        &["empty: not an slm checkpoint", "config.json", "name the directory"],
    );
}

#[test]
fn a_model_that_is_not_imported_yet_is_named_with_its_import() {
    let sandbox = hugging_face(|_| ());
    sandbox.put("model.gguf", b"GGUF\x03\0\0\0");
    sandbox.put("alone.safetensors", sandbox.read("hf/model.safetensors"));
    sandbox.put_dir("model", slm_tests::checkpoint());
    sandbox.put("text.txt", text());
    for (name, parts) in [
        ("hf", &["hf: not an slm checkpoint", "Hugging Face", "slm import hf --out"][..]),
        ("model.gguf", &["it is a GGUF file", "slm import model.gguf --out"]),
        ("hf/model.safetensors", &["a file of weights", "slm import hf --out"]),
        ("alone.safetensors", &["a file of weights", "`slm import`"]),
        ("model/model.safetensors", &["a file of weights", "name its directory, model"]),
        ("text.txt", &["it is not a directory", "name the directory of a checkpoint"]),
    ] {
        sandbox.refuses(&format!("inspect {name}"), 1, parts);
        sandbox.refuses(&format!("generate --checkpoint {name} --prompt x"), 1, parts);
    }
}

#[test]
fn a_model_without_tokenizer_is_imported_but_reads_no_text() {
    let sandbox = hugging_face(|_| ());
    fs::remove_file(sandbox.path("hf/tokenizer.json")).unwrap();
    let outcome = sandbox.slm("import hf --out model").success();
    assert!(outcome.stdout.contains("no tokenizer.json was found"), "{outcome}");
    sandbox.put("text.txt", text());
    let parts = ["model", "no tokenizer.json", "copy the one that the model was trained with"];
    sandbox.refuses("eval --checkpoint model --data text.txt", 1, &parts);
    sandbox.refuses("generate --checkpoint model --prompt x", 1, &parts);
    sandbox.refuses(PTQ, 1, &parts);
}

#[test]
fn truncated_and_garbage_weights_are_refused() {
    let sandbox = hugging_face(|_| ());
    let whole = sandbox.read("hf/model.safetensors");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let file = "hf/model.safetensors";
    for len in [0, 7, 8, header - 1, header, whole.len() / 2, whole.len() - 1] {
        sandbox.put(file, &whole[..len]);
        sandbox.refuses("import hf --out new", 1, &[file]);
    }
    let says = ["truncated or damaged", &whole.len().to_string(), &(whole.len() - 1).to_string(), file];
    sandbox.refuses("import hf --out new", 1, &says);
    let too_long = [&whole[..], b"x"].concat();
    for garbage in [b"not weights at all".as_slice(), &[0xff; 4096], &[0; 4096], &too_long, text().as_bytes()]
    {
        sandbox.put(file, garbage);
        sandbox.refuses("import hf --out new", 1, &[file]);
    }

    // The same for a checkpoint.
    let sandbox = both();
    for dir in ["model", "int8"] {
        let file = format!("{dir}/model.safetensors");
        let whole = sandbox.read(&file);
        sandbox.put(&file, &whole[..whole.len() - 1]);
        let line = format!("eval --checkpoint {dir} --data text.txt");
        sandbox.refuses(&line, 1, &[&file, "restore it from a good copy"]);
        sandbox.put(&file, b"garbage");
        sandbox.refuses(&line, 1, &[&file, "restore it from a good copy"]);
    }
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let sandbox = both();
    for (dir, place) in [("model", 0.999), ("int8", 0.5), ("int8", 0.0)] {
        let file = format!("{dir}/model.safetensors");
        let whole = sandbox.read(&file);
        let mut damaged = whole.clone();
        damaged[(place * whole.len() as f64) as usize] ^= 0x10;
        sandbox.put(&file, &damaged);
        let parts = [file.as_str(), "BLAKE3", "manifest", "restore it from a good copy"];
        sandbox.refuses(&format!("eval --checkpoint {dir} --data text.txt"), 1, &parts);
        sandbox.refuses(&format!("inspect {dir}"), 1, &parts);
        sandbox.put(&file, whole);
    }
}

#[test]
fn wrong_shapes_and_tensors_are_named() {
    const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";
    let cases: [Change; 6] = [
        (
            |model| model.tensors.get_mut(Q_PROJ).unwrap().0 = vec![32, 128],
            &["[64, 64]", "[32, 128]", Q_PROJ],
        ),
        (|model| model.tensors.get_mut(Q_PROJ).unwrap().0 = vec![4096], &["[64, 64]", "[4096]", Q_PROJ]),
        (|model| model.config["hidden_size"] = 128.into(), &["expected shape", "do not belong together"]),
        (|model| drop(model.tensors.remove(Q_PROJ)), &["missing tensor", Q_PROJ]),
        (
            |model| drop(model.tensors.insert("model.layers.0.extra".into(), (vec![1], vec![0.0]))),
            &["unexpected tensor", "model.layers.0.extra"],
        ),
        (|model| model.config["num_hidden_layers"] = 3.into(), &["missing tensors", "layers.2"]),
    ];
    for (change, parts) in cases {
        let sandbox = hugging_face(change);
        sandbox.refuses("import hf --out new", 1, &[&["hf"], parts].concat());
    }
}

#[test]
fn unknown_architectures_and_options_are_named() {
    let cases: [Change; 5] = [
        (
            |model| model.config["architectures"] = serde_json::json!(["MambaForCausalLM"]),
            &["MambaForCausalLM", "not supported", "LlamaForCausalLM, MistralForCausalLM"],
        ),
        (
            |model| {
                model.config["architectures"] = serde_json::json!([]);
                model.config["model_type"] = serde_json::Value::Null;
            },
            &["none given", "LlamaForCausalLM"],
        ),
        (|model| model.config["hidden_act"] = "relu".into(), &["hidden_act", "relu", "silu"]),
        (|model| model.config["num_attention_heads"] = 0.into(), &["heads"]),
        (|model| model.config["vocab_size"] = "many".into(), &["vocab_size", "many"]),
    ];
    for (change, parts) in cases {
        let sandbox = hugging_face(change);
        sandbox.refuses("import hf --out new", 1, &[&["hf/config.json"], parts].concat());
    }
    let sandbox = hugging_face(|_| ());
    sandbox.put("hf/config.json", "{\"architectures\": [");
    sandbox.refuses("import hf --out new", 1, &["hf/config.json", "line 1", "good copy"]);
    let sandbox = hugging_face(|model| model.tokenizer = "{}".to_owned());
    sandbox.refuses("import hf --out new", 1, &["tokenizer.json"]);
}

#[test]
fn weights_that_are_not_finite_are_located() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let name = "model.layers.0.mlp.up_proj.weight";
        let sandbox = hugging_face(|model| model.tensors.get_mut(name).unwrap().1[77] = value);
        let parts = ["hf/model.safetensors", name, &format!("value {shown} at index 77"), "diverged"];
        sandbox.refuses("import hf --out new", 1, &parts);
    }
}

#[test]
fn unfit_texts_are_refused() {
    let sandbox = both();
    sandbox.put("short.txt", "Once upon a time.\n");
    sandbox.put("empty.txt", "");
    sandbox.put("blank.txt", " \n\n\t ");
    sandbox.put("latin1.txt", b"It was a nice caf\xe9.\n".repeat(100));
    sandbox.put("utf16.txt", b"O\0n\0c\0e\0 \0u\0p\0o\0n\0");
    sandbox.put("cut.txt", &"é".repeat(500).as_bytes()[..999]);
    let texts: [(&str, &[&str]); 6] = [
        ("short.txt", &["tokens long, shorter than a window of 64", "--window"]),
        ("empty.txt", &["holds no text", "give a file with text"]),
        ("blank.txt", &["holds no text", "give a file with text"]),
        ("latin1.txt", &["not UTF-8", "byte 17 (line 1) is 0xe9", "iconv"]),
        ("utf16.txt", &["UTF-16 without a byte order mark", "iconv"]),
        ("cut.txt", &["not UTF-8", "truncated"]),
    ];
    for (file, parts) in texts {
        let parts = [&[file], parts].concat();
        for line in [
            "eval --checkpoint model --data FILE",
            "compare model int8 --data FILE",
            "ptq --checkpoint model --calibration text.txt --eval FILE --out new",
        ] {
            sandbox.refuses(&line.replace("FILE", file), 1, &parts);
        }
        // A calibration text also contains the held-out part, so a short one may lack more than one window.
        let parts = if file == "short.txt" {
            &["short.txt", "and to hold one out", "128", "--eval"]
        } else {
            &parts[..]
        };
        sandbox.refuses(
            "ptq --checkpoint model --calibration FILE --out new".replace("FILE", file).as_str(),
            1,
            parts,
        );
    }
    sandbox.refuses("eval --checkpoint model --data model", 1, &["model"]);
    for (option, line) in [
        ("--max-tokens 9", "eval --checkpoint model --data text.txt"),
        ("--max-tokens 9", "compare model int8 --data text.txt"),
        ("--calibration-tokens 0", PTQ),
        ("--calibration-tokens 63", PTQ),
        ("--eval-tokens 0", PTQ),
        ("--eval-tokens 63", "ptq --checkpoint model --calibration text.txt --eval text.txt --out new"),
        ("--calibration-tokens 63", "ptq --checkpoint model --calibration text.txt --no-eval --out new"),
    ] {
        let outcome = sandbox.refuses(&format!("{line} {option}"), 2, &[option, "64 or more", "--window"]);
        assert!(!outcome.stderr.contains("text.txt"), "the text is not to blame: {outcome}");
    }
    for window in ["0", "1", "65"] {
        let line = format!("eval --checkpoint model --data text.txt --window {window}");
        sandbox.refuses(&line, 2, &["--window", "2 to 64"]);
    }
}

#[test]
fn unfit_group_sizes_are_refused() {
    let sandbox = Sandbox::with_model();
    for granularity in ["group:0", "group:", "group:-1", "group:x", "groups", "group:99999999999999999999"] {
        let line = format!("{PTQ} --granularity {granularity}");
        sandbox.refuses(&line, 2, &["--granularity", granularity, "group:"]);
    }
    // A group size of 64 fits every layer, and 65 only those of width 128.
    for size in ["65", "4000000000"] {
        let line = format!("{PTQ} --granularity group:{size}");
        sandbox.refuses(&line, 1, &["layers.0.self_attn.q_proj", size, "width of 64", "use 1 to 64"]);
    }
    let line =
        format!("{PTQ} --granularity group:65 --skip *.self_attn.* --skip *.gate_proj --skip *.up_proj");
    sandbox.refuses(&line, 1, &["lm_head", "width of 64"]);
}

#[test]
fn unknown_config_keys_come_with_the_nearest_known_one() {
    const CONFIG: &str = "[model]\nvocab_size = 320\nhidden_size = 64\nintermediate_size = 128\nnum_layers = 2\n\
        num_heads = 4\nnum_kv_heads = 2\nmax_position_embeddings = 64\n[training]\nsteps = 1\n\
        sequence_length = 32\n[quantization]\n";
    let sandbox = Sandbox::with_model();
    let line = format!("{PTQ} --config run.toml");
    let cases: [(&str, &[&str]); 8] = [
        (
            "quantisation_bits = 4",
            &["unknown key `quantisation_bits`", "[quantization]", "`quantization_bits`?"],
        ),
        ("granularty = \"tensor\"", &["unknown key `granularty`", "did you mean `granularity`?"]),
        ("quantization_bits = 5", &["quantization.quantization_bits", "8, 4"]),
        ("granularity = \"group:0\"", &["quantization.granularity", "group:N"]),
        ("observer = \"best\"", &["quantization.observer", "best", "min-max"]),
        ("quantization_type = \"statik\"", &["quantization.quantization_type", "static"]),
        ("[trainin]\nsteps = 1", &["unknown key `trainin`", "did you mean `training`?"]),
        ("skip = [", &["not valid TOML", "line"]),
    ];
    for (entry, parts) in cases {
        sandbox.put("run.toml", [CONFIG, entry].concat());
        sandbox.refuses(&line, 1, &[&["run.toml"], parts].concat());
    }
    // A correct config is used, and options take precedence over it.
    sandbox.put("run.toml", format!("{CONFIG}quantization_bits = 4\ngranularity = \"channel\""));
    let json = sandbox.slm(&format!("{line} --granularity group:16 --json")).json();
    assert_eq!((json["bits"].as_u64(), json["granularity"].as_str()), (Some(4), Some("group:16")));
}

#[test]
fn outputs_that_cannot_be_written_are_named() {
    let sandbox = Sandbox::with_model();
    model().write(sandbox.path("hf"));
    sandbox.put("ids.json", r#"{"ids": [[1, 2]]}"#);
    let directory =
        ["import hf", "ptq --checkpoint model --calibration text.txt"].map(|line| (line, "text.txt/new"));
    let file = ["logits --checkpoint model --ids ids.json", "corpus --stories 1"];
    let file = file.into_iter().flat_map(|line| [(line, "text.txt/new"), (line, "nowhere/new")]);
    for (line, out) in directory.into_iter().chain(file) {
        let cause = if out.starts_with("nowhere") { "there is no directory" } else { "cannot be written" };
        sandbox.refuses(&format!("{line} --out {out}"), 1, &[out, cause, "choose an", "output"]);
    }
    for line in file_commands() {
        sandbox.refuses(&format!("{line} --out model --overwrite"), 1, &["model", "is a directory", "--out"]);
    }
    if cfg!(target_os = "linux") {
        for line in
            ["import hf", "ptq --checkpoint model --calibration text.txt"].iter().chain(&file_commands())
        {
            let parts = ["/proc/new", "cannot be written", "choose an"];
            sandbox.refuses(&format!("{line} --out /proc/new"), 1, &parts);
        }
    }
}

fn file_commands() -> [&'static str; 2] {
    ["logits --checkpoint model --ids ids.json", "corpus --stories 1"]
}

#[test]
fn what_exists_is_kept() {
    let sandbox = both();
    model().write(sandbox.path("hf"));
    sandbox.put("ids.json", r#"{"ids": [[1, 2]]}"#);
    fs::create_dir(sandbox.path("mine")).unwrap();
    sandbox.put("mine/thesis.tex", "years of work");
    let directory_commands = ["import hf", "ptq --checkpoint model --calibration text.txt"];
    for line in directory_commands {
        for out in ["int8", "mine", "text.txt"] {
            sandbox.refuses(&format!("{line} --out {out}"), 1, &[out, "already exists", "--overwrite"]);
        }
        for out in ["mine", "text.txt", "hf"] {
            sandbox.refuses(
                &format!("{line} --out {out} --overwrite"),
                1,
                &[out, "not overwritten", "choose"],
            );
        }
    }
    for line in file_commands() {
        sandbox.refuses(&format!("{line} --out text.txt"), 1, &["text.txt", "already exists", "--overwrite"]);
    }

    // A checkpoint to which a file was added must not be replaced.
    sandbox.put("int8/notes.txt", "mine");
    for line in directory_commands {
        let line = format!("{line} --out int8 --overwrite");
        sandbox.refuses(&line, 1, &["int8", "not overwritten", "notes.txt", "remove it yourself"]);
    }
    fs::remove_file(sandbox.path("int8/notes.txt")).unwrap();

    // With --overwrite, checkpoints and files are replaced.
    sandbox.slm("import hf --out int8 --overwrite").success();
    assert_eq!(sandbox.read("int8/model.safetensors"), sandbox.read("model/model.safetensors"));
    sandbox.slm("corpus --stories 1 --out text.txt --overwrite").success();
    assert!(sandbox.read("text.txt").len() < text().len());
    sandbox.slm("logits --checkpoint model --ids ids.json --out text.txt --overwrite").success();
    assert!(!fs::read(sandbox.path("text.txt")).unwrap().is_ascii());
}

/// The output is checked before the input, which may take minutes to read.
#[test]
fn an_output_that_exists_is_refused_at_once() {
    let sandbox = Sandbox::with_model();
    fs::create_dir(sandbox.path("mine")).unwrap();
    sandbox.put("page.html", "a page of somebody else");
    let formats = ["gguf", "hf", "compressed-tensors", "mlx", "onnx"];
    let exports = formats.map(|format| (format!("export none --format {format}"), "--out text.txt"));
    let others = [
        ("ptq --checkpoint none --calibration none", "--out mine"),
        ("import none", "--out mine"),
        ("sample --checkpoint none --sequences 1", "--out text.txt"),
        ("plan --checkpoint none --data none --bits-per-weight 5", "--out text.txt"),
        ("eval --checkpoint none --data none", "--html page.html"),
        ("sensitivity --checkpoint none --data none", "--html page.html"),
        ("compare none none --data none", "--html page.html"),
        ("inspect none", "--html page.html"),
        ("train --config none --data none", "--out mine"),
        ("qat --config none --checkpoint none --data none", "--out mine"),
        ("finetune --checkpoint none --data none", "--out mine"),
    ];
    let others = others.map(|(line, out)| (line.to_owned(), out));
    for (line, out) in exports.into_iter().chain(others) {
        let (_, name) = out.split_once(' ').unwrap();
        sandbox.refuses(&format!("{line} {out}"), 1, &[name, "already exists", "choose an"]);
    }
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    let sandbox = both();
    let line = "ptq --checkpoint int8 --calibration text.txt --out new";
    sandbox.refuses(line, 1, &["int8", "is quantized", "use the checkpoint it was made from"]);
}

#[test]
fn unknown_names_come_with_the_known_ones() {
    let sandbox = both();
    let cases: [(&str, i32, &[&str]); 10] = [
        ("--observer best", 2, &["--observer", "best", "min-max", "histogram", "mse"]),
        ("--observer percentile:50", 2, &["--observer", "percentile"]),
        ("--activation-observer best", 2, &["--activation-observer", "best", "mse"]),
        ("--bits 5", 2, &["--bits", "5", "8 or 4"]),
        ("--bits 300", 2, &["--bits", "300"]),
        ("--type fixed", 2, &["--type", "fixed", "static, dynamic, weight-only"]),
        ("--mapping odd", 2, &["--mapping", "odd", "symmetric", "affine"]),
        ("--scale-dtype f64", 2, &["--scale-dtype", "f64", "f32", "f16"]),
        ("--skip nothing.*", 1, &["nothing.*", "matches no linear layer", "layers.0.self_attn.q_proj"]),
        ("--skip *", 1, &["no layer to quantize", "skip patterns match all 15"]),
    ];
    for (option, code, parts) in cases {
        sandbox.refuses(&format!("{PTQ} {option}"), code, parts);
    }
    sandbox.refuses(&format!("{PTQ} --skip [a"), 1, &["skip pattern \"[a\""]);
    for dir in ["model", "int8"] {
        let line = format!("inspect {dir} --layer layers.0.self_attn.k_projj");
        sandbox.refuses(
            &line,
            1,
            &[dir, "layers.0.self_attn.k_projj", "did you mean layers.0.self_attn.k_proj?"],
        );
    }
    sandbox.refuses("evaluate --checkpoint model", 2, &["evaluate", "eval"]);
    sandbox.refuses("eval --checkpoint model --data text.txt --device tpu", 2, &["--device", "tpu", "flex"]);
    for line in [
        PTQ,
        "eval --checkpoint int8 --data text.txt",
        "inspect int8",
        "generate --checkpoint int8 --prompt a",
    ] {
        let parts = ["SLM_KERNEL", "nonsense", "scalar, avx2, avx512vnni"];
        sandbox.refuses_with(line, &[], &[("SLM_KERNEL", "nonsense")], 1, &parts);
    }
}

#[test]
fn unfit_token_ids_are_located() {
    let sandbox = Sandbox::with_model();
    let long = format!("{{\"ids\": [[1], {:?}]}}", vec![1; 65]);
    let cases: [(&str, &[&str]); 11] = [
        (r#"{"ids": [[1], [1, 320]]}"#, &["ids[1]", "token id 320 at position 1", "0 to 319"]),
        (&long, &["ids[1]", "65 positions", "64"]),
        (r#"{"ids": [[-1]]}"#, &["-1", "[[1, 2, ...], ...]"]),
        (r#"{"ids": [[4294967296]]}"#, &["4294967296", "[[1, 2, ...], ...]"]),
        (r#"{"ids": [[1.5]]}"#, &["1.5", "[[1, 2, ...], ...]"]),
        (r#"{"ids": [1, 2]}"#, &["expected a sequence", "[[1, 2, ...], ...]"]),
        (r#"{"tokens": [[1]]}"#, &["tokens", "[[1, 2, ...], ...]"]),
        (r#"{"ids": [[1, 2]"#, &["line 1", "[[1, 2, ...], ...]"]),
        (r#"{"ids": []}"#, &["at least one"]),
        (r#"{"ids": [[1], []]}"#, &["at least one"]),
        ("", &["[[1, 2, ...], ...]"]),
    ];
    for (ids, parts) in cases {
        sandbox.put("ids.json", ids);
        let line = "logits --checkpoint model --ids ids.json --out new";
        sandbox.refuses(line, 1, &[&["ids.json"], parts].concat());
    }
}

#[test]
fn generation_that_cannot_be_is_refused() {
    let sandbox = Sandbox::with_model();
    let generate = "generate --checkpoint model --prompt Once";
    let long = "Once ".repeat(100);
    sandbox.put("long.txt", &long);
    let line = "generate --checkpoint model --prompt-file long.txt";
    sandbox.refuses(line, 1, &["positions", "64", "shorten"]);
    for option in ["--temperature -1", "--temperature NaN", "--top-p 0", "--top-p 1.5", "--top-p -0.5"] {
        let named = option.replace(' ', " is ");
        sandbox.refuses(&format!("{generate} {option}"), 2, &[&named, "use "]);
    }
    sandbox.refuses_with("generate --checkpoint model --prompt", &[""], &[], 2, &["--prompt", "no tokens"]);
}

#[test]
fn models_that_differ_are_not_compared() {
    let sandbox = Sandbox::with_model();
    let mut other = model();
    other.config["num_hidden_layers"] = 1.into();
    other.tensors.retain(|name, _| !name.contains("layers.1."));
    other.write(sandbox.path("hf"));
    sandbox.slm("import hf --out other").success();
    sandbox.refuses("compare model other --data text.txt", 1, &["differ", "layers.1.self_attn.q_proj"]);
}

#[test]
fn nothing_to_write_is_refused() {
    Sandbox::new().refuses("corpus --stories 0 --out new", 2, &["--stories 0", "at least one"]);
}

#[cfg(not(any(feature = "wgpu", feature = "ndarray")))]
#[test]
fn a_device_that_was_not_built_in_says_how_to_get_it() {
    let sandbox = Sandbox::with_model();
    for line in ["--device wgpu eval --checkpoint model --data text.txt", &format!("{PTQ} --device wgpu")] {
        sandbox.refuses(line, 1, &["no GPU support", "--features wgpu", "--device flex"]);
    }
    let line = "--device ndarray eval --checkpoint model --data text.txt";
    sandbox.refuses(line, 1, &["no NdArray backend", "--features ndarray", "--device flex"]);
}

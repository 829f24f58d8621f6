//! Model directories as trainers, servers and editors leave them.

use std::fs;

use serde_json::{Value, json};
use slm_tests::importing::{IMPORT, change, fails, logits, reads, renamed, whole};
use slm_tests::{HuggingFace, Sandbox, model};

fn add(name: &'static str, shape: &'static [usize]) -> impl Fn(&mut HuggingFace) {
    move |model| {
        let count = shape.iter().product();
        model.tensors.insert(name.to_owned(), (shape.to_vec(), vec![0.5; count]));
    }
}

#[test]
fn what_is_no_part_of_the_model_is_passed_over() {
    let (sandbox, expected) = whole();
    // Buffers that old versions saved are ignored without a warning.
    for name in [
        "model.layers.0.self_attn.rotary_emb.cos_cached",
        "model.layers.1.self_attn.rotary_emb.sin_cached",
        "model.rotary_emb.original_inv_freq",
        "model.layers.0.self_attn.masked_bias",
        "model.causal_mask",
        "position_ids",
        "inv_freq",
    ] {
        change(&sandbox, add(name, &[8]));
        reads(&sandbox, &expected, &[]);
    }
    // Counters, scales of a cache, and a value head are ignored with a warning.
    for name in ["global_step", "model.layers.0.self_attn.k_scale", "num_batches_tracked"] {
        change(&sandbox, add(name, &[]));
        reads(&sandbox, &expected, &[name, "not part of the model"]);
    }
    change(&sandbox, add("v_head.summary.weight", &[1, 64]));
    reads(&sandbox, &expected, &["v_head.summary.weight", "not part of the model"]);
    // A tensor that could be part of the model is an error.
    change(&sandbox, add("model.layers.0.mlp.shared_expert.weight", &[4, 4]));
    sandbox.refuses(IMPORT, 1, &["shared_expert", "unexpected"]);
}

#[test]
fn the_names_of_other_modules_are_taken_off() {
    let (sandbox, expected) = whole();
    for prefix in
        ["llm.", "student.", "policy.actor.", "transformer.", "0.", "ema_model.module.", "text_model."]
    {
        change(&sandbox, |model| renamed(model, |name| format!("{prefix}{name}")));
        reads(&sandbox, &expected, &["names of tensors"]);
    }
    change(&sandbox, |model| {
        renamed(model, |name| format!("backbone.{}", name.trim_start_matches("model.")))
    });
    reads(&sandbox, &expected, &["`backbone.`"]);
    // A value head next to the wrapped model, as TRL saves it.
    change(&sandbox, |model| {
        renamed(model, |name| format!("pretrained_model.{name}"));
        add("v_head.summary.bias", &[1])(model);
    });
    reads(&sandbox, &expected, &["`pretrained_model.`", "v_head.summary.bias"]);
    // Two modules, neither of which is known to be the model.
    change(&sandbox, |model| {
        renamed(model, |name| match name.contains("layers.0") {
            true => format!("a.{name}"),
            false => format!("b.{name}"),
        });
    });
    fails(&sandbox, IMPORT, &["missing", "unexpected"]);
    for (from, to, layout) in
        [("embed_tokens", "tok_embeddings", "Meta's own"), ("model.embed_tokens", "token_embd", "GGUF")]
    {
        change(&sandbox, |model| renamed(model, |name| name.replace(from, to)));
        sandbox.refuses(IMPORT, 1, &[layout]);
    }
}

#[test]
fn shapes_say_which_field_is_wrong() {
    let (sandbox, _) = whole();
    let refuses = |changes: Value, parts: &[&str]| {
        change(&sandbox, |model| {
            model.config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        });
        fails(&sandbox, IMPORT, &[&["hf/config.json"], parts].concat());
    };
    refuses(json!({ "vocab_size": 384 }), &["vocab_size", "expected 320", "embed_tokens", "found 384"]);
    refuses(json!({ "num_key_value_heads": null }), &["num_key_value_heads", "expected 2", "found 4"]);
    refuses(json!({ "num_key_value_heads": 1 }), &["num_key_value_heads", "expected 2", "found 1"]);
    refuses(json!({ "num_key_value_heads": 0 }), &["num_kv_heads", "0"]);
    refuses(json!({ "pruned_heads": { "0": [1] } }), &["pruned_heads"]);
}

#[test]
fn files_beside_the_model_do_no_harm() {
    let (sandbox, expected) = whole();
    for (name, content) in [
        ("pytorch_model.bin", &b"\x80\x02}"[..]),
        ("training_args.bin", b"\x80\x02}"),
        ("README.md", b"# tiny"),
        (".gitattributes", b""),
        ("trainer_state.json", b"{"),
    ] {
        change(&sandbox, |_| {});
        sandbox.put(&format!("hf/{name}"), content);
        reads(&sandbox, &expected, &[]);
    }
    // An index of a single file.
    change(&sandbox, |_| {});
    let map: serde_json::Map<String, Value> =
        model().tensors.keys().map(|name| (name.clone(), "model.safetensors".into())).collect();
    sandbox.put("hf/model.safetensors.index.json", json!({ "weight_map": map }).to_string());
    reads(&sandbox, &expected, &[]);
    // An index entry outside of the directory.
    fs::rename(sandbox.path("hf/model.safetensors"), sandbox.path("elsewhere.safetensors")).unwrap();
    for place in ["../elsewhere.safetensors", "/etc/passwd", "sub/model.safetensors"] {
        let map: serde_json::Map<String, Value> =
            model().tensors.keys().map(|name| (name.clone(), place.into())).collect();
        sandbox.put("hf/model.safetensors.index.json", json!({ "weight_map": map }).to_string());
        sandbox.refuses(IMPORT, 1, &["index.json", "in the same directory", place]);
    }
    // An adapter, which transformers would load instead of the model.
    change(&sandbox, |_| {});
    sandbox.put("hf/adapter_config.json", r#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base"}"#);
    reads(&sandbox, &expected, &["adapter_config.json", "not read", "merge"]);
    for name in ["consolidated.safetensors", "model.fp16.safetensors", "pytorch_model.safetensors"] {
        change(&sandbox, |_| {});
        fs::rename(sandbox.path("hf/model.safetensors"), sandbox.path("hf").join(name)).unwrap();
        sandbox.refuses(IMPORT, 1, &["model.safetensors", name, "rename it"]);
    }
}

#[test]
fn what_is_no_model_is_called_what_it_is() {
    let (sandbox, _) = whole();
    let config = model().config.to_string();
    let refuses = |dir: &str, files: &[(&str, &str)], parts: &[&str]| {
        for (file, content) in files {
            let path = sandbox.path(dir).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        drop(sandbox.refuses(&format!("import {dir} --out new"), 1, &[&[dir], parts].concat()));
    };
    refuses("models--a--b", &[("refs/main", "abc"), ("blobs/x", "")], &["no snapshot", "download"]);
    refuses("datasets--a--b", &[("snapshots/x/README.md", "")], &["data set", "not a model"]);
    refuses("diffusion", &[("model_index.json", "{}"), ("unet/config.json", "{}")], &["diffusion model"]);
    refuses(
        "mistral",
        &[("params.json", "{}"), ("consolidated.safetensors", "")],
        &["params.json", "Hugging Face layout"],
    );
    refuses(
        "zero",
        &[("config.json", &config), ("zero_to_fp32.py", ""), ("global_step9/x.pt", "")],
        &["DeepSpeed", "merge"],
    );
    refuses(
        "fsdp",
        &[("config.json", &config), ("pytorch_model_fsdp_0/__0_0.distcp", "")],
        &["FSDP", "merge-weights"],
    );
    for name in ["model.safetensors.incomplete", "model.safetensors.part", "model.safetensors.aria2"] {
        refuses(
            &format!("half-{}", &name[18..]),
            &[("config.json", &config), (name, "x")],
            &[name, "not finished"],
        );
    }
    for (name, content, parts) in [
        ("model.safetensors", "Internal Server Error, try again later", &["a text", "download"][..]),
        (
            "chat_template.jinja",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            &["LFS", "git lfs pull"],
        ),
        ("chat_template.jinja", "<!doctype html><html>", &["HTML", "download"]),
        ("tokenizer.json", "PK\u{3}\u{4}archive", &["pickle", "download the file again"]),
    ] {
        change(&sandbox, |_| {});
        sandbox.put(&format!("hf/{name}"), content);
        sandbox.refuses(IMPORT, 1, &[&[name], parts].concat());
    }
    // Templates can begin with angle brackets too; an empty file is not a template.
    let (sandbox, expected) = whole();
    for template in ["<|im_start|>{{ messages }}", "<s>{{ messages }}", ""] {
        sandbox.put("hf/chat_template.jinja", template);
        reads(&sandbox, &expected, &[]);
    }
    // An id of a model on the Hub as the checkpoint of any command.
    for line in [
        "inspect acme/tiny-1.5",
        "eval --checkpoint acme/tiny-1.5 --data x",
        "chat --checkpoint acme/tiny-1.5",
    ] {
        sandbox.refuses(
            line,
            1,
            &["acme/tiny-1.5", "hf download acme/tiny-1.5 --local-dir tiny-1.5", "slm import tiny-1.5"],
        );
    }
}

#[test]
fn any_path_will_do() {
    let (sandbox, expected) = whole();
    for name in ["with space", "größe 文件", "-dash", "a'quote\"s"] {
        fs::rename(sandbox.path("hf"), sandbox.path(name)).unwrap();
        let path = format!("./{name}");
        let outcome = sandbox.slm_with("import --overwrite --out", &["out", &path], &[]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome}");
        assert_eq!(logits(&sandbox), expected);
        fs::rename(sandbox.path(name), sandbox.path("hf")).unwrap();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |mode| fs::set_permissions(sandbox.path("hf"), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o555);
        reads(&sandbox, &expected, &[]);
        mode(0o755);
    }
}

#[test]
fn special_tokens_of_every_form() {
    let sandbox = Sandbox::new();
    for (ids, parts) in [
        (json!([]), &[][..]),
        (json!(null), &[]),
        (json!([0]), &[]),
        (json!(-1), &["eos_token_id", "-1"]),
        (json!(50256), &["eos_token_id", "50256"]),
    ] {
        let mut model = model();
        model.config["eos_token_id"] = ids.clone();
        model.config["bos_token_id"] = ids;
        model.write(sandbox.path("hf"));
        let outcome = sandbox.slm(IMPORT);
        assert_eq!((outcome.code, outcome.stderr.is_empty()), (Some(0), parts.is_empty()), "{outcome}");
        assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "{outcome}");
        sandbox.slm("generate --checkpoint out --prompt Once --max-new-tokens 2").success();
    }
    for ids in [json!("2"), json!(true), json!([[1]]), json!({ "a": 1 })] {
        let mut model = model();
        model.config["eos_token_id"] = ids;
        model.write(sandbox.path("hf"));
        sandbox.refuses("import hf --out new", 1, &["config.json", "eos_token_id", "vocab_size = 320"]);
    }
    // generation_config.json takes precedence.
    model().write(sandbox.path("hf"));
    sandbox.put("hf/generation_config.json", r#"{"eos_token_id": [7, 9], "temperature": 0.1}"#);
    sandbox.slm(IMPORT).success();
    assert_eq!(sandbox.read_json("out/config.json")["tokenizer"]["eos_token_ids"], json!([7, 9]));
}

#[test]
fn configs_of_every_version() {
    let (sandbox, expected) = whole();
    let reads = |changes: Value, parts: &[&str]| {
        change(&sandbox, |model| {
            model.config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        });
        drop(reads(&sandbox, &expected, parts));
    };
    reads(json!({ "architectures": "LlamaForCausalLM" }), &[]);
    // Fields of every config of transformers 4.2, and fields without effect.
    reads(
        json!({ "pruned_heads": {}, "chunk_size_feed_forward": 0, "id2label": { "0": "LABEL_0" }, "is_decoder": false,
            "top_k": 50, "torchscript": false, "return_dict": true, "torch_dtype": "float16", "clip_qkv": null,
            "use_mrope": null, "quantization_config": null, "sliding_window": null }),
        &[],
    );
    reads(json!({ "logit_scale": 0.1 }), &["logit_scale", "not known"]);
    for name in ["text_config", "llm_config", "language_config"] {
        change(&sandbox, |model| {
            let mut outer =
                json!({ "model_type": "acme_vl", "architectures": ["AcmeForConditionalGeneration"] });
            outer[name] = model.config.clone();
            model.config = outer;
        });
        slm_tests::importing::reads(&sandbox, &expected, &[name, "read from there"]);
    }
    let config = String::from_utf8({
        change(&sandbox, |_| {});
        sandbox.read("hf/config.json")
    })
    .unwrap();
    // The last value of a duplicate key counts, as in Python.
    sandbox.put("hf/config.json", config.replacen('{', "{\"hidden_size\": 7,", 1));
    slm_tests::importing::reads(&sandbox, &expected, &[]);
    for (text, part) in
        [("[]", "sequence"), ("null", "null"), ("{\"a\": 1,}", "trailing comma"), ("// x\n{}", "line 1")]
    {
        sandbox.put("hf/config.json", text);
        sandbox.refuses(IMPORT, 1, &["config.json", part]);
    }
}

//! Hugging Face directories in practice: imported if the model's output is certain, with a warning if that may be
//! surprising, and otherwise rejected with the reason.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use slm_tests::importing::{IMPORT, change, fails, logits, reads, renamed, whole};
use slm_tests::{HuggingFace, Sandbox, Tensor, model, read_tensors, text};

#[test]
fn wrappers_of_names_are_taken_off() {
    let (sandbox, expected) = whole();
    for (prefix, parts) in [
        ("_orig_mod.", &["_orig_mod.", "torch.compile"][..]),
        ("module.", &["DistributedDataParallel"]),
        ("module._orig_mod.", &["torch.compile", "DistributedDataParallel"]),
        ("base_model.model.", &["base_model.model.", "PEFT"]),
        ("_orig_mod.base_model.model.", &["torch.compile", "PEFT"]),
        ("language_model.", &["multimodal"]),
        ("model.", &[]),
    ] {
        change(&sandbox, |model| renamed(model, |name| format!("{prefix}{name}")));
        reads(&sandbox, &expected, parts);
    }
    // Some names with the prefix, some without.
    change(&sandbox, |model| {
        renamed(model, |name| match name.contains("layers.1") {
            true => name.replace("model.layers.1", "model.layers.1._orig_mod"),
            false => name.trim_start_matches("model.").to_owned(),
        })
    });
    reads(&sandbox, &expected, &["torch.compile"]);
    change(&sandbox, |model| {
        let twice = model.tensors["model.norm.weight"].clone();
        model.tensors.insert("_orig_mod.model.norm.weight".to_owned(), twice);
    });
    fails(&sandbox, IMPORT, &["model.safetensors", "_orig_mod.model.norm.weight", "same tensor"]);
    change(&sandbox, |model| {
        renamed(model, |name| name.replace("q_proj.weight", "q_proj.base_layer.weight"))
    });
    sandbox.refuses(IMPORT, 1, &["LoRA", "merge_and_unload"]);
}

#[test]
fn buffers_and_tied_heads_do_no_harm() {
    let (sandbox, expected) = whole();
    for name in
        ["rotary_emb.inv_freq", "model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"]
    {
        for bare in [false, true] {
            change(&sandbox, |model| {
                model.tensors.insert(name.to_owned(), (vec![8], vec![1.0; 8]));
                if bare {
                    renamed(model, |name| name.trim_start_matches("model.").to_owned());
                }
            });
            reads(&sandbox, &expected, &[]);
        }
    }
    // The other one of the two names of the tied tensor.
    for prefix in ["", "_orig_mod.", "module."] {
        change(&sandbox, |model| {
            let embedding = model.tensors.remove("model.embed_tokens.weight").unwrap();
            model.tensors.insert("lm_head.weight".to_owned(), embedding);
            renamed(model, |name| format!("{prefix}{name}"));
        });
        let parts: &[&str] = if prefix.is_empty() { &[] } else { &["names of tensors"] };
        reads(&sandbox, &expected, parts);
    }
}

/// Writes the model in three shards with an index.
fn shards(sandbox: &Sandbox, change_parts: impl FnOnce(&mut [BTreeMap<String, Tensor>; 3])) {
    let whole = model();
    change(sandbox, |_| {});
    fs::remove_file(sandbox.path("hf/model.safetensors")).unwrap();
    let mut parts: [BTreeMap<String, Tensor>; 3] = Default::default();
    let mut map = serde_json::Map::new();
    for (number, (name, tensor)) in whole.tensors.into_iter().enumerate() {
        map.insert(name.clone(), shard(number % 3).into());
        parts[number % 3].insert(name, tensor);
    }
    change_parts(&mut parts);
    for (number, tensors) in parts.into_iter().enumerate() {
        let part = HuggingFace { tensors, ..model() };
        part.write(sandbox.path("part"));
        fs::rename(sandbox.path("part/model.safetensors"), sandbox.path("hf").join(shard(number))).unwrap();
    }
    fs::remove_dir_all(sandbox.path("part")).unwrap();
    sandbox.put("hf/model.safetensors.index.json", json!({ "metadata": {}, "weight_map": map }).to_string());
}

fn shard(number: usize) -> String {
    format!("model-{:05}-of-00003.safetensors", number + 1)
}

fn edit(sandbox: &Sandbox, name: &str, edit: impl FnOnce(&mut Value)) {
    let mut value = sandbox.read_json(name);
    edit(&mut value);
    sandbox.put(name, value.to_string());
}

#[test]
fn shards_are_read_with_an_index_or_without() {
    let (sandbox, expected) = whole();
    let index = "hf/model.safetensors.index.json";
    shards(&sandbox, |_| {});
    reads(&sandbox, &expected, &[]);
    // Tensors that are listed but missing, or present but unlisted, do no harm if they are not needed.
    edit(&sandbox, index, |index| {
        index["weight_map"]["lm_head.weight"] = shard(0).into();
        index["weight_map"]["model.rotary_emb.inv_freq"] = shard(1).into();
    });
    reads(&sandbox, &expected, &[]);
    shards(&sandbox, |parts| {
        parts[1].insert("model.layers.1.self_attn.rotary_emb.inv_freq".to_owned(), (vec![8], vec![0.5; 8]));
        let head = parts.iter().find_map(|part| part.get("model.embed_tokens.weight")).unwrap().clone();
        parts[2].insert("lm_head.weight".to_owned(), head);
    });
    reads(&sandbox, &expected, &[]);
    fs::remove_file(sandbox.path(index)).unwrap();
    reads(&sandbox, &expected, &["model.safetensors.index.json", "all 3 shards"]);
    fs::remove_file(sandbox.path("hf").join(shard(1))).unwrap();
    sandbox.refuses(
        IMPORT,
        1,
        &["model-00002-of-00003.safetensors", "not found", "2 of 3 shards", "index.json"],
    );
    // A required tensor that is listed but does not exist.
    shards(&sandbox, |parts| drop(parts[0].pop_first()));
    sandbox.refuses(IMPORT, 1, &["model-00001-of-00003.safetensors", "index.json says that it is there"]);
    shards(&sandbox, |_| {});
    fs::copy(sandbox.path("hf").join(shard(0)), sandbox.path("hf/model.safetensors")).unwrap();
    let outcome = sandbox.slm(IMPORT);
    assert!(
        outcome.stderr.contains("hf/model.safetensors") && outcome.stderr.contains("index.json"),
        "{outcome}"
    );
    change(&sandbox, |_| {});
    fs::rename(sandbox.path("hf/model.safetensors"), sandbox.path("hf/model-00001-of-00001.safetensors"))
        .unwrap();
    reads(&sandbox, &expected, &[]);
    fs::rename(sandbox.path("hf/model-00001-of-00001.safetensors"), sandbox.path("hf/my.safetensors"))
        .unwrap();
    sandbox.refuses(IMPORT, 1, &["model.safetensors", "my.safetensors", "rename it"]);
}

#[test]
fn json_files_are_read_as_editors_write_them() {
    let (sandbox, expected) = whole();
    let plain = |name: &str| String::from_utf8(sandbox.read(name)).unwrap();
    for name in ["hf/config.json", "hf/tokenizer.json", "hf/generation_config.json"] {
        change(&sandbox, |_| {});
        sandbox.put("hf/generation_config.json", r#"{"eos_token_id": 0}"#);
        let text = plain(name);
        sandbox.put(name, [b"\xef\xbb\xbf", text.as_bytes()].concat());
        reads(&sandbox, &expected, &[]);
        let wide: Vec<u8> =
            "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        sandbox.put(name, wide);
        reads(&sandbox, &expected, &[]);
        sandbox.slm("generate --checkpoint out --prompt Once --max-new-tokens 2").success();
    }
    change(&sandbox, |_| {});
    let config = plain("hf/config.json");
    sandbox.put(
        "hf/config.json",
        config.replacen('{', r#"{"attention_dropout": NaN, "initializer_range": -Infinity,"#, 1),
    );
    reads(&sandbox, &expected, &[]);
    let (before, rest) = config.split_once("\"rms_norm_eps\":").unwrap();
    let rest = rest.split_once(',').unwrap().1;
    sandbox.put("hf/config.json", format!("{before}\"rms_norm_eps\":NaN,{rest}"));
    sandbox.refuses(IMPORT, 1, &["config.json", "rms_norm_eps", "NaN"]);
}

#[test]
fn files_that_are_something_else_are_called_what_they_are() {
    let (sandbox, _) = whole();
    for (bytes, parts) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 600840\n"[..],
            &["LFS", "git lfs pull"][..],
        ),
        (b"<!DOCTYPE html><html>", &["HTML", "download"]),
        (b"<?xml version='1.0'?><Error/>", &["XML", "download"]),
        (b"Entry not found", &["refusal", "download"]),
        (b"", &["empty", "download"]),
        (b"GGUF\x03\0\0\0\0\0\0\0", &["GGUF", "safetensors"]),
        (b"PK\x03\x04......", &["pickle"]),
        (&[0; 100], &["zeros", "download"]),
    ] {
        for name in ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"] {
            change(&sandbox, |_| {});
            sandbox.put(&format!("hf/{name}"), bytes);
            sandbox.refuses(IMPORT, 1, &[&[name], parts].concat());
        }
        shards(&sandbox, |_| {});
        sandbox.put("hf/model-00002-of-00003.safetensors", bytes);
        sandbox.refuses(IMPORT, 1, &[&["model-00002-of-00003.safetensors"], parts].concat());
    }
}

#[test]
fn paths_that_are_no_directory_of_a_model() {
    let (sandbox, _) = whole();
    let refuses =
        |path: &str, parts: &[&str]| drop(sandbox.refuses(&format!("import {path} --out new"), 1, parts));
    let download = "hf download acme/tiny-1.5 --local-dir tiny-1.5";
    for id in [
        "acme/tiny-1.5",
        "https://huggingface.co/acme/tiny-1.5",
        "https://huggingface.co/acme/tiny-1.5/tree/main",
    ] {
        refuses(id, &["not found", download]);
    }
    refuses("out", &["slm checkpoint already", "use it as it is"]);
    refuses("hf/model.safetensors", &["model.safetensors", "name the directory"]);
    refuses("hf/config.json", &["config.json", "name the directory"]);
    sandbox.put("model.gguf", b"GGUF\x03\0\0\0");
    refuses("model.gguf", &["GGUF", "ends inside"]);
    sandbox.put("model.bin", b"\x80\x02}");
    refuses("model.bin", &["pickle", "save_pretrained"]);
    sandbox.put("model.bin", [0xff; 40]);
    for line in ["model.bin", "model.bin --tokenizer tokenizer.json"] {
        refuses(line, &["Python pickle", "llama2.c", "dim is -1"]);
    }

    fs::create_dir(sandbox.path("more")).unwrap();
    refuses("more", &["config.json", "not found"]);
    fs::rename(sandbox.path("hf"), sandbox.path("more/checkpoint-500")).unwrap();
    refuses("more", &["checkpoint-500"]);
    fs::rename(sandbox.path("more/checkpoint-500/config.json"), sandbox.path("more/moved")).unwrap();
    refuses("more/checkpoint-500", &["config.json", "the weights are there"]);

    fs::create_dir(sandbox.path("adapter")).unwrap();
    sandbox.put(
        "adapter/adapter_config.json",
        r#"{"peft_type": "LORA", "base_model_name_or_path": "acme/base"}"#,
    );
    refuses("adapter", &["LoRA", "acme/base", "merge"]);
    sandbox.put("adapter/config.json", model().config.to_string());
    refuses("adapter", &["LoRA", "acme/base", "merge"]);
    fs::remove_file(sandbox.path("adapter/adapter_config.json")).unwrap();
    let shard = "adapter/pytorch_model-00001-of-00002.bin";
    sandbox.put(shard, "x");
    refuses("adapter", &["pytorch_model-00002-of-00002.bin", "Download all"]);
    fs::remove_file(sandbox.path(shard)).unwrap();
    for (file, parts) in [
        ("pytorch_model.bin", &["pickle", "save_pretrained"][..]),
        ("consolidated.00.pth", &["pickles", "save_pretrained"]),
        ("model-q4.gguf", &["GGUF"]),
        ("tf_model.h5", &["another framework"]),
    ] {
        sandbox.put(&format!("adapter/{file}"), "x");
        refuses("adapter", &[&[file], parts].concat());
        fs::remove_file(sandbox.path("adapter").join(file)).unwrap();
    }
}

#[test]
fn the_cache_of_hugging_face_is_understood() {
    let (sandbox, expected) = whole();
    let repository = sandbox.path("hub/models--acme--tiny");
    let snapshot = repository.join("snapshots/0123abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    for (number, entry) in fs::read_dir(sandbox.path("hf")).unwrap().enumerate() {
        let path = entry.unwrap().path();
        fs::copy(&path, repository.join(format!("blobs/{number}"))).unwrap();
        symlink(format!("../../blobs/{number}"), snapshot.join(path.file_name().unwrap())).unwrap();
    }
    let import = "import hub/models--acme--tiny --out out --overwrite";
    let read = |sandbox: &Sandbox| {
        let outcome = sandbox.slm(import);
        assert_eq!(outcome.code, Some(0), "{outcome}");
        assert!(outcome.stderr.contains("snapshots/0123abc"), "{outcome}");
        assert_eq!(logits(sandbox), expected);
    };
    read(&sandbox);
    let other = repository.join("snapshots/9999fff");
    fs::create_dir(&other).unwrap();
    fails(&sandbox, import, &["several snapshots", "snapshots/0123abc", "snapshots/9999fff"]);
    fs::write(repository.join("refs/main"), "0123abc\n").unwrap();
    read(&sandbox);
    sandbox.refuses("import hub --out new", 1, &["models--acme--tiny"]);
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let link = snapshot.join(name);
        let target = fs::read_link(&link).unwrap();
        fs::remove_file(&link).unwrap();
        symlink("../../blobs/gone", &link).unwrap();
        fails(&sandbox, import, &[name, "link to a file that is not there"]);
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
    }
}

#[test]
fn mismatches_are_explained_in_a_few_lines() {
    let (sandbox, _) = whole();
    let refuses = |config: Value, edit: &dyn Fn(&mut HuggingFace), parts: &[&str]| {
        change(&sandbox, |model| {
            model.config.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
            edit(model);
        });
        let outcome = sandbox.refuses(IMPORT, 1, parts);
        assert!(outcome.stderr.len() < 1500, "{outcome}");
    };
    let nothing = &|_: &mut HuggingFace| {};
    refuses(
        json!({ "num_hidden_layers": 40 }),
        nothing,
        &["num_hidden_layers is 40", "2 layers", "and 337 more"],
    );
    refuses(json!({ "num_hidden_layers": 1 }), nothing, &["num_hidden_layers is 1", "2 layers"]);
    refuses(
        json!({ "attention_bias": true }),
        nothing,
        &["attention_bias", "biases that the weights do not have"],
    );
    refuses(json!({ "mlp_bias": true }), nothing, &["mlp_bias"]);
    let biases = |part: &'static str, width: usize| {
        move |model: &mut HuggingFace| {
            for layer in 0..2 {
                model
                    .tensors
                    .insert(format!("model.layers.{layer}.{part}.bias"), (vec![width], vec![0.1; width]));
            }
        }
    };
    refuses(json!({}), &biases("self_attn.q_proj", 64), &["attention_bias", "q_proj"]);
    refuses(json!({}), &biases("mlp.down_proj", 64), &["mlp_bias", "down_proj"]);
    refuses(
        json!({}),
        &|model| renamed(model, |name| name.replace("norm.weight", "norm.lora_A.weight")),
        &["LoRA"],
    );
    let add = |name: &'static str| {
        move |model: &mut HuggingFace| {
            model.tensors.insert(name.to_owned(), (vec![2], vec![0.5; 2]));
        }
    };
    refuses(json!({}), &add("model.layers.0.mlp.up_proj.qweight"), &["GPTQ or AWQ", "made from"]);
    refuses(json!({}), &add("model.layers.0.mlp.up_proj.weight_scale_inv"), &["FP8", "made from"]);
    refuses(
        json!({}),
        &add("model.layers.0.mlp.up_proj.weight_packed"),
        &["compressed-tensors", "made from"],
    );
    refuses(json!({}), &add("model.layers.0.mlp.up_proj.weight.absmax"), &["bitsandbytes", "made from"]);
    refuses(json!({ "quantization": { "bits": 4 } }), nothing, &["quantization", "quantized from"]);
    refuses(json!({}), &add("score.weight"), &["classifier"]);
    refuses(json!({}), &add("vision_tower.patch.weight"), &["multimodal"]);
}

#[test]
fn what_configs_leave_out_or_wrap_is_read() {
    let (sandbox, expected) = whole();
    let reads = |edit: &dyn Fn(&mut serde_json::Map<String, Value>), parts: &[&str]| {
        change(&sandbox, |model| edit(model.config.as_object_mut().unwrap()));
        drop(reads(&sandbox, &expected, parts));
    };
    reads(&|config| drop(config.remove("architectures")), &[]);
    reads(&|config| config["architectures"] = Value::Null, &[]);
    reads(&|config| config["architectures"] = json!(["LlamaModel"]), &[]);
    reads(&|config| config["architectures"] = json!(["LLaMAForCausalLM"]), &[]);
    reads(&|config| drop(config.remove("rope_theta")), &[]);
    reads(&|config| drop(config.remove("hidden_act")), &[]);
    reads(&|config| drop(config.remove("max_position_embeddings")), &["max_position_embeddings", "2048"]);
    reads(
        &|config| {
            *config = json!({ "text_config": config, "model_type": "acme" }).as_object().unwrap().clone()
        },
        &["text_config"],
    );
    reads(&|config| drop(config.insert("bos_token_id".into(), json!(-1))), &["bos_token_id", "-1"]);
    reads(&|config| config["eos_token_id"] = json!([0, 50256]), &["eos_token_id", "50256"]);
    reads(
        &|config| drop(config.insert("rope_scaling".into(), json!({ "type": "dynamic", "factor": 2 }))),
        &["dynamic"],
    );
    reads(&|config| drop(config.insert("rope_scaling".into(), json!({}))), &[]);
    reads(
        &|config| {
            drop(config.insert("rope_scaling".into(), json!({ "type": "mrope", "mrope_section": [2, 3, 3] })))
        },
        &[],
    );
}

#[test]
fn tokenizers_are_tried_at_the_import() {
    let (sandbox, expected) = whole();
    let tokenizer: Value = serde_json::from_str(&model().tokenizer).unwrap();
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut value = tokenizer.clone();
        edit(&mut value);
        change(&sandbox, |model| model.tokenizer = value.to_string());
    };
    let token = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    for part in ["pre_tokenizer", "decoder", "normalizer", "post_processor"] {
        with(&|value| value[part] = json!({ "type": "BrandNew" }));
        sandbox.refuses(IMPORT, 1, &["tokenizer.json", "cannot read the tokenizer", "remove the file"]);
    }
    with(&|value| value["model"]["type"] = json!("BrandNew"));
    sandbox.refuses(IMPORT, 1, &["tokenizer.json", "cannot read the tokenizer"]);
    // Tokens beyond the embedding: a few added ones do no harm, but another vocabulary is an error.
    with(&|value| value["added_tokens"].as_array_mut().unwrap().push(token(320, "[PAD]")));
    reads(&sandbox, &expected, &["[PAD] (320)", "vocab_size = 320"]);
    sandbox.slm("generate --checkpoint out --prompt Once --max-new-tokens 2").success();
    let outcome = sandbox.slm("generate --checkpoint out --prompt [PAD] --max-new-tokens 2");
    outcome.fails(1, &["320"]);
    with(&|value| value["model"]["vocab"]["beyond"] = json!(321));
    sandbox.refuses(IMPORT, 1, &["tokenizer.json", "321", "another model's tokenizer"]);
    // A token that is put before every text.
    with(&|value| {
        value["added_tokens"].as_array_mut().unwrap().push(token(320, "<s>"));
        value["post_processor"] = json!({ "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [], "special_tokens": { "<s>": { "id": "<s>", "ids": [320], "tokens": ["<s>"] } } });
    });
    fails(&sandbox, IMPORT, &["tokenizer.json", "token 320 around every text"]);
    with(&|_| {});
    sandbox.put("hf/tokenizer_config.json", r#"{"add_bos_token": true}"#);
    reads(&sandbox, &expected, &["add_bos_token is true", "none is put there"]);
}

#[test]
fn a_tokenizer_is_made_of_its_vocabulary() {
    let (sandbox, expected) = whole();
    let tokenizer: Value = serde_json::from_str(&model().tokenizer).unwrap();
    let ids = |sandbox: &Sandbox| {
        let line = "generate --checkpoint out --max-new-tokens 0 --json --prompt";
        sandbox.slm_with(line, &[&format!("{}<|endoftext|>", &text()[..40])], &[]).json()["prompt_ids"]
            .clone()
    };
    let wanted = ids(&sandbox);
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::Array(pair) => format!("{} {}\r\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        merge => format!("{}\r\n", merge.as_str().unwrap()),
    });
    let merges = ["#version: 0.2\r\n".to_owned()].into_iter().chain(merges).collect::<String>();
    fs::remove_file(sandbox.path("hf/tokenizer.json")).unwrap();
    sandbox.put("hf/vocab.json", tokenizer["model"]["vocab"].to_string());
    sandbox.put("hf/tokenizer_config.json", r#"{"tokenizer_class": "GPT2Tokenizer"}"#);
    reads(&sandbox, &expected, &["vocab.json", "merges.txt", "save_pretrained"]);
    sandbox.put("hf/merges.txt", merges);
    reads(&sandbox, &expected, &["made of vocab.json and merges.txt"]);
    assert_eq!(ids(&sandbox), wanted);
    // A tokenizer with unknown rules.
    sandbox.put("hf/tokenizer_config.json", r#"{"tokenizer_class": "AcmeTokenizer"}"#);
    reads(&sandbox, &expected, &["AcmeTokenizer", "save_pretrained"]);
    fs::remove_file(sandbox.path("hf/vocab.json")).unwrap();
    sandbox.put("hf/tekken.json", "{}");
    reads(&sandbox, &expected, &["tekken.json", "save_pretrained"]);
    sandbox.put("hf/tokenizer.model", "\n\u{e}\n\u{5}<unk>");
    fails(&sandbox, IMPORT, &["tokenizer.model", "SentencePiece", "tokenizer.json"]);
    // The tokenizers library panics at this table of characters, which is not printed.
    let mut damaged = b"\n\x09\n\x05<unk>\x18\x02\n\x03\n\x01a\x12\x02\x18\x02".to_vec();
    damaged.extend(b"\x1a\x08\x12\x06\x04\0\0\0\xff\xff");
    sandbox.put("hf/tokenizer.model", damaged);
    let outcome = sandbox.slm_with(IMPORT, &[], &[("RUST_BACKTRACE", "1")]);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.stderr.contains("tokenizer.model: it is damaged"), "{outcome}");
    assert!(
        !outcome.stderr.contains("stack backtrace") && !outcome.stderr.contains("panicked at"),
        "{outcome}"
    );
    assert!(!Path::exists(&sandbox.path("out/tokenizer.json")));
}

#[test]
fn sequences_grow_beyond_the_original_context_of_longrope() {
    let (sandbox, _) = whole();
    let scaling = json!({ "type": "longrope", "original_max_position_embeddings": 12,
        "short_factor": [1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], "long_factor": [2, 3, 4, 5, 6, 7, 8, 9] });
    change(&sandbox, |model| model.config["rope_scaling"] = scaling);
    sandbox.slm(IMPORT).success();
    sandbox.slm("ptq --checkpoint out --type weight-only --no-eval --out int8").success();
    for checkpoint in ["out", "int8"] {
        let line = format!(
            "generate --checkpoint {checkpoint} --kv-cache f32 --temperature 0 --max-new-tokens 20 --ignore-eos --json --prompt \
             Once"
        );
        let json = sandbox.slm(&line).json();
        let ids = |name: &str| json[name].as_array().unwrap().clone();
        let (prompt, all) = (ids("prompt_ids").len(), [ids("prompt_ids"), ids("ids")].concat());
        assert!(prompt < 12 && all.len() > 20);
        // Each token is the most likely one after all tokens before it, computed in one pass.
        let parts: Vec<&[Value]> = (prompt..all.len()).map(|end| &all[..end]).collect();
        sandbox.put("parts.json", json!({ "ids": parts }).to_string());
        let line = format!("logits --checkpoint {checkpoint} --ids parts.json --out logits --overwrite");
        sandbox.slm(&line).success();
        let logits = read_tensors(sandbox.path("logits"));
        for (index, end) in (prompt..all.len()).enumerate() {
            let (shape, values) = &logits[&format!("logits.{index}")];
            let last = &values[values.len() - shape[1]..];
            let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let chosen = last[all[end].as_u64().unwrap() as usize];
            assert!(best - chosen < 1e-4, "{checkpoint}, position {end}: {best} {chosen}");
        }
    }
    sandbox.slm("sample --checkpoint out --sequences 2 --length 30 --out sample.json").success();
    assert_eq!(sandbox.read_json("sample.json")["ids"][1].as_array().unwrap().len(), 30);
}

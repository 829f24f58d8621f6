//! Files of other programs, written here by their rules: quantized checkpoints, pickles, llama2.c, blocks of ggml.

use std::fs;
use std::path::Path;

use crate::support::{check_section, import, run, values};
use burn::tensor::Device;
use slm_checkpoint::{Checkpoint, TensorFile, hf};
use slm_exchange::gguf::{TensorKind, dequantize};
use slm_exchange::{ImportOptions, import_llama2c, is_llama2c};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Bits, QParams, QuantizationType};
use slm_testing::{Random, peer_python, shared_dir};
use slm_text::Tokenizer;

fn read_i32(file: &TensorFile, name: &str) -> Vec<i32> {
    file.read_bytes(name).unwrap().as_chunks().0.iter().map(|&value| i32::from_le_bytes(value)).collect()
}

/// The expected properties of a checkpoint by name: bits, symmetry, type.
fn expected(name: &str) -> (Bits, bool, QuantizationType) {
    let bits = if name.contains("-4-") { Bits::Int4 } else { Bits::Int8 };
    let symmetric = [
        "gptq-4-symmetric",
        "gptq-8-channel",
        "awq-4-channel",
        "ct-8-dynamic",
        "ct-8-tensor",
        "ct-4-inputs",
        "ct-4-packed",
    ];
    let kind = match name {
        "ct-8-dynamic" | "ct-8-tensor" | "ct-4-inputs" => QuantizationType::Dynamic,
        "ct-8-static" => QuantizationType::Static,
        _ => QuantizationType::WeightOnly,
    };
    (bits, symmetric.contains(&name), kind)
}

#[test]
fn quantized_checkpoints_keep_their_codes() {
    let Some(python) = peer_python("safetensors") else { return };
    let root = tempfile::tempdir().unwrap();
    run(&python, "make_quantized.py", &[root.path()]);
    let (compared, table) = compare_codes(root.path());
    assert_eq!(compared, 15 * 14);
    check_section("imports", "foreign", &format!("\n{table}\n"));
}

#[test]
fn codes_that_the_programs_pack_are_kept() {
    let Some(python) = peer_python("torch, compressed_tensors") else { return };
    let root = tempfile::tempdir().unwrap();
    run(&python, "make_quantized.py", &[root.path(), Path::new("programs")]);
    let (compared, _) = compare_codes(root.path());
    println!(
        "{compared} layers that AutoGPTQ, AutoAWQ and compressed-tensors packed have the same codes and scales"
    );
    assert_eq!(compared, 11 * 14);
}

/// Imports each checkpoint in `root` and compares it with its source. Returns the layers that have the same codes, and
/// the table of the results by scheme.
fn compare_codes(root: &Path) -> (usize, String) {
    let mut compared = 0;
    let mut table = "| in the file | in the checkpoint |\n|---|---|\n".to_owned();
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut dirs: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    dirs.sort();
    for dir in dirs {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let expected_file = TensorFile::open(&root.join(format!("{name}.expected.safetensors"))).unwrap();
        let layers: Vec<&str> =
            expected_file.names().iter().filter_map(|name| name.strip_suffix(".q")).collect();
        assert_eq!(layers.len(), 14, "{name}");

        // As floats, whatever the scheme.
        let out = root.join(format!("{name}-floats"));
        let options = ImportOptions { dequantize: true, ..ImportOptions::default() };
        let report = hf::import_with(&dir, &out, &options).unwrap();
        assert!(report.tensors[0].contains("dequantized") && report.quantized_layers == 0, "{report:?}");
        let floats = Checkpoint::open(&out).unwrap();
        for layer in &layers {
            let expected = expected_file.read_f32(&format!("{layer}.w")).unwrap();
            let found = floats.tensors().read_f32(&format!("{layer}.weight")).unwrap();
            assert!(found == expected, "{name}: {layer}");
        }

        let out = root.join(format!("{name}-codes"));
        if name.ends_with("-order") {
            let error = hf::import_to(&dir, &out, false).unwrap_err().to_string();
            for part in ["model.safetensors", "layer model.layers.0.", "g_idx", "4 bits", "--dequantize"] {
                assert!(error.contains(part), "{name}: {error}");
            }
            let described = report.tensors[0].strip_prefix("14 layers of ").unwrap();
            let described = described.split_once(':').unwrap().0;
            table += &format!(
                "| {described}, columns grouped in another order | refused; floats with `--dequantize` |\n"
            );
            continue;
        }
        let report = hf::import_to(&dir, &out, false).unwrap();
        assert_eq!(report.quantized_layers, 14, "{name}");
        assert!(report.tensors[0].contains("the same codes and scales"), "{:?}", report.tensors);
        let (described, here) =
            report.tensors[0].strip_prefix("14 layers of ").unwrap().split_once(": ").unwrap();
        let inputs = match expected(&name).2 {
            QuantizationType::WeightOnly => "",
            QuantizationType::Dynamic => "; dynamic inputs",
            QuantizationType::Static => "; static inputs",
        };
        table += &format!("| {described}{inputs} | {here}{inputs} |\n");
        let checkpoint = Checkpoint::open(&out).unwrap();
        let metadata = checkpoint.metadata().unwrap();
        let (bits, symmetric, kind) = expected(&name);
        assert_eq!(metadata.quantization_type, kind, "{name}");
        assert_eq!(metadata.method, if name.starts_with("gptq") { "gptq" } else { "rtn" });
        let head = metadata.skipped.iter().find(|layer| layer.name == "lm_head");
        assert!(head.is_some(), "{name}: the head is float");
        for layer in &layers {
            let (matrix, inputs) = checkpoint.read_quantized(layer).unwrap().unwrap();
            let codes = read_i32(&expected_file, &format!("{layer}.q"));
            let scales = expected_file.read_f32(&format!("{layer}.s")).unwrap();
            assert_eq!(matrix.scheme().bits, bits, "{name}: {layer}");
            assert_eq!(matrix.zero_points().is_none(), symmetric, "{name}: {layer}");
            for row in 0..matrix.rows() {
                for column in 0..matrix.cols() {
                    let params = matrix.qparams(matrix.scale_index(row, column / matrix.group_width()));
                    let at = row * matrix.cols() + column;
                    assert_eq!(
                        i32::from(matrix.code(row, column)) - params.zero_point,
                        codes[at],
                        "{name}: {layer}"
                    );
                    assert_eq!(params.scale, scales[at], "{name}: {layer}");
                }
            }
            let expected = expected_file.read_f32(&format!("{layer}.w")).unwrap();
            assert_eq!(values(&matrix), expected, "{name}: {layer}");
            let wanted = match kind {
                QuantizationType::WeightOnly => ActivationQuant::Float,
                QuantizationType::Dynamic => ActivationQuant::Dynamic(ActivationGranularity::PerToken),
                // -5 of -128 to 127 there is 123 of 0 to 255 here.
                QuantizationType::Static => {
                    ActivationQuant::Static(QParams { scale: 0.03125, zero_point: 123 })
                }
            };
            assert_eq!(inputs, wanted, "{name}: {layer}");
            compared += 1;
        }
        checkpoint.load_model(&Device::flex()).unwrap();
        // Inputs that the file leaves float may be quantized; others may not.
        let options = ImportOptions { dynamic: true, ..ImportOptions::default() };
        let result = hf::import_with(&dir, root.join(format!("{name}-dynamic")), &options);
        match kind {
            QuantizationType::WeightOnly => {
                let dynamic = Checkpoint::open(result.unwrap().path).unwrap();
                assert_eq!(dynamic.metadata().unwrap().quantization_type, QuantizationType::Dynamic);
            }
            _ => assert!(result.unwrap_err().to_string().contains("leave --type out"), "{name}"),
        }
    }
    println!("{compared} layers are as they were packed");
    (compared, table)
}

#[test]
fn quantized_checkpoints_that_contradict_themselves_are_refused() {
    let Some(python) = peer_python("safetensors") else { return };
    let root = tempfile::tempdir().unwrap();
    run(&python, "make_quantized.py", &[root.path()]);
    let out = root.path().join("out");
    for (name, from, to, parts) in [
        ("gptq-4-group", "\"bits\": 4", "\"bits\": 3", &["bits", "3", "4, 8"][..]),
        (
            "gptq-4-group",
            "\"checkpoint_format\": \"gptq\"",
            "\"checkpoint_format\": \"marlin\"",
            &["marlin", "gptq_v2"],
        ),
        (
            "gptq-4-v2",
            "\"group_size\": 16",
            "\"group_size\": 48",
            &["model.layers.0.mlp.down_proj", "6 groups"],
        ),
        ("gptq-4-group", "\"hidden_size\": 64", "\"hidden_size\": 32", &["shape"]),
        ("awq-4-group", "\"version\": \"gemm\"", "\"version\": \"gemv\"", &["version", "gemv", "gemm"]),
        ("awq-4-group", "\"quant_method\": \"awq\"", "\"quant_method\": \"aqlm\"", &["quantization_config"]),
        ("awq-4-group", "\"bits\": 4", "\"bits\": 8", &["layer model.layers.0.mlp.down_proj", "scales"]),
        (
            "ct-8-dynamic",
            "\"type\": \"int\"",
            "\"type\": \"float\"",
            &["group_0", "float8", "layer model.layers.0"],
        ),
        (
            "ct-8-dynamic",
            "\"strategy\": \"token\"",
            "\"strategy\": \"group\"",
            &["inputs", "per group", "--dequantize"],
        ),
        (
            "ct-8-dynamic",
            "\"strategy\": \"channel\"",
            "\"strategy\": \"block\"",
            &["block", "layer model.layers.0"],
        ),
        ("ct-8-dynamic", "[\"Linear\"]", "[\"Conv1D\"]", &["no group of the config"]),
        ("ct-8-dynamic", "\"re:.*embed.*\"", "\"re:.*mlp.*\"", &["ignore", "mlp.down_proj"]),
        ("ct-8-dynamic", "\"re:.*embed.*\"", "\"re:(\"", &["ignore", "regular expressions"]),
        (
            "ct-8-dynamic",
            "\"output_activations\": null",
            "\"output_activations\": {}",
            &["outputs", "--dequantize"],
        ),
        ("ct-4-packed", "\"num_bits\": 4", "\"num_bits\": 8", &["weight_shape"]),
        ("ct-4-affine", "\"group_size\": 16", "\"group_size\": 24", &["groups"]),
        ("ct-8-static", "\"strategy\": \"tensor\"", "\"strategy\": \"token\"", &["inputs", "dynamic: false"]),
    ] {
        let path = root.path().join(name).join("config.json");
        let whole = fs::read_to_string(&path).unwrap();
        let changed = whole.replace(from, to);
        assert_ne!(whole, changed, "{name}: {from}");
        fs::write(&path, &changed).unwrap();
        let error = hf::import_to(root.path().join(name), &out, false).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{name}, {to}: {part:?} is not in: {error}");
        }
        fs::write(&path, whole).unwrap();
    }
    // A float model has nothing to dequantize.
    if let Some(models) = shared_dir("models") {
        let options = ImportOptions { dequantize: true, ..ImportOptions::default() };
        let error = hf::import_with(models.join("tiny-llama"), &out, &options).unwrap_err().to_string();
        assert!(error.contains("--dequantize") && error.contains("leave"), "{error}");
    }
}

#[test]
fn pickles_are_read_and_those_that_call_are_refused() {
    let (Some(python), Some(models)) = (peer_python("safetensors"), shared_dir("models")) else { return };
    let root = tempfile::tempdir().unwrap();
    let source = models.join("tiny-llama");
    run(&python, "make_pickles.py", &[&source, root.path()]);
    let whole = import(&source, &root.path().join("whole"));
    for name in ["single", "packed", "legacy", "shards", "lightning"] {
        let found = import(&root.path().join(name), &root.path().join(format!("{name}-slm")));
        assert_eq!(found.config().model, whole.config().model, "{name}");
        assert_eq!(found.weights_sha256().unwrap(), whole.weights_sha256().unwrap(), "{name}: other weights");
    }
    for (name, function) in [("system", "posix.system"), ("eval", "builtins.eval"), ("loads", "pickle.loads")]
    {
        for form in ["evil", "evil-legacy"] {
            let dir = root.path().join(format!("{form}-{name}"));
            let error = hf::import_to(&dir, root.path().join("out"), false).unwrap_err().to_string();
            // Protocol 2 has the names of Python 2.
            let other = function.replace("builtins", "__builtin__");
            assert!(error.contains(function) || error.contains(&other), "{error}");
            assert!(error.contains("pytorch_model.bin") && error.contains("state_dict"), "{error}");
        }
    }
    assert!(!root.path().join("called").exists(), "a pickle was run");
}

#[test]
fn files_of_torch_save_are_the_model() {
    let (Some(python), Some(models)) = (peer_python("torch"), shared_dir("models")) else { return };
    let root = tempfile::tempdir().unwrap();
    for model in ["tiny-llama", "tiny-qwen2"] {
        let (source, dir) = (models.join(model), root.path().join(model));
        run(&python, "save_with_torch.py", &[&source, &dir]);
        let whole = import(&source, &dir.join("whole"));
        for name in ["archive", "legacy", "shards", "module"] {
            let found = import(&dir.join(name), &dir.join(format!("{name}-slm")));
            assert_eq!(found.config().model, whole.config().model, "{model} {name}");
            assert_eq!(found.weights_sha256().unwrap(), whole.weights_sha256().unwrap(), "{model} {name}");
        }
    }
}

#[test]
fn llama2c_files_are_the_model_that_they_were_made_of() {
    let (Some(python), Some(models)) = (peer_python("safetensors"), shared_dir("models")) else { return };
    let root = tempfile::tempdir().unwrap();
    let source = models.join("stories260k");
    run(&python, "make_llama2c.py", &[&source, root.path()]);
    let whole = import(&source, &root.path().join("whole"));
    for name in ["v0", "v1", "v0-head"] {
        let path = root.path().join(format!("{name}.bin"));
        assert!(is_llama2c(&path), "{name}");
        let out = root.path().join(format!("{name}-slm"));
        let report = import_llama2c(&path, &out, &ImportOptions::default(), None).unwrap();
        assert!(report.has_tokenizer && report.warnings.is_empty(), "{report:?}");
        let found = Checkpoint::open(&out).unwrap();
        let mut model = whole.config().model.clone();
        model.tie_word_embeddings = name != "v0-head";
        assert_eq!(found.config().model, model, "{name}");
        for tensor in whole.tensors().names() {
            let (ours, theirs) = (whole.tensors().read_f32(tensor), found.tensors().read_f32(tensor));
            assert_eq!(ours.unwrap(), theirs.unwrap(), "{name}: {tensor}");
        }
        if name == "v0-head" {
            let head = found.tensors().read_f32("lm_head.weight").unwrap();
            assert_eq!(head, found.tensors().read_f32("embed_tokens.weight").unwrap());
        }
        let text = fs::read_to_string(source.join("stories-sample.txt")).unwrap();
        let ids = |dir: &Path| {
            Tokenizer::from_file(dir.join("tokenizer.json"))
                .unwrap()
                .encode_with_special_tokens(&text[..3000])
                .unwrap()
        };
        assert_eq!(ids(&out), ids(whole.dir()), "{name}");
    }

    let path = root.path().join("v2.bin");
    let expected = TensorFile::open(&root.path().join("expected.safetensors")).unwrap();
    let out = root.path().join("v2-slm");
    let report = import_llama2c(&path, &out, &ImportOptions::default(), None).unwrap();
    assert_eq!(report.quantized_layers, 36);
    let codes = Checkpoint::open(&out).unwrap();
    codes.load_model(&Device::flex()).unwrap();
    let options = ImportOptions { dequantize: true, ..ImportOptions::default() };
    let floats = root.path().join("v2-floats");
    import_llama2c(&path, &floats, &options, None).unwrap();
    let floats = Checkpoint::open(&floats).unwrap();
    for layer in 0..5 {
        for (part, name) in [
            ("v", "self_attn.v_proj"),
            ("o", "self_attn.o_proj"),
            ("gate", "mlp.gate_proj"),
            ("down", "mlp.down_proj"),
        ] {
            let wanted = expected.read_f32(&format!("{part}.{layer}")).unwrap();
            let name = format!("layers.{layer}.{name}");
            let (matrix, _) = codes.read_quantized(&name).unwrap().unwrap();
            assert_eq!(values(&matrix), wanted, "{name}");
            assert_eq!(floats.tensors().read_f32(&format!("{name}.weight")).unwrap(), wanted, "{name}");
        }
        // Rows in another order; the same values.
        let name = format!("layers.{layer}.self_attn.q_proj");
        let (matrix, _) = codes.read_quantized(&name).unwrap().unwrap();
        assert_eq!(values(&matrix), floats.tensors().read_f32(&format!("{name}.weight")).unwrap());
        let original = whole.tensors().read_f32(&format!("{name}.weight")).unwrap();
        let worst = values(&matrix).iter().zip(&original).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.01, "{name}: {worst}");
    }
    let (table, _) = codes.read_quantized("lm_head").unwrap().unwrap();
    assert_eq!(values(&table), expected.read_f32("tok").unwrap());

    // Files that are not whole, and tokenizers of other models.
    let bytes = fs::read(root.path().join("v1.bin")).unwrap();
    let cut = root.path().join("cut.bin");
    for end in [0, 27, 100, 255, 256, bytes.len() - 1] {
        fs::write(&cut, &bytes[..end]).unwrap();
        let error =
            import_llama2c(&cut, &root.path().join("none"), &ImportOptions::default(), None).unwrap_err();
        assert!(error.to_string().contains("cut.bin") && error.to_string().contains("header"), "{error}");
    }
    fs::write(root.path().join("other.bin"), &fs::read(root.path().join("tokenizer.bin")).unwrap()[..2000])
        .unwrap();
    let other = root.path().join("other.bin");
    let options = ImportOptions::default();
    let error =
        import_llama2c(&path, &root.path().join("none"), &options, Some(&other)).unwrap_err().to_string();
    assert!(error.contains("other.bin") && error.contains("token"), "{error}");
}

#[test]
fn blocks_are_dequantized_as_gguf_py_does() {
    let Some(python) = peer_python("gguf") else { return };
    let root = tempfile::tempdir().unwrap();
    let random = &mut Random(3);
    let mut list = String::new();
    for (kind, name, scales) in [
        (TensorKind::Q8_0, "Q8_0", &[0][..]),
        (TensorKind::Q4_0, "Q4_0", &[0]),
        (TensorKind::Q4_1, "Q4_1", &[0, 2]),
        (TensorKind::Q5_0, "Q5_0", &[0]),
        (TensorKind::Q5_1, "Q5_1", &[0, 2]),
        (TensorKind::Q2K, "Q2_K", &[80, 82]),
        (TensorKind::Q3K, "Q3_K", &[108]),
        (TensorKind::Q4K, "Q4_K", &[0, 2]),
        (TensorKind::Q5K, "Q5_K", &[0, 2]),
        (TensorKind::Q6K, "Q6_K", &[208]),
    ] {
        let size = kind.block_bytes();
        let mut blocks: Vec<u8> = (0..size * 200).map(|_| random.bits() as u8).collect();
        for block in blocks.chunks_mut(size) {
            for &at in scales {
                let scale = half::f16::from_f32(random.normal() * 0.01);
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        let floats: Vec<u8> =
            dequantize(kind, &blocks).iter().flat_map(|value| value.to_le_bytes()).collect();
        let paths = [root.path().join(format!("{name}.blocks")), root.path().join(format!("{name}.floats"))];
        fs::write(&paths[0], blocks).unwrap();
        fs::write(&paths[1], floats).unwrap();
        list += &format!("{name}\t{}\t{}\n", paths[0].display(), paths[1].display());
    }
    let path = root.path().join("list");
    fs::write(&path, list).unwrap();
    run(&python, "check_blocks.py", &[&path]);
}

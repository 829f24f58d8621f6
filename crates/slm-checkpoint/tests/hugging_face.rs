//! Import of generated Hugging Face directories, valid and invalid.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{DType, Device};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use slm_checkpoint::{
    Checkpoint, CheckpointWriter, Error, Layout, OpenOptions, TensorFileWriter, TensorSpec, TokenizerInfo,
    hf, migrate, save,
};
use slm_model::{EMBED_TOKENS, Transformer, expected_tensors, window_logits};
use slm_nn::{NamedLinears, Weight};
use slm_store::Error as StoreError;
use support::*;

type Tensor = (String, Vec<usize>, Vec<f32>);

/// A directory in the Hugging Face layout.
struct Source {
    root: tempfile::TempDir,
    config: Map<String, Value>,
    tensors: Vec<Tensor>,
}

/// The small model as a Llama in F32.
fn llama() -> Source {
    let config = small_config();
    let json = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads, "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_position_embeddings, "tie_word_embeddings": true,
        "bos_token_id": 1, "eos_token_id": [2, 3],
    });
    let mut tensors = Vec::new();
    let done = small_model().for_each_tensor::<std::convert::Infallible>(&mut |name, data| {
        let name = name.replace("input_norm", "input_layernorm");
        let name = format!("model.{}", name.replace("attention_norm", "attention_layernorm"));
        let shape = data.shape().as_slice().to_vec();
        tensors.push((name, shape, data.try_into_vec::<f32>().unwrap()));
        Ok(())
    });
    let Ok(()) = done;
    let root = tempfile::tempdir().unwrap();
    Source { root, config: json.as_object().unwrap().clone(), tensors }
}

fn write_tensors(path: &Path, tensors: &[Tensor], dtype: impl Fn(usize) -> Dtype) {
    let spec =
        |(index, (name, shape, _)): (usize, &Tensor)| TensorSpec::new(name, dtype(index), shape.as_slice());
    let specs: Vec<TensorSpec> = tensors.iter().enumerate().map(spec).collect();
    let mut writer = TensorFileWriter::create(path, &specs).unwrap();
    for (index, (name, _, values)) in tensors.iter().enumerate() {
        let dtype = dtype(index);
        let bytes: Vec<u8> = match dtype {
            Dtype::I64 => values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect(),
            Dtype::I8 | Dtype::U8 | Dtype::F8_E4M3 => values.iter().map(|&v| v as u8).collect(),
            Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
        };
        writer.write_bytes(name, dtype, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

impl Source {
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write_json(&self, name: &str, value: &Value) {
        fs::write(self.path(name), serde_json::to_vec(value).unwrap()).unwrap();
    }

    /// Writes one file with all tensors of type `dtype`.
    fn write(&self, dtype: Dtype) {
        self.write_types(|_| dtype);
    }

    /// Writes one file with a type for each tensor.
    fn write_types(&self, dtype: impl Fn(usize) -> Dtype) {
        self.write_json("config.json", &Value::Object(self.config.clone()));
        write_tensors(&self.path("model.safetensors"), &self.tensors, dtype);
    }

    /// Writes two shards and an index that assigns each tensor by `place`.
    fn write_shards(&self, place: impl Fn(usize) -> &'static str) {
        self.write_json("config.json", &Value::Object(self.config.clone()));
        let half = self.tensors.len() / 2;
        write_tensors(&self.path("a.safetensors"), &self.tensors[..half], |_| Dtype::F32);
        write_tensors(&self.path("b.safetensors"), &self.tensors[half..], |_| Dtype::F32);
        let places = self.tensors.iter().enumerate().map(|(i, (name, ..))| (name.clone(), place(i).into()));
        let map: Map<String, Value> = places.collect();
        self.write_json("model.safetensors.index.json", &json!({ "weight_map": map }));
    }

    fn import(&self) -> slm_checkpoint::Result<Checkpoint> {
        let out = self.root.path().join("out");
        let report = hf::import_to(self.root.path(), out, true)?;
        Checkpoint::open(report.path)
    }

    /// Returns the error of an import in F32, and checks that its message contains all of `parts`.
    #[track_caller]
    fn refused(&self, parts: &[&str]) -> Error {
        self.write(Dtype::F32);
        self.refused_as_it_is(parts)
    }

    #[track_caller]
    fn refused_as_it_is(&self, parts: &[&str]) -> Error {
        let error = self.import().unwrap_err();
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert!(!self.path("out").exists());
        error
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }
}

/// The types of a model's embedding and of its linear layers, without repetition.
fn matrix_types(model: &Transformer) -> Vec<DType> {
    let mut types = vec![model.embedding_dtype()];
    model.for_each_linear(&mut |_, linear| types.extend(linear.float_dtype()));
    types.dedup();
    types
}

#[test]
fn narrow_floats_keep_their_type() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        let mut source = llama();
        for (_, _, values) in &mut source.tensors {
            for value in values {
                *value = bf16::from_f32(*value).to_f32().clamp(-4.0, 4.0);
                *value = f16::from_f32(*value).to_f32();
                *value = bf16::from_f32(*value).to_f32();
            }
        }
        source.write(dtype);
        let checkpoint = source.import().unwrap();
        assert_eq!(checkpoint.config().model, small_config());
        let rounded = source.tensor("model.layers.1.mlp.up_proj.weight").2.clone();
        assert_eq!(checkpoint.tensors().read_f32("layers.1.mlp.up_proj.weight").unwrap(), rounded, "{dtype}");
        assert!(rounded.iter().any(|&value| value != 0.0));
        let stored = if dtype == Dtype::F64 { Dtype::F32 } else { dtype };
        let types = checkpoint.tensor_names().iter().map(|name| checkpoint.tensors().dtype(name));
        assert!(types.into_iter().all(|found| found == Some(stored)), "{dtype}");
        // In memory a matrix keeps its type, unless the model is to be trained.
        let model = checkpoint.load_model(&Device::flex()).unwrap();
        let in_memory = match stored {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => DType::F32,
        };
        assert_eq!(matrix_types(&model), [in_memory], "{dtype}");
        let trained = checkpoint.load_model(&Device::flex().autodiff()).unwrap();
        assert_eq!(matrix_types(&trained), [DType::F32], "{dtype}");
        let ids = [1, 5, 9, 2, 10, 0, 3];
        let logits = |model: &Transformer| {
            model.forward(model.ids_tensor(&ids)).into_data().try_into_vec::<f32>().unwrap()
        };
        let mut widened = model.clone();
        widened.for_each_linear_mut(&mut |_, linear| {
            let weight = linear.float_weight().unwrap();
            linear.weight = Weight::Float(Param::from_tensor(weight));
        });
        assert_eq!(window_logits(&model, &ids).unwrap(), window_logits(&widened, &ids).unwrap(), "{dtype}");
        assert_eq!(logits(&model), logits(&widened), "{dtype}");
        // A model that is saved keeps its types.
        let saved = source.path("saved");
        save(&saved, &model, &request(None), false).unwrap();
        let saved = Checkpoint::open(&saved).unwrap();
        assert_eq!(saved.tensors().dtype("layers.1.mlp.up_proj.weight"), Some(stored));
        assert_eq!(content(&saved.load_model(&Device::flex()).unwrap()), content(&model));
        let mut expected = source.tensors.iter().map(|(_, _, values)| values.clone());
        for (name, bits) in content(&model).floats {
            let values: Vec<u32> = expected.next().unwrap().into_iter().map(f32::to_bits).collect();
            assert_eq!(bits, values, "{dtype} {name}");
        }
        // A copy keeps the type too.
        let copy = source.path("copy");
        migrate(checkpoint.dir(), Some(&copy), true, &OpenOptions::default()).unwrap();
        let copy = Checkpoint::open(&copy).unwrap();
        assert_eq!(copy.weights_sha256().unwrap(), checkpoint.weights_sha256().unwrap());
    }
}

#[test]
fn the_type_is_that_of_each_tensor_and_values_that_change_are_f32() {
    let source = llama();
    source.write_types(|index| [Dtype::BF16, Dtype::F32, Dtype::F16][index % 3]);
    let checkpoint = source.import().unwrap();
    let of = |name: &str| checkpoint.tensors().dtype(name).unwrap();
    let types: Vec<Dtype> = expected_tensors(&small_config()).iter().map(|tensor| of(&tensor.name)).collect();
    assert!([Dtype::BF16, Dtype::F32, Dtype::F16].iter().all(|dtype| types.contains(dtype)), "{types:?}");
    for bad in [f32::NAN, f32::INFINITY] {
        let mut source = llama();
        source.tensor("model.layers.0.mlp.up_proj.weight").2[3] = bad;
        source.write(Dtype::BF16);
        source.refused_as_it_is(&["model.layers.0.mlp.up_proj.weight"]);
    }
}

/// The embedding of a quantized model stays in 16 bits in memory, whether the head is tied to it or not, and the
/// results do not change.
#[test]
fn halves_in_memory_compute_what_floats_do() {
    for (dtype, skip) in
        [(Dtype::BF16, &["lm_head"][..]), (Dtype::BF16, &[]), (Dtype::F16, &["lm_head"]), (Dtype::F16, &[])]
    {
        let source = llama();
        source.write(dtype);
        let mut model = source.import().unwrap().load_model(&Device::flex()).unwrap();
        if skip.is_empty() {
            model.untie_head();
        }
        let metadata = quantize(&mut model, affine_groups(), per_token(), skip);
        let dir = source.path("quantized");
        let layout_type = |name: &str| (name == EMBED_TOKENS).then_some(dtype);
        let mut layout = Layout::new(model.config());
        layout.store_floats_as(layout_type);
        for layer in &metadata.layers {
            layout.quantize(&layer.name, layer.scheme, false).unwrap();
        }
        let mut writer = CheckpointWriter::create(&dir, model.config(), &layout, false).unwrap();
        model
            .for_each_tensor(&mut |name, data| writer.write_f32(name, &data.try_into_vec::<f32>().unwrap()))
            .unwrap();
        model.for_each_linear(&mut |name, linear| {
            if let Some(packed) = linear.packed() {
                writer.write_quantized(name, &packed.matrix().unpack(), None).unwrap();
            }
        });
        writer.finish(&request(Some(&metadata))).unwrap();

        let checkpoint = Checkpoint::open(&dir).unwrap();
        let loaded = checkpoint.load_model(&Device::flex()).unwrap();
        let expected_type = if dtype == Dtype::F16 { DType::F16 } else { DType::BF16 };
        assert_eq!(loaded.embedding_dtype(), expected_type);
        assert_eq!(content(&loaded), content(&model));
        let ids = [1, 5, 9, 2, 10, 0, 3];
        let logits = window_logits(&loaded, &ids).unwrap();
        assert_eq!(logits, window_logits(&model, &ids).unwrap(), "{dtype} {skip:?}");
        // The same with tensor operations, and with gradients.
        let by_tensors = loaded.forward(loaded.ids_tensor(&ids)).into_data().try_into_vec::<f32>().unwrap();
        let expected = model.forward(model.ids_tensor(&ids)).into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(by_tensors, expected);
        let trained = checkpoint.load_model(&Device::flex().autodiff()).unwrap();
        assert_eq!(trained.embedding_dtype(), DType::F32);
        // Saving again does not change it.
        let again = source.path("again");
        save(&again, &loaded, &request(Some(&metadata)), false).unwrap();
        assert_eq!(
            Checkpoint::open(&again).unwrap().tensors().dtype(EMBED_TOKENS),
            checkpoint.tensors().dtype(EMBED_TOKENS)
        );
    }
}

#[test]
fn special_tokens_are_those_of_the_generation_config() {
    let source = llama();
    source.write(Dtype::F32);
    let info = |source: &Source| hf::import(source.root.path()).unwrap().tokenizer().clone();
    assert_eq!(info(&source), TokenizerInfo { bos_token_id: Some(1), eos_token_ids: vec![2, 3], chat: None });
    source.write_json("generation_config.json", &json!({ "eos_token_id": 4, "bos_token_id": null }));
    assert_eq!(info(&source), TokenizerInfo { bos_token_id: Some(1), eos_token_ids: vec![4], chat: None });
    source.write_json("generation_config.json", &json!({ "eos_token_id": "</s>" }));
    source.refused_as_it_is(&["generation_config.json", "eos_token_id", "vocab_size = 11"]);
}

#[test]
fn special_tokens_that_the_vocabulary_does_not_have_are_passed_over() {
    let mut source = llama();
    source.write(Dtype::F32);
    for (generation, expected, parts) in [
        (json!({ "eos_token_id": 11 }), vec![2, 3], &["generation_config.json", "eos_token_id", "11"][..]),
        (json!({ "eos_token_id": [50256, 4, -1] }), vec![4], &["eos_token_id", "50256, -1"]),
        (json!({ "eos_token_id": u64::MAX, "bos_token_id": -1 }), vec![2, 3], &["bos_token_id", "-1"]),
    ] {
        source.write_json("generation_config.json", &generation);
        let imported = hf::import(source.root.path()).unwrap();
        let info = TokenizerInfo { bos_token_id: Some(1), eos_token_ids: expected, chat: None };
        assert_eq!(imported.tokenizer(), &info, "{generation}");
        warned(imported.warnings(), parts);
    }
    fs::remove_file(source.path("generation_config.json")).unwrap();
    source.config.extend([("bos_token_id".to_owned(), json!(-1)), ("eos_token_id".to_owned(), json!([]))]);
    source.write_json("config.json", &Value::Object(source.config.clone()));
    let imported = hf::import(source.root.path()).unwrap();
    assert_eq!(
        imported.tokenizer(),
        &TokenizerInfo { bos_token_id: None, eos_token_ids: vec![], chat: None }
    );
    warned(imported.warnings(), &["config.json", "bos_token_id", "-1"]);
}

/// Requires a warning that contains all of `parts`.
#[track_caller]
fn warned(warnings: &[String], parts: &[&str]) {
    let all = |warning: &String| parts.iter().all(|part| warning.contains(part));
    assert!(warnings.iter().any(all), "{parts:?} are not in one of {warnings:?}");
}

#[test]
fn tokenizers_are_kept_and_checked() {
    let source = llama();
    source.write(Dtype::F32);
    fs::write(source.path("tokenizer.json"), TOKENIZER).unwrap();
    let checkpoint = source.import().unwrap();
    assert_eq!(checkpoint.tokenizer_json(), Some(TOKENIZER.as_bytes()));
    fs::remove_dir_all(source.path("out")).unwrap();
    fs::write(source.path("tokenizer.json"), TOKENIZER.replace("\"h\":7", "\"h\":80")).unwrap();
    source.refused_as_it_is(&["tokenizer.json", "80", "vocab_size is 11"]);
}

#[test]
fn a_tied_head_in_the_file_is_the_embedding_or_is_not_tied() {
    let mut source = llama();
    let (_, shape, values) = source.tensor("model.embed_tokens.weight").clone();
    source.tensors.push(("lm_head.weight".to_owned(), shape, values));
    source.write(Dtype::F32);
    let checkpoint = source.import().unwrap();
    assert!(checkpoint.config().model.tie_word_embeddings);
    assert!(!checkpoint.tensor_names().contains(&"lm_head.weight".to_owned()));

    for tied in [true, false] {
        let mut source = llama_with_head(9.0);
        source.config["tie_word_embeddings"] = json!(tied);
        source.write(Dtype::F32);
        let warnings = hf::import(source.root.path()).unwrap().warnings().to_vec();
        if tied {
            warned(&warnings, &["config.json", "tie_word_embeddings", "lm_head.weight", "not tied"]);
        }
        let checkpoint = source.import().unwrap();
        assert!(!checkpoint.config().model.tie_word_embeddings);
        let head = checkpoint.tensors().read_f32("lm_head.weight").unwrap();
        assert!(head.iter().all(|&value| value == 9.0));
    }
    // A head with a different shape is an error.
    let mut source = llama_with_head(9.0);
    source.tensors.last_mut().unwrap().1 = vec![12, 11];
    source.refused(&["lm_head.weight"]);
}

/// Types may differ between tensors, and include those of other programs.
#[test]
fn types_are_those_of_single_tensors() {
    let mut source = llama();
    let (_, shape, values) = source.tensor("model.embed_tokens.weight").clone();
    source.tensors.push(("lm_head.weight".to_owned(), shape, values));
    let types = [Dtype::F32, Dtype::F64];
    source.write_types(|index| types[index % 2]);
    let imported = hf::import(source.root.path()).unwrap();
    assert_eq!(imported.warnings(), [""; 0], "the head has the values of the embedding");
    assert!(imported.config().tie_word_embeddings);
    for (name, _, values) in &source.tensors[..source.tensors.len() - 1] {
        let canonical = name.trim_start_matches("model.").replace("layernorm", "norm");
        assert_eq!(&imported.read_f32(&canonical).unwrap(), values, "{name}");
    }
    // A counter is not a weight, but integers in place of weights are an error.
    let mut source = llama();
    source.tensors.push(("model.steps".to_owned(), vec![], vec![7.0]));
    let last = source.tensors.len() - 1;
    source.write_types(|index| if index == last { Dtype::I64 } else { Dtype::F32 });
    warned(hf::import(source.root.path()).unwrap().warnings(), &["model.steps", "not part of the model"]);
    for (dtype, part) in [(Dtype::I8, "integers"), (Dtype::F8_E4M3, "FP8"), (Dtype::U8, "integers")] {
        let source = llama();
        let at = source.tensors.iter().position(|(name, ..)| name.ends_with("up_proj.weight")).unwrap();
        source.write_types(|index| if index == at { dtype } else { Dtype::F32 });
        source.refused_as_it_is(&["quantized already", part, "up_proj.weight", "made from"]);
    }
    // MLX packs codes into words, and stores scales and biases next to them.
    let mut source = llama();
    source.tensors.push(("model.layers.0.mlp.up_proj.scales".to_owned(), vec![2], vec![1.0; 2]));
    source.tensors.push(("model.layers.0.mlp.up_proj.biases".to_owned(), vec![2], vec![1.0; 2]));
    source.refused(&["quantized already (MLX)", "made from"]);
}

fn llama_with_head(value: f32) -> Source {
    let mut source = llama();
    source.tensors.push(("lm_head.weight".to_owned(), vec![11, 12], vec![value; 132]));
    source
}

#[test]
fn tensors_must_be_those_of_the_config() {
    let mut source = llama();
    source.config["tie_word_embeddings"] = json!(false);
    source.refused(&["missing tensor \"lm_head.weight\"", "\"tie_word_embeddings\": true"]);

    let mut source = llama();
    source.tensor("model.layers.0.mlp.up_proj.weight").0 = "model.layers.0.mlp.experts.weight".to_owned();
    let parts = ["missing", "model.layers.0.mlp.up_proj.weight", "unexpected", "mlp.experts.weight"];
    source.refused(&parts);

    let mut source = llama();
    source.config["num_hidden_layers"] = json!(1);
    source.refused(&["unexpected", "model.layers.1.mlp.up_proj.weight"]);
    source.config["num_hidden_layers"] = json!(2);
    source.config["intermediate_size"] = json!(8);
    fs::remove_file(source.path("model.safetensors")).unwrap();
    let error = source.refused(&["shape", "_proj.weight"]);
    assert!(matches!(error, Error::Store(StoreError::Shape { .. })), "{error}");

    let source = llama();
    source.write(Dtype::F64);
    source.import().unwrap();
}

#[test]
fn buffers_are_passed_over_and_the_prefix_may_be_absent() {
    let mut source = llama();
    let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
    source.tensors.push((buffer, vec![3], vec![1.0; 3]));
    source.write(Dtype::F32);
    source.import().unwrap();
    let mut source = llama();
    for (name, ..) in &mut source.tensors {
        *name = name.trim_start_matches("model.").to_owned();
    }
    source.write(Dtype::F32);
    source.import().unwrap();
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut source = llama();
    source.tensor("model.layers.1.mlp.up_proj.weight").2[5] = f32::NAN;
    let error = source.refused(&["model.layers.1.mlp.up_proj.weight", "index 5", "NaN"]);
    assert!(matches!(error, Error::Store(StoreError::NotFinite { .. })), "{error}");
    assert_eq!(fs::read_dir(source.root.path()).unwrap().count(), 2, "nothing is left behind");
}

#[test]
fn shards_are_read_where_the_index_says() {
    let source = llama();
    let half = source.tensors.len() / 2;
    let place = move |i: usize| if i < half { "a.safetensors" } else { "b.safetensors" };
    source.write_shards(place);
    let checkpoint = source.import().unwrap();
    let loaded = checkpoint.load_model(&burn::tensor::Device::flex()).unwrap();
    assert_eq!(content(&loaded), content(&small_model()));
    let lineage = checkpoint.config().lineage.clone().unwrap();
    assert_eq!(lineage["files"].as_object().unwrap().len(), 3);
    assert_eq!(lineage["files"]["a.safetensors"]["sha256"].as_str().unwrap().len(), 64);
    fs::remove_dir_all(source.path("out")).unwrap();

    fs::remove_file(source.path("b.safetensors")).unwrap();
    source.refused_as_it_is(&["b.safetensors", "all shards"]);
}

#[test]
fn an_index_cannot_lead_elsewhere_or_lie() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.safetensors");
    write_tensors(&secret, &llama().tensors, |_| Dtype::F32);
    let absolute: &'static str = Box::leak(secret.display().to_string().into_boxed_str());
    for place in ["../secret.safetensors", absolute, "sub/a.safetensors", "..", "", "config.json"] {
        let source = llama();
        source.write_shards(move |_| place);
        let error = source.refused_as_it_is(&["model.safetensors.index.json", "weight_map"]);
        assert!(matches!(error, Error::Store(StoreError::Field { .. })), "{error}");
    }
    let source = llama();
    source.write_shards(|_| "a.safetensors");
    source.refused_as_it_is(&["a.safetensors", "index.json says that it is there"]);
    let source = llama();
    let half = source.tensors.len() / 2;
    source.write_shards(move |i| if i < half { "a.safetensors" } else { "b.safetensors" });
    let path = source.path("model.safetensors.index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["weight_map"].as_object_mut().unwrap().remove("model.norm.weight");
    source.write_json("model.safetensors.index.json", &index);
    source.refused_as_it_is(&["model.norm.weight", "does not list"]);
}

#[test]
fn absent_files_are_named() {
    let source = llama();
    source.refused_as_it_is(&["config.json", "not found"]);
    source.write_json("config.json", &Value::Object(source.config.clone()));
    source.refused_as_it_is(&["model.safetensors", "index.json"]);
    fs::write(source.path("pytorch_model.bin"), "").unwrap();
    source.refused_as_it_is(&["pytorch_model.bin", "empty", "download"]);
    fs::write(source.path("pytorch_model.bin"), "garbage, and more of it").unwrap();
    source.refused_as_it_is(&["pytorch_model.bin", "pickle", "convert"]);
    fs::write(source.path("model.safetensors"), "garbage, and more of it").unwrap();
    source.refused_as_it_is(&["model.safetensors"]);
    fs::write(source.path("config.json"), "{").unwrap();
    assert!(matches!(source.refused_as_it_is(&["config.json"]), Error::Store(StoreError::Json { .. })));
}

#[test]
fn existing_output_is_refused() {
    let source = llama();
    source.write(Dtype::F32);
    let out = source.path("out");
    hf::import_to(source.root.path(), &out, false).unwrap();
    assert!(matches!(
        hf::import_to(source.root.path(), &out, false),
        Err(Error::Store(StoreError::OutputExists { .. }))
    ));
    // The source itself is never replaced.
    let error = hf::import_to(source.root.path(), source.root.path(), true).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::OutputNotOurs { .. })), "{error}");
}

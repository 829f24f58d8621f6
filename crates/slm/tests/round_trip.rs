//! Custom modules, saved and loaded.

mod support;

use std::fs;
use std::path::Path;

use burn::prelude::*;
use slm::prelude::*;
use slm::store::Error as StoreError;
use slm::{Error, LoadOptions, SaveOptions};
use support::{Recurrent, quantized, quantizers};

#[test]
fn what_is_loaded_computes_what_was_saved() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let module = Recurrent::new(&device);
    let float = slm::save(&module, root.path().join("float")).unwrap();
    assert!(!float.join("quantization_metadata.json").exists());
    let mut other = Recurrent::new(&device);
    assert_ne!(other.outputs(&device), module.outputs(&device));
    assert!(slm::load(&mut other, &float).unwrap().quantized.is_empty());
    assert_eq!(other.outputs(&device), module.outputs(&device));

    for (name, quantizer) in quantizers() {
        let (packed, report) = quantized(quantizer, &module, &device);
        let expected = packed.outputs(&device);
        assert_ne!(expected, module.outputs(&device), "{name}");
        let dir = report.save(&packed, root.path().join(name)).unwrap();
        let names: Vec<_> = report.layers.iter().map(|layer| layer.name.clone()).collect();
        // Loads into a float module, into a packed one, and from packed back to float.
        let mut loaded = Recurrent::new(&device);
        let found = slm::load(&mut loaded, &dir).unwrap();
        assert_eq!(found.quantized, names, "{name}");
        assert_eq!(found.metadata.unwrap(), report.metadata(&packed), "{name}");
        assert_eq!(loaded.outputs(&device), expected, "{name}");
        let mut again = loaded.clone();
        slm::load(&mut again, &dir).unwrap();
        assert_eq!(again.outputs(&device), expected, "{name}");
        slm::load(&mut again, &float).unwrap();
        assert_eq!(again.outputs(&device), module.outputs(&device), "{name}");
        // Without a report, the layers provide the metadata.
        let plain = slm::save(&loaded, root.path().join(format!("{name} plain"))).unwrap();
        let text = fs::read_to_string(plain.join("quantization_metadata.json")).unwrap();
        assert!(text.contains("\"unrecorded\""), "{text}");
        let mut loaded = Recurrent::new(&device);
        slm::load(&mut loaded, &plain).unwrap();
        assert_eq!(loaded.outputs(&device), expected, "{name}");
    }
}

#[test]
fn running_statistics_and_gradient_settings_are_kept() {
    use burn::nn::{BatchNorm, BatchNormConfig};
    #[derive(Module, Debug, NamedLinears)]
    struct Net {
        linear: Linear,
        norm: BatchNorm,
    }
    let net = |device: &Device| Net {
        linear: LinearConfig::new(6, 6).with_bias(true).init(1.0, device),
        norm: BatchNormConfig::new(6).init(device),
    };
    let device = Device::flex().autodiff();
    let trained = net(&device);
    let x = Tensor::<2>::random([9, 6], burn::tensor::Distribution::Normal(3.0, 2.0), &device);
    for _ in 0..3 {
        trained.norm.forward(trained.linear.forward(x.clone()));
    }
    let root = tempfile::tempdir().unwrap();
    let dir = slm::save(&trained, root.path().join("net")).unwrap();
    let mut loaded = net(&device);
    slm::load(&mut loaded, &dir).unwrap();
    assert!(loaded.linear.float_weight().unwrap().is_require_grad());
    let outputs = |net: &Net| {
        let net = net.valid();
        net.norm.forward(net.linear.forward(x.clone().inner())).into_data()
    };
    assert_eq!(outputs(&loaded), outputs(&trained));
    assert_ne!(outputs(&net(&device)), outputs(&trained));
}

/// Clones share parameter ids, so parameters are saved by path and not by id.
#[test]
fn parameters_with_the_ids_of_a_layer_are_saved() {
    use burn::nn::{Embedding, EmbeddingConfig, Linear as BurnLinear, LinearConfig as BurnConfig};
    use slm::nn::Weight;
    #[derive(Module, Debug, NamedLinears)]
    struct Net {
        embedding: Embedding,
        teacher: BurnLinear,
        student: Linear,
        twins: Vec<Linear>,
        head: Linear,
    }
    impl Net {
        fn new(device: &Device) -> Self {
            let embedding = EmbeddingConfig::new(6, 8).init(device);
            let teacher = BurnConfig::new(8, 8).init(device);
            let student = Linear::from(teacher.clone());
            let mut head = LinearConfig::new(8, 6).init(0.1, device);
            head.weight = Weight::Float(embedding.weight.clone());
            Self { embedding, teacher, twins: vec![student.clone(); 2], student, head }
        }

        fn outputs(&self, device: &Device) -> Vec<Vec<f32>> {
            let ids = Tensor::<2, Int>::from_data([[0, 3, 5]], device);
            let x = self.embedding.forward(ids).reshape([3, 8]);
            let twins = self.twins.iter().fold(x.clone(), |x, twin| twin.forward(x));
            let outputs = [self.teacher.forward(x.clone()), self.student.forward(x.clone()), twins];
            let outputs = outputs.map(|output| self.head.forward(output));
            outputs.into_iter().chain([x]).map(|output| output.into_data().try_to_vec().unwrap()).collect()
        }
    }
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let module = Net::new(&device);
    let (packed, report) = Quantizer::int8().skip("head").convert(module.clone()).unwrap();
    assert_eq!(report.layers.len(), 3);
    for (name, saved) in [("float", module), ("packed", packed)] {
        let dir = slm::save(&saved, root.path().join(name)).unwrap();
        let mut other = Net::new(&device);
        assert_ne!(other.outputs(&device), saved.outputs(&device), "{name}");
        slm::load(&mut other, &dir).unwrap();
        assert_eq!(other.outputs(&device), saved.outputs(&device), "{name}");
    }
}

#[test]
fn damage_is_found_and_the_module_is_unchanged() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let module = Recurrent::new(&device);
    let (packed, report) = quantized(Quantizer::int8(), &module, &device);
    let dir = report.save(&packed, root.path().join("good")).unwrap();
    let weights = "model.safetensors";
    let before = module.outputs(&device);
    let refused = |dir: &Path| {
        let mut target = module.clone();
        let error = slm::load(&mut target, dir).unwrap_err();
        assert_eq!(target.outputs(&device), before, "{error}");
        error.to_string()
    };
    let copy = |name: &str| {
        let to = root.path().join(name);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    };
    // A truncated file: the error names the layers at its end.
    let cut = copy("cut");
    let bytes = fs::read(dir.join(weights)).unwrap();
    fs::write(cut.join(weights), &bytes[..bytes.len() - 40]).unwrap();
    let error = refused(&cut);
    let lost = slm::store::TensorFile::open(&dir.join(weights)).unwrap().names().last().unwrap().clone();
    assert!(error.contains(weights) && error.contains("truncated") && error.contains(&lost), "{error}");
    for length in [0, 7, 100] {
        fs::write(cut.join(weights), &bytes[..length]).unwrap();
        assert!(refused(&cut).contains(weights));
    }
    // One flipped bit.
    let flipped = copy("flipped");
    let mut bad = bytes.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(flipped.join(weights), &bad).unwrap();
    assert!(refused(&flipped).contains("BLAKE3"));
    // A missing or changed file is an error.
    for name in [weights, "quantization_metadata.json", "manifest.json"] {
        let lacking = copy(&format!("without {name}"));
        fs::remove_file(lacking.join(name)).unwrap();
        assert!(refused(&lacking).contains(name), "{name}");
        let changed = copy(&format!("changed {name}"));
        let mut content = fs::read(changed.join(name)).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 0x11;
        fs::write(changed.join(name), content).unwrap();
        assert!(refused(&changed).contains(name), "{name}");
    }
    // Without checksums, an impossible scale is still found, with its layer.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = json["blocks.0.up.weight.scales"]["data_offsets"][0].as_u64().unwrap() as usize;
    let mut bad = bytes.clone();
    bad[8 + header + start..][..4].copy_from_slice(&(-1.0_f32).to_le_bytes());
    fs::write(flipped.join(weights), &bad).unwrap();
    let mut target = module.clone();
    let unverified = slm::load_with(&mut target, &flipped, &LoadOptions { verify: false }).unwrap_err();
    assert!(unverified.to_string().contains("blocks.0.up"), "{unverified}");
    assert_eq!(target.outputs(&device), before);
}

#[test]
fn files_of_another_module_are_refused_by_name() {
    #[derive(Module, Debug, NamedLinears)]
    struct Pair {
        first: Linear,
        second: Option<Linear>,
    }
    let device = Device::flex();
    let pair = |width: usize, second: bool| Pair {
        first: LinearConfig::new(8, width).with_bias(true).init(1.0, &device),
        second: second.then(|| LinearConfig::new(width, 8).init(1.0, &device)),
    };
    let root = tempfile::tempdir().unwrap();
    let float = slm::save(&pair(8, true), root.path().join("float")).unwrap();
    let (packed, _) = Quantizer::int8().convert(pair(8, true)).unwrap();
    let packed = slm::save(&packed, root.path().join("packed")).unwrap();
    let error = |mut module: Pair, dir: &Path| slm::load(&mut module, dir).unwrap_err();
    for dir in [&float, &packed] {
        let narrow = error(pair(4, true), dir).to_string();
        assert!(narrow.contains("first") && narrow.contains('4') && narrow.contains('8'), "{narrow}");
        let without = error(pair(8, false), dir).to_string();
        assert!(without.contains("second"), "{without}");
    }
    let small = slm::save(&pair(8, false), root.path().join("small")).unwrap();
    let missing = error(pair(8, true), &small).to_string();
    assert!(missing.contains("missing tensor \"second.weight\""), "{missing}");
    // Another module, a directory without a module, and an empty place.
    let foreign = slm::save(&Recurrent::new(&device), root.path().join("foreign")).unwrap();
    assert!(error(pair(8, true), &foreign).to_string().contains("first.weight"));
    assert!(matches!(error(pair(8, true), root.path()), Error::Store(StoreError::Missing { .. })));
    assert!(matches!(error(pair(8, true), Path::new("/nowhere")), Error::Store(StoreError::Missing { .. })));
}

#[test]
fn directories_are_replaced_only_where_they_are_modules() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let module = Recurrent::new(&device);
    let dir = root.path().join("out");
    let config = [("net.json", &b"{}"[..])];
    let options = SaveOptions { extra_files: &config, ..SaveOptions::default() };
    slm::save_with(&module, &dir, &options).unwrap();
    assert_eq!(fs::read(dir.join("net.json")).unwrap(), b"{}");
    let exists = slm::save(&module, &dir).unwrap_err();
    assert!(matches!(&exists, Error::Exists { path } if path.ends_with("out")), "{exists}");
    assert!(exists.to_string().contains("SaveOptions { overwrite: true, .. }"), "{exists}");
    fs::write(dir.join("thesis.tex"), "years of work").unwrap();
    let overwrite = SaveOptions { overwrite: true, ..SaveOptions::default() };
    let refused = slm::save_with(&module, &dir, &overwrite).unwrap_err();
    assert!(refused.to_string().contains("thesis.tex"), "{refused}");
    fs::remove_file(dir.join("thesis.tex")).unwrap();
    slm::save_with(&module, &dir, &overwrite).unwrap();
    assert!(!dir.join("net.json").exists());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    for name in ["config.json", "model.safetensors", "../up"] {
        let extra = [(name, &b"{}"[..])];
        let options = SaveOptions { extra_files: &extra, ..SaveOptions::default() };
        assert!(slm::save_with(&module, root.path().join("new"), &options).is_err(), "{name}");
        assert!(!root.path().join("new").exists());
    }
}

#[cfg(feature = "transformer")]
#[test]
fn modules_and_checkpoints_are_told_apart() {
    use slm::checkpoint::{Checkpoint, SaveRequest};
    use slm::model::{ModelConfig, Transformer};
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let mut model = Transformer::new(&ModelConfig::new(11, 12, 7, 1, 2, 16), 0, &device).unwrap();
    let checkpoint =
        slm::checkpoint::save(root.path().join("model"), &model, &SaveRequest::default(), false).unwrap();
    let error = slm::load(&mut model, &checkpoint).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::WrongKind { .. })), "{error}");
    let module = slm::save(&Recurrent::new(&device), root.path().join("module")).unwrap();
    let error = Checkpoint::open(&module).unwrap_err().to_string();
    assert!(error.contains("slm::load"), "{error}");
    // A module does not replace a checkpoint, nor the reverse.
    let request = SaveRequest::default();
    assert!(slm::checkpoint::save(&module, &model, &request, true).is_err());
    let overwrite = SaveOptions { overwrite: true, ..SaveOptions::default() };
    assert!(slm::save_with(&Recurrent::new(&device), &checkpoint, &overwrite).is_err());
    // A transformer can be saved as a module too.
    let dir = slm::save(&model, root.path().join("as module")).unwrap();
    let mut other = Transformer::new(&ModelConfig::new(11, 12, 7, 1, 2, 16), 1, &device).unwrap();
    slm::load(&mut other, dir).unwrap();
    let logits = |model: &Transformer| model.forward(model.ids_tensor(&[1, 2, 3])).into_data();
    assert_eq!(logits(&other), logits(&model));
}

#[test]
fn layers_in_training_are_not_saved_by_halves() {
    let device = Device::flex().autodiff();
    let root = tempfile::tempdir().unwrap();
    let (prepared, _) = Qat::from(Quantizer::int4().group(8)).prepare(Recurrent::new(&device)).unwrap();
    let error = slm::save(&prepared, root.path().join("qat")).unwrap_err().to_string();
    assert!(error.contains("prepared for training; convert"), "{error}");
    let (packed, _) = Quantizer::int8().convert(Recurrent::new(&Device::flex())).unwrap();
    let (tuned, _) = FineTune::nearest().prepare(packed, &device).unwrap();
    let error = slm::save(&tuned, root.path().join("tuned")).unwrap_err().to_string();
    assert!(error.contains("quantized layer in training"), "{error}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

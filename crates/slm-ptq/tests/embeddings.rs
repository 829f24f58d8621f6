//! Tests of quantized embeddings: one table shared with a tied head, or a separate one.

use std::path::Path;

use burn::tensor::Device;
use slm_checkpoint::{Checkpoint, OpenOptions, SaveRequest, migrate, save};
use slm_model::{EMBED_TOKENS, LM_HEAD, ModelConfig, TOKEN_TABLE, Transformer, window_logits};
use slm_nn::{NamedLinears, cpu_devices};
use slm_ptq::{CalibrationTokens, CheckpointQuantizer, Error, PtqConfig};
use slm_quant_core::{Bits, Granularity, QuantScheme, QuantizationType};

const IDS: [u32; 12] = [3, 49, 0, 17, 17, 8, 25, 31, 1, 44, 12, 9];

fn float(dir: &Path, tied: bool) -> Checkpoint {
    let mut config = ModelConfig::new(50, 16, 32, 2, 2, 32);
    config.tie_word_embeddings = tied;
    let model = Transformer::new(&config, 5, &Device::flex()).unwrap();
    Checkpoint::open(save(dir.join("float"), &model, &SaveRequest::default(), false).unwrap()).unwrap()
}

fn config(embeddings: Option<&str>) -> PtqConfig {
    let scheme = QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerChannel);
    let mut config = PtqConfig::new(scheme, QuantizationType::WeightOnly);
    config.embeddings = embeddings.map(|text| text.parse().unwrap());
    config
}

fn write(float: &Checkpoint, config: PtqConfig, out: &Path) -> Checkpoint {
    let mut quantizer = CheckpointQuantizer::new(float, config).unwrap();
    if quantizer.needs_calibration() {
        let tokens = CalibrationTokens { ids: &IDS, window: 6, prefix: &[], text_sha256: "0".repeat(64) };
        quantizer.calibrate(&tokens, &Device::flex(), &mut |_| Ok::<_, Error>(())).unwrap();
    }
    let written = quantizer.write(out, false, &mut |_| Ok::<_, Error>(())).unwrap();
    Checkpoint::open(written.path).unwrap()
}

#[test]
fn a_tied_head_and_the_embedding_share_one_table() {
    for kind in [QuantizationType::WeightOnly, QuantizationType::Dynamic, QuantizationType::Static] {
        for embeddings in ["int8:channel", "int4:group:8:affine:f16"] {
            let root = tempfile::tempdir().unwrap();
            let float = float(root.path(), true);
            let mut config = config(Some(embeddings));
            config.quantization_type = kind;
            let checkpoint = write(&float, config.clone(), &root.path().join("shared"));
            assert!(checkpoint.config().model.tie_word_embeddings);
            assert_eq!(checkpoint.tensors().shape(EMBED_TOKENS), None);
            let (table, _) = checkpoint.read_quantized(LM_HEAD).unwrap().unwrap();
            assert_eq!([table.rows(), table.cols()], [50, 16]);
            assert_eq!(table.scheme(), config.embeddings.unwrap().over(config.scheme).unwrap());
            for device in cpu_devices() {
                let model = checkpoint.load_model(&device).unwrap();
                assert!(model.shares_table_with_head() && model.embedding_is_quantized());
                let mut head = None;
                model.for_each_linear(&mut |name, linear| {
                    if name == LM_HEAD {
                        head = linear.packed().cloned();
                    }
                });
                // Lookup gives the dequantized row of the table, bit for bit.
                let ids = model.ids_tensor(&IDS);
                let found = head.unwrap().lookup(ids.clone()).into_data().try_into_vec::<f32>().unwrap();
                let expected: Vec<f32> = IDS
                    .iter()
                    .flat_map(|&id| table.dequantize()[id as usize * 16..][..16].to_vec())
                    .collect();
                assert_eq!(found, expected);
                // Tensor operations and the CPU engine compute the same.
                let tensors = model.forward(ids).into_data().try_into_vec::<f32>().unwrap();
                let engine = window_logits(&model, &IDS).unwrap();
                let worst = tensors.iter().zip(&engine).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(kind != QuantizationType::WeightOnly || worst < 1e-5, "{worst}");
            }
        }
    }
}

#[test]
fn what_is_quantized_in_memory_is_what_is_written() {
    for tied in [true, false] {
        let root = tempfile::tempdir().unwrap();
        let float = float(root.path(), tied);
        let quantizer = CheckpointQuantizer::new(&float, config(Some("int8:channel"))).unwrap();
        let (in_memory, _) = quantizer.load(&Device::flex()).unwrap();
        let checkpoint = write(&float, config(Some("int8:channel")), &root.path().join("int8"));
        let loaded = checkpoint.load_model(&Device::flex()).unwrap();
        assert_eq!(window_logits(&in_memory, &IDS).unwrap(), window_logits(&loaded, &IDS).unwrap());
        // Saving and migrating it again changes nothing.
        let request = SaveRequest { metadata: checkpoint.metadata(), ..SaveRequest::default() };
        let again = save(root.path().join("again"), &loaded, &request, false).unwrap();
        let copied = root.path().join("copied");
        migrate(&again, Some(&copied), false, &OpenOptions::default()).unwrap();
        let copied = Checkpoint::open(copied).unwrap();
        // Tensors are written as they become ready, and copied in the order of the model.
        let names = |checkpoint: &Checkpoint| {
            let mut names: Vec<String> = checkpoint.tensor_names().to_vec();
            names.sort();
            names
        };
        assert_eq!(names(&copied), names(&checkpoint));
        let copied = copied.load_model(&Device::flex()).unwrap();
        assert_eq!(window_logits(&copied, &IDS).unwrap(), window_logits(&loaded, &IDS).unwrap());
    }
}

#[test]
fn an_untied_embedding_is_a_table_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let float = float(root.path(), false);
    let checkpoint = write(&float, config(Some("int4:group:8")), &root.path().join("int4"));
    let metadata = checkpoint.metadata().unwrap();
    let record = metadata.embedding.as_ref().unwrap();
    assert_eq!((record.name.as_str(), record.scheme.bits), (TOKEN_TABLE, Bits::Int4));
    assert!(metadata.layers.iter().all(|layer| layer.scheme.bits == Bits::Int8));
    let (table, _) = checkpoint.read_quantized(TOKEN_TABLE).unwrap().unwrap();
    assert_eq!([table.rows(), table.cols()], [50, 16]);
    let model = checkpoint.load_model(&Device::flex()).unwrap();
    assert!(model.embedding_is_quantized() && !model.shares_table_with_head());
}

#[test]
fn a_float_embedding_is_stored_in_the_smallest_type_that_holds_it() {
    let root = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let model_config = ModelConfig::new(50, 16, 32, 1, 2, 32);
    struct Rounded(ModelConfig);
    impl slm_model::TensorSource for Rounded {
        fn shape(&self, name: &str) -> Option<Vec<usize>> {
            slm_model::expected_tensors(&self.0).into_iter().find(|t| t.name == name).map(|t| t.shape)
        }
        fn take_f32(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>, slm_model::SourceError> {
            Ok((0..shape.iter().product::<usize>()).map(|i| (i % 13) as f32 / 8.0 - 0.75).collect())
        }
    }
    let model =
        Transformer::from_tensors(&model_config, &mut Rounded(model_config.clone()), &device).unwrap();
    let float = save(root.path().join("float"), &model, &SaveRequest::default(), false).unwrap();
    let float = Checkpoint::open(float).unwrap();
    let quantized = write(&float, config(None), &root.path().join("int8"));
    assert_eq!(quantized.tensors().dtype(EMBED_TOKENS).unwrap().to_string(), "BF16");
    assert_eq!(
        quantized.tensors().read_f32(EMBED_TOKENS).unwrap(),
        float.tensors().read_f32(EMBED_TOKENS).unwrap()
    );
    let loaded = quantized.load_model(&device).unwrap();
    let table = loaded.float_embedding().unwrap().into_data().try_into_vec::<f32>().unwrap();
    assert_eq!(table, float.tensors().read_f32(EMBED_TOKENS).unwrap());
    let copied = root.path().join("copied");
    migrate(quantized.dir(), Some(&copied), false, &OpenOptions::default()).unwrap();
    assert_eq!(Checkpoint::open(&copied).unwrap().tensors().dtype(EMBED_TOKENS).unwrap().to_string(), "BF16");
}

#[test]
fn contradictions_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let tied = float(root.path(), true);
    let refused = |change: &dyn Fn(&mut PtqConfig)| {
        let mut config = config(Some("int8:channel"));
        change(&mut config);
        CheckpointQuantizer::new(&tied, config).map(drop).unwrap_err().to_string()
    };
    let skipped = refused(&|config| config.skip = vec!["lm_head".to_owned()]);
    assert!(skipped.contains("`embeddings`") && skipped.contains("stays float"), "{skipped}");
    let other = refused(&|config| config.layers = vec!["lm_head=int4:group:8".parse().unwrap()]);
    assert!(other.contains("another scheme"), "{other}");
    let wide = refused(&|config| config.embeddings = Some("int4:group:99".parse().unwrap()));
    assert!(wide.contains("99"), "{wide}");
    let unmatched = refused(&|config| config.layers = vec!["layers.0.mlp.upproj=int4".parse().unwrap()]);
    assert!(unmatched.contains("layers.0.mlp.up_proj"), "{unmatched}");
}

#[test]
fn layers_have_the_scheme_of_the_last_rule_that_matches() {
    let root = tempfile::tempdir().unwrap();
    let float = float(root.path(), true);
    let mut config = config(None);
    config.layers = ["layers.*=int4:group:8", "*.down_proj=float", "layers.1.mlp.down_proj=int8:tensor"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let checkpoint = write(&float, config, &root.path().join("mixed"));
    let metadata = checkpoint.metadata().unwrap();
    let scheme = |name: &str| metadata.layer(name).map(|layer| layer.scheme.to_string());
    assert_eq!(scheme("layers.0.mlp.up_proj").unwrap(), "int4 group:8 symmetric");
    assert_eq!(scheme("layers.0.mlp.down_proj"), None);
    assert_eq!(scheme("layers.1.mlp.down_proj").unwrap(), "int8 tensor symmetric");
    assert_eq!(scheme(LM_HEAD).unwrap(), "int8 channel symmetric");
    assert_eq!(metadata.skipped.len(), 1);
    assert!(metadata.skipped[0].reason.contains("*.down_proj"));
    window_logits(&checkpoint.load_model(&Device::flex()).unwrap(), &IDS).unwrap();
}

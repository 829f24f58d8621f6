//! Layers whose integers were written by another program.

mod support;

use burn::tensor::Device;
use slm_checkpoint::{
    Checkpoint, CheckpointSource, CheckpointWriter, ImportedLayers, Layout, Lineage, QuantizationMode,
    SaveRequest, layer_of, sha256_of_file,
};
use slm_model::{EMBED_TOKENS, ExpectedTensor, TOKEN_TABLE, TensorSource, expected_tensors};
use slm_nn::Weight;
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, ObserverKind, QuantScheme, QuantizationType,
    QuantizedMatrix, quantize_matrix,
};
use support::*;

const HEAD: &str = "lm_head";
const LARGE: &str = "layers.0.mlp.up_proj";
const SMALL: &str = "layers.0.self_attn.k_proj";

fn int4() -> QuantScheme {
    QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerGroup { group_size: 4 })
}

fn matrix(shape: &[usize], scheme: QuantScheme) -> QuantizedMatrix {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7).sin()).collect();
    quantize_matrix(&values, shape[0], shape[1], scheme, &ObserverKind::MinMax).unwrap()
}

#[test]
fn what_is_copied_is_recorded_layer_by_layer() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let mut config = small_config();
    config.tie_word_embeddings = false;
    let int8 = QuantScheme::per_tensor(Bits::Int8);
    // A possible order in a file: the head first.
    let quantized = [(HEAD, int8), (TOKEN_TABLE, int4()), (LARGE, int4()), (SMALL, int8)];
    let tensors = expected_tensors(&config);
    let layer = |tensor: &str| {
        if tensor == EMBED_TOKENS { TOKEN_TABLE.to_owned() } else { layer_of(tensor).to_owned() }
    };
    let shape = |name: &str| &tensors.iter().find(|tensor| layer(&tensor.name) == name).unwrap().shape;
    let input = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
    let mut layout = Layout::new(&config);
    for (name, scheme) in quantized {
        let found = layout.quantize(name, scheme, false).unwrap().unwrap();
        assert_eq!(found, shape(name)[..], "{name}");
        assert_eq!(layout.quantize(name, scheme, false).unwrap(), None, "{name} is quantized already");
    }
    let is_float = |tensor: &&ExpectedTensor| !quantized.iter().any(|(name, _)| *name == layer(&tensor.name));
    let floats: Vec<&str> = tensors.iter().filter(is_float).map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(layout.float_names(), floats);
    let mut writer = CheckpointWriter::create(&dir, &config, &layout, false).unwrap();
    let mut layers = ImportedLayers::new(QuantizationType::Dynamic, ActivationGranularity::PerToken);
    assert!(layers.is_empty());
    for (name, scheme) in quantized {
        layers.write(&mut writer, name, &matrix(shape(name), scheme), input).unwrap();
    }
    assert!(!layers.is_empty());
    assert_eq!(layers.len(), 4);
    for tensor in tensors.iter().filter(is_float) {
        writer.write_f32(&tensor.name, &vec![0.5; tensor.shape.iter().product()]).unwrap();
        if let [rows, cols] = tensor.shape[..] {
            layers.skip(layer_of(&tensor.name), [rows, cols], "float in the file".to_owned());
        }
    }
    let metadata = layers.metadata("gptq", Lineage::default()).unwrap();
    writer.finish(&SaveRequest { metadata: Some(&metadata), ..SaveRequest::default() }).unwrap();

    let checkpoint = Checkpoint::open(&dir).unwrap();
    checkpoint.check_layers().unwrap();
    let read = checkpoint.require_quantized().unwrap();
    let names: Vec<&str> = read.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, [LARGE, SMALL, HEAD], "the head is the last layer of a forward pass");
    let embedding = read.embedding.as_ref().unwrap();
    assert_eq!((embedding.name.as_str(), embedding.scheme), (TOKEN_TABLE, int4()));
    // Most values have four bits: those of the table and of the large layer.
    assert_eq!((read.bits, read.granularity), (Bits::Int4, int4().granularity));
    assert_eq!((read.mode, read.method.as_str()), (QuantizationMode::Unrecorded, "gptq"));
    assert!(read.layers.iter().all(|layer| layer.error.sqnr_db.is_nan()));
    assert!(
        read.skipped.iter().any(|layer| layer.name == "layers.1.mlp.down_proj" && layer.shape == [12, 7])
    );
    let (found, found_input) = checkpoint.read_quantized(LARGE).unwrap().unwrap();
    assert_eq!((found, found_input), (matrix(shape(LARGE), int4()), input));
    let file = sha256_of_file(&dir.join("model.safetensors")).unwrap();
    assert_eq!(checkpoint.weights_sha256().unwrap(), file);

    // The same, one tensor at a time.
    let mut source = CheckpointSource::new(&checkpoint);
    let [rows, cols] = shape(LARGE)[..] else { panic!("a matrix") };
    let weight = source.take_linear(LARGE, rows, cols, &Device::flex()).unwrap();
    let Some(Weight::Packed(packed)) = weight else { panic!("{weight:?}") };
    assert_eq!((packed.matrix().unpack(), packed.activation()), (matrix(shape(LARGE), int4()), input));
    assert!(source.take_linear("layers.1.mlp.down_proj", 12, 7, &Device::flex()).unwrap().is_none());
    assert_eq!(source.shape("norm.weight"), Some(vec![12]));
    assert_eq!(source.shape("nonsense"), None);
    assert_eq!(source.take_f32("norm.weight", &[12]).unwrap(), [0.5; 12]);
    assert!(source.take_f32("norm.weight", &[6, 2]).is_err());
}

#[test]
fn without_quantized_layers_there_is_no_metadata() {
    let layers = ImportedLayers::new(QuantizationType::WeightOnly, ActivationGranularity::PerToken);
    assert_eq!(layers.len(), 0);
    assert!(layers.metadata("rtn", Lineage::default()).is_none());
    assert_eq!([layer_of("norm.weight"), layer_of("q_proj.bias")], ["norm", "q_proj.bias"]);
}

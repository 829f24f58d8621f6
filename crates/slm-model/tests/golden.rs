//! Tests with the reference models of the shared folder: logits, greedy continuations and losses, in float on every
//! inference path, and the error of quantization.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use safetensors::{Dtype, SafeTensors};
use slm_kernels::{KernelKind, PackedMatrix};
use slm_model::arch::{HfConfig, read_config};
use slm_model::{
    CpuEngine, ExpectedTensor, GenerateOptions, SamplingOptions, SourceError, TensorSource, Transformer,
    evaluate, expected_tensors, generate,
};
use slm_nn::{NamedLinears, PackedWeight, Weight, to_vec_f32};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, ObserverKind, QuantScheme, quantize_matrix,
};

/// The largest difference from the reference's logits that counts as rounding.
const TOLERANCE: f32 = 1e-3;

/// Folder of the reference models; prints a line and returns `None` if it is missing.
fn models() -> Option<PathBuf> {
    let shared = std::env::var_os("SLM_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let models = shared.join("models");
    if !models.is_dir() {
        println!("skipped: no reference models at {}", models.display());
        return None;
    }
    Some(models)
}

/// The tensors of a folder as f32, under the names of its files.
struct Files {
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
    config: HfConfig,
    expected: HashMap<String, ExpectedTensor>,
    prefixed: bool,
}

impl Files {
    fn read(folder: &Path) -> Self {
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let config = read_config(&config).unwrap();
        assert!(config.unrecognized.is_empty(), "{:?}", config.unrecognized);
        let mut tensors = HashMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !(name.starts_with("model") && name.ends_with(".safetensors")) {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                if config.architecture.is_constant(&name) {
                    continue;
                }
                let values = match view.dtype() {
                    Dtype::F32 => to_vec(view.data(), f32::from_le_bytes),
                    Dtype::F16 => to_vec(view.data(), |b| half::f16::from_le_bytes(b).to_f32()),
                    Dtype::BF16 => to_vec(view.data(), |b| half::bf16::from_le_bytes(b).to_f32()),
                    dtype => panic!("{name}: {dtype:?}"),
                };
                tensors.insert(name, (view.shape().to_vec(), values));
            }
        }
        let prefixed = tensors.keys().any(|name| name.starts_with(config.architecture.prefix()));
        let expected = expected_tensors(&config.model).into_iter().map(|t| (t.name.clone(), t)).collect();
        Self { tensors, config, expected, prefixed }
    }
}

impl TensorSource for Files {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.expected.get(name).map(|tensor| tensor.shape.clone())
    }
    fn take_f32(&mut self, name: &str, _: &[usize]) -> Result<Vec<f32>, SourceError> {
        let HfConfig { architecture, model, .. } = &self.config;
        let source = architecture.tensor_source(model, &self.expected[name], self.prefixed);
        let (shape, values) = self.tensors.get(&source.tensor).ok_or(format!("no {}", source.tensor))?;
        assert_eq!(*shape, source.shape, "{name}");
        Ok(source.apply(values.clone()))
    }
}

fn to_vec<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| convert(chunk.try_into().unwrap())).collect()
}

/// Expected results of a model for one prompt.
struct Prompt {
    ids: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn prompts(folder: &Path) -> Vec<Prompt> {
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids_of = |key: &str| -> Option<Vec<u32>> {
        let ids = to_vec(file.tensor(key).ok()?.data(), i64::from_le_bytes);
        Some(ids.into_iter().map(|id| id as u32).collect())
    };
    let prompts: Vec<Prompt> = (0..)
        .map_while(|i| {
            let logits = file.tensor(&format!("prompt{i}.logits")).ok()?;
            Some(Prompt {
                ids: ids_of(&format!("prompt{i}.input_ids"))?,
                logits: to_vec(logits.data(), f32::from_le_bytes),
                greedy: ids_of(&format!("prompt{i}.greedy"))?,
            })
        })
        .collect();
    assert_eq!(prompts.len(), 4);
    prompts
}

fn by_burn(model: &Transformer, ids: &[u32]) -> Vec<f32> {
    to_vec_f32("logits", model.forward(model.ids_tensor(ids))).unwrap()
}

fn by_engine(model: &Transformer, ids: &[u32]) -> Vec<f32> {
    CpuEngine::new(model, ids.len()).unwrap().forward(ids).unwrap().to_vec()
}

/// The largest error of each position.
fn position_errors(found: &[f32], expected: &[f32], vocab_size: usize) -> Vec<f32> {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|value| value.is_finite()));
    let rows = found.chunks_exact(vocab_size).zip(expected.chunks_exact(vocab_size));
    rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)).collect()
}

/// Greedy continuation by tensor operations with a cache.
fn continued_by_burn(model: &Transformer, ids: &[u32], count: usize) -> Vec<u32> {
    let mut cache = model.new_cache(1, ids.len() + count);
    let (mut next, mut found) = (ids.to_vec(), Vec::new());
    for _ in 0..count {
        let logits = to_vec_f32("logits", model.forward_last(model.ids_tensor(&next), &mut cache)).unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        found.push(best);
        next = vec![best];
    }
    found
}

fn check(name: &str) {
    let Some(models) = models() else { return };
    let folder = models.join(name);
    let prompts = prompts(&folder);
    for device in slm_nn::cpu_devices() {
        let mut files = Files::read(&folder);
        let config = files.config.model.clone();
        let mut model = Transformer::from_tensors(&config, &mut files, &device).unwrap();
        let training = Transformer::from_tensors(&config, &mut files, &device.clone().autodiff()).unwrap();
        for (index, Prompt { ids, logits, greedy }) in prompts.iter().enumerate() {
            let what = format!("{name} on {device:?}, prompt {index}");
            for (way, found) in [
                ("Burn", by_burn(&model, ids)),
                ("slm-autograd", by_burn(&training, ids)),
                ("CPU engine", by_engine(&model, ids)),
            ] {
                let worst =
                    position_errors(&found, logits, config.vocab_size).into_iter().fold(0.0, f32::max);
                println!("{what} by {way}: largest logit difference {worst:e}");
                assert!(worst <= TOLERANCE, "{what} by {way}: {worst}");
            }
            let options = GenerateOptions {
                max_new_tokens: greedy.len(),
                sampling: SamplingOptions::default(),
                stop_ids: vec![],
            };
            let output = generate(&model, ids, &options, |_| ControlFlow::Continue(())).unwrap();
            assert_eq!((output.ids.len(), &output.ids), (32, greedy), "{what}");
            assert_eq!(&continued_by_burn(&model, ids, greedy.len()), greedy, "{what}");

            let nll = evaluate(&model, ids, ids.len(), |_, _| {}).unwrap().nll;
            let reference = nll_of(logits, ids, config.vocab_size);
            assert!((nll - reference).abs() < 1e-4 * reference, "{what}: {nll} {reference}");
        }
        check_quantized(name, &device, &mut model, &prompts);
    }
}

/// Quantizes every linear layer, and reports how far logits move.
fn check_quantized(name: &str, device: &Device, model: &mut Transformer, prompts: &[Prompt]) {
    model.untie_head();
    let vocab_size = model.config().vocab_size;
    let float = model.clone();
    let dynamic = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
    for (scheme_name, bits, granularity, most) in [
        ("INT8 channel dynamic", Bits::Int8, Granularity::PerChannel, 0.15),
        ("INT4 group:32 dynamic", Bits::Int4, Granularity::PerGroup { group_size: 32 }, 1.0),
    ] {
        let mut quantized = float.clone();
        let scheme = QuantScheme::per_tensor(bits).with_granularity(granularity);
        quantized.for_each_linear_mut(&mut |_, linear| {
            let [rows, cols] = linear.weight.dims();
            let values = to_vec_f32("weight", linear.float_weight().unwrap()).unwrap();
            let matrix = quantize_matrix(&values, rows, cols, scheme, &ObserverKind::MinMax).unwrap();
            let packed = PackedMatrix::new(matrix, KernelKind::select().unwrap()).unwrap();
            linear.weight = Weight::Packed(PackedWeight::new(Arc::new(packed), dynamic));
        });
        let (mut square, mut size, mut worst, mut apart) = ([0.0; 2], 0.0, [0.0_f32; 2], 0.0_f32);
        for Prompt { ids, logits, .. } in prompts {
            let ways = [by_burn(&quantized, ids), by_engine(&quantized, ids)];
            size += logits.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            for (way, found) in ways.iter().enumerate() {
                let errors = position_errors(found, logits, vocab_size);
                worst[way] = errors.into_iter().fold(worst[way], f32::max);
                let squares = found.iter().zip(logits).map(|(a, b)| f64::from(a - b).powi(2));
                square[way] += squares.sum::<f64>();
            }
            apart = position_errors(&ways[0], &ways[1], vocab_size).into_iter().fold(apart, f32::max);
        }
        for (way, way_name) in ["Burn", "CPU engine"].into_iter().enumerate() {
            let relative = (square[way] / size).sqrt();
            println!(
                "| {name} | {scheme_name} | {way_name} on {device:?} | {:.4} | {:.4} | {apart:.4} |",
                relative, worst[way]
            );
            assert!(relative > 1e-4 && relative < most, "{name}, {scheme_name}, {way_name}: {relative}");
        }
        // A code that a last bit rounds differently moves the logits of its position by about this much.
        assert!(apart < 0.5, "{name}, {scheme_name}: the two ways differ by {apart} at a position");
    }
}

/// Negative log-likelihood of all ids but the first, from the reference logits.
fn nll_of(logits: &[f32], ids: &[u32], vocab_size: usize) -> f64 {
    let rows = logits.chunks_exact(vocab_size);
    rows.zip(&ids[1..])
        .map(|(row, &next)| {
            let total: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
            total.ln() - f64::from(row[next as usize])
        })
        .sum()
}

macro_rules! models {
    ($($test:ident: $name:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            check($name);
        }
    )*};
}

models! {
    golden_stories260k: "stories260k",
    golden_tiny_gemma3: "tiny-gemma3",
    golden_tiny_gpt2: "tiny-gpt2",
    golden_tiny_gpt_neox: "tiny-gpt-neox",
    golden_tiny_granite: "tiny-granite",
    golden_tiny_llama: "tiny-llama",
    golden_tiny_mistral: "tiny-mistral",
    golden_tiny_mistral_swa: "tiny-mistral-swa",
    golden_tiny_olmo2: "tiny-olmo2",
    golden_tiny_phi3: "tiny-phi3",
    golden_tiny_qwen2: "tiny-qwen2",
    golden_tiny_qwen3: "tiny-qwen3",
    golden_tiny_smollm2: "tiny-smollm2",
    golden_tiny_smollm3: "tiny-smollm3",
    golden_tiny_stablelm: "tiny-stablelm",
}

//! Measures the time in milliseconds of a training step and of its parts, for the model, batch and optimizer of the
//! project's comparison with PyTorch: 4.95 million parameters, 16 sequences of 128 tokens.
//!
//! `cargo run --release -p slm-train --example train_speed -- TEXT [THREADS] [STEPS]`, with a text of 200 kB or more
//! to train on.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use slm_model::Transformer;
use slm_train::{StepReport, TrainObserver, Trainer, TrainingConfig};

const BATCH: usize = 16;
const LENGTH: usize = 128;

const CONFIG: &str = r#"
[model]
vocab_size = 2048
hidden_size = 256
intermediate_size = 704
num_layers = 6
num_heads = 8
num_kv_heads = 4
max_position_embeddings = 256
norm = "rms_norm"
mlp = "swiglu"
tie_word_embeddings = true

[training]
steps = 1
batch_size = 16
sequence_length = 128
validation_windows = 1
eval_interval = 0
save_interval = 0
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = slm_text::read_text(arguments.next().ok_or("name a text to train on")?)?;
    let arguments: Vec<usize> = arguments.map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    let threads = arguments.first().copied().unwrap_or(0);
    let steps = arguments.get(1).copied().unwrap_or(10).max(1);
    // As the program does.
    slm_runtime::keep_freed_memory();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let training: TrainingConfig = slm_train::parse_toml(CONFIG, "the config of the comparison", &[])?;
    let config = training.model.clone();

    let device = Device::flex().autodiff();
    let model = Transformer::new(&config, 1, &device)?;
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for step in 0..=steps {
        let ids: Vec<u32> =
            (0..BATCH * LENGTH).map(|i| ((i * 7919 + step * 31) % config.vocab_size) as u32).collect();
        let values: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let inputs = Tensor::<2, Int>::from_data(TensorData::new(values, [BATCH, LENGTH]), &device);
        let started = Instant::now();
        let logits = model.forward(inputs).reshape([BATCH * LENGTH, config.vocab_size]);
        let loss = slm_autograd::cross_entropy(logits, &ids);
        forward.push(started.elapsed());
        let started = Instant::now();
        let _gradients = GradientsParams::from_grads(loss.backward(), &model);
        backward.push(started.elapsed());
    }
    drop(model);

    let mut observer = Steps::default();
    let dir = tempfile::tempdir()?;
    let mut training = training;
    training.training.steps = steps + 1;
    let out = dir.path().join("out");
    Trainer::new(training, &text, &Device::flex(), out, false)?
        .run(&mut observer, &AtomicBool::new(false))?;

    let median = |times: &[f64]| {
        let mut times = times[1..].to_vec();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2] * 1e3
    };
    let seconds = |times: &[std::time::Duration]| times.iter().map(|t| t.as_secs_f64()).collect::<Vec<_>>();
    let (forward, backward) = (median(&seconds(&forward)), median(&seconds(&backward)));
    let whole = median(&observer.0);
    println!("threads {}, {steps} steps after one to warm up, medians", rayon::current_num_threads());
    println!("forward and loss {forward:7.1} ms");
    println!("backward         {backward:7.1} ms");
    println!("the rest         {:7.1} ms  (clipping, AdamW, data)", whole - forward - backward);
    println!("step             {whole:7.1} ms  {:.0} tokens/s", (BATCH * LENGTH) as f64 / whole * 1e3);
    Ok(())
}

#[derive(Default)]
struct Steps(Vec<f64>);

impl TrainObserver for Steps {
    fn on_step(&mut self, _report: &StepReport, seconds: f64) {
        self.0.push(seconds);
    }
}

//! Times the forward pass of a 15M-parameter model (288 wide, 6 layers, 6 heads, vocabulary 32000) on the CPU
//! devices: a prompt of 256 tokens, single tokens with a KV cache, and a training step.
//!
//! `cargo run --release -p slm-model --features ndarray --example forward_speed`

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Int, Tensor};
use slm_model::{ModelConfig, Transformer};

fn main() -> Result<(), slm_model::Error> {
    let config = ModelConfig::new(32000, 288, 768, 6, 6, 1024);
    println!("{} parameters", config.parameter_count());
    for device in slm_nn::cpu_devices() {
        let model = Transformer::new(&config, 0, &device)?;
        let ids: Vec<u32> = (0..256).map(|i| i * 97 % 32000).collect();
        let full = best_ms(5, || drop(model.forward(model.ids_tensor(&ids)).into_data()));
        let prompt = best_ms(5, || {
            drop(model.forward_last(model.ids_tensor(&ids), &mut model.new_cache(1, 256)).into_data());
        });
        println!("{device:?}: 256 rows {full:.1} ms, with the head on the last row only {prompt:.1} ms");
        for held in [0, 256, 960] {
            let mut cache = model.new_cache(1, 1024);
            for chunk in ids.repeat(4)[..held].chunks(64) {
                model.forward_last(model.ids_tensor(chunk), &mut cache);
            }
            let row = best_ms(41, || {
                cache.truncate(held);
                drop(model.forward_last(model.ids_tensor(&[5]), &mut cache).into_data());
            });
            println!("{device:?}: 1 row after {held} cached {row:.2} ms");
        }
        let training = Transformer::new(&config, 0, &device.clone().autodiff())?;
        let step = best_ms(3, || {
            let logits = training.forward(training.ids_tensor(&ids)).reshape([256, 32000]);
            let targets: Tensor<1, Int> = training.ids_tensor(&ids).reshape([256]);
            drop(CrossEntropyLossConfig::new().init(&training.device()).forward(logits, targets).backward());
        });
        println!("{device:?}: forward and backward of 256 rows {step:.1} ms");
    }
    Ok(())
}

/// Shortest wall time of `runs` runs after a warm-up run, because other processes can only add time.
fn best_ms(runs: usize, mut run: impl FnMut()) -> f64 {
    run();
    (0..runs)
        .map(|_| {
            let clock = Instant::now();
            run();
            clock.elapsed().as_secs_f64() * 1e3
        })
        .fold(f64::INFINITY, f64::min)
}

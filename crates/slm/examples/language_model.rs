//! A language model from checkpoint to text: load, quantize, evaluate, generate.
//! `cargo run --example language_model CHECKPOINT TEXT`

use std::ops::ControlFlow;

use burn::prelude::*;
use slm::checkpoint::Checkpoint;
use slm::model::{GenerateOptions, SamplingOptions, evaluate, generate};
use slm::prelude::*;
use slm_text::{Tokenizer, read_text};

const WINDOW: usize = 256;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    // The defaults ship with slm.
    let shipped = |name: &str| format!("{}/../../{name}", env!("CARGO_MANIFEST_DIR"));
    let dir = arguments.next().unwrap_or_else(|| shipped("models/stories"));
    let text = arguments.next().unwrap_or_else(|| shipped("data/held-out.txt"));

    // Files are verified against their checksums while they are read.
    let checkpoint = Checkpoint::open(&dir)?;
    let tokenizer = checkpoint.tokenizer_json().ok_or("the checkpoint has no tokenizer")?;
    let tokenizer = Tokenizer::from_json(std::str::from_utf8(tokenizer)?, &dir)?;
    let mut model = checkpoint.load_model(&Device::flex())?;

    // 4-bit weights in groups of 32. The first half of the text shows which inputs are large.
    let ids = tokenizer.encode_long(&read_text(&text)?, 8 * WINDOW)?;
    let (calibration, held_out) = ids.split_at(ids.len() / 2);
    let (quantized, report) = Quantizer::int4()
        .calibrate(&mut model, |model| {
            calibration.chunks(WINDOW).for_each(|ids| drop(model.forward(model.ids_tensor(ids))));
        })?
        .convert(model.clone())?;
    println!("{report}");

    // The second half measures the effect.
    let perplexity = |model| evaluate(model, held_out, WINDOW, |_, _| ()).map(|found| found.perplexity());
    println!("perplexity: {:.4} float, {:.4} quantized", perplexity(&model)?, perplexity(&quantized)?);

    let prompt = "Once upon a time";
    let options = GenerateOptions {
        max_new_tokens: 32,
        sampling: SamplingOptions { temperature: 0.7, seed: 1, ..SamplingOptions::default() },
        stop_ids: checkpoint.config().tokenizer.eos_token_ids.clone(),
    };
    let ids = tokenizer.encode_prompt(prompt)?.ids;
    let output = generate(&quantized, &ids, &options, |_| ControlFlow::Continue(()))?;
    println!("{prompt}{}", tokenizer.decode(&output.ids)?);
    Ok(())
}

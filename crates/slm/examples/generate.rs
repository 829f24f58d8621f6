//! Text generation from a checkpoint that `slm ptq` wrote: `cargo run --example generate DIR PROMPT`.

use std::io::Write;
use std::ops::ControlFlow;

use burn::prelude::*;
use slm::checkpoint::Checkpoint;
use slm::model::{GenerateOptions, SamplingOptions, generate};
use slm_text::Tokenizer;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    // The default is the shipped model.
    let shipped = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/stories").to_owned();
    let dir = arguments.next().unwrap_or_else(shipped);
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time".to_owned());

    // A checkpoint may be float or quantized, in any format version. Its files are verified against their checksums
    // while they are read.
    let checkpoint = Checkpoint::open(&dir)?;
    let tokenizer = checkpoint.tokenizer_json().ok_or("the checkpoint has no tokenizer")?;
    let tokenizer = Tokenizer::from_json(std::str::from_utf8(tokenizer)?, &dir)?;
    let model = checkpoint.load_model(&Device::flex())?;

    let options = GenerateOptions {
        max_new_tokens: 32,
        sampling: SamplingOptions { temperature: 0.7, seed: 1, ..SamplingOptions::default() },
        stop_ids: checkpoint.config().tokenizer.eos_token_ids.clone(),
    };
    let ids = tokenizer.encode_prompt(&prompt)?.ids;
    let mut stream = tokenizer.stream();
    let mut text = String::new();
    let output = generate(&model, &ids, &options, |id| {
        let piece = stream.push(id).unwrap_or_default();
        print!("{piece}");
        let shown = std::io::stdout().flush().is_ok();
        text.push_str(&piece);
        if shown { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    println!("\n{} tokens, {:.0} tokens/s", output.ids.len(), output.decode_tokens_per_second());
    assert!(!text.is_empty(), "the model said nothing");
    Ok(())
}

//! Generation of text, piece by piece as it is decoded.

use std::ops::ControlFlow;

use slm_model::{GenerateOptions, GenerateOutput, Generator};
use slm_text::TextStream;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// Continues `prompt`, and calls `on_text` with each piece of text that `stream` decodes. Ends early if `on_text`
/// breaks or fails, and on Ctrl-C.
pub(super) fn generate_text(
    generator: &mut Generator<'_>,
    prompt: &[u32],
    options: &GenerateOptions,
    stream: &mut TextStream<'_>,
    interrupt: &Interrupt,
    mut on_text: impl FnMut(String) -> Result<ControlFlow<()>>,
) -> Result<GenerateOutput> {
    let mut failed = None;
    let output = generator.generate(prompt, options, |id| {
        match stream.push(id).map_err(Error::from).and_then(&mut on_text) {
            Ok(ControlFlow::Continue(())) if interrupt.is_set() => ControlFlow::Break(()),
            Ok(flow) => flow,
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(output), Err)
}

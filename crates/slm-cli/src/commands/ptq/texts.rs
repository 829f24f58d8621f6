//! The texts of a quantization: one for calibration, and a held-out one for the perplexities.

use std::fs;
use std::path::Path;

use slm_checkpoint::{Checkpoint, sha256, sha256_of_file};
use slm_model::{Sampler, SamplingOptions, Transformer};
use slm_text::{Data, Tokenizer, split};

use super::PtqArgs;
use super::inputs::{CalibrationSource, RunInputs};
use crate::context::Context;
use crate::drawing::{DEFAULT_BATCH_SIZE, Sizes, draw_sequences, first_token, text_of};
use crate::error::{Error, Result};
use crate::text::{Limit, Tokens, Windowing};

/// Share of the calibration text that is held out if there is no other text.
const HELD_OUT: f64 = 0.1;

/// Maximum number of tokens in each sequence of a sampled text.
const SAMPLED_LENGTH: usize = 512;

/// The texts as token ids.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) calibration: Option<CalibrationText>,
    pub(super) held_out: Option<HeldOut>,
}

/// Calibration text.
pub(super) struct CalibrationText {
    pub(super) ids: Vec<u32>,
    pub(super) sha256: String,
}

/// Text on which perplexities are measured.
pub(super) struct HeldOut {
    pub(super) windows: Vec<Vec<u32>>,
    /// Description for users: the file, and which part of it.
    pub(super) part: String,
}

/// A reader of the texts of one run.
pub(super) struct TextReader<'a> {
    pub(super) context: &'a Context,
    pub(super) args: &'a PtqArgs,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) vocab_size: usize,
    pub(super) windowing: &'a Windowing,
    /// Maximum number of tokens to calibrate on.
    pub(super) calibration_tokens: usize,
}

impl TextReader<'_> {
    /// Reads the texts that `settings` name.
    pub(super) fn read(&self, settings: &RunInputs) -> Result<Texts> {
        let mut texts = Texts::default();
        let (calibration, evaluation) = (self.calibration_limit(), self.evaluation_limit());
        if settings.calibration.is_some() {
            calibration.check(self.windowing.len)?;
        }
        if settings.calibration.is_some() || settings.eval.is_some() {
            evaluation.check(if self.args.no_eval { 0 } else { self.windowing.len })?;
        }
        match (settings.calibration.as_ref().and_then(CalibrationSource::path), &settings.eval) {
            (Some(path), None) if !self.args.no_eval => return self.read_both(path),
            (Some(path), _) => {
                let tokens = self.tokens(path, calibration.tokens)?;
                tokens.check_length(path, self.windowing, calibration)?;
                texts.calibration = Some(calibration_text(path, tokens)?);
            }
            (None, _) => {}
        }
        if let Some(path) = settings.eval.as_ref().filter(|_| !self.args.no_eval) {
            let tokens = self.tokens(path, evaluation.tokens)?;
            tokens.check_length(path, self.windowing, evaluation)?;
            texts.held_out = Some(self.held_out(&tokens, path.display().to_string()));
        }
        Ok(texts)
    }

    /// Lets `model`, the float model of `checkpoint`, write the calibration text.
    pub(super) fn sample(&self, checkpoint: &Checkpoint, model: &Transformer) -> Result<CalibrationText> {
        let length = SAMPLED_LENGTH.min(model.config().max_position_embeddings);
        let sequences = self.calibration_tokens.div_ceil(length);
        let sizes = Sizes { sequences, length, batch_size: DEFAULT_BATCH_SIZE };
        let options = SamplingOptions { temperature: 1.0, ..SamplingOptions::default() };
        let sampler = |seed| Ok(Sampler::new(SamplingOptions { seed, ..options })?);
        let sequences = draw_sequences(model, first_token(checkpoint)?, sizes, sampler, self.context)?;
        // Tokens that the tokenizer would not make of the text are unusual in the model's input.
        let text = text_of(&sequences, self.tokenizer)?;
        let ids = self.tokenizer.encode_long(&text, self.calibration_tokens)?;
        if ids.len() < self.windowing.len {
            return Err(Error::Usage(format!(
                "--sample-calibration: the model wrote {} tokens of text, fewer than a window of {}; use --calibration \
                 FILE, or a smaller --window",
                ids.len(),
                self.windowing.len
            )));
        }
        Ok(CalibrationText { ids, sha256: sha256(text.as_bytes()) })
    }

    fn calibration_limit(&self) -> Limit<'static> {
        Limit { option: "--calibration-tokens", tokens: self.calibration_tokens }
    }

    fn evaluation_limit(&self) -> Limit<'static> {
        Limit { option: "--eval-tokens", tokens: self.args.eval_tokens }
    }

    fn tokens(&self, path: &Path, limit: usize) -> Result<Tokens> {
        Tokens::read(self.tokenizer, path, limit, self.vocab_size, self.context)
    }

    fn held_out(&self, tokens: &Tokens, part: String) -> HeldOut {
        HeldOut { windows: tokens.windows(self.windowing), part }
    }

    /// Calibrates on the beginning of a text and holds out its end: the last tenth, but at least one window.
    fn read_both(&self, path: &Path) -> Result<Texts> {
        let _spinner = self.context.progress.spinner("reading the text");
        let _waiting = self.context.interrupt.while_reading(path);
        let (before, after) = match Data::open(path)? {
            Data::Text(reader) => self.split_text(path, &reader.read_to_end()?)?,
            Data::Ids(ids) => {
                slm_train::check_sequences(path, &ids, self.vocab_size)?;
                match ids.len() {
                    1 => self.split_tokens(path, ids.into_iter().flatten().collect())?,
                    count => {
                        let mut before = ids;
                        let after = before.split_off(count - (count / 10).max(1));
                        (Tokens::of(before), Tokens::of(after))
                    }
                }
            }
        };
        let (before, after) = (before.limited(self.calibration_tokens), after.limited(self.args.eval_tokens));
        Ok(Texts {
            calibration: Some(calibration_text(path, before)?),
            held_out: Some(self.held_out(&after, format!("the end of {}", path.display()))),
        })
    }

    /// Splits at a line, so that `slm qat` holds out the same text for the same share.
    fn split_text(&self, path: &Path, text: &str) -> Result<(Tokens, Tokens)> {
        let (before, after) = split(text, HELD_OUT);
        let before = self.tokenizer.encode_long(before, self.calibration_tokens)?;
        let after = self.tokenizer.encode_long(after, self.args.eval_tokens)?;
        if before.len() >= self.windowing.len && after.len() >= self.windowing.len {
            return Ok((Tokens::of(vec![before]), Tokens::of(vec![after])));
        }
        self.split_tokens(path, self.tokenizer.encode_long(text, usize::MAX)?)
    }

    fn split_tokens(&self, path: &Path, mut ids: Vec<u32>) -> Result<(Tokens, Tokens)> {
        let (found, window) = (ids.len(), self.windowing.len);
        if found < 2 * window {
            return Err(Error::file(
                path,
                format!(
                    "the text is {found} tokens long; to calibrate on one window of {window} tokens and to hold one out \
                     for the perplexities takes {}: use a longer text, another one for --eval, --no-eval, or a \
                     smaller --window",
                    2 * window
                ),
            ));
        }
        let after = ids.split_off(found - (found / 10).max(window));
        Ok((Tokens::of(vec![ids]), Tokens::of(vec![after])))
    }
}

fn calibration_text(path: &Path, tokens: Tokens) -> Result<CalibrationText> {
    let ids: Vec<u32> = tokens.sequences.into_iter().flatten().collect();
    // A pipe cannot be read twice, so its tokens are used.
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    let sha256 = if is_file {
        sha256_of_file(path)?
    } else {
        sha256(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
    };
    Ok(CalibrationText { ids, sha256 })
}

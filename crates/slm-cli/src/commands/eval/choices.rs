//! Multiple-choice questions, scored as in lm-evaluation-harness.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use slm_checkpoint::Checkpoint;
use slm_model::{EvalWindow, Transformer, window_logits, window_nlls};
use slm_text::Tokenizer;

use crate::context::Context;
use crate::error::{Error, Result};

/// Size limit of one line of the file, in bytes.
const LONGEST_LINE: u64 = 1 << 20;

/// One line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    context: String,
    choices: Vec<String>,
    answer: Answer,
}

/// The correct choice: its index from 0, or its text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Index(usize),
    Text(String),
}

impl Question {
    fn answer(&self) -> Option<usize> {
        match &self.answer {
            Answer::Index(index) => Some(*index).filter(|&index| index < self.choices.len()),
            Answer::Text(text) => self.choices.iter().position(|choice| choice == text),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ChoicesResult {
    questions: usize,
    /// Share of questions whose correct choice is the most likely one.
    accuracy: f64,
    accuracy_standard_error: f64,
    /// The same share, with the likelihood normalized by the number of characters of the choice.
    accuracy_normalized: f64,
    accuracy_normalized_standard_error: f64,
    /// Number of questions whose text was cut at the left to fit the model.
    cut: usize,
}

impl ChoicesResult {
    /// Share of questions whose correct choice is the most likely one.
    pub(super) fn accuracy(&self) -> f64 {
        self.accuracy
    }

    pub(super) fn line(&self) -> String {
        let cut = match self.cut {
            0 => String::new(),
            cut => format!(
                "\n{:18}{cut} questions were longer than the model's positions and cut at the left",
                ""
            ),
        };
        format!(
            "accuracy          {:.4} (± {:.4}), length-normalized {:.4} (± {:.4}), {} questions{cut}",
            self.accuracy,
            self.accuracy_standard_error,
            self.accuracy_normalized,
            self.accuracy_normalized_standard_error,
            self.questions
        )
    }
}

/// Scores the questions of `path`.
pub(super) fn run(
    path: &Path,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    model: &Transformer,
    context: &Context,
) -> Result<ChoicesResult> {
    let questions = read(path)?;
    let bar = context.progress.bar("scoring", questions.len());
    let (mut right, mut right_normalized, mut cut) = (0, 0, 0);
    for (line, question) in &questions {
        context.interrupt.check()?;
        let mut scores = Vec::with_capacity(question.choices.len());
        let mut was_cut = false;
        for choice in &question.choices {
            let pair = Pair::new(&question.context, choice, tokenizer, checkpoint)
                .map_err(|detail| Error::file(path, format!("line {line}: {detail}")))?;
            let most = model.config().max_position_embeddings;
            was_cut |= pair.ids.len() > most;
            let nll: f64 = pair.nll(model, most)?;
            scores.push((-nll, choice.chars().count().max(1) as f64));
        }
        cut += usize::from(was_cut);
        let answer = question.answer();
        right += usize::from(best(scores.iter().map(|(score, _)| *score)) == answer);
        right_normalized += usize::from(best(scores.iter().map(|(score, length)| score / length)) == answer);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let count = questions.len();
    let share = |right: usize| right as f64 / count as f64;
    let error = |share: f64| (share * (1.0 - share) / (count.max(2) - 1) as f64).sqrt();
    let (accuracy, normalized) = (share(right), share(right_normalized));
    Ok(ChoicesResult {
        questions: count,
        accuracy,
        accuracy_standard_error: error(accuracy),
        accuracy_normalized: normalized,
        accuracy_normalized_standard_error: error(normalized),
        cut,
    })
}

/// Index of the largest value; the first one if several are equal.
fn best(scores: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, score) in scores.enumerate() {
        if best.is_none_or(|(_, highest)| score > highest) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// Context and choice as token ids.
#[derive(Debug)]
struct Pair {
    ids: Vec<u32>,
    first_of_choice: usize,
}

impl Pair {
    /// Joins context and choice with a space, unless there is one. White space at the end of the context is tokenized
    /// with the choice.
    fn new(
        context: &str,
        choice: &str,
        tokenizer: &Tokenizer,
        checkpoint: &Checkpoint,
    ) -> std::result::Result<Self, String> {
        let said = |error: slm_text::Error| error.to_string();
        let begins_apart = choice.starts_with(char::is_whitespace) || context.ends_with(char::is_whitespace);
        let delimiter = if begins_apart || context.is_empty() { "" } else { " " };
        let mut ids = tokenizer.encode(&format!("{context}{delimiter}{choice}")).map_err(said)?;
        let mut first_of_choice = tokenizer.encode(context.trim_end()).map_err(said)?.len();
        if first_of_choice == 0 {
            let bos = checkpoint.config().tokenizer.bos_token_id;
            let bos = bos.ok_or("the context is empty, and the model has no beginning-of-sequence token")?;
            ids.insert(0, bos);
            first_of_choice = 1;
        }
        match first_of_choice < ids.len() {
            true => Ok(Self { ids, first_of_choice }),
            false => Err(format!("the choice {choice:?} adds no token to the context")),
        }
    }

    /// Negative log-likelihood of the choice. At most the last `most` tokens are fed to the model.
    fn nll(&self, model: &Transformer, most: usize) -> Result<f64> {
        let cut = self.ids.len().saturating_sub(most);
        let first_scored = self.first_of_choice.saturating_sub(cut).max(1);
        let window = EvalWindow { ids: &self.ids[cut..], first_scored };
        let logits = window_logits(model, window.ids)?;
        Ok(window_nlls(&logits, window, model.config().vocab_size)?.iter().sum())
    }
}

/// Reads the questions with their line numbers.
fn read(path: &Path) -> Result<Vec<(usize, Question)>> {
    let file = File::open(path).map_err(|source| slm_text::Error::Read { path: path.to_owned(), source })?;
    let mut reader = BufReader::new(file);
    let mut questions = Vec::new();
    for line in 1.. {
        let mut bytes = Vec::new();
        let limited = std::io::Read::by_ref(&mut reader);
        std::io::Read::take(limited, LONGEST_LINE)
            .read_until(b'\n', &mut bytes)
            .map_err(|error| Error::file(path, error))?;
        if bytes.is_empty() {
            break;
        }
        let refuse = |detail: String| Error::file(path, format!("line {line}: {detail}"));
        if bytes.len() as u64 == LONGEST_LINE {
            return Err(refuse("longer than 1 MiB".to_owned()));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let question: Question = serde_json::from_slice(&bytes).map_err(|error| {
            refuse(format!(
                "{error}; a line is {{\"context\": text, \"choices\": [texts], \"answer\": index or text}}"
            ))
        })?;
        if question.choices.len() < 2 {
            return Err(refuse("fewer than two choices".to_owned()));
        }
        if question.answer().is_none() {
            return Err(refuse("the answer is not one of the choices".to_owned()));
        }
        questions.push((line, question));
    }
    match questions.is_empty() {
        true => Err(Error::file(path, "it holds no question")),
        false => Ok(questions),
    }
}

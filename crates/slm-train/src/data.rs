//! Training data: text as tokens, split for training and validation, and cut into batches.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use slm_text::{Tokenizer, split};

use crate::{Error, Result, Sequences, TrainingConfig};

/// A text, tokenized and split.
#[derive(Debug, Clone)]
pub struct TrainingData {
    /// The tokenizer, trained on the training split or read from the file that the config names.
    pub tokenizer: Tokenizer,
    /// Tokens to train on.
    pub train: Vec<u32>,
    /// Positions in `train` at which a sequence may begin, for a corpus of sequences; `None` for a text, which has no
    /// sequence bounds.
    pub starts: Option<Vec<usize>>,
    /// Tokens to validate on.
    pub validation: Vec<u32>,
    /// SHA-256 of the text.
    pub sha256: String,
}

/// Inputs of one forward pass and the tokens they should predict, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `batch_size` rows of `sequence_length` tokens.
    pub inputs: Vec<u32>,
    /// The token after each input in the text.
    pub targets: Vec<u32>,
}

impl TrainingData {
    /// Splits `text`, trains or loads the tokenizer, and encodes both parts.
    ///
    /// The last `validation_fraction` of the text, from the next document or line on, is held out; a tokenizer
    /// that is trained sees none of it.
    ///
    /// # Errors
    /// [`Error::Text`] from the tokenizer, [`Error::Vocabulary`] for a tokenizer that does not fit the model, and
    /// [`Error::TextTooShort`] if a part has fewer tokens than a sequence needs.
    pub fn new(text: &str, config: &TrainingConfig) -> Result<Self> {
        let (train, _) = split(text, config.training.validation_fraction);
        let tokenizer = match &config.tokenizer.file {
            Some(file) => Tokenizer::from_file(file)?,
            None => {
                let sample = &train[..train.floor_char_boundary(config.tokenizer.train_bytes)];
                Tokenizer::train(sample, config.model.vocab_size)?
            }
        };
        Self::with_tokenizer(text, tokenizer, config)
    }

    /// Splits `text` and encodes both parts with a given tokenizer.
    ///
    /// # Errors
    /// As [`TrainingData::new`].
    pub fn with_tokenizer(text: &str, tokenizer: Tokenizer, config: &TrainingConfig) -> Result<Self> {
        let (tokens, model) = (tokenizer.vocab_size(), config.model.vocab_size);
        if tokens > model {
            return Err(Error::Vocabulary { tokens, model });
        }
        let (train, validation) = split(text, config.training.validation_fraction);
        let data = Self {
            train: tokenizer.encode_long(train, usize::MAX)?,
            validation: tokenizer.encode_long(validation, usize::MAX)?,
            sha256: slm_checkpoint::sha256(text.as_bytes()),
            starts: None,
            tokenizer,
        };
        data.check(config)
    }

    /// Splits sequences of token ids: the last `validation_fraction` of them is held out, each cut to whole
    /// windows of `sequence_length`.
    ///
    /// # Errors
    /// As [`TrainingData::with_tokenizer`].
    pub fn of_sequences(
        sequences: &Sequences,
        tokenizer: Tokenizer,
        config: &TrainingConfig,
    ) -> Result<Self> {
        let length = config.training.sequence_length;
        let all = &sequences.ids;
        let held_out = ((all.len() as f64 * config.training.validation_fraction) as usize).max(1);
        let (train, validation) = all.split_at(all.len().saturating_sub(held_out));
        let mut data = Self {
            tokenizer,
            train: Vec::new(),
            starts: None,
            validation: Vec::new(),
            sha256: sequences.sha256.clone(),
        };
        let mut starts = Vec::new();
        for sequence in train {
            let from = data.train.len();
            starts.extend(from..from + sequence.len().saturating_sub(length));
            data.train.extend_from_slice(sequence);
        }
        for sequence in validation {
            data.validation.extend_from_slice(&sequence[..sequence.len() / length * length]);
        }
        if starts.is_empty() {
            let found = train.iter().map(Vec::len).max().unwrap_or(0);
            return Err(Error::TextTooShort { part: "training", found, needed: length + 1 });
        }
        data.starts = Some(starts);
        data.check(config)
    }

    fn check(self, config: &TrainingConfig) -> Result<Self> {
        let length = config.training.sequence_length;
        for (part, found, needed) in
            [("training", self.train.len(), length + 1), ("validation", self.validation.len(), length)]
        {
            if found < needed {
                return Err(Error::TextTooShort { part, found, needed });
            }
        }
        Ok(self)
    }

    /// The `index`-th batch of a run: sequences from random places of the training split. They depend only on the seed
    /// and the index, so that a resumed run continues as if it had never stopped.
    pub fn batch(&self, seed: u64, index: u64, batch_size: usize, sequence_length: usize) -> Batch {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        let places = self.starts.as_ref().map_or(self.train.len() - sequence_length, Vec::len) as u64;
        let mut batch = Batch { inputs: Vec::new(), targets: Vec::new() };
        for _ in 0..batch_size {
            // The bias of the remainder is below places / 2^64.
            let place = (rng.next_u64() % places) as usize;
            let start = self.starts.as_ref().map_or(place, |starts| starts[place]);
            let window = &self.train[start..=start + sequence_length];
            batch.inputs.extend_from_slice(&window[..sequence_length]);
            batch.targets.extend_from_slice(&window[1..]);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny_config;
    use slm_text::corpus::Corpus;

    #[test]
    fn batches_are_windows_of_the_text_and_come_again() {
        let config = tiny_config();
        let data = TrainingData::new(&Corpus::new(1).text(200), &config).unwrap();
        assert_eq!(data.tokenizer.vocab_size(), config.model.vocab_size);
        let batch = data.batch(3, 5, 4, 16);
        assert_eq!(batch, data.batch(3, 5, 4, 16));
        assert_ne!(batch, data.batch(3, 6, 4, 16));
        assert_ne!(batch, data.batch(4, 5, 4, 16));
        assert_eq!((batch.inputs.len(), batch.targets.len()), (64, 64));
        for row in 0..4 {
            let (inputs, targets) = (&batch.inputs[row * 16..][..16], &batch.targets[row * 16..][..16]);
            assert_eq!(inputs[1..], targets[..15]);
            assert!(data.train.windows(16).any(|window| window == inputs));
        }
    }

    #[test]
    fn every_place_can_be_drawn_and_none_beyond() {
        let config = tiny_config();
        let mut data = TrainingData::new(&Corpus::new(1).text(200), &config).unwrap();
        data.train = (0..10).collect();
        let mut seen = [false; 10];
        for index in 0..200 {
            seen[data.batch(0, index, 1, 4).inputs[0] as usize] = true;
        }
        assert_eq!(seen, [true, true, true, true, true, true, false, false, false, false]);
    }

    #[test]
    fn sequences_are_never_crossed() {
        let config = tiny_config();
        let text = Corpus::new(1).text(200);
        let tokenizer = TrainingData::new(&text, &config).unwrap().tokenizer;
        // Each sequence repeats one token, so that a window that crosses two sequences is detected.
        let ids: Vec<Vec<u32>> = (0..20).map(|i| vec![i; 30]).collect();
        let sequences = Sequences { ids, sha256: "0".to_owned() };
        let data = TrainingData::of_sequences(&sequences, tokenizer.clone(), &config).unwrap();
        assert_eq!((data.train.len(), data.validation.len()), (18 * 30, 2 * 24));
        let mut seen = [false; 20];
        for index in 0..100 {
            let batch = data.batch(0, index, 2, 24);
            for row in 0..2 {
                let first = batch.inputs[row * 24];
                assert!(batch.inputs[row * 24..][..24].iter().all(|&id| id == first));
                assert_eq!(batch.targets[row * 24 + 23], first);
                seen[first as usize] = true;
            }
        }
        assert_eq!(seen.iter().filter(|&&seen| seen).count(), 18);
        let short = Sequences { ids: vec![vec![1; 24]; 20], sha256: "0".to_owned() };
        let error = TrainingData::of_sequences(&short, tokenizer, &config).unwrap_err();
        assert!(matches!(error, Error::TextTooShort { part: "training", found: 24, needed: 25 }), "{error}");
    }

    #[test]
    fn too_little_text_and_too_many_tokens_are_refused() {
        let mut config = tiny_config();
        let text = Corpus::new(1).text(200);
        let data = TrainingData::new(&text, &config).unwrap();
        let short =
            TrainingData::with_tokenizer("A few words.\n", data.tokenizer.clone(), &config).unwrap_err();
        assert!(matches!(short, Error::TextTooShort { part: "training", .. }), "{short}");
        config.model.vocab_size = 300;
        let wide = TrainingData::with_tokenizer(&text, data.tokenizer, &config).unwrap_err();
        assert!(matches!(wide, Error::Vocabulary { tokens: 320, model: 300 }), "{wide}");
    }
}

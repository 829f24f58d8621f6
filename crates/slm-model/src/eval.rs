//! Evaluation of a model's predictions on a text.

use std::borrow::Cow;

use burn::tensor::Tensor;
use slm_cpu_ops::log_sum_exp;

use crate::error::{Error, Result};
use crate::session::{InferencePath, InferenceSession};
use crate::transformer::Transformer;
use crate::windows::windows;

/// Loss of a model on a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Summed negative log-likelihood in nats of all scored tokens.
    pub nll: f64,
    /// Number of scored tokens: all but the first of each window.
    pub tokens: usize,
    /// Summed negative log-likelihood of each window.
    pub window_nll: Vec<f64>,
}

impl Evaluation {
    /// Mean negative log-likelihood in nats per token, the cross entropy.
    pub fn mean_nll(&self) -> f64 {
        self.nll / self.tokens as f64
    }

    /// Perplexity: the exponential of [`mean_nll`](Self::mean_nll).
    pub fn perplexity(&self) -> f64 {
        self.mean_nll().exp()
    }
}

/// Scores `ids` in windows of `window` tokens.
///
/// Windows do not overlap, and each starts at position 0. All tokens but the first of a window count; a shorter last
/// window counts if it has at least two tokens. Windows run one at a time: a single window already keeps the matrix
/// products large, its result cannot depend on others (it would if activations were quantized with one scale for the
/// whole input), and only one window's logits are in memory.
///
/// `progress` is called after each window with the number of windows done and their total.
///
/// # Errors
/// [`Error::TooFewTokens`] for a text or window of fewer than two tokens, [`Error::TooManyPositions`] for a window
/// longer than the model's positions, [`Error::TokenId`], and [`Error::NotFinite`] where the model yields NaN.
pub fn evaluate(
    model: &Transformer,
    ids: &[u32],
    window: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Evaluation> {
    try_evaluate(model, ids, window, |done, total| {
        progress(done, total);
        Ok(())
    })
}

/// [`evaluate`] with a fallible callback: an error of `progress` ends the evaluation.
///
/// # Errors
/// As [`evaluate`], and those of `progress`.
pub fn try_evaluate<E: From<Error>>(
    model: &Transformer,
    ids: &[u32],
    window: usize,
    progress: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    for (what, found) in [("the window", window), ("the text", ids.len())] {
        if found < 2 {
            return Err(Error::TooFewTokens { what, found }.into());
        }
    }
    evaluate_windows(model, &windows(ids, window, &[]), progress)
}

/// Scores `windows`, such as [`windows`](crate::windows) cuts, each of which starts at position 0: all tokens but the first
/// of each. Windows of fewer than two tokens are ignored.
///
/// # Errors
/// As [`try_evaluate`].
pub fn evaluate_windows<E: From<Error>>(
    model: &Transformer,
    windows: &[Vec<u32>],
    mut progress: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<Evaluation, E> {
    let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
    if longest < 2 {
        return Err(Error::TooFewTokens { what: "the text", found: longest }.into());
    }
    model.check_positions(longest)?;
    let mut offset = 0;
    for window in windows {
        model.check_ids(window).map_err(|error| match error {
            Error::TokenId { index, id, vocab_size } => {
                Error::TokenId { index: offset + index, id, vocab_size }
            }
            other => other,
        })?;
        offset += window.len();
    }
    let total = windows.iter().filter(|window| window.len() >= 2).count();
    let mut evaluation = Evaluation { nll: 0.0, tokens: 0, window_nll: Vec::with_capacity(total) };
    let mut session = InferenceSession::new(model, longest)?;
    let mut offset = 0;
    for window in windows {
        if window.len() >= 2 {
            let logits = session.forward_anew(window)?;
            let nll = sequence_nll(&logits, window, model.config().vocab_size, offset)
                .map_err(|error| located(model, window, error))?;
            evaluation.nll += nll;
            evaluation.tokens += window.len() - 1;
            evaluation.window_nll.push(nll);
            progress(evaluation.window_nll.len(), total)?;
        }
        offset += window.len();
    }
    Ok(evaluation)
}

/// Logits of every position of one sequence that starts at position 0: `ids.len() * vocab_size` values, row by
/// row.
///
/// # Errors
/// [`Error::EmptyPrompt`], [`Error::TokenId`] and [`Error::TooManyPositions`].
pub fn window_logits(model: &Transformer, ids: &[u32]) -> Result<Vec<f32>> {
    window_logits_by(model, model.inference_path(), ids)
}

/// [`window_logits`] by a path that the caller chooses. The results of the two paths differ by float rounding.
///
/// # Errors
/// As [`window_logits`], and those of [`CpuEngine::new`](crate::CpuEngine::new) on its path.
pub fn window_logits_by(model: &Transformer, path: InferencePath, ids: &[u32]) -> Result<Vec<f32>> {
    if ids.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    model.check_ids(ids)?;
    model.check_positions(ids.len())?;
    InferenceSession::by(model, path, ids.len())?.forward_anew(ids).map(Cow::into_owned)
}

/// Adds to `error` the layer where the values of `ids` stop being finite, if the model caused it.
fn located(model: &Transformer, ids: &[u32], error: Error) -> Error {
    let Error::NotFinite { what, at, value } = error else { return error };
    let layer = slm_nn::first_layer_not_finite(&mut model.clone(), |model| {
        // The result is ignored: the error is already known.
        let _ = window_logits(model, ids);
    });
    let at = match layer {
        Some(layer) => format!("{at} (first in layer {layer})"),
        None => at,
    };
    Error::NotFinite { what, at, value }
}

/// Values of a tensor, read back to the host.
pub(crate) fn read_f32<const D: usize>(what: &'static str, tensor: Tensor<D>) -> Result<Vec<f32>> {
    slm_nn::to_vec_f32(what, tensor)
        .map_err(|error| Error::Device { what: what.to_owned(), detail: error.to_string() })
}

/// `sum over t of -log softmax(logits[t])[ids[t + 1]]`, summed in f64.
fn sequence_nll(logits: &[f32], ids: &[u32], vocab_size: usize, offset: usize) -> Result<f64> {
    let mut sum = 0.0;
    for (t, (row, &target)) in logits.chunks_exact(vocab_size).zip(&ids[1..]).enumerate() {
        let nll = log_sum_exp(row) - f64::from(row[target as usize]);
        // A NaN anywhere in the row makes the sum NaN.
        if !nll.is_finite() {
            let at = format!("token {} of the text", offset + t + 1);
            return Err(Error::NotFinite { what: "loss", at, value: nll });
        }
        sum += nll;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{configs, cpu_devices};
    use burn::module::{ModuleMapper, Param};
    use burn::tensor::Device;

    fn ids(len: u32) -> Vec<u32> {
        (0..len).map(|i| (i * i * 7 + i) % 50).collect()
    }

    #[test]
    fn windows_by_hand() {
        for device in cpu_devices() {
            let config = &configs()[0].1;
            let model = Transformer::new(config, 1, &device).unwrap();
            // 3 windows of 8, then 5 tokens: 7 * 3 + 4 scored.
            let ids = ids(29);
            let mut calls = Vec::new();
            let found = evaluate(&model, &ids, 8, |done, all| calls.push((done, all))).unwrap();
            assert_eq!(calls, [(1, 4), (2, 4), (3, 4), (4, 4)]);
            assert_eq!(found.tokens, 25);
            let mut sum = 0.0;
            for (start, end) in [(0, 8), (8, 16), (16, 24), (24, 29)] {
                let logits = window_logits(&model, &ids[start..end]).unwrap();
                for t in start..end - 1 {
                    let row = &logits[(t - start) * 50..(t - start + 1) * 50];
                    let total: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
                    sum -= (f64::from(row[ids[t + 1] as usize]).exp() / total).ln();
                }
            }
            assert!((found.nll / sum - 1.0).abs() < 1e-6, "{} {sum}", found.nll);
            assert!((found.perplexity() / (sum / 25.0).exp() - 1.0).abs() < 1e-6);
            assert_eq!(found.window_nll.iter().sum::<f64>(), found.nll);
        }
    }

    #[test]
    fn a_window_is_scored_the_same_alone_and_among_others() {
        for device in cpu_devices() {
            let model = Transformer::new(&configs()[0].1, 1, &device).unwrap();
            let ids = ids(33);
            let all = evaluate(&model, &ids, 8, |_, _| {}).unwrap();
            // The 33rd token is alone in its window and is ignored.
            assert_eq!((all.window_nll.len(), all.tokens), (4, 28));
            for (index, chunk) in ids.chunks(8).take(4).enumerate() {
                let alone = evaluate(&model, chunk, 8, |_, _| {}).unwrap();
                assert_eq!(alone.nll, all.window_nll[index]);
            }
        }
    }

    #[test]
    fn too_short_too_long_and_foreign_ids_are_errors() {
        let model = Transformer::new(&configs()[0].1, 1, &Device::flex()).unwrap();
        let run = |ids: &[u32], window| evaluate(&model, ids, window, |_, _| {});
        assert!(matches!(run(&[], 8), Err(Error::TooFewTokens { what: "the text", found: 0 })));
        assert!(matches!(run(&[1], 8), Err(Error::TooFewTokens { what: "the text", found: 1 })));
        assert!(matches!(run(&[1, 2], 1), Err(Error::TooFewTokens { what: "the window", found: 1 })));
        assert!(matches!(run(&[1; 70], 65), Err(Error::TooManyPositions { needed: 65, max: 64 })));
        assert!(matches!(run(&[1, 2, 99], 8), Err(Error::TokenId { index: 2, id: 99, .. })));
        assert!(matches!(window_logits(&model, &[]), Err(Error::EmptyPrompt)));
        // A window longer than the text does not need more positions than the text.
        assert_eq!(run(&[1; 10], 1000).unwrap().tokens, 9);
    }

    #[test]
    fn nan_weights_are_an_error_that_says_where() {
        struct Poison;
        impl ModuleMapper for Poison {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|tensor| tensor * f32::NAN)
            }
        }
        use burn::module::Module;
        for device in cpu_devices() {
            let model = Transformer::new(&configs()[0].1, 1, &device).unwrap().map(&mut Poison);
            let message = evaluate(&model, &[1, 2, 3], 8, |_, _| {}).unwrap_err().to_string();
            assert!(message.contains("token 1 of the text"), "{message}");
        }
    }
}

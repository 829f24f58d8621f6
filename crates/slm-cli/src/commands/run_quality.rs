//! The verdict on a training run, as JSON.

use serde::Serialize;

use crate::commands::ptq::Rise;

/// The verdict, with what it is based on.
#[derive(Serialize)]
pub(super) struct RunQuality {
    /// Description of the text.
    text: String,
    tokens: usize,
    /// Rise of the perplexity as a share of that of the model compared with; `None` without one.
    rise: Option<f64>,
    /// Half-width of the 95 % confidence interval of the rise.
    margin: Option<f64>,
    /// The verdict in words.
    verdict: String,
}

impl RunQuality {
    pub(super) fn new(text: &str, tokens: usize, rise: Option<Rise>, verdict: &str) -> Self {
        Self {
            text: text.to_owned(),
            tokens,
            rise: rise.as_ref().map(|rise| rise.share),
            margin: rise.and_then(|rise| rise.margin),
            verdict: verdict.to_owned(),
        }
    }
}

//! Loss per byte of text, which models with different tokenizers have in common.

use crate::text::Tokens;

/// Length of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextLength {
    tokens: usize,
    /// `None` if only the tokens are known.
    bytes: Option<usize>,
}

impl TextLength {
    pub(super) fn of(tokens: &Tokens) -> Self {
        Self { tokens: tokens.len(), bytes: tokens.text_bytes }
    }
}

/// Returns the loss in bits per byte of texts, each given by its mean loss in nats per token and its length. Windows
/// leave a few tokens unscored; these count with the mean loss.
pub(super) fn bits_per_byte(texts: impl IntoIterator<Item = (f64, TextLength)>) -> Option<f64> {
    let (mut bits, mut bytes) = (0.0, 0);
    for (nll, length) in texts {
        bits += nll * length.tokens as f64 / std::f64::consts::LN_2;
        bytes += length.bytes?;
    }
    (bytes > 0).then(|| bits / bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_all_tokens() {
        // 2 bits per token, and 4 bytes per token.
        let nll = 2.0 * std::f64::consts::LN_2;
        let text = TextLength { tokens: 100, bytes: Some(400) };
        assert_eq!(bits_per_byte([(nll, text)]), Some(0.5));
        let other = TextLength { tokens: 100, bytes: Some(200) };
        assert_eq!(bits_per_byte([(nll, text), (2.0 * nll, other)]), Some(1.0));
        let ids = TextLength { tokens: 100, bytes: None };
        assert_eq!(bits_per_byte([(nll, text), (nll, ids)]), None);
        assert_eq!(bits_per_byte([]), None);
    }
}

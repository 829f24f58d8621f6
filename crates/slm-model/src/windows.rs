//! Windows: the sequences that a text is cut into.

/// Cuts `ids` into windows of `len` tokens (the last may be shorter) and puts `prefix` in front of each.
///
/// A model that was trained on sequences with a beginning-of-sequence token expects it there, and computes unusual
/// activations at it. `prefix` is then that token, which makes windows one token longer. Windows that already begin
/// with it are unchanged. For `len` 0 there are no windows.
pub fn windows(ids: &[u32], len: usize, prefix: &[u32]) -> Vec<Vec<u32>> {
    if len == 0 {
        return Vec::new();
    }
    let window = |chunk: &[u32]| {
        if chunk.starts_with(prefix) { chunk.to_vec() } else { [prefix, chunk].concat() }
    };
    ids.chunks(len).map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_begins_with_the_prefix_once() {
        assert_eq!(windows(&[5, 6, 7, 8, 9], 2, &[]), [vec![5, 6], vec![7, 8], vec![9]]);
        assert_eq!(windows(&[5, 6, 7, 8, 9], 2, &[1]), [vec![1, 5, 6], vec![1, 7, 8], vec![1, 9]]);
        assert_eq!(windows(&[1, 6, 7], 2, &[1]), [vec![1, 6], vec![1, 7]]);
        assert!(windows(&[], 3, &[1]).is_empty());
        assert!(windows(&[5], 0, &[1]).is_empty());
    }
}

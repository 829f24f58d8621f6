//! The order of rows of q and k.
//!
//! In slm, as in Hugging Face's models, value `i` of a head rotates with value `i + dims / 2`. Some architectures of
//! llama.cpp rotate adjacent values, so their rows are interleaved.

/// For each row of an interleaved tensor, the row of the checkpoint. Heads have `head_dim` rows, of which the first
/// `dims` rotate.
pub(crate) fn interleaved(rows: usize, head_dim: usize, dims: usize) -> Vec<usize> {
    let half = dims / 2;
    let inside = |row: usize| match row {
        row if row < 2 * half => row % 2 * half + row / 2,
        row => row,
    };
    (0..rows).map(|row| row / head_dim * head_dim + inside(row % head_dim)).collect()
}

/// The inverse permutation of `order`.
pub(crate) fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (at, &row) in order.iter().enumerate() {
        if let Some(place) = inverse.get_mut(row) {
            *place = at;
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_interleaved_and_come_apart() {
        assert_eq!(interleaved(8, 4, 4), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(interleaved(6, 6, 4), [0, 2, 1, 3, 4, 5]);
        let order = interleaved(24, 12, 8);
        let back = inverse(&order);
        assert!((0..24).all(|row| order[back[row]] == row));
    }
}

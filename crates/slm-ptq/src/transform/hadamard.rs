//! Hadamard matrices: square matrices of entries 1 and -1 whose rows are orthogonal.

/// Largest order that [`paley`] builds; products with larger matrices cost more than they gain.
const MAX_ORDER: usize = 512;

/// Splits `n` into `(order, power)` with `n = order * power`, where [`paley`] can build a Hadamard matrix of `order`
/// (or `order` is 1) and `power` is a power of two. `None` if there is no such split.
pub(super) fn factor(n: usize) -> Option<(usize, usize)> {
    if n == 0 {
        return None;
    }
    let odd = n >> n.trailing_zeros();
    if odd == 1 {
        return Some((1, n));
    }
    let orders = (1..=n.trailing_zeros()).map(|doublings| odd << doublings);
    orders
        .take_while(|&order| order <= MAX_ORDER)
        .find(|&order| is_paley(order))
        .map(|order| (order, n / order))
}

fn is_paley(order: usize) -> bool {
    let (first, second) = (order - 1, order / 2 - 1);
    (first % 4 == 3 && is_prime(first)) || (order.is_multiple_of(4) && second % 4 == 1 && is_prime(second))
}

/// A Hadamard matrix of an order from [`factor`], row-major (Paley, 1933): his first construction for a prime `order -
/// 1` that is 3 modulo 4, his second for a prime `order / 2 - 1` that is 1 modulo 4.
pub(super) fn paley(order: usize) -> Vec<f64> {
    if order == 1 {
        return vec![1.0];
    }
    let prime = order - 1;
    if prime % 4 == 3 && is_prime(prime) {
        let mut matrix = conference(prime, -1.0);
        (0..order).for_each(|i| matrix[i * order + i] = 1.0);
        return matrix;
    }
    let half = order / 2;
    let conference = conference(half - 1, 1.0);
    let mut matrix = vec![0.0; order * order];
    for row in 0..half {
        for col in 0..half {
            let block = match conference[row * half + col] {
                0.0 => [[1.0, -1.0], [-1.0, -1.0]],
                value => [[value, value], [value, -value]],
            };
            for (i, values) in block.iter().enumerate() {
                let at = (2 * row + i) * order + 2 * col;
                matrix[at..at + 2].copy_from_slice(values);
            }
        }
    }
    matrix
}

/// The conference matrix of order `prime + 1`: a border of ones, `corner` down the first column, and the quadratic
/// character of the difference of row and column. Its diagonal is 0.
fn conference(prime: usize, corner: f64) -> Vec<f64> {
    let order = prime + 1;
    let mut character = vec![-1.0; prime];
    (1..prime).for_each(|value| character[value * value % prime] = 1.0);
    character[0] = 0.0;
    let mut matrix = vec![0.0; order * order];
    for i in 1..order {
        matrix[i] = 1.0;
        matrix[i * order] = corner;
        for j in 1..order {
            matrix[i * order + j] = character[(i + prime - j) % prime];
        }
    }
    matrix
}

fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|divisor| divisor * divisor <= n).all(|divisor| !n.is_multiple_of(divisor))
}

/// Multiplies `values`, a vector whose length is a power of two, by Sylvester's Hadamard matrix, without normalization.
pub(super) fn sylvester(values: &mut [f64]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_order_are_orthogonal() {
        let orders: Vec<usize> = (2..200).filter(|&order| order % 4 == 0 && is_paley(order)).collect();
        assert!(orders.starts_with(&[4, 8, 12, 20, 24, 28, 32, 36]), "{orders:?}");
        for order in orders {
            let matrix = paley(order);
            for (i, a) in matrix.chunks(order).enumerate() {
                assert!(a.iter().all(|&value| value == 1.0 || value == -1.0), "{order}");
                for (j, b) in matrix.chunks(order).enumerate() {
                    let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert_eq!(product, if i == j { order as f64 } else { 0.0 }, "{order}: {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn widths_of_real_models_have_factors() {
        let widths = [(64, (1, 64)), (576, (36, 16)), (896, (28, 32)), (960, (60, 16)), (1152, (36, 32))];
        for (width, factors) in widths {
            assert_eq!(factor(width), Some(factors), "{width}");
        }
        assert_eq!([factor(0), factor(7), factor(2 * 3)], [None; 3]);
    }
}

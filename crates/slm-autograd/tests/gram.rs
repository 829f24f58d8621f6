//! Tests of products of a matrix with itself.

mod support;

use slm_autograd::{Matrix, add_gram};
use support::{on_threads, wave};

#[test]
fn adds_the_products_of_all_columns() {
    for [rows, cols] in [[1, 1], [3, 17], [70, 192], [65, 193], [300, 401]] {
        let x: Vec<f32> = wave([rows, cols], 31).try_into_vec().unwrap();
        let before = |i: usize, j: usize| (i + j) as f32;
        let [one, three] = on_threads(|| {
            let mut sums: Vec<f32> = (0..cols * cols).map(|at| before(at / cols, at % cols)).collect();
            add_gram(Matrix::new(&x, rows, cols), &mut sums);
            sums
        });
        assert_eq!(one, three, "{rows} x {cols}");
        for i in 0..cols {
            for j in 0..cols {
                let product = |row: &[f32]| f64::from(row[i]) * f64::from(row[j]);
                let expected: f64 = x.chunks_exact(cols).map(product).sum::<f64>() + f64::from(before(i, j));
                let found = f64::from(one[i * cols + j]);
                assert!(
                    (found - expected).abs() <= 1e-5 * expected.abs().max(100.0),
                    "{i}, {j}: {found} {expected}"
                );
                assert_eq!(one[i * cols + j], one[j * cols + i], "{i}, {j}");
            }
        }
    }
}

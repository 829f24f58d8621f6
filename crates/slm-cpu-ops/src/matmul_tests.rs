use super::*;

/// Values that both types of element hold exactly.
fn wave(len: usize, step: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * step) % 97) as f32 / 64.0 - 0.75).collect()
}

fn pack<E: PanelElement>(b: Matrix<'_>) -> Vec<E> {
    let size = E::count(b.rows()) * PANEL;
    let mut packed = vec![E::default(); b.panels() * size];
    if size > 0 {
        for (panel, out) in packed.chunks_mut(size).enumerate() {
            pack_panel(b, panel, out);
        }
    }
    packed
}

fn transposed(data: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| data[r * cols + c])).collect()
}

fn equals_its_definition<E: PanelElement>() {
    for (m, n, k) in [(1, 1, 1), (7, 5, 3), (6, 16, 256), (13, 33, 257), (29, 47, 1100), (3, 4, 0)] {
        let (a, b) = (wave(m * k, 31), wave(k * n, 17));
        let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
        let mut results = Vec::new();
        for a in [Matrix::new(&a, m, k), Matrix::new(&a_t, k, m).transpose()] {
            for b in [Matrix::new(&b, k, n), Matrix::new(&b_t, n, k).transpose()] {
                let mut out = vec![f32::NAN; m * n];
                let mut scratch = MatmulScratch::default();
                matmul_rows::<E>(a, 0..m, &pack(b), n, false, &mut out, &mut scratch);
                results.push(out);
            }
        }
        for (at, found) in results[0].iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let e: f64 = (0..k).map(|t| f64::from(a[i * k + t]) * f64::from(b[t * n + j])).sum();
            assert!((f64::from(*found) - e).abs() < 1e-6 * (1.0 + k as f64), "{m} {n} {k}: {found} {e}");
        }
        assert!(results.iter().all(|other| *other == results[0]), "{m} {n} {k}");
    }
}

#[test]
fn equals_its_definition_in_every_layout() {
    equals_its_definition::<f32>();
    equals_its_definition::<Bf16Pair>();
}

fn rows_apart_and_added<E: PanelElement>() {
    let (m, n, k) = (31, 20, 1100);
    let (a, b) = (wave(m * k, 31), wave(k * n, 17));
    let [a, b] = [a, b].map(|values| values.iter().map(|x| x * 0.7).collect::<Vec<_>>());
    let packed = pack::<E>(Matrix::new(&b, k, n));
    let a_t = transposed(&a, m, k);
    let mut scratch = MatmulScratch::default();
    for a in [Matrix::new(&a, m, k), Matrix::new(&a_t, k, m).transpose()] {
        let mut whole = vec![f32::NAN; m * n];
        matmul_rows(a, 0..m, &packed, n, false, &mut whole, &mut scratch);
        let mut parts = vec![f32::NAN; m * n];
        let mut at = 0;
        for height in [1, 5, 8, 6, 11] {
            let out = &mut parts[at * n..(at + height) * n];
            matmul_rows(a, at..at + height, &packed, n, false, out, &mut scratch);
            at += height;
        }
        assert_eq!(whole, parts);
        matmul_rows(a, 0..m, &packed, n, true, &mut parts, &mut scratch);
        for (twice, once) in parts.iter().zip(&whole) {
            assert!((twice - 2.0 * once).abs() <= 1e-5 * (1.0 + once.abs()), "{twice} {once}");
        }
    }
}

#[test]
fn rows_apart_and_added_are_the_same_bits() {
    rows_apart_and_added::<f32>();
    rows_apart_and_added::<Bf16Pair>();
}

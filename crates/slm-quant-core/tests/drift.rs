//! Tests of weights that compensate for the drift of their inputs.

use slm_quant_core::{GptqFactor, GptqOptions, Hessian, InputDrift};

/// Numbers in [-1, 1).
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// `aᵀ b` of matrices with `cols` columns.
fn product(a: &[f32], b: &[f32], cols: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; cols * cols];
    for (a, b) in a.chunks_exact(cols).zip(b.chunks_exact(cols)) {
        for (sums, a) in sums.chunks_exact_mut(cols).zip(a) {
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += f64::from(*a) * f64::from(*b));
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

#[test]
fn a_linear_drift_is_made_up_for() {
    const COLS: usize = 24;
    const ROWS: usize = 400;
    for activation_order in [false, true] {
        let seen = noise(ROWS * COLS, 1);
        // The float inputs are the observed ones times I + mix.
        let mix: Vec<f32> = noise(COLS * COLS, 2).into_iter().map(|value| 0.1 * value).collect();
        let mut differences = vec![0.0_f32; ROWS * COLS];
        for (row, differences) in seen.chunks_exact(COLS).zip(differences.chunks_exact_mut(COLS)) {
            for (x, mix) in row.iter().zip(mix.chunks_exact(COLS)) {
                differences.iter_mut().zip(mix).for_each(|(sum, mix)| *sum += x * mix);
            }
        }
        let mut hessian = Hessian::new(COLS);
        hessian.add_product(&product(&seen, &seen, COLS), ROWS).unwrap();
        let mut drift = InputDrift::new(COLS);
        drift.add_product(Some(&product(&differences, &seen, COLS)), ROWS).unwrap();
        let options = GptqOptions { damping: 1e-6, activation_order };
        let factor = GptqFactor::new(&hessian, options).unwrap();
        let weight = noise(3 * COLS, 3);
        for share in [0.0, 0.5, 1.0] {
            let found = drift.compensated(&weight, &factor, share).unwrap();
            for (row, found) in weight.chunks_exact(COLS).zip(found.chunks_exact(COLS)) {
                for (input, (value, found)) in row.iter().zip(found).enumerate() {
                    // w (x + x mix) = (w + mix w) x
                    let mixed: f32 = row.iter().zip(&mix[input * COLS..][..COLS]).map(|(w, m)| w * m).sum();
                    let expected = value + share * mixed;
                    assert!((found - expected).abs() < 1e-4, "{share}: {found} {expected}");
                }
            }
        }
    }
}

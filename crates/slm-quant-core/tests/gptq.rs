//! Tests of GPTQ and weighted ranges: against a plain reference, and of the properties that users rely on.

use slm_quant_core::{
    Bits, Error, GptqFactor, GptqOptions, Granularity, Hessian, Mapping, ObserverKind, QParams, QuantScheme,
    QuantizedMatrix, RefineOptions, RefitOptions, ScaleDtype, choose_gptq_qparams, choose_matrix_qparams,
    choose_weighted_qparams, quantize_matrix_gptq, quantize_matrix_with_qparams, refine_matrix,
    refit_matrix_gptq,
};

/// Numbers between -1 and 1 from a linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Correlated inputs of very different sizes, as those of a language model are: few directions, and noise.
fn inputs(random: &mut Random, rows: usize, cols: usize) -> Vec<f32> {
    let directions = random.values(5 * cols);
    let sizes: Vec<f32> =
        (0..cols).map(|col| if col % 11 == 3 { 20.0 } else { 1.0 + random.next() }).collect();
    let mut x = Vec::with_capacity(rows * cols);
    for _ in 0..rows {
        let strengths = random.values(5);
        for col in 0..cols {
            let common: f32 = strengths.iter().zip(&directions[col..]).map(|(s, d)| s * d).sum();
            x.push(sizes[col] * (common + 0.3 * random.next()));
        }
    }
    x
}

fn hessian(x: &[f32], cols: usize) -> Hessian {
    let rows = x.len() / cols;
    let mut product = vec![0.0; cols * cols];
    for row in x.chunks_exact(cols) {
        for (sums, a) in product.chunks_exact_mut(cols).zip(row) {
            for (sum, b) in sums.iter_mut().zip(row) {
                *sum += a * b;
            }
        }
    }
    let mut hessian = Hessian::new(cols);
    hessian.add_product(&product, rows).unwrap();
    hessian
}

fn schemes() -> Vec<QuantScheme> {
    let mut schemes = Vec::new();
    for bits in [Bits::Int4, Bits::Int8] {
        for granularity in
            [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup { group_size: 32 }]
        {
            for mapping in [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine] {
                for scale_dtype in [ScaleDtype::F32, ScaleDtype::F16] {
                    schemes.push(QuantScheme { bits, granularity, mapping, scale_dtype });
                }
            }
        }
    }
    schemes
}

/// The algorithm as the paper writes it, all in f64: the inverse of the damped Hessian, its upper Cholesky factor, and
/// one column after the other.
fn textbook(
    weight: &[f32],
    cols: usize,
    scheme: QuantScheme,
    qparams: &[QParams],
    hessian: &Hessian,
    damping: f64,
) -> Vec<i8> {
    let rows = weight.len() / cols;
    let samples = hessian.samples() as f64;
    let h = |i: usize, j: usize| f64::from(hessian.sums()[i * cols + j]) / samples;
    let mut order: Vec<usize> = (0..cols).collect();
    order.sort_by(|a, b| h(*b, *b).total_cmp(&h(*a, *a)));
    let mean = (0..cols).map(|i| h(i, i)).sum::<f64>() / cols as f64;
    // Gauss-Jordan on [H | I].
    let mut a = vec![vec![0.0; 2 * cols]; cols];
    for (i, row) in a.iter_mut().enumerate() {
        for j in 0..cols {
            row[j] = h(order[i], order[j]);
        }
        row[i] += damping * mean;
        row[cols + i] = 1.0;
    }
    for i in 0..cols {
        let pivot = a[i][i];
        a[i].iter_mut().for_each(|x| *x /= pivot);
        let current = a[i].clone();
        for (k, row) in a.iter_mut().enumerate() {
            if k != i {
                let factor = row[i];
                row.iter_mut().zip(&current).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    // inverse = Uᵀ U, row by row.
    let mut u = vec![vec![0.0; cols]; cols];
    for i in 0..cols {
        for j in i..cols {
            let sum: f64 = (0..i).map(|k| u[k][i] * u[k][j]).sum();
            let rest = a[i][cols + j] - sum;
            u[i][j] = if i == j { rest.sqrt() } else { rest / u[i][i] };
        }
    }
    let width = scheme.granularity.group_width(cols).unwrap();
    let groups = cols.div_ceil(width);
    let range = scheme.range();
    let mut codes = vec![0; rows * cols];
    for row in 0..rows {
        let mut w: Vec<f64> = order.iter().map(|col| f64::from(weight[row * cols + col])).collect();
        for i in 0..cols {
            let index = match scheme.granularity {
                Granularity::PerTensor => 0,
                _ => row * groups + order[i] / width,
            };
            let QParams { scale, zero_point } = qparams[index];
            let code = ((w[i] / f64::from(scale)).round_ties_even() as i32 + zero_point)
                .clamp(range.quant_min(), range.quant_max());
            codes[row * cols + order[i]] = code as i8;
            let error = (w[i] - f64::from(code - zero_point) * f64::from(scale)) / u[i][i];
            for j in i..cols {
                w[j] -= error * u[i][j];
            }
        }
    }
    codes
}

fn codes(matrix: &QuantizedMatrix) -> Vec<i8> {
    (0..matrix.rows()).flat_map(|row| (0..matrix.cols()).map(move |col| matrix.code(row, col))).collect()
}

#[test]
fn codes_are_those_of_the_textbook() {
    let (mut random, mut exact) = (Random(1), 0);
    // One block, several blocks, a partial last block, and more rows than a tile.
    for (rows, cols) in [(3, 40), (35, 150)] {
        let hessian = hessian(&inputs(&mut random, 4 * cols, cols), cols);
        let weight = random.values(rows * cols);
        let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
        for scheme in schemes() {
            let qparams = choose_matrix_qparams(&weight, rows, cols, scheme, &ObserverKind::Mse).unwrap();
            let matrix = quantize_matrix_gptq(&weight, rows, cols, scheme, &qparams, &factor).unwrap();
            let expected = textbook(&weight, cols, scheme, &qparams, &hessian, 0.01);
            let found = codes(&matrix);
            let differing = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
            // A weight close to the middle between two codes may be rounded either way in f32, which also changes the rest
            // of its row.
            assert!(100 * differing <= found.len(), "{scheme}, {rows} x {cols}: {differing} codes differ");
            exact += usize::from(differing == 0);
            let stored: Vec<QParams> = (0..matrix.scales().len()).map(|i| matrix.qparams(i)).collect();
            assert_eq!(stored, qparams);
        }
    }
    assert!(2 * exact > 2 * schemes().len(), "{exact} of {} exactly", 2 * schemes().len());
}

fn output_error(weight: &[f32], matrix: &QuantizedMatrix, hessian: &Hessian) -> f64 {
    let errors: Vec<f32> = weight.iter().zip(matrix.dequantize()).map(|(w, q)| w - q).collect();
    hessian.output_error(&errors).unwrap()
}

#[test]
fn outputs_are_closer_than_with_round_to_nearest() {
    let mut random = Random(2);
    let (rows, cols) = (24, 96);
    for _ in 0..3 {
        let hessian = hessian(&inputs(&mut random, 300, cols), cols);
        let weight = random.values(rows * cols);
        for activation_order in [true, false] {
            let options = GptqOptions { activation_order, ..GptqOptions::default() };
            let factor = GptqFactor::new(&hessian, options).unwrap();
            for scheme in schemes() {
                let qparams =
                    choose_weighted_qparams(&weight, rows, cols, scheme, &factor.remaining_costs(), 0.0)
                        .unwrap();
                let gptq = quantize_matrix_gptq(&weight, rows, cols, scheme, &qparams, &factor).unwrap();
                let nearest = quantize_matrix_with_qparams(&weight, rows, cols, scheme, &qparams).unwrap();
                let gptq = output_error(&weight, &gptq, &hessian);
                let nearest = output_error(&weight, &nearest, &hessian);
                assert!(gptq < 0.8 * nearest, "{scheme}: {gptq} against {nearest}");
            }
        }
    }
}

/// The rows are few enough to be all in the sample, so that the error of the whole matrix cannot rise.
#[test]
fn scales_for_gptq_are_never_worse_than_those_for_rounding_to_nearest() {
    let mut random = Random(11);
    let (rows, cols) = (24, 96);
    let mut better = 0;
    for _ in 0..3 {
        let hessian = hessian(&inputs(&mut random, 300, cols), cols);
        let damping = 0.01 * f64::from(hessian.mean_squares().unwrap().iter().sum::<f32>()) / cols as f64;
        // With outliers, as trained weights have them.
        let weight: Vec<f32> = random.values(rows * cols).into_iter().map(|x| x.powi(3)).collect();
        let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
        for scheme in schemes() {
            let error = |qparams: &[QParams]| {
                let matrix = quantize_matrix_gptq(&weight, rows, cols, scheme, qparams, &factor).unwrap();
                let squares = weight.iter().zip(matrix.dequantize()).map(|(w, q)| f64::from(w - q).powi(2));
                let damped = damping * hessian.samples() as f64 * squares.sum::<f64>();
                output_error(&weight, &matrix, &hessian) + damped
            };
            let nearest =
                choose_weighted_qparams(&weight, rows, cols, scheme, &factor.remaining_costs(), 0.0).unwrap();
            let found = choose_gptq_qparams(&weight, rows, cols, scheme, &factor).unwrap();
            assert_eq!(found.len(), nearest.len());
            // One factor for all of them, up to the rounding of stored scales.
            let factors = found.iter().zip(&nearest).map(|(found, nearest)| found.scale / nearest.scale);
            let (least, most) = factors.fold((f32::MAX, 0.0_f32), |(l, m), x| (l.min(x), m.max(x)));
            assert!(most / least < 1.01, "{scheme}: {least} to {most}");
            let (found, nearest) = (error(&found), error(&nearest));
            assert!(found <= nearest * (1.0 + 1e-3), "{scheme}: {found} against {nearest}");
            better += usize::from(scheme.bits == Bits::Int4 && found < 0.999 * nearest);
        }
    }
    let schemes = 3 * schemes().len() / 2;
    assert!(8 * better > schemes, "{better} of {schemes} with 4 bits are lower");
}

/// The code that reaches further, -8, stands for the largest weight.
#[test]
fn symmetric_scales_of_4_bits_take_the_sign_that_suits_their_weights() {
    let (rows, cols) = (48, 96);
    let mut random = Random(31);
    let weight = random.values(rows * cols);
    let hessian = hessian(&inputs(&mut random, 400, cols), cols);
    let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
    for scale_dtype in [ScaleDtype::F32, ScaleDtype::F16] {
        for granularity in [Granularity::PerChannel, Granularity::PerGroup { group_size: 32 }] {
            let scheme =
                QuantScheme { bits: Bits::Int4, granularity, mapping: Mapping::Symmetric, scale_dtype };
            let turned = choose_gptq_qparams(&weight, rows, cols, scheme, &factor).unwrap();
            let negative = turned.iter().filter(|qparams| qparams.scale < 0.0).count();
            assert!(4 * negative > turned.len() && 4 * negative < 3 * turned.len(), "{negative}");
            // Positive scales of the same search.
            let costs = factor.remaining_costs();
            let positive = choose_weighted_qparams(&weight, rows, cols, scheme, &costs, 0.0).unwrap();
            assert!(positive.iter().all(|qparams| qparams.scale > 0.0));
            let error = |qparams: &[QParams]| {
                let matrix = quantize_matrix_gptq(&weight, rows, cols, scheme, qparams, &factor).unwrap();
                let options = RefitOptions::default();
                let matrix = refit_matrix_gptq(&weight, matrix, &hessian, &factor, options).unwrap();
                for (index, before) in qparams.iter().enumerate() {
                    assert!(matrix.scales().get(index) * before.scale > 0.0);
                }
                output_error(&weight, &matrix, &hessian)
            };
            let (turned, positive) = (error(&turned), error(&positive));
            let most = if granularity == Granularity::PerChannel { 1.0 } else { 0.95 };
            assert!(turned < most * positive, "{granularity:?}: {turned} {positive}");
        }
    }
    // Codes with the same number of steps on both sides gain nothing, and other mappings have no negative scales.
    for scheme in schemes().into_iter().filter(|scheme| scheme.mapping != Mapping::Symmetric) {
        let qparams = choose_gptq_qparams(&weight, rows, cols, scheme, &factor).unwrap();
        assert!(qparams.iter().all(|qparams| qparams.scale > 0.0), "{scheme:?}");
    }
}

#[test]
fn rounding_anew_with_fitted_scales_lowers_the_error_round_by_round() {
    let mut random = Random(13);
    let (rows, cols) = (40, 100);
    let hessian = hessian(&inputs(&mut random, 500, cols), cols);
    let damping = 0.01 * f64::from(hessian.mean_squares().unwrap().iter().sum::<f32>()) / cols as f64;
    let weight = random.values(rows * cols);
    let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
    // Errors of each row: none may get worse.
    let errors = |matrix: &QuantizedMatrix| -> Vec<f64> {
        let values = matrix.dequantize();
        let rows = weight.chunks_exact(cols).zip(values.chunks_exact(cols));
        let of_row = |(weight, values): (&[f32], &[f32])| {
            let errors: Vec<f32> = weight.iter().zip(values).map(|(w, q)| w - q).collect();
            let squares: f64 = errors.iter().map(|e| f64::from(*e).powi(2)).sum();
            hessian.output_error(&errors).unwrap() / hessian.samples() as f64 + damping * squares
        };
        rows.map(of_row).collect()
    };
    for scheme in schemes() {
        let qparams = choose_gptq_qparams(&weight, rows, cols, scheme, &factor).unwrap();
        let gptq = quantize_matrix_gptq(&weight, rows, cols, scheme, &qparams, &factor).unwrap();
        let mut before = errors(&gptq);
        let first: f64 = before.iter().sum();
        for rounds in [0, 1, 3] {
            let options = RefitOptions { rounds, ..RefitOptions::default() };
            let refit = refit_matrix_gptq(&weight, gptq.clone(), &hessian, &factor, options).unwrap();
            if rounds == 0 || scheme.granularity == Granularity::PerTensor {
                assert_eq!(refit, gptq, "{scheme}");
            }
            let after = errors(&refit);
            for (row, (after, before)) in after.iter().zip(&before).enumerate() {
                assert!(*after <= before * (1.0 + 1e-3), "{scheme}, {rounds}, row {row}: {after}, {before}");
            }
            before = after;
        }
        let gain = before.iter().sum::<f64>() / first;
        // Scales of 256 codes already fit.
        if scheme.bits == Bits::Int4 && scheme.granularity != Granularity::PerTensor {
            assert!(gain < 0.999, "{scheme}: {gain}");
        }
    }
}

#[test]
fn refinement_lowers_the_error_further_for_every_scheme() {
    let mut random = Random(7);
    let (rows, cols) = (40, 100);
    let hessian = hessian(&inputs(&mut random, 500, cols), cols);
    // Refinement lowers the error by the damped Hessian.
    let mean = hessian.mean_squares().unwrap().iter().sum::<f32>() / cols as f32;
    let damped_error = |weight: &[f32], matrix: &QuantizedMatrix| {
        let errors = weight.iter().zip(matrix.dequantize()).map(|(w, q)| f64::from(w - q).powi(2));
        let damping = 0.01 * f64::from(mean) * hessian.samples() as f64;
        output_error(weight, matrix, &hessian) + damping * errors.sum::<f64>()
    };
    let weight = random.values(rows * cols);
    let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
    for scheme in schemes() {
        let qparams =
            choose_weighted_qparams(&weight, rows, cols, scheme, &factor.remaining_costs(), 0.0).unwrap();
        let gptq = quantize_matrix_gptq(&weight, rows, cols, scheme, &qparams, &factor).unwrap();
        let mut least = damped_error(&weight, &gptq);
        let unchanged = RefineOptions { sweeps: 0, ..RefineOptions::default() };
        assert_eq!(refine_matrix(&weight, gptq.clone(), &hessian, unchanged).unwrap(), gptq);
        for sweeps in [1, 2, 5] {
            let options = RefineOptions { sweeps, ..RefineOptions::default() };
            let refined = refine_matrix(&weight, gptq.clone(), &hessian, options).unwrap();
            let error = damped_error(&weight, &refined);
            assert!(error <= least * (1.0 + 1e-4), "{scheme}, {sweeps}: {error} against {least}");
            least = error;
        }
        let gain = least / damped_error(&weight, &gptq);
        assert!(gain < 0.999, "{scheme}: {gain}");
    }
    let gptq = quantize_matrix_gptq(
        &weight,
        rows,
        cols,
        QuantScheme::per_tensor(Bits::Int8),
        &[QParams { scale: 0.01, zero_point: 0 }],
        &factor,
    )
    .unwrap();
    let refine = |weight: &[f32], hessian: &Hessian, damping| {
        refine_matrix(weight, gptq.clone(), hessian, RefineOptions { damping, sweeps: 1 })
    };
    assert!(matches!(refine(&weight[1..], &hessian, 0.0), Err(Error::Length { .. })));
    assert!(matches!(refine(&weight, &Hessian::new(3), 0.0), Err(Error::Length { .. })));
    assert!(matches!(refine(&weight, &Hessian::new(cols), 0.0), Err(Error::NothingObserved { .. })));
    assert!(matches!(refine(&weight, &hessian, f64::NAN), Err(Error::Parameter { .. })));
}

#[test]
fn without_correlation_it_is_round_to_nearest() {
    let (rows, cols) = (20, 70);
    let mut product = vec![0.0; cols * cols];
    (0..cols).for_each(|i| product[i * (cols + 1)] = (1 + i % 5) as f32);
    let mut hessian = Hessian::new(cols);
    hessian.add_product(&product, 10).unwrap();
    let weight = Random(3).values(rows * cols);
    let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
    for scheme in schemes() {
        let qparams = choose_matrix_qparams(&weight, rows, cols, scheme, &ObserverKind::MinMax).unwrap();
        let gptq = quantize_matrix_gptq(&weight, rows, cols, scheme, &qparams, &factor).unwrap();
        assert_eq!(gptq, quantize_matrix_with_qparams(&weight, rows, cols, scheme, &qparams).unwrap());
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let mut random = Random(4);
    let (rows, cols) = (70, 200);
    let hessian = hessian(&inputs(&mut random, 400, cols), cols);
    let weight = random.values(rows * cols);
    let scheme = QuantScheme::per_tensor(Bits::Int4);
    let run = || {
        let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
        let qparams =
            choose_weighted_qparams(&weight, rows, cols, scheme, &factor.remaining_costs(), 0.0).unwrap();
        let gptq = quantize_matrix_gptq(&weight, rows, cols, scheme, &qparams, &factor).unwrap();
        refine_matrix(&weight, gptq, &hessian, RefineOptions::default()).unwrap()
    };
    let [one, three] = [1, 3]
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run));
    assert_eq!(one, three);
}

#[test]
fn inputs_that_are_always_zero_do_no_harm() {
    let mut random = Random(5);
    let (rows, cols) = (8, 64);
    let mut x = inputs(&mut random, 100, cols);
    x.iter_mut().skip(7).step_by(cols).for_each(|x| *x = 0.0);
    let weight = random.values(rows * cols);
    let scheme = QuantScheme::per_tensor(Bits::Int4);
    for hessian in [hessian(&x, cols), hessian(&vec![0.0; 10 * cols], cols)] {
        let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
        let qparams = choose_matrix_qparams(&weight, rows, cols, scheme, &ObserverKind::MinMax).unwrap();
        let gptq = quantize_matrix_gptq(&weight, rows, cols, scheme, &qparams, &factor).unwrap();
        let nearest = quantize_matrix_with_qparams(&weight, rows, cols, scheme, &qparams).unwrap();
        (0..rows).for_each(|row| assert_eq!(gptq.code(row, 7), nearest.code(row, 7)));
    }
}

#[test]
fn bad_input_is_refused() {
    let mut hessian = Hessian::new(3);
    assert!(matches!(GptqFactor::new(&hessian, GptqOptions::default()), Err(Error::NothingObserved { .. })));
    assert!(matches!(hessian.add_product(&[1.0; 4], 1), Err(Error::Length { .. })));
    assert!(matches!(hessian.add_product(&[f32::NAN; 9], 1), Err(Error::NotFinite { .. })));
    // Rank one, and not positive definite without damping.
    hessian.add_product(&[1.0; 9], 1).unwrap();
    for damping in [-1.0, f64::NAN, 0.0] {
        let options = GptqOptions { damping, ..GptqOptions::default() };
        let refused = GptqFactor::new(&hessian, options);
        assert!(matches!(refused, Err(Error::Parameter { what: "damping", .. })), "{damping}");
    }
    let factor = GptqFactor::new(&hessian, GptqOptions::default()).unwrap();
    let scheme = QuantScheme::per_tensor(Bits::Int8);
    let qparams = [QParams { scale: 0.1, zero_point: 0 }];
    let run = |weight: &[f32], rows, cols, qparams: &[QParams]| {
        quantize_matrix_gptq(weight, rows, cols, scheme, qparams, &factor)
    };
    assert!(run(&[0.5; 6], 2, 3, &qparams).is_ok());
    assert!(matches!(run(&[0.5; 8], 2, 4, &qparams), Err(Error::Length { .. })));
    assert!(matches!(run(&[0.5; 5], 2, 3, &qparams), Err(Error::Length { .. })));
    assert!(matches!(run(&[0.5; 6], 2, 3, &[]), Err(Error::Length { .. })));
    assert!(matches!(run(&[f32::NAN; 6], 2, 3, &qparams), Err(Error::NotFinite { .. })));
    let weighted = |importance: &[f32]| choose_weighted_qparams(&[0.5; 6], 2, 3, scheme, importance, 0.0);
    assert!(matches!(weighted(&[1.0; 2]), Err(Error::Length { .. })));
    assert!(matches!(weighted(&[1.0, -1.0, 0.0]), Err(Error::Parameter { .. })));
    assert!(matches!(weighted(&[1.0, f32::INFINITY, 0.0]), Err(Error::NotFinite { .. })));
    assert!(weighted(&[0.0; 3]).is_ok());
}

/// Sum of squared errors, each weighted by its column's importance.
fn weighted_error(weight: &[f32], importance: &[f32], matrix: &QuantizedMatrix) -> f64 {
    let values = matrix.dequantize();
    let errors = weight.iter().zip(&values).map(|(w, q)| f64::from(w - q).powi(2));
    errors.zip(importance.iter().cycle()).map(|(error, importance)| error * f64::from(*importance)).sum()
}

#[test]
fn weighted_ranges_are_never_worse_than_min_max_by_their_own_measure() {
    let mut random = Random(6);
    let (rows, cols) = (30, 90);
    let mut better = 0;
    for case in 0..4 {
        let mut weight = random.values(rows * cols);
        weight.iter_mut().step_by(37).for_each(|w| *w *= 6.0);
        let importance: Vec<f32> = (0..cols)
            .map(
                |col| if case == 0 { 1e-20 } else { (random.next() + 1.0) * 10_f32.powi(col as i32 % 9 - 4) },
            )
            .collect();
        for scheme in schemes() {
            let error = |qparams: Vec<QParams>| {
                let matrix = quantize_matrix_with_qparams(&weight, rows, cols, scheme, &qparams).unwrap();
                weighted_error(&weight, &importance, &matrix)
            };
            let weighted =
                error(choose_weighted_qparams(&weight, rows, cols, scheme, &importance, 0.0).unwrap());
            let min_max =
                error(choose_matrix_qparams(&weight, rows, cols, scheme, &ObserverKind::MinMax).unwrap());
            let mse = error(choose_matrix_qparams(&weight, rows, cols, scheme, &ObserverKind::Mse).unwrap());
            assert!(weighted <= min_max * (1.0 + 1e-5), "{scheme}: {weighted} against {min_max}");
            if scheme.bits == Bits::Int4 && case > 0 && scheme.granularity != Granularity::PerTensor {
                assert!(weighted < 0.9 * min_max, "{scheme}: {weighted} against {min_max}");
                assert!(weighted < mse, "{scheme}: {weighted} against {mse}");
                better += 1;
            }
        }
    }
    assert_eq!(better, 3 * 2 * 3 * 2);
}

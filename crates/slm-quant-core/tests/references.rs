//! Tests of the numerics against plain references, reimplemented here from the documented formulas.

use proptest::prelude::*;
use slm_quant_core::{
    Bits, DYNAMIC_SCALE_FLOOR, Error, Granularity, Hessian, Mapping, ObserverKind, QParams, QuantRange,
    QuantScheme, QuantizedMatrix, TORCH_EPS, TORCHAO_EPS, choose_matrix_qparams, choose_qparams,
    choose_qparams_dynamic, choose_weighted_qparams, dequantize, pack_int4, quantize, quantize_matrix,
    quantize_matrix_with_qparams, unpack_int4,
};

const RANGES: [QuantRange; 6] = [
    QuantRange::INT8,
    QuantRange::INT8_NARROW,
    QuantRange::UINT8,
    QuantRange::INT4,
    QuantRange::INT4_NARROW,
    QuantRange::UINT4,
];

/// Values around zero whose magnitudes are log-uniform from 2^-20 to 2^10.
fn value() -> impl Strategy<Value = f32> {
    (-20.0_f32..10.0, any::<bool>()).prop_map(|(e, negative)| if negative { -e.exp2() } else { e.exp2() })
}

/// The middle of a range where zero lies in symmetric mappings: 0 for signed codes.
fn middle(range: QuantRange) -> i32 {
    match (range.quant_min(), range.quant_max()) {
        (0, 255) => 128,
        (0, 15) => 7,
        _ => 0,
    }
}

/// Scale and zero point by the table of `choose_qparams`.
fn reference(min: f32, max: f32, range: QuantRange, mapping: Mapping, eps: f32) -> (f32, i32) {
    let (lo, hi) = (if min < 0.0 { min } else { 0.0 }, if max > 0.0 { max } else { 0.0 });
    let (least, greatest) = (range.quant_min() as f32, range.quant_max() as f32);
    let scale = match mapping {
        Mapping::Affine => (hi - lo) / (greatest - least),
        Mapping::SymmetricTorch => (-lo).max(hi) / ((greatest - least) / 2.0),
        Mapping::Symmetric => (lo / least).max(hi / greatest),
    };
    let scale = if scale < eps { eps } else { scale };
    let zero_point = match mapping {
        Mapping::Affine => (least - (lo / scale).round_ties_even()).clamp(least, greatest) as i32,
        Mapping::SymmetricTorch => middle(range),
        Mapping::Symmetric => 0,
    };
    (scale, zero_point)
}

proptest! {
    #[test]
    fn qparams_are_those_of_the_table(a in value(), b in value(), large_eps in any::<bool>()) {
        let (min, max) = if a < b { (a, b) } else { (b, a) };
        let eps = if large_eps { 0.25 } else { TORCHAO_EPS };
        for range in RANGES {
            for mapping in [Mapping::Affine, Mapping::SymmetricTorch, Mapping::Symmetric] {
                let chosen = choose_qparams(min, max, range, mapping, eps);
                if mapping == Mapping::Symmetric && range.quant_min() == 0 {
                    let is_refused = matches!(chosen, Err(Error::Parameter { what: "mapping", .. }));
                    prop_assert!(is_refused, "{range:?}");
                    continue;
                }
                let QParams { scale, zero_point } = chosen.unwrap();
                prop_assert_eq!((scale, zero_point), reference(min, max, range, mapping, eps), "{:?} {:?}", range, mapping);
            }
        }
    }

    /// The zero point comes from the end with the smaller error; both are within half a code of the exact one.
    #[test]
    fn dynamic_qparams_cover_the_bounds(a in value(), b in value()) {
        let (min, max) = if a < b { (a, b) } else { (b, a) };
        let (lo, hi) = (f64::from(min.min(0.0)), f64::from(max.max(0.0)));
        for range in [QuantRange::UINT8, QuantRange::INT8, QuantRange::new(0, 127).unwrap()] {
            let QParams { scale, zero_point } = choose_qparams_dynamic(min, max, range).unwrap();
            let exact = (hi - lo) / f64::from(range.steps());
            prop_assume!(exact > f64::from(DYNAMIC_SCALE_FLOOR));
            prop_assert_eq!(scale, exact as f32);
            let from_lo = f64::from(range.quant_min()) - lo / exact;
            let from_hi = f64::from(range.quant_max()) - hi / exact;
            for exact in [from_lo, from_hi] {
                prop_assert!((f64::from(zero_point) - exact).abs() <= 0.5 + 1e-3, "{} of {}", zero_point, exact);
            }
        }
    }

    /// Codes are quotients rounded to even and clamped; their value is their distance from the zero point in steps.
    #[test]
    fn codes_are_rounded_quotients(
        steps in prop::collection::vec(-300.0_f32..300.0, 1..40), exponent in -12_i32..8, at in 0.0_f32..1.0,
    ) {
        let scale = 2.0_f32.powi(exponent);
        for range in RANGES {
            let zero_point = range.quant_min() + (range.steps() as f32 * at) as i32;
            let qparams = QParams { scale, zero_point };
            let values: Vec<f32> = steps.iter().map(|step| step * scale).collect();
            let codes: Vec<i32> = quantize(&values, qparams, range).unwrap();
            let expected: Vec<i32> = steps
                .iter()
                .map(|step| (step.round_ties_even() as i32 + zero_point).clamp(range.quant_min(), range.quant_max()))
                .collect();
            prop_assert_eq!(&codes, &expected);
            let back = dequantize(&codes, qparams);
            let expected: Vec<f32> = codes.iter().map(|code| (code - zero_point) as f32 * scale).collect();
            prop_assert_eq!(back, expected);
        }
    }

    /// Two codes a byte, the first in the low half; an odd row ends in a zero.
    #[test]
    fn nibbles_are_packed_by_row(rows in 1_usize..4, cols in 1_usize..9, seed in any::<u64>()) {
        let code = |i: usize| ((seed >> (i % 57)) as usize + i * 5) as i8 % 8 - 8 * ((seed >> (i % 31)) & 1) as i8;
        let codes: Vec<i8> = (0..rows * cols).map(|i| code(i).clamp(-8, 7)).collect();
        for row in codes.chunks(cols) {
            let mut packed = vec![0xff; cols.div_ceil(2)];
            pack_int4(row, &mut packed).unwrap();
            for (i, byte) in packed.iter().enumerate() {
                let low = row[2 * i].rem_euclid(16) as u8;
                let high = row.get(2 * i + 1).map_or(0, |code| code.rem_euclid(16) as u8);
                prop_assert_eq!(*byte, low | high << 4);
            }
            let mut unpacked = vec![1; cols];
            unpack_int4(&packed, &mut unpacked).unwrap();
            prop_assert_eq!(unpacked, row);
        }
    }

    /// A matrix has the codes and scales of its groups quantized separately.
    #[test]
    fn a_matrix_is_its_groups(values in prop::collection::vec(value(), 5 * 7), int4 in any::<bool>(), affine in any::<bool>()) {
        let bits = if int4 { Bits::Int4 } else { Bits::Int8 };
        let mapping = if affine { Mapping::Affine } else { Mapping::Symmetric };
        for (granularity, width) in [(Granularity::PerChannel, 7), (Granularity::PerGroup { group_size: 3 }, 3)] {
            let scheme = QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(mapping);
            let matrix = quantize_matrix(&values, 5, 7, scheme, &ObserverKind::MinMax).unwrap();
            let groups = matrix.groups_per_row();
            prop_assert_eq!(groups, 7_usize.div_ceil(width));
            for (row, values) in values.chunks(7).enumerate() {
                for (group, values) in values.chunks(width).enumerate() {
                    let (min, max) = values.iter().fold((f32::MAX, f32::MIN), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
                    let qparams = choose_qparams(min, max, scheme.range(), mapping, TORCHAO_EPS).unwrap();
                    prop_assert_eq!(matrix.qparams(matrix.scale_index(row, group)), qparams);
                    let codes: Vec<i32> = quantize(values, qparams, scheme.range()).unwrap();
                    let stored: Vec<i32> =
                        (0..values.len()).map(|i| i32::from(matrix.code(row, group * width + i))).collect();
                    prop_assert_eq!(stored, codes);
                }
            }
        }
    }

    /// A Hessian is the sum of outer products, and gives mean squares and the error of outputs.
    #[test]
    fn a_hessian_is_the_sum_of_outer_products(
        x in prop::collection::vec(-3_i32..4, 4 * 3), errors in prop::collection::vec(-2_i32..3, 2 * 3),
    ) {
        let outer = |rows: &[i32]| -> Vec<f32> {
            let at = |i: usize, j: usize| rows.chunks(3).map(|row| row[i] * row[j]).sum::<i32>() as f32;
            (0..9).map(|k| at(k / 3, k % 3)).collect()
        };
        let mut hessian = Hessian::new(3);
        hessian.add_product(&outer(&x[..6]), 2).unwrap();
        hessian.add_product(&outer(&x[6..]), 2).unwrap();
        prop_assert_eq!((hessian.inputs(), hessian.samples()), (3, 4));
        prop_assert_eq!(hessian.sums(), outer(&x));
        let squares: Vec<f32> =
            (0..3).map(|i| x.chunks(3).map(|row| row[i] * row[i]).sum::<i32>() as f32 / 4.0).collect();
        prop_assert_eq!(hessian.mean_squares().unwrap(), squares);
        // The output error that each row of errors causes for each input.
        let output = |e: &[i32], x: &[i32]| e.iter().zip(x).map(|(e, x)| e * x).sum::<i32>().pow(2);
        let expected: i32 = errors.chunks(3).flat_map(|e| x.chunks(3).map(move |x| output(e, x))).sum();
        let errors: Vec<f32> = errors.iter().map(|e| *e as f32).collect();
        prop_assert_eq!(hessian.output_error(&errors).unwrap(), f64::from(expected));
        prop_assert!(hessian.output_error(&errors[..4]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// With equal weights, ranges are those of the unweighted search, whatever the weight; with different weights, the
    /// weighted search is at least as good by its own measure.
    #[test]
    fn weights_that_are_equal_do_not_matter(values in prop::collection::vec(-1.0_f32..1.0, 3 * 24), weight in 0.01_f32..100.0) {
        for (bits, mapping) in [(Bits::Int4, Mapping::Symmetric), (Bits::Int4, Mapping::Affine), (Bits::Int8, Mapping::Symmetric)] {
            let scheme = QuantScheme::per_tensor(bits).with_granularity(Granularity::PerChannel).with_mapping(mapping);
            let error = |qparams: &[QParams], importance: &[f32]| -> f64 {
                let y = matrix(&values, qparams, scheme).dequantize();
                let terms = values.iter().zip(&y).enumerate();
                terms.map(|(i, (x, y))| f64::from(importance[i % 24]) * f64::from(x - y).powi(2)).sum()
            };
            let plain = choose_matrix_qparams(&values, 3, 24, scheme, &ObserverKind::Mse).unwrap();
            let alike = choose_weighted_qparams(&values, 3, 24, scheme, &[weight; 24], 0.0).unwrap();
            let (by_plain, by_alike) = (error(&plain, &[1.0; 24]), error(&alike, &[1.0; 24]));
            prop_assert!((by_plain - by_alike).abs() <= 1e-4 * by_plain, "{} {}", by_plain, by_alike);
            let importance: Vec<f32> = (0..24).map(|i| if i % 5 == 0 { 50.0 } else { 0.1 }).collect();
            let weighted = choose_weighted_qparams(&values, 3, 24, scheme, &importance, 0.0).unwrap();
            let min_max = choose_matrix_qparams(&values, 3, 24, scheme, &ObserverKind::MinMax).unwrap();
            prop_assert!(error(&weighted, &importance) <= error(&min_max, &importance) * (1.0 + 1e-5));
        }
    }
}

fn matrix(values: &[f32], qparams: &[QParams], scheme: QuantScheme) -> QuantizedMatrix {
    quantize_matrix_with_qparams(values, values.len() / 24, 24, scheme, qparams).unwrap()
}

#[test]
fn a_range_that_saves_too_little_is_not_taken() {
    let scheme = QuantScheme::per_tensor(Bits::Int8);
    // One large weight, on an input that hardly counts.
    let values: Vec<f32> = (0..480).map(|i| if i == 24 { 1.5 } else { (i as f32 * 0.7).sin() }).collect();
    let importance: Vec<f32> = (0..24).map(|i| if i == 0 { 1e-6 } else { 1.0 }).collect();
    let choose = |least_gain| choose_weighted_qparams(&values, 20, 24, scheme, &importance, least_gain);
    let error = |qparams: &[QParams]| -> f64 {
        let terms = values.iter().zip(matrix(&values, qparams, scheme).dequantize()).enumerate();
        terms.map(|(i, (x, y))| f64::from(importance[i % 24]) * f64::from(x - y).powi(2)).sum()
    };
    let min_max = choose_matrix_qparams(&values, 20, 24, scheme, &ObserverKind::MinMax).unwrap();
    let best = choose(0.0).unwrap();
    let gain = 1.0 - error(&best) / error(&min_max);
    assert!((0.3..0.8).contains(&gain), "{gain}");
    assert_eq!(choose(gain - 0.01).unwrap(), best);
    assert_eq!(choose(gain + 0.01).unwrap(), min_max);
    for share in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(choose(share), Err(slm_quant_core::Error::Parameter { what: "least gain", .. })));
    }
}

#[test]
fn symmetric_zero_points_by_range() {
    for (quant_min, quant_max, zero_point) in [
        (-128, 127, 0),
        (-8, 7, 0),
        (0, 255, 128),
        (0, 15, 7),
        (0, 127, 63),
        (2, 9, 5),
        (0, 1, 0),
        (-3, 1, 0),
    ] {
        let range = QuantRange::new(quant_min, quant_max).unwrap();
        let found = choose_qparams(-1.0, 2.0, range, Mapping::SymmetricTorch, TORCH_EPS).unwrap();
        assert_eq!(found.zero_point, zero_point, "[{quant_min}, {quant_max}]");
    }
}

/// Symmetric mappings need codes on both sides of zero; both ends are checked.
#[test]
fn symmetric_codes_lie_on_both_sides_of_zero() {
    let chosen = |lo, hi| {
        let range = QuantRange::new(lo, hi)?;
        choose_qparams(-1.0, 1.0, range, Mapping::Symmetric, TORCH_EPS)
    };
    assert!(chosen(0, 5).is_err());
    assert!(chosen(-5, 0).is_err());
    assert!(chosen(1, 5).is_err());
    assert_eq!(chosen(-1, 2).unwrap(), QParams { scale: 1.0, zero_point: 0 });
    assert_eq!(chosen(-2, 1).unwrap(), QParams { scale: 1.0, zero_point: 0 });
}

/// Long matrices are searched in parts. A matrix and a hundred copies of it, one below the other, have the same ranges.
#[test]
fn copies_of_rows_do_not_change_their_range() {
    let (rows, cols, copies) = (3, 257, 100);
    let values: Vec<f32> =
        (0..rows * cols).map(|i| (i as f32 * 0.73).sin().powi(5) * (i % 17) as f32).collect();
    let importance: Vec<f32> =
        (0..cols).map(|i| if i % 7 == 0 { 40.0 } else { 0.2 + (i % 3) as f32 }).collect();
    let many = values.repeat(copies);
    for mapping in [Mapping::Symmetric, Mapping::Affine] {
        let scheme = QuantScheme::per_tensor(Bits::Int4).with_mapping(mapping);
        let range = |values: &[f32], rows: usize| {
            let plain = choose_matrix_qparams(values, rows, cols, scheme, &ObserverKind::Mse).unwrap();
            let weighted = choose_weighted_qparams(values, rows, cols, scheme, &importance, 0.0).unwrap();
            [plain[0], weighted[0]]
        };
        let (once, often) = (range(&values, rows), range(&many, rows * copies));
        assert_ne!(once[0], once[1], "the importance matters");
        for (once, often) in once.iter().zip(&often) {
            assert_eq!(once.zero_point, often.zero_point);
            assert!((once.scale / often.scale - 1.0).abs() < 1e-5, "{once:?} {often:?}");
        }
    }
}

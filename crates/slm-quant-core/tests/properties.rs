//! Properties that hold for any values: of quantization, packing, matrices, observers and integer products.

use proptest::prelude::*;
use slm_quant_core::{
    Bits, Code, Error, Granularity, Mapping, Observer, ObserverKind, QParams, QuantRange, QuantScheme,
    QuantizedMatrix, ScaleDtype, Scales, TORCH_EPS, TORCHAO_EPS, choose_qparams, dequantize, fake_quantize,
    fake_quantize_mask, int_matmul, int_matmul_grouped, max_safe_products, pack_int4, quantize,
    quantize_matrix, quantize_matrix_with, unpack_int4,
};

/// Relative slack of a float comparison: the reciprocal, two products and the scale each round once.
const SLACK: f32 = 4.0 * f32::EPSILON;

fn ranges() -> impl Strategy<Value = QuantRange> {
    prop::sample::select(vec![
        QuantRange::INT8,
        QuantRange::INT8_NARROW,
        QuantRange::UINT8,
        QuantRange::INT4,
        QuantRange::INT4_NARROW,
        QuantRange::UINT4,
    ])
}

fn grids() -> impl Strategy<Value = (QuantRange, QParams)> {
    (ranges(), -30.0_f32..30.0, 0.0_f64..1.0).prop_map(|(range, exponent, at)| {
        let zero_point = range.quant_min() + (f64::from(range.steps()) * at) as i32;
        (range, QParams { scale: exponent.exp2(), zero_point })
    })
}

/// Values around and beyond a grid, in steps of it.
fn in_steps() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-400.0_f32..400.0, 1..60)
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    (prop::collection::vec(-1.0_f32..1.0, 1..80), -20.0_f32..20.0)
        .prop_map(|(v, e)| v.into_iter().map(|x| x * e.exp2()).collect())
}

fn mappings() -> impl Strategy<Value = Mapping> {
    prop::sample::select(vec![Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine])
}

fn bits() -> impl Strategy<Value = Bits> {
    prop::sample::select(vec![Bits::Int4, Bits::Int8])
}

prop_compose! {
    fn matrices()(rows in 1_usize..6, cols in 1_usize..40)(
        weight in prop::collection::vec(-3.0_f32..3.0, rows * cols),
        rows in Just(rows),
        cols in Just(cols),
        group_size in 1..=cols,
        per in 0..3,
        bits in bits(),
        mapping in mappings(),
        f16 in any::<bool>(),
    ) -> (Vec<f32>, usize, usize, QuantScheme) {
        let granularity = match per {
            0 => Granularity::PerTensor,
            1 => Granularity::PerChannel,
            _ => Granularity::PerGroup { group_size },
        };
        let scale_dtype = if f16 { ScaleDtype::F16 } else { ScaleDtype::F32 };
        (weight, rows, cols, QuantScheme { bits, granularity, mapping, scale_dtype })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn error_is_half_a_step_inside_and_the_clamp_outside((range, qparams) in grids(), steps in in_steps()) {
        let x: Vec<f32> = steps.iter().map(|s| s * qparams.scale).collect();
        let y = dequantize(&quantize::<i16>(&x, qparams, range).unwrap(), qparams);
        let (lo, hi) = qparams.representable(range);
        for (x, y) in x.into_iter().zip(y) {
            if x < lo {
                prop_assert_eq!(y, lo);
            } else if x > hi {
                prop_assert_eq!(y, hi);
            } else {
                prop_assert!((x - y).abs() <= qparams.scale / 2.0 + x.abs() * SLACK, "{} {}", x, y);
            }
        }
    }

    #[test]
    fn zero_is_exact_for_chosen_grids(v in values(), range in ranges(), affine in any::<bool>()) {
        let mapping = if affine { Mapping::Affine } else { Mapping::SymmetricTorch };
        let (lo, hi) = ObserverKind::MinMax.choose_range(&v, range, mapping, TORCH_EPS).unwrap();
        let qparams = choose_qparams(lo, hi, range, mapping, TORCH_EPS).unwrap();
        prop_assert_eq!(fake_quantize(&[0.0, -0.0], qparams, range).unwrap(), vec![0.0, 0.0]);
    }

    #[test]
    fn codes_survive_a_round_trip((range, qparams) in grids()) {
        let codes: Vec<i16> = (range.quant_min()..=range.quant_max()).map(|q| q as i16).collect();
        let values = dequantize(&codes, qparams);
        prop_assert_eq!(&quantize::<i16>(&values, qparams, range).unwrap(), &codes);
        prop_assert_eq!(fake_quantize(&values, qparams, range).unwrap(), values);
    }

    #[test]
    fn quantization_is_monotone((range, qparams) in grids(), steps in in_steps()) {
        let mut x: Vec<f32> = steps.iter().map(|s| s * qparams.scale).collect();
        x.sort_by(f32::total_cmp);
        prop_assert!(quantize::<i16>(&x, qparams, range).unwrap().is_sorted());
    }

    #[test]
    fn fake_quantize_is_quantize_then_dequantize((range, qparams) in grids(), steps in in_steps()) {
        let x: Vec<f32> = steps.iter().map(|s| s * qparams.scale).collect();
        let codes = quantize::<i32>(&x, qparams, range).unwrap();
        let y = fake_quantize(&x, qparams, range).unwrap();
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&y), bits(&dequantize(&codes, qparams)));
        for ((x, code), inside) in x.iter().zip(codes).zip(fake_quantize_mask(&x, qparams, range).unwrap()) {
            prop_assert!(inside || code == range.quant_min() || code == range.quant_max(), "{}", x);
        }
    }

    #[test]
    fn no_clipping_mapping_clips_nothing(v in values(), bits in bits()) {
        let (range, mapping) = (bits.signed_range(), Mapping::Symmetric);
        let (lo, hi) = ObserverKind::MinMax.choose_range(&v, range, mapping, TORCHAO_EPS).unwrap();
        let qparams = choose_qparams(lo, hi, range, mapping, TORCHAO_EPS).unwrap();
        prop_assert!(fake_quantize_mask(&v, qparams, range).unwrap().into_iter().all(|inside| inside));
    }

    #[test]
    fn pack_and_unpack_are_inverse(codes in prop::collection::vec(-8_i8..=7, 0..70)) {
        let mut packed = vec![0xa5; Bits::Int4.row_bytes(codes.len())];
        pack_int4(&codes, &mut packed).unwrap();
        let mut back = vec![0; codes.len()];
        unpack_int4(&packed, &mut back).unwrap();
        prop_assert_eq!(back, codes);
    }

    #[test]
    fn matrices_hold_what_their_slices_quantize_to((weight, rows, cols, scheme) in matrices()) {
        for observer in ObserverKind::ALL {
            let matrix = quantize_matrix(&weight, rows, cols, scheme, &observer).unwrap();
            let values = matrix.dequantize();
            let mut row_values = vec![0.0; cols];
            let mut row_codes = vec![0; cols];
            for row in 0..rows {
                matrix.dequantize_row_into(row, &mut row_values).unwrap();
                prop_assert_eq!(&values[row * cols..][..cols], &row_values[..]);
                matrix.unpack_row_into(row, &mut row_codes).unwrap();
                for col in 0..cols {
                    let qparams = matrix.qparams(matrix.scale_index(row, col / matrix.group_width()));
                    let x = &weight[row * cols + col..][..1];
                    prop_assert_eq!(fake_quantize(x, qparams, scheme.range()).unwrap()[0], row_values[col]);
                    prop_assert_eq!(row_codes[col], matrix.code(row, col));
                }
            }
            let (codes, scales, zero_points) = matrix.clone().into_parts();
            let again = quantize_matrix_with(&weight, rows, cols, scheme, scales.clone(), zero_points.clone());
            prop_assert_eq!(&again.unwrap(), &matrix);
            let parts = QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, zero_points);
            prop_assert_eq!(&parts.unwrap(), &matrix);
        }
    }

    #[test]
    fn least_squared_error_is_never_above_min_max(v in values(), bits in bits(), mapping in mappings()) {
        let range = bits.signed_range();
        let error = |kind: ObserverKind| {
            let (lo, hi) = kind.choose_range(&v, range, mapping, TORCHAO_EPS).unwrap();
            let qparams = choose_qparams(lo, hi, range, mapping, TORCHAO_EPS).unwrap();
            let y = fake_quantize(&v, qparams, range).unwrap();
            v.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>()
        };
        prop_assert!(error(ObserverKind::Mse) <= error(ObserverKind::MinMax) * 1.000_01);
    }

    #[test]
    fn streaming_observers_do_not_depend_on_batches(v in values(), at in 0.0_f64..1.0, mapping in mappings()) {
        let (head, tail) = v.split_at((v.len() as f64 * at) as usize);
        for kind in ["min-max", "percentile:99", "mse"] {
            let kind: ObserverKind = kind.parse().unwrap();
            let mut whole = kind.build().unwrap();
            whole.observe(&v).unwrap();
            let mut split = kind.build().unwrap();
            for part in [tail, head] {
                if !part.is_empty() {
                    split.observe(part).unwrap();
                }
            }
            let range = |o: &dyn Observer| o.choose_range(QuantRange::INT8, mapping, TORCH_EPS).unwrap();
            prop_assert_eq!(range(&*whole), range(&*split));
        }
    }

    #[test]
    fn integer_products_equal_i64((weight, rows, cols, scheme) in matrices(), m in 1_usize..4, seed in any::<u64>()) {
        let matrix = quantize_matrix(&weight, rows, cols, scheme, &ObserverKind::MinMax).unwrap();
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as i32
        };
        let unsigned: Vec<u8> = (0..m * cols).map(|_| next() as u8).collect();
        let unsigned_zero: Vec<i32> = (0..m).map(|_| next()).collect();
        check_products(&matrix, &unsigned, &unsigned_zero)?;
        let signed: Vec<i8> = unsigned.iter().map(|q| q.cast_signed()).collect();
        let signed_zero: Vec<i32> = unsigned_zero.iter().map(|z| z - 128).collect();
        check_products(&matrix, &signed, &signed_zero)?;
    }
}

fn check_products<C: Code>(w: &QuantizedMatrix, x: &[C], zero_points: &[i32]) -> Result<(), TestCaseError> {
    let (n, k, groups) = (w.rows(), w.cols(), w.groups_per_row());
    let mut expected = vec![0_i64; zero_points.len() * n * groups];
    for (m, zero_point) in zero_points.iter().enumerate() {
        for row in 0..n {
            for col in 0..k {
                let group = col / w.group_width();
                let w_zero = w.qparams(w.scale_index(row, group)).zero_point;
                let x = i64::from(x[m * k + col].widen() - zero_point);
                expected[(m * n + row) * groups + group] +=
                    x * i64::from(i32::from(w.code(row, col)) - w_zero);
            }
        }
    }
    let grouped = int_matmul_grouped(x, zero_points, w).unwrap();
    prop_assert_eq!(grouped.iter().map(|a| i64::from(*a)).collect::<Vec<_>>(), expected.clone());
    let whole = int_matmul(x, zero_points, w).unwrap();
    let sums: Vec<i64> = expected.chunks(groups).map(|g| g.iter().sum()).collect();
    prop_assert_eq!(whole.iter().map(|a| i64::from(*a)).collect::<Vec<_>>(), sums);
    Ok(())
}

#[test]
fn accumulators_that_could_overflow_are_refused() {
    let of = |k: usize, bits: Bits, code: u8| {
        let scheme = QuantScheme::per_tensor(bits);
        QuantizedMatrix::from_parts(1, k, scheme, vec![code; bits.row_bytes(k)], Scales::F32(vec![1.0]), None)
            .unwrap()
    };
    let safe = i32::MAX as usize / (255 * 128);
    assert_eq!(max_safe_products::<u8>(of(1, Bits::Int8, 0).scheme()), safe);
    assert_eq!(max_safe_products::<u8>(of(2, Bits::Int4, 0).scheme()), i32::MAX as usize / (255 * 8));
    let extreme = of(safe, Bits::Int8, 0x80);
    assert_eq!(int_matmul(&vec![255_u8; safe], &[0], &extreme), Ok(vec![-(safe as i32) * 255 * 128]));
    let wide = of(safe + 1, Bits::Int8, 0x80);
    let refused = int_matmul(&vec![255_u8; safe + 1], &[0], &wide);
    assert_eq!(refused, Err(Error::AccumulatorOverflow { k: safe + 1, max_k: safe }));
    // Groups of a safe width may make up a row of any width, as long as they are summed separately.
    let scheme =
        QuantScheme::per_tensor(Bits::Int8).with_granularity(Granularity::PerGroup { group_size: safe });
    let (codes, scales, _) = wide.into_parts();
    let scales = Scales::F32(vec![scales.get(0); 2]);
    let grouped = QuantizedMatrix::from_parts(1, safe + 1, scheme, codes, scales, None).unwrap();
    let acc = int_matmul_grouped(&vec![255_u8; safe + 1], &[0], &grouped);
    assert_eq!(acc, Ok(vec![-(safe as i32) * 255 * 128, -255 * 128]));
    assert!(int_matmul(&vec![255_u8; safe + 1], &[0], &grouped).is_err());
}

#[test]
fn products_refuse_mismatches() {
    let weight =
        quantize_matrix(&[1.0; 6], 2, 3, QuantScheme::per_tensor(Bits::Int8), &ObserverKind::MinMax).unwrap();
    assert!(matches!(
        int_matmul(&[0_u8; 4], &[0], &weight),
        Err(Error::Length { expected: 3, found: 4, .. })
    ));
    assert!(matches!(int_matmul(&[0_u8; 3], &[-1], &weight), Err(Error::Parameter { .. })));
    assert!(matches!(int_matmul(&[0_i8; 3], &[128], &weight), Err(Error::Parameter { .. })));
    assert_eq!(int_matmul::<u8>(&[], &[], &weight), Ok(vec![]));
}

#[test]
fn matrices_refuse_bad_input() {
    let scheme = QuantScheme::per_tensor(Bits::Int4);
    let run = |weight: &[f32], rows, cols, scheme| {
        quantize_matrix(weight, rows, cols, scheme, &ObserverKind::Mse).map(|_| ())
    };
    assert!(matches!(run(&[], 0, 3, scheme), Err(Error::Empty { .. })));
    assert!(matches!(run(&[1.0; 5], 2, 3, scheme), Err(Error::Length { expected: 6, found: 5, .. })));
    assert!(matches!(run(&[1.0], usize::MAX, 2, scheme), Err(Error::Parameter { what: "matrix shape", .. })));
    let with_nan = [0.0, 1.0, f32::NAN, 2.0];
    assert!(matches!(run(&with_nan, 2, 2, scheme), Err(Error::NotFinite { what: "weight", index: 2, .. })));
    for group_size in [0, 4] {
        let grouped = scheme.with_granularity(Granularity::PerGroup { group_size });
        assert_eq!(run(&[1.0; 6], 2, 3, grouped), Err(Error::GroupSize { group_size, cols: 3 }));
    }
    let f16 = scheme.with_scale_dtype(ScaleDtype::F16);
    assert!(matches!(run(&[1e9; 6], 2, 3, f16), Err(Error::Parameter { what: "scale", .. })));
    for scale in [0.0, f32::NAN, 1e-40] {
        assert!(quantize_matrix_with(&[1.0; 6], 2, 3, scheme, Scales::F32(vec![scale]), None).is_err());
    }
    let turned = || Scales::F32(vec![-0.125]);
    let matrix = quantize_matrix_with(&[1.0; 6], 2, 3, scheme, turned(), None).unwrap();
    assert_eq!(matrix.dequantize(), [1.0; 6]);
    for mapping in [Mapping::SymmetricTorch, Mapping::Affine] {
        let scheme = scheme.with_mapping(mapping);
        let zero_points = (mapping == Mapping::Affine).then(|| vec![0]);
        assert!(quantize_matrix_with(&[1.0; 6], 2, 3, scheme, turned(), zero_points).is_err());
    }
    let matrix = quantize_matrix(&[1.0; 6], 2, 3, scheme, &ObserverKind::MinMax).unwrap();
    assert!(matrix.dequantize_row_into(2, &mut [0.0; 3]).is_err());
    assert!(matrix.dequantize_row_into(0, &mut [0.0; 2]).is_err());
    assert!(matrix.unpack_row_into(1, &mut [0; 4]).is_err());
    let (mut codes, scales, _) = matrix.into_parts();
    codes[1] |= 0x70;
    let padded = QuantizedMatrix::from_parts(2, 3, scheme, codes, scales, None);
    assert!(matches!(padded, Err(Error::Parameter { what: "codes", .. })));
}

#[test]
fn all_zero_weights_stay_zero() {
    for mapping in [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine] {
        for scale_dtype in [ScaleDtype::F32, ScaleDtype::F16] {
            for observer in ObserverKind::ALL {
                let scheme =
                    QuantScheme::per_tensor(Bits::Int8).with_mapping(mapping).with_scale_dtype(scale_dtype);
                let matrix = quantize_matrix(&[0.0; 8], 2, 4, scheme, &observer).unwrap();
                assert_eq!(matrix.dequantize(), [0.0; 8], "{scheme} {observer}");
            }
        }
    }
}

//! Worked examples of the documented formulas: scales and zero points, schemes, statistics, bounds of observers.

use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, DYNAMIC_SCALE_FLOOR, Error, ErrorStats, Granularity,
    Mapping, MinMaxObserver, MovingAverageMinMaxObserver, Observer, ObserverKind, PerChannelMinMaxObserver,
    PercentileObserver, QParams, QuantRange, QuantScheme, QuantizationType, QuantizedMatrix, ScaleDtype,
    Scales, TORCH_EPS, TORCHAO_EPS, check_len, choose_qparams, choose_qparams_dynamic, choose_qparams_stored,
    fake_quantize_learnable_backward, pack_int4, unpack_int4,
};

fn range(quant_min: i32, quant_max: i32) -> QuantRange {
    QuantRange::new(quant_min, quant_max).unwrap()
}

#[test]
fn symmetric_takes_the_side_that_needs_the_larger_scale() {
    for (lo, hi, range, scale) in [
        (-128.0, 1.0, QuantRange::INT8, 1.0),
        (-1.0, 127.0, QuantRange::INT8, 1.0),
        (-127.5, 127.0, QuantRange::INT8, 1.0),
        (-64.0, 254.0, QuantRange::INT8, 2.0),
        (-256.0, 127.0, QuantRange::INT8, 2.0),
        (-127.0, 13.0, QuantRange::INT8_NARROW, 1.0),
        (-4.0, 1.0, QuantRange::INT4, 0.5),
        (-1.0, 3.5, QuantRange::INT4, 0.5),
        (2.0, 7.0, QuantRange::INT4, 1.0),
        (-16.0, -2.0, QuantRange::INT4, 2.0),
        (-1.0, 0.5, range(-1, 1), 1.0),
    ] {
        let found = choose_qparams(lo, hi, range, Mapping::Symmetric, TORCH_EPS).unwrap();
        assert_eq!(found, QParams { scale, zero_point: 0 }, "{lo} {hi} {range:?}");
    }
    for bad in [range(0, 10), range(3, 10), range(-10, 0), range(-10, -3)] {
        let refused = choose_qparams(-1.0, 1.0, bad, Mapping::Symmetric, TORCH_EPS);
        assert!(matches!(refused, Err(Error::Parameter { what: "mapping", .. })), "{bad:?}");
    }
}

#[test]
fn symmetric_torch_spans_the_range_and_has_its_middle_as_zero() {
    for (lo, hi, range, scale, zero_point) in [
        (-127.5, 1.0, QuantRange::INT8, 1.0, 0),
        (-1.0, 127.5, QuantRange::INT8, 1.0, 0),
        (-254.0, 10.0, QuantRange::INT8_NARROW, 2.0, 0),
        (-15.0, 3.0, QuantRange::INT4, 2.0, 0),
        (0.0, 127.5, QuantRange::UINT8, 1.0, 128),
        (-255.0, 0.0, QuantRange::UINT8, 2.0, 128),
        (-7.5, 7.5, QuantRange::UINT4, 1.0, 7),
        (-1.0, 6.0, range(10, 22), 1.0, 16),
        (-1.0, 5.5, range(10, 21), 1.0, 15),
    ] {
        let found = choose_qparams(lo, hi, range, Mapping::SymmetricTorch, TORCH_EPS).unwrap();
        assert_eq!(found, QParams { scale, zero_point }, "{lo} {hi} {range:?}");
    }
}

#[test]
fn affine_takes_in_zero_and_keeps_its_zero_point_in_the_range() {
    for (lo, hi, range, scale, zero_point) in [
        (-128.0, 127.0, QuantRange::INT8, 1.0, 0),
        (0.0, 255.0, QuantRange::INT8, 1.0, -128),
        (-255.0, 0.0, QuantRange::INT8, 1.0, 127),
        (100.0, 255.0, QuantRange::INT8, 1.0, -128),
        (-510.0, -100.0, QuantRange::INT8, 2.0, 127),
        (-64.0, 191.0, QuantRange::UINT8, 1.0, 64),
        (-2.0, 5.5, QuantRange::INT4, 0.5, -4),
        // Half to even: -2.5 and -3.5 steps.
        (-2.5, 12.5, QuantRange::UINT4, 1.0, 2),
        (-3.5, 11.5, QuantRange::UINT4, 1.0, 4),
    ] {
        let found = choose_qparams(lo, hi, range, Mapping::Affine, TORCH_EPS).unwrap();
        assert_eq!(found, QParams { scale, zero_point }, "{lo} {hi} {range:?}");
    }
}

#[test]
fn scales_have_a_floor_and_it_has_one() {
    for mapping in [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine] {
        let choose = |hi, eps| choose_qparams(0.0, hi, QuantRange::INT8, mapping, eps);
        assert_eq!(choose(0.0, 0.25).unwrap().scale, 0.25, "{mapping}");
        assert_eq!(choose(1.0, 0.25).unwrap().scale, 0.25, "{mapping}");
        assert!(choose(1e6, 0.25).unwrap().scale > 0.25, "{mapping}");
        assert_eq!(choose(0.0, TORCHAO_EPS).unwrap().scale, TORCHAO_EPS);
        for eps in [TORCHAO_EPS / 2.0, -1.0, f32::INFINITY, f32::NAN] {
            let refused = choose(1.0, eps);
            assert!(matches!(refused, Err(Error::Parameter { what: "eps", .. })), "{eps}");
        }
    }
    let equal = choose_qparams(3.0, 3.0, QuantRange::UINT8, Mapping::Affine, TORCH_EPS).unwrap();
    assert_eq!(equal, QParams { scale: 3.0 / 255.0, zero_point: 0 });
}

#[test]
fn stored_scales_are_rounded_before_the_zero_point_is_chosen() {
    let choose = |lo, hi, dtype| {
        choose_qparams_stored(lo, hi, QuantRange::UINT8, Mapping::Affine, TORCHAO_EPS, dtype).unwrap()
    };
    // 0.1 is 0.0999755859375 in 16 bits.
    assert_eq!(choose(0.0, 25.5, ScaleDtype::F16), QParams { scale: 0.099_975_586, zero_point: 0 });
    assert_eq!(choose(0.0, 25.5, ScaleDtype::F32), QParams { scale: 0.1, zero_point: 0 });
    // -10.0497 is 100.497 steps of 0.1, but 100.52 of the stored scale.
    assert_eq!(choose(-10.0497, 15.4503, ScaleDtype::F32).zero_point, 100);
    assert_eq!(choose(-10.0497, 15.4503, ScaleDtype::F16).zero_point, 101);
    let floor = choose(0.0, 1e-9, ScaleDtype::F16);
    assert_eq!(floor.scale, 2.0_f32.powi(-24));
}

#[test]
fn dynamic_parameters_have_their_floor_and_stretch_bounds_with_it() {
    let floor = DYNAMIC_SCALE_FLOOR;
    for (lo, hi, range, scale, zero_point) in [
        (0.0, 255.0, QuantRange::UINT8, 1.0, 0),
        (-255.0, 0.0, QuantRange::UINT8, 1.0, 255),
        (-51.0, 204.0, QuantRange::UINT8, 1.0, 51),
        (-204.0, 51.0, QuantRange::UINT8, 1.0, 204),
        (10.0, 510.0, QuantRange::UINT8, 2.0, 0),
        (-510.0, -10.0, QuantRange::UINT8, 2.0, 255),
        (-100.0, 155.0, QuantRange::INT8, 1.0, -28),
        (-155.0, 100.0, QuantRange::INT8, 1.0, 27),
        // The end with the smaller error decides, and its half steps are rounded to even.
        (-63.5, 191.5, QuantRange::UINT8, 1.0, 64),
        (-191.5, 63.5, QuantRange::UINT8, 1.0, 192),
        (0.0, 1e-4, QuantRange::UINT8, floor, 0),
        (-1e-4, 0.0, QuantRange::UINT8, floor, 255),
        (-1e-4, 1e-4, QuantRange::UINT8, floor, 128),
        (-3e-4, 1e-4, QuantRange::UINT8, floor, 191),
        (-1e-4, 2e-4, QuantRange::INT8, floor, -43),
        (0.0, 1e-4, QuantRange::INT8, floor, -128),
        (-1e-4, 0.0, QuantRange::INT8, floor, 127),
        (0.0, 0.0, QuantRange::INT8, 0.1, 127),
        // Too narrow for a scale with a finite reciprocal: treated as zero width.
        (0.0, 1e-37, QuantRange::UINT8, 0.1, 0),
    ] {
        let found = choose_qparams_dynamic(lo, hi, range).unwrap();
        assert_eq!(found, QParams { scale, zero_point }, "{lo} {hi} {range:?}");
    }
}

#[test]
fn qparams_are_checked_at_their_limits() {
    let check = |scale, zero_point| QParams { scale, zero_point }.check(QuantRange::INT8);
    for zero_point in [-128, 0, 127] {
        check(1.0, zero_point).unwrap();
    }
    for zero_point in [-129, 128] {
        let refused = check(1.0, zero_point);
        assert!(matches!(refused, Err(Error::Parameter { what: "zero point", .. })), "{zero_point}");
    }
    // Only one end would be infinite.
    let large = f32::MAX / 250.0;
    for zero_point in [-128, 127] {
        let refused = check(large, zero_point);
        assert!(matches!(refused, Err(Error::Parameter { what: "scale", .. })), "{zero_point}");
    }
    check(large, 0).unwrap();
    check(f32::MIN_POSITIVE, 0).unwrap();
    for scale in [0.0, -0.0, 1e-39, -1e-39] {
        assert!(matches!(check(scale, 0), Err(Error::Parameter { what: "scale", .. })), "{scale}");
    }
    // Negative scales mirror a symmetric grid of signed codes.
    check(-1.0, 0).unwrap();
    assert!(matches!(check(-1.0, 1), Err(Error::Parameter { what: "scale", .. })));
    let unsigned = QParams { scale: -1.0, zero_point: 0 }.check(QuantRange::UINT8);
    assert!(matches!(unsigned, Err(Error::Parameter { what: "scale", .. })));
    assert_eq!(QParams { scale: -0.5, zero_point: 0 }.representable(QuantRange::INT4), (4.0, -3.5));
    for scale in [f32::NAN, f32::INFINITY] {
        assert!(matches!(check(scale, 0), Err(Error::NotFinite { what: "scale", .. })), "{scale}");
    }
    let representable = QParams { scale: 0.5, zero_point: 3 }.representable(QuantRange::INT4);
    assert_eq!(representable, (-5.5, 2.0));
}

#[test]
fn statistics_of_a_worked_example() {
    let mut stats = ErrorStats::default();
    stats.observe(&[3.0, 4.0, 0.0], &[4.0, 4.0, -2.0]).unwrap();
    assert_eq!(stats.count(), 3);
    assert_eq!(stats.mse(), 5.0 / 3.0);
    assert_eq!(stats.mean_abs_error(), 1.0);
    assert_eq!(stats.max_abs_error(), 2.0);
    assert_eq!(stats.cosine(), 28.0 / (25.0_f64 * 36.0).sqrt());
    assert_eq!(stats.sqnr_db(), 10.0 * (25.0_f64 / 5.0).log10());
    let mut other = ErrorStats::default();
    assert_eq!((other.mse(), other.mean_abs_error(), other.max_abs_error()), (0.0, 0.0, 0.0));
    other.observe(&[-1.0], &[2.5]).unwrap();
    let unit = QParams { scale: 1.0, zero_point: 0 };
    other.observe_clipping(&[7.0, 7.5, 7.6, -8.0, -8.5, -8.6, 100.0], unit, QuantRange::INT4).unwrap();
    assert_eq!(other.clipped_share(), Some(4.0 / 7.0));
    stats.observe_clipping(&[0.0], unit, QuantRange::INT4).unwrap();
    assert_eq!(stats.clipped_share(), Some(0.0));
    stats.merge(&other);
    assert_eq!(stats.clipped_share(), Some(0.5));
    assert_eq!((stats.count(), stats.max_abs_error()), (4, 3.5));
    assert_eq!(stats.mse(), 17.25 / 4.0);
    assert_eq!(stats.mean_abs_error(), 6.5 / 4.0);
    assert_eq!(stats.cosine(), 25.5 / (26.0_f64 * 42.25).sqrt());
    assert!(stats.observe_clipping(&[f32::NAN], unit, QuantRange::INT4).is_err());
    assert!(stats.observe_clipping(&[0.0], unit, range(1, 7)).is_err());
}

#[test]
fn ranges_know_their_bounds() {
    for (range, quant_min, quant_max, is_signed) in [
        (QuantRange::INT8, -128, 127, true),
        (QuantRange::INT8_NARROW, -127, 127, true),
        (QuantRange::UINT8, 0, 255, false),
        (QuantRange::INT4, -8, 7, true),
        (QuantRange::INT4_NARROW, -7, 7, true),
        (QuantRange::UINT4, 0, 15, false),
    ] {
        assert_eq!((range.quant_min(), range.quant_max()), (quant_min, quant_max));
        assert_eq!((range.steps(), range.is_signed()), (quant_max - quant_min, is_signed));
        assert_eq!(QuantRange::new(quant_min, quant_max), Ok(range));
    }
    assert!(range(-1, 0).is_signed());
    for (quant_min, quant_max) in [(0, 0), (1, 0), (-129, 0), (0, 256), (-128, 128), (-1, 255)] {
        assert!(QuantRange::new(quant_min, quant_max).is_err(), "{quant_min} {quant_max}");
    }
    for (quant_min, quant_max) in [(-128, 127), (254, 255), (-100, 155)] {
        assert!(QuantRange::new(quant_min, quant_max).is_ok(), "{quant_min} {quant_max}");
    }
}

#[test]
fn granularities_count_scales() {
    let group = |group_size| Granularity::PerGroup { group_size };
    for (granularity, width, groups, count) in [
        (Granularity::PerTensor, 10, 1, 1),
        (Granularity::PerChannel, 10, 1, 3),
        (group(10), 10, 1, 3),
        (group(4), 4, 3, 9),
        (group(5), 5, 2, 6),
        (group(1), 1, 10, 30),
    ] {
        assert_eq!(granularity.group_width(10), Ok(width));
        assert_eq!(granularity.groups_per_row(10), Ok(groups));
        assert_eq!(granularity.scale_count(3, 10), Ok(count), "{granularity}");
    }
    for size in [0, 11] {
        let refused = Err(Error::GroupSize { group_size: size, cols: 10 });
        assert_eq!(group(size).group_width(10), refused);
        assert_eq!(group(size).groups_per_row(10), refused);
        assert_eq!(group(size).scale_count(3, 10), refused);
    }
    assert_eq!(Granularity::PerTensor.groups_per_row(0), Ok(0));
    assert_eq!([3, 4].map(|cols| Bits::Int4.row_bytes(cols)), [2, 2]);
    assert_eq!([3, 4].map(|cols| Bits::Int8.row_bytes(cols)), [3, 4]);
    assert_eq!([ScaleDtype::F32.size(), ScaleDtype::F16.size()], [4, 2]);
}

/// Checks each text and its value, in both directions, and that invalid texts are rejected.
fn check_texts<T>(texts: &[(&str, T)], bad: &[&str])
where
    T: std::fmt::Display + std::str::FromStr<Err = Error> + PartialEq + std::fmt::Debug,
{
    for (text, value) in texts {
        assert_eq!(value.to_string(), *text);
        assert_eq!(text.parse::<T>().as_ref(), Ok(value));
    }
    for text in bad {
        assert!(matches!(text.parse::<T>(), Err(Error::Parse { .. })), "{text}");
    }
}

#[test]
fn schemes_are_written_as_documented() {
    let group = |group_size| Granularity::PerGroup { group_size };
    check_texts(
        &[
            ("tensor", Granularity::PerTensor),
            ("channel", Granularity::PerChannel),
            ("group:1", group(1)),
            ("group:128", group(128)),
        ],
        &["", "row", "group", "group:", "group:0", "group:-1", "group:x"],
    );
    check_texts(
        &[
            ("symmetric", Mapping::Symmetric),
            ("symmetric-torch", Mapping::SymmetricTorch),
            ("affine", Mapping::Affine),
        ],
        &["", "Symmetric", "torch"],
    );
    check_texts(&[("f32", ScaleDtype::F32), ("f16", ScaleDtype::F16)], &["bf16"]);
    check_texts(
        &[("token", ActivationGranularity::PerToken), ("tensor", ActivationGranularity::PerTensor)],
        &["channel"],
    );
    check_texts(
        &[
            ("static", QuantizationType::Static),
            ("dynamic", QuantizationType::Dynamic),
            ("weight-only", QuantizationType::WeightOnly),
        ],
        &["float"],
    );
    for (number, bits) in [(4, Bits::Int4), (8, Bits::Int8)] {
        assert_eq!(Bits::try_from(number), Ok(bits));
        assert_eq!((u8::from(bits), bits.count()), (number, number));
    }
    assert!(matches!(Bits::try_from(5), Err(Error::Parse { what: "bits", .. })));
    assert_eq!(Bits::Int4.signed_range(), QuantRange::INT4);
    assert_eq!(Bits::Int8.signed_range(), QuantRange::INT8);

    let scheme = QuantScheme::per_tensor(Bits::Int8);
    assert_eq!(scheme.to_string(), "int8 tensor symmetric");
    let scheme =
        scheme.with_granularity(group(32)).with_mapping(Mapping::Affine).with_scale_dtype(ScaleDtype::F16);
    assert_eq!(scheme.to_string(), "int8 group:32 affine f16-scales");
    assert_eq!(scheme.range(), QuantRange::INT8);
    assert_eq!(QuantScheme::per_tensor(Bits::Int4).range(), QuantRange::INT4);
    assert!(Mapping::Symmetric.is_symmetric() && Mapping::SymmetricTorch.is_symmetric());
    assert!(!Mapping::Affine.is_symmetric());
}

#[test]
fn a_matrix_knows_its_parts() {
    let scheme = QuantScheme::per_tensor(Bits::Int4)
        .with_granularity(Granularity::PerGroup { group_size: 2 })
        .with_mapping(Mapping::Affine);
    let codes = vec![0x21, 0x03, 0xf4, 0x0f];
    let scales = Scales::F32(vec![0.5, 1.0, 2.0, 4.0]);
    let new = |rows, codes: &[u8], scales: &Scales, zero_points: &[i8]| {
        QuantizedMatrix::from_parts(
            rows,
            3,
            scheme,
            codes.to_vec(),
            scales.clone(),
            Some(zero_points.to_vec()),
        )
    };
    let matrix = new(2, &codes, &scales, &[-8, 0, 1, 7]).unwrap();
    assert_eq!((matrix.rows(), matrix.cols(), matrix.scheme()), (2, 3, scheme));
    assert_eq!((matrix.group_width(), matrix.groups_per_row()), (2, 2));
    assert_eq!((matrix.codes(), matrix.row_codes(1)), (&codes[..], &codes[2..]));
    assert_eq!((matrix.scale_index(0, 1), matrix.scale_index(1, 0), matrix.scale_index(1, 1)), (1, 2, 3));
    assert_eq!(matrix.qparams(3), QParams { scale: 4.0, zero_point: 7 });
    let found: Vec<i8> = (0..6).map(|i| matrix.code(i / 3, i % 3)).collect();
    assert_eq!(found, [1, 2, 3, 4, -1, -1]);
    assert_eq!(matrix.dequantize(), [4.5, 5.0, 3.0, 6.0, -4.0, -32.0]);
    assert_eq!(matrix.byte_size(), 4 + 4 * 4 + 4);
    assert_eq!(matrix.zero_points(), Some(&[-8, 0, 1, 7][..]));
    assert_eq!(matrix.clone().into_parts(), (codes.clone(), scales.clone(), Some(vec![-8, 0, 1, 7])));

    assert!(matches!(new(0, &[], &scales, &[]), Err(Error::Empty { what: "matrix" })));
    assert!(matches!(new(3, &codes, &scales, &[0; 4]), Err(Error::Length { what: "codes", .. })));
    for bad in [[-9, 0, 0, 0], [0, 0, 0, 8]] {
        let refused = new(2, &codes, &scales, &bad);
        assert!(matches!(refused, Err(Error::Parameter { what: "zero points", .. })), "{bad:?}");
    }
    let odd = new(2, &[0x21, 0x13, 0, 0], &scales, &[0; 4]);
    assert!(matches!(odd, Err(Error::Parameter { what: "codes", .. })));
    let three = new(2, &codes, &Scales::F32(vec![1.0; 3]), &[0; 4]);
    assert!(matches!(three, Err(Error::Length { what: "scales", expected: 4, found: 3 })));
    for (value, index) in [(0.0, 1), (-1.0, 2)] {
        let mut values = vec![1.0; 4];
        values[index] = value;
        let refused = new(2, &codes, &Scales::F32(values), &[0; 4]).unwrap_err().to_string();
        assert!(refused.contains(&format!("at index {index}")), "{refused}");
    }
    let without = QuantizedMatrix::from_parts(2, 3, scheme, codes.clone(), scales.clone(), None);
    assert!(matches!(without, Err(Error::Length { what: "zero points", expected: 4, found: 0 })));
    let symmetric = scheme.with_mapping(Mapping::Symmetric);
    let with = QuantizedMatrix::from_parts(2, 3, symmetric, codes.clone(), scales.clone(), Some(vec![0; 4]));
    assert!(matches!(with, Err(Error::Length { what: "zero points", expected: 0, found: 4 })));
    let symmetric =
        QuantizedMatrix::from_parts(2, 3, symmetric, codes.clone(), scales.clone(), None).unwrap();
    assert_eq!(symmetric.zero_points(), None);
    let f16 = Scales::from_f32(vec![1.0; 4], ScaleDtype::F16);
    assert_eq!((f16.len(), f16.is_empty(), f16.dtype(), f16.get(2)), (4, false, ScaleDtype::F16, 1.0));
    assert!(Scales::F32(vec![]).is_empty());
    assert_eq!((scales.to_f32(), scales.dtype()), (vec![0.5, 1.0, 2.0, 4.0], ScaleDtype::F32));
}

#[test]
fn only_static_inputs_have_parameters() {
    let params = QParams { scale: 0.5, zero_point: 3 };
    assert_eq!(ActivationQuant::Static(params).static_params(), Some(params));
    let others = [ActivationQuant::Float, ActivationQuant::Dynamic(ActivationGranularity::PerToken)];
    assert!(others.iter().all(|input| input.static_params().is_none()));
}

#[test]
fn learned_scales_and_zero_points_sum_the_gradients_of_all_values() {
    // Of nineteen values the first clips below, the last above; the others are a quarter of a step off the grid, where the
    // gradient with respect to the scale is that quarter.
    let (scale, zero_point) = (2.0, 1.0);
    let mut values: Vec<f32> = (0..19).map(|i| ((i % 5) as f32 - 0.25) * scale).collect();
    (values[0], values[18]) = (-100.0, 100.0);
    let gradients: Vec<f32> = (1..=19).map(|i| i as f32).collect();
    let found =
        fake_quantize_learnable_backward(&values, &gradients, scale, zero_point, QuantRange::INT4, 0.5)
            .unwrap();
    let inside: f32 = gradients[1..18].iter().sum();
    let steps = gradients[0] * (-8.0 - zero_point) + gradients[18] * (7.0 - zero_point);
    assert_eq!(found.grad_scale, 0.5 * (steps + 0.25 * inside));
    assert_eq!(found.grad_zero_point, 0.5 * -scale * (gradients[0] + gradients[18]));
    assert_eq!(found.grad_x[1..18], gradients[1..18]);
    assert_eq!((found.grad_x[0], found.grad_x[18]), (0.0, 0.0));
}

#[test]
fn nibbles_are_packed_low_first() {
    let mut packed = [0; 3];
    pack_int4(&[-8, 7, -1, 0, 5], &mut packed).unwrap();
    assert_eq!(packed, [0x78, 0x0f, 0x05]);
    let mut codes = [0; 5];
    unpack_int4(&packed, &mut codes).unwrap();
    assert_eq!(codes, [-8, 7, -1, 0, 5]);
    assert_eq!(check_len("x", 2, 3), Err(Error::Length { what: "x", expected: 2, found: 3 }));
}

#[test]
fn bounds_of_observers() {
    let range_of = |observer: &dyn Observer, mapping| {
        observer.choose_range(QuantRange::INT8, mapping, TORCH_EPS).unwrap()
    };
    let mut min_max = MinMaxObserver::default();
    assert_eq!(min_max.bounds(), None);
    for batch in [[-1.0, 2.0], [-3.0, 1.0], [0.0, 0.5]] {
        min_max.observe(&batch).unwrap();
    }
    assert_eq!(min_max.bounds(), Some((-3.0, 2.0)));
    assert_eq!(range_of(&min_max, Mapping::Affine), (-3.0, 2.0));

    let mut rows = PerChannelMinMaxObserver::new(2).unwrap();
    rows.observe(&[-1.0, 2.0, 5.0, 6.0]).unwrap();
    rows.observe(&[0.0, 3.0, 4.0, 5.5]).unwrap();
    assert_eq!(rows.bounds(), [(-1.0, 3.0), (4.0, 6.0)]);

    let mut average = MovingAverageMinMaxObserver::new(0.25).unwrap();
    average.observe(&[-4.0, 8.0]).unwrap();
    average.observe(&[-8.0, 4.0]).unwrap();
    assert_eq!(average.bounds(), Some((-5.0, 7.0)));
    assert_eq!(range_of(&average, Mapping::Affine), (-5.0, 7.0));
    for constant in [0.0, -0.5, 1.5, f32::NAN] {
        assert!(MovingAverageMinMaxObserver::new(constant).is_err(), "{constant}");
    }
    MovingAverageMinMaxObserver::new(1.0).unwrap();

    // 101 values: percentile 90 is the value of rank 90, percentile 99.5 lies half way between two.
    let ramp: Vec<f32> = (0..=100).map(|i| i as f32 - 20.0).collect();
    let choose = |percentile, mapping| {
        ObserverKind::Percentile { percentile }
            .choose_range(&ramp, QuantRange::INT8, mapping, TORCH_EPS)
            .unwrap()
    };
    let (lo, hi) = choose(90.0, Mapping::Affine);
    assert!((lo + 10.0).abs() < 1e-4 && (hi - 70.0).abs() < 1e-4, "{lo} {hi}");
    let (lo, hi) = choose(99.5, Mapping::Affine);
    assert!((lo + 19.5).abs() < 1e-4 && (hi - 79.5).abs() < 1e-4, "{lo} {hi}");
    assert_eq!(choose(100.0, Mapping::Affine), (-20.0, 80.0));
    assert_eq!(choose(100.0, Mapping::Symmetric), (-20.0, 80.0));
    // Of the magnitudes 0, 1, 1, ... 20, 20, 21, ... 80 the one of rank 90 is 70, and of rank 55 is 35.
    assert_eq!(choose(90.0, Mapping::Symmetric), (-20.0, 70.0));
    let (lo, hi) = choose(55.0, Mapping::Symmetric);
    assert!(lo == -20.0 && (hi - 35.0).abs() < 1e-4, "{lo} {hi}");
    for percentile in [50.0, 100.5, f64::NAN] {
        assert!(PercentileObserver::new(percentile).is_err(), "{percentile}");
    }
    PercentileObserver::new(50.1).unwrap();
}

//! Every kernel of this machine agrees with the plain formulas, and with the other kernels bit for bit.

mod common;

use std::process::Command;

use common::{Case, random_case};
use proptest::prelude::*;
use slm_kernels::{
    KernelKind, PackedMatrix, QuantizedActivations, accumulate, linear, linear_quantized,
    quantize_activations,
};
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Error, Granularity, Mapping, QParams, QuantScheme,
    QuantizedMatrix, ScaleDtype, Scales,
};

/// The sums of a group by definition, in 64 bits.
fn expected_sums(x: &QuantizedActivations, w: &QuantizedMatrix) -> Vec<i64> {
    let mut sums = Vec::new();
    for i in 0..x.rows() {
        for n in 0..w.rows() {
            for g in 0..w.groups_per_row() {
                let zero_point = w.qparams(w.scale_index(n, g)).zero_point;
                let columns = g * w.group_width()..((g + 1) * w.group_width()).min(w.cols());
                sums.push(
                    columns
                        .map(|k| {
                            let x = i64::from(x.row_codes(i)[k]) - i64::from(x.qparams(i).zero_point);
                            x * (i64::from(w.code(n, k)) - i64::from(zero_point))
                        })
                        .sum(),
                );
            }
        }
    }
    sums
}

fn check(case: &Case) {
    let Case { x, codes, w, bias, .. } = case;
    let sums = expected_sums(codes, w);
    let scalar = PackedMatrix::new(w.clone(), KernelKind::Scalar).unwrap();
    let (m, n) = (codes.rows(), w.rows());
    let mut integer = vec![0.0; m * n];
    linear_quantized(codes, &scalar, Some(bias), &mut integer).unwrap();
    let mut float = vec![0.0; m * n];
    linear(x, m, &scalar, &ActivationQuant::Float, Some(bias), &mut float).unwrap();

    for kind in KernelKind::available() {
        let packed = PackedMatrix::new(w.clone(), kind).unwrap();
        assert_eq!(&packed.unpack(), w, "{kind}: unpack(pack(w))");
        let found: Vec<i64> = accumulate(codes, &packed).unwrap().into_iter().map(i64::from).collect();
        assert_eq!(found, sums, "{kind}: integer sums, {}", w.scheme());

        let mut out = vec![f32::NAN; m * n];
        linear_quantized(codes, &packed, Some(bias), &mut out).unwrap();
        assert_eq!(bits(&out), bits(&integer), "{kind}: quantized activations, {}", w.scheme());
        out.fill(f32::NAN);
        linear(x, m, &packed, &ActivationQuant::Float, Some(bias), &mut out).unwrap();
        assert_eq!(bits(&out), bits(&float), "{kind}: weight-only, {}", w.scheme());
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn granularities(cols: usize) -> Vec<Granularity> {
    let mut all = vec![Granularity::PerTensor, Granularity::PerChannel];
    all.extend(
        [1, 3, 8, 20, 32, 64]
            .into_iter()
            .filter(|&g| g <= cols)
            .map(|group_size| Granularity::PerGroup { group_size }),
    );
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_kernel_agrees_on_random_shapes(
        m in 0usize..20,
        rows in 1usize..150,
        cols in 1usize..300,
        pick in any::<u64>(),
    ) {
        let granularities = granularities(cols);
        let scheme = QuantScheme {
            bits: if pick % 2 == 0 { Bits::Int4 } else { Bits::Int8 },
            granularity: granularities[(pick / 2) as usize % granularities.len()],
            mapping: if (pick >> 20) % 2 == 0 { Mapping::Affine } else { Mapping::Symmetric },
            scale_dtype: if (pick >> 21) % 2 == 0 { ScaleDtype::F16 } else { ScaleDtype::F32 },
        };
        check(&random_case(m, rows, cols, scheme, pick));
    }
}

/// For rows of several groups the zero point of the input is removed from the sums at the end. With extreme zero points
/// that is most of the sum, and the rest must still match the formula.
#[test]
fn results_are_close_to_real_numbers_for_any_zero_point() {
    let (m, rows, cols) = (3, 20, 300);
    for bits in [Bits::Int4, Bits::Int8] {
        for granularity in [Granularity::PerChannel, Granularity::PerGroup { group_size: 32 }] {
            let scheme =
                QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(Mapping::Affine);
            let case = random_case(m, rows, cols, scheme, 5);
            let (w, groups) = (&case.w, case.w.groups_per_row());
            for zero_point in [0, 1, 127, 128, 200, 255] {
                let params = QParams { scale: 0.5, zero_point };
                let codes: Vec<u8> = (0..m).flat_map(|i| case.codes.row_codes(i).to_vec()).collect();
                let codes = QuantizedActivations::from_codes(m, cols, codes, vec![params]).unwrap();
                let packed = PackedMatrix::new(w.clone(), KernelKind::best()).unwrap();
                let mut out = vec![0.0; m * rows];
                linear_quantized(&codes, &packed, None, &mut out).unwrap();
                let sums = expected_sums(&codes, w);
                for (at, (&y, sums)) in out.iter().zip(sums.chunks(groups)).enumerate() {
                    let (mut expected, mut magnitude) = (0.0, 0.0);
                    for (group, &sum) in sums.iter().enumerate() {
                        let scale = f64::from(w.qparams(w.scale_index(at % rows, group)).scale) * 0.5;
                        expected += sum as f64 * scale;
                        // 255 times the largest code, for each column of the group.
                        magnitude +=
                            255.0 * f64::from(scheme.range().steps()) * scale * cols as f64 / groups as f64;
                    }
                    let error = (f64::from(y) - expected).abs();
                    assert!(error <= 1e-6 * magnitude, "{scheme}, {zero_point}: {y} for {expected}");
                }
            }
        }
    }
}

#[test]
fn every_scheme_on_shapes_around_the_tile_sizes() {
    for bits in [Bits::Int4, Bits::Int8] {
        for mapping in [Mapping::Affine, Mapping::SymmetricTorch] {
            for scale_dtype in [ScaleDtype::F16, ScaleDtype::F32] {
                for (m, rows, cols) in [(1, 64, 64), (5, 65, 65), (13, 33, 131)] {
                    for granularity in granularities(cols) {
                        let scheme = QuantScheme { bits, granularity, mapping, scale_dtype };
                        check(&random_case(m, rows, cols, scheme, 7));
                    }
                }
            }
        }
    }
}

/// Small enough for Miri.
#[test]
fn every_kind_of_loop_on_little() {
    for bits in [Bits::Int4, Bits::Int8] {
        for granularity in [Granularity::PerChannel, Granularity::PerGroup { group_size: 8 }] {
            for m in [1, 6] {
                let scheme =
                    QuantScheme::per_tensor(bits).with_granularity(granularity).with_mapping(Mapping::Affine);
                check(&random_case(m, 18, 19, scheme, 9));
            }
        }
    }
    for scale_dtype in [ScaleDtype::F16, ScaleDtype::F32] {
        let granularity = Granularity::PerGroup { group_size: 32 };
        let scheme = QuantScheme::per_tensor(Bits::Int4).with_granularity(granularity);
        check(&random_case(1, 18, 64, scheme.with_scale_dtype(scale_dtype), 9));
    }
}

#[test]
fn enough_work_for_every_thread_and_tile() {
    for (bits, granularity) in [
        (Bits::Int8, Granularity::PerChannel),
        (Bits::Int8, Granularity::PerGroup { group_size: 32 }),
        (Bits::Int4, Granularity::PerTensor),
        (Bits::Int4, Granularity::PerGroup { group_size: 32 }),
    ] {
        for m in [1, 3, 70] {
            check(&random_case(m, 700, 520, QuantScheme::per_tensor(bits).with_granularity(granularity), 3));
        }
    }
    // Inputs too large to stay in the first-level cache without prefetching.
    let grouped =
        QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerGroup { group_size: 32 });
    for cols in [4128, 5600] {
        check(&random_case(1, 50, cols, grouped, 3));
    }
}

/// Codes at the ends of their ranges, where a saturating instruction would show.
#[test]
fn extreme_codes_are_exact() {
    let (m, rows, cols) = (5, 48, 1000);
    for bits in [Bits::Int8, Bits::Int4] {
        for weight in [0x00u8, 0x80, 0x7f, 0x88, 0x77, 0xff] {
            for zero_point in [bits.signed_range().quant_min() as i8, bits.signed_range().quant_max() as i8] {
                for granularity in [Granularity::PerChannel, Granularity::PerGroup { group_size: 100 }] {
                    let scheme = QuantScheme::per_tensor(bits)
                        .with_granularity(granularity)
                        .with_mapping(Mapping::Affine);
                    let count = granularity.scale_count(rows, cols).unwrap();
                    let w = QuantizedMatrix::from_parts(
                        rows,
                        cols,
                        scheme,
                        vec![weight; rows * bits.row_bytes(cols)],
                        Scales::F32(vec![0.5; count]),
                        Some(vec![zero_point; count]),
                    )
                    .unwrap();
                    for (code, x_zero_point) in [(255, 0), (0, 255), (255, 255), (0, 0), (255, 128)] {
                        let params = vec![QParams { scale: 0.25, zero_point: x_zero_point }];
                        let codes =
                            QuantizedActivations::from_codes(m, cols, vec![code; m * cols], params).unwrap();
                        let sums = expected_sums(&codes, &w);
                        for kind in KernelKind::available() {
                            let packed = PackedMatrix::new(w.clone(), kind).unwrap();
                            let found = accumulate(&codes, &packed).unwrap();
                            assert!(
                                found.iter().map(|&v| i64::from(v)).eq(sums.iter().copied()),
                                "{kind}: {scheme}, weights {weight:#x} - {zero_point}, inputs {code} - {x_zero_point}",
                            );
                        }
                    }
                }
            }
        }
    }
}

/// As above for groups without zero points, which have separate loops for float results.
#[test]
fn extreme_codes_in_groups_give_the_same_bits() {
    let (m, rows, cols) = (7, 48, 160);
    for weight in [0x88u8, 0x77, 0xf8, 0x8f] {
        for (group_size, code) in [(32, 255), (32, 0), (64, 255), (32, 128)] {
            let scheme =
                QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerGroup { group_size });
            let count = scheme.granularity.scale_count(rows, cols).unwrap();
            let codes = vec![weight; rows * Bits::Int4.row_bytes(cols)];
            let w =
                QuantizedMatrix::from_parts(rows, cols, scheme, codes, Scales::F32(vec![0.5; count]), None)
                    .unwrap();
            let params = vec![QParams { scale: 0.25, zero_point: 3 }];
            let x = QuantizedActivations::from_codes(m, cols, vec![code; m * cols], params).unwrap();
            let of = |kind| {
                let mut out = vec![f32::NAN; m * rows];
                linear_quantized(&x, &PackedMatrix::new(w.clone(), kind).unwrap(), None, &mut out).unwrap();
                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let expected = of(KernelKind::Scalar);
            for kind in KernelKind::available() {
                assert!(of(kind) == expected, "{kind}: {weight:#x}, groups of {group_size}, inputs {code}");
            }
        }
    }
}

#[test]
fn the_widest_safe_row_is_exact_and_one_more_is_refused() {
    for (mapping, max_k, zero_points) in
        [(Mapping::Affine, 33_025, Some(vec![127i8])), (Mapping::Symmetric, 65_793, None)]
    {
        let scheme = QuantScheme::per_tensor(Bits::Int8).with_mapping(mapping);
        let matrix = |cols: usize| {
            QuantizedMatrix::from_parts(
                1,
                cols,
                scheme,
                vec![0x80; cols],
                Scales::F32(vec![1.0]),
                zero_points.clone(),
            )
            .unwrap()
        };
        let params = vec![QParams { scale: 1.0, zero_point: 0 }];
        let codes = QuantizedActivations::from_codes(1, max_k, vec![255; max_k], params).unwrap();
        for kind in KernelKind::available() {
            let packed = PackedMatrix::new(matrix(max_k), kind).unwrap();
            let sums = accumulate(&codes, &packed).unwrap();
            assert_eq!(i64::from(sums[0]), expected_sums(&codes, &matrix(max_k))[0], "{kind}");
            let refused = PackedMatrix::new(matrix(max_k + 1), kind).unwrap_err();
            assert_eq!(refused, Error::AccumulatorOverflow { k: max_k + 1, max_k });
        }
    }
}

/// A token's result does not depend on the other tokens.
#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    let scheme =
        QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerGroup { group_size: 32 });
    let case = random_case(40, 130, 200, scheme, 11);
    for kind in KernelKind::available() {
        let packed = PackedMatrix::new(case.w.clone(), kind).unwrap();
        for quant in [ActivationQuant::Float, ActivationQuant::Dynamic(ActivationGranularity::PerToken)] {
            let mut batch = vec![0.0; 40 * 130];
            linear(&case.x, 40, &packed, &quant, None, &mut batch).unwrap();
            for (row, expected) in case.x.chunks(200).zip(batch.chunks(130)) {
                let mut alone = vec![0.0; 130];
                linear(row, 1, &packed, &quant, None, &mut alone).unwrap();
                assert_eq!(bits(&alone), bits(expected), "{kind}");
            }
        }
    }
}

#[test]
fn bad_input_is_refused() {
    let scheme = QuantScheme::per_tensor(Bits::Int8);
    let case = random_case(2, 3, 4, scheme, 1);
    let dynamic = ActivationQuant::Dynamic(ActivationGranularity::PerToken);
    for kind in KernelKind::available() {
        let packed = PackedMatrix::new(case.w.clone(), kind).unwrap();
        let mut out = [0.0; 6];
        for quant in
            [ActivationQuant::Float, dynamic, ActivationQuant::Static(QParams { scale: 1.0, zero_point: 3 })]
        {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = case.x.clone();
                x[6] = bad;
                let error = linear(&x, 2, &packed, &quant, None, &mut out).unwrap_err();
                assert!(matches!(error, Error::NotFinite { index: 6, .. }), "{kind}: {error}");
            }
            assert!(linear(&case.x, 3, &packed, &quant, None, &mut out).is_err());
            assert!(linear(&case.x, 2, &packed, &quant, None, &mut out[..5]).is_err());
            assert!(linear(&case.x, 2, &packed, &quant, Some(&[0.0; 2]), &mut out).is_err());
            linear(&[], 0, &packed, &quant, None, &mut []).unwrap();
        }
    }
    for (scale, zero_point) in [(0.0, 0), (-1.0, 0), (f32::NAN, 0), (1.0, 256), (1.0, -1), (1e-40, 0)] {
        let quant = ActivationQuant::Static(QParams { scale, zero_point });
        assert!(quantize_activations(&case.x, 2, 4, &quant).is_err(), "{scale} {zero_point}");
    }
    assert!(quantize_activations(&case.x, 2, 4, &ActivationQuant::Float).is_err());
}

#[test]
fn kernels_are_named() {
    for kind in KernelKind::available() {
        assert_eq!(kind.to_string().parse::<KernelKind>().unwrap(), kind);
    }
    assert_eq!(KernelKind::available().last(), Some(&KernelKind::best()));
    assert!(matches!("sse9".parse::<KernelKind>(), Err(Error::Parse { .. })));
}

/// Runs this program, in the emulator that cargo is configured to use, if any.
fn this_program() -> Command {
    let program = std::env::current_exe().unwrap();
    let runner = std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER");
    match runner.as_ref().map(|runner| runner.split_whitespace().collect::<Vec<_>>()).as_deref() {
        Ok([emulator, options @ ..]) if cfg!(target_arch = "aarch64") => {
            let mut command = Command::new(emulator);
            command.args(options).arg(program);
            command
        }
        _ => Command::new(program),
    }
}

/// The environment belongs to the process, so each choice is tested in its own process.
#[test]
fn the_environment_forces_a_kernel_or_fails() {
    let selected = || KernelKind::select().map_or_else(|error| error.to_string(), |kind| kind.to_string());
    if let Ok(expected) = std::env::var("EXPECTED_KERNEL") {
        assert_eq!(KernelKind::selected(), KernelKind::best());
        let found = selected();
        assert_eq!(found, expected);
        // An unavailable kernel changes nothing.
        assert_eq!(KernelKind::selected(), found.parse().unwrap_or(KernelKind::best()));
        return;
    }
    let run = |name: &str, expected: &str| {
        let status = this_program()
            .args(["--exact", "the_environment_forces_a_kernel_or_fails"])
            .env("SLM_KERNEL", name)
            .env("EXPECTED_KERNEL", expected)
            .status();
        assert!(status.unwrap().success(), "SLM_KERNEL={name} should give {expected:?}");
    };
    for kind in KernelKind::available() {
        run(&kind.to_string(), &kind.to_string());
    }
    run("sse9", "SLM_KERNEL must be one of scalar, avx2, avx512vnni, dotprod, not \"sse9\"");
}

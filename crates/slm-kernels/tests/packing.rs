//! Packing rows as they arrive gives the same result as packing the whole matrix.

mod common;

use common::{Case, Random, random_case};
use proptest::prelude::*;
use slm_kernels::{KernelKind, PackedMatrix, PackedMatrixBuilder, accumulate, linear, linear_quantized};
use slm_quant_core::{
    ActivationQuant, Bits, Error, Granularity, Mapping, QuantScheme, QuantizedMatrix, ScaleDtype, Scales,
};

/// Packs `w` in parts that begin at rows given by `random`, each on its own thread.
fn pack_in_parts(w: &QuantizedMatrix, kernel: KernelKind, random: &mut Random) -> PackedMatrix {
    let mut builder = PackedMatrixBuilder::new(w.rows(), w.cols(), w.scheme(), kernel).unwrap();
    let row_bytes = builder.row_bytes();
    let mut parts = Vec::new();
    let mut rest = builder.rows_mut();
    while !rest.rows().is_empty() {
        let panels = 1 + random.bits() as usize % 3;
        let end = rest.rows().end.min(rest.rows().start + panels * PackedMatrixBuilder::PANEL_ROWS);
        let (part, others) = rest.split_at(end).unwrap();
        parts.push(part);
        rest = others;
    }
    std::thread::scope(|scope| {
        for part in parts.into_iter().rev() {
            let codes = &w.codes()[part.rows().start * row_bytes..part.rows().end * row_bytes];
            scope.spawn(move || part.fill(codes).unwrap());
        }
    });
    builder.finish(w.scales().clone(), w.zero_points().map(<[i8]>::to_vec)).unwrap()
}

/// All observable properties of a packed matrix.
fn answers(case: &Case, w: &PackedMatrix) -> (QuantizedMatrix, Vec<i32>, Vec<Vec<u32>>, usize) {
    let m = case.codes.rows();
    let mut outputs = [vec![0.0; m * w.rows()], vec![0.0; m * w.rows()]];
    linear_quantized(&case.codes, w, Some(&case.bias), &mut outputs[0]).unwrap();
    linear(&case.x, m, w, &ActivationQuant::Float, None, &mut outputs[1]).unwrap();
    let bits = outputs.map(|values| values.iter().map(|v| v.to_bits()).collect()).to_vec();
    (w.unpack(), accumulate(&case.codes, w).unwrap(), bits, w.byte_size())
}

fn check(case: &Case, random: &mut Random) {
    for kernel in KernelKind::available() {
        let whole = PackedMatrix::new(case.w.clone(), kernel).unwrap();
        let parts = pack_in_parts(&case.w, kernel, random);
        assert_eq!(parts.kernel(), kernel);
        assert!(answers(case, &parts) == answers(case, &whole), "{kernel}, {}", case.w.scheme());
        assert_eq!(parts.unpack(), case.w, "{kernel}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn parts_make_the_same_as_the_whole(
        rows in 1usize..130,
        cols in 1usize..200,
        group_size in 1usize..70,
        pick in any::<u64>(),
    ) {
        let scheme = QuantScheme {
            bits: if pick % 2 == 0 { Bits::Int4 } else { Bits::Int8 },
            granularity: match pick / 2 % 4 {
                0 => Granularity::PerTensor,
                1 => Granularity::PerChannel,
                _ => Granularity::PerGroup { group_size: group_size.min(cols) },
            },
            mapping: if pick / 8 % 2 == 0 { Mapping::Affine } else { Mapping::SymmetricTorch },
            scale_dtype: if pick / 16 % 2 == 0 { ScaleDtype::F16 } else { ScaleDtype::F32 },
        };
        check(&random_case(2, rows, cols, scheme, pick), &mut Random::new(pick));
    }
}

#[test]
fn wide_rows_and_groups_with_stored_sums() {
    for bits in [Bits::Int4, Bits::Int8] {
        for granularity in [Granularity::PerChannel, Granularity::PerGroup { group_size: 513 }] {
            let scheme = QuantScheme::per_tensor(bits).with_granularity(granularity);
            check(&random_case(1, 39, 1601, scheme, 1), &mut Random::new(1));
        }
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let odd = QuantScheme::per_tensor(Bits::Int4).with_mapping(Mapping::Affine);
    let scales = || Scales::F32(vec![1.0]);
    for kernel in KernelKind::available() {
        let new = |rows, cols, scheme| PackedMatrixBuilder::new(rows, cols, scheme, kernel);
        assert!(matches!(new(0, 3, odd), Err(Error::Empty { .. })));
        assert!(matches!(new(1 << 40, 1 << 40, odd), Err(Error::Parameter { .. })));
        let grouped = odd.with_granularity(Granularity::PerGroup { group_size: 4 });
        assert!(matches!(new(1, 3, grouped), Err(Error::GroupSize { group_size: 4, cols: 3 })));
        assert!(matches!(new(1, 1 << 24, odd), Err(Error::AccumulatorOverflow { .. })));

        // One row is missing, then all are there.
        let mut builder = new(33, 3, odd).unwrap();
        let (first, last) = builder.rows_mut().split_at(32).unwrap();
        assert_eq!((first.rows(), last.rows()), (0..32, 32..33));
        first.fill(&[0x01; 64]).unwrap();
        let refused = last.fill(&[0x11, 0x12]).unwrap_err();
        assert!(
            matches!(&refused, Error::Parameter { detail, .. } if detail.contains("row 32")),
            "{refused}"
        );
        let unfinished = builder.finish(scales(), Some(vec![0]));
        assert_eq!(unfinished.unwrap_err(), Error::Length { what: "packed rows", expected: 33, found: 32 });

        let filled = || {
            let mut builder = new(33, 3, odd).unwrap();
            builder.rows_mut().fill(&[0x01; 66]).unwrap();
            builder
        };
        filled().finish(scales(), Some(vec![-8])).unwrap();
        assert!(matches!(filled().finish(scales(), None), Err(Error::Length { what: "zero points", .. })));
        assert!(matches!(filled().finish(scales(), Some(vec![8])), Err(Error::Parameter { .. })));
        let bad = |value| filled().finish(Scales::F32(vec![value]), Some(vec![0]));
        assert!(matches!(bad(f32::NAN), Err(Error::NotFinite { .. })));
        assert!(matches!(bad(0.0), Err(Error::Parameter { .. })));
        let f16 = Scales::from_f32(vec![1.0], ScaleDtype::F16);
        assert!(matches!(
            filled().finish(f16, Some(vec![0])),
            Err(Error::Parameter { what: "scale dtype", .. })
        ));

        let mut builder = new(33, 3, odd).unwrap();
        for row in [1, 31, 34, 48] {
            assert!(matches!(builder.rows_mut().split_at(row), Err(Error::Parameter { what: "row", .. })));
        }
        let (_, last) = builder.rows_mut().split_at(16).unwrap();
        assert!(matches!(last.split_at(0), Err(Error::Parameter { what: "row", .. })));
        let all = builder.rows_mut();
        assert!(matches!(all.fill(&[0; 65]), Err(Error::Length { what: "codes", expected: 66, found: 65 })));
    }
}

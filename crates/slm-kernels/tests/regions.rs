//! Several products in one parallel region.

mod common;

use common::random_case;
use slm_kernels::{
    KernelKind, LinearInput, MatmulTask, PackedMatrix, QuantizedActivations, Workspace, linear_many,
    linear_quantized, quantize_activations, quantize_activations_into,
};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Bits, Error, Granularity, QuantScheme};

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Matrices of different heights, schemes and kernels on one input give the same results as each by itself.
#[test]
fn several_products_equal_each_alone() {
    let scheme = |bits, granularity| QuantScheme::per_tensor(bits).with_granularity(granularity);
    let schemes = [
        scheme(Bits::Int8, Granularity::PerChannel),
        scheme(Bits::Int4, Granularity::PerGroup { group_size: 32 }),
        scheme(Bits::Int4, Granularity::PerChannel),
        scheme(Bits::Int8, Granularity::PerGroup { group_size: 20 }),
        scheme(Bits::Int8, Granularity::PerTensor),
    ];
    let cols = 230;
    let mut workspace = Workspace::new();
    for (m, threads) in [(1, 2), (0, 2), (3, 4), (40, 3), (7, 1), (1, 7)] {
        let cases: Vec<_> = schemes
            .iter()
            .zip([150, 17, 1, 64, 333])
            .map(|(&scheme, rows)| random_case(m, rows, cols, scheme, 5))
            .collect();
        let (x, codes) = (&cases[0].x, &cases[0].codes);
        let kernels = KernelKind::available();
        // All of one kernel, then a mixture.
        for first in 0..=kernels.len() {
            let kernel = |i: usize| *kernels.get(first).unwrap_or(&kernels[i % kernels.len()]);
            let packed: Vec<_> = cases
                .iter()
                .enumerate()
                .map(|(i, case)| PackedMatrix::new(case.w.clone(), kernel(i)).unwrap())
                .collect();
            for input in [LinearInput::Quantized(codes), LinearInput::Float(x, m)] {
                let mut found: Vec<Vec<f32>> = packed.iter().map(|w| vec![f32::NAN; m * w.rows()]).collect();
                let mut products: Vec<MatmulTask<'_>> = packed
                    .iter()
                    .zip(&cases)
                    .zip(&mut found)
                    .enumerate()
                    .map(|(i, ((w, case), out))| MatmulTask::new(w, (i % 2 == 0).then_some(&case.bias), out))
                    .collect();
                pool(threads).install(|| linear_many(input, &mut products, &mut workspace).unwrap());
                for (i, ((w, case), found)) in packed.iter().zip(&cases).zip(&found).enumerate() {
                    let mut expected = vec![f32::NAN; m * w.rows()];
                    let bias = (i % 2 == 0).then_some(case.bias.as_slice());
                    let alone = &mut [MatmulTask::new(w, bias, &mut expected)];
                    pool(1).install(|| linear_many(input, alone, &mut Workspace::new()).unwrap());
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(found), bits(&expected), "m {m}, product {i}, {input:?}");
                }
            }
        }
    }
}

#[test]
fn products_that_do_not_fit_are_refused_and_nothing_is_written() {
    let case = random_case(2, 20, 30, QuantScheme::per_tensor(Bits::Int8), 1);
    let w = PackedMatrix::new(case.w.clone(), KernelKind::best()).unwrap();
    let mut workspace = Workspace::new();
    let (mut good, mut short) = ([7.0; 40], [7.0; 39]);
    let mut products = [MatmulTask::new(&w, None, &mut good), MatmulTask::new(&w, None, &mut short)];
    for input in [LinearInput::Quantized(&case.codes), LinearInput::Float(&case.x, 2)] {
        let error = linear_many(input, &mut products, &mut workspace).unwrap_err();
        assert_eq!(error, Error::Length { what: "output", expected: 40, found: 39 });
    }
    let narrow = random_case(2, 20, 29, QuantScheme::per_tensor(Bits::Int8), 1);
    let mut products = [MatmulTask::new(&w, Some(&[0.0; 20]), &mut good)];
    for input in [LinearInput::Quantized(&narrow.codes), LinearInput::Float(&narrow.x, 2)] {
        assert!(matches!(
            linear_many(input, &mut products, &mut workspace),
            Err(Error::Length { what: "activation columns" | "activations", .. })
        ));
    }
    let mut bad_bias = [MatmulTask::new(&w, Some(&[0.0; 19]), &mut good)];
    assert!(matches!(
        linear_many(LinearInput::Quantized(&case.codes), &mut bad_bias, &mut workspace),
        Err(Error::Length { what: "bias", expected: 20, found: 19 })
    ));
    let mut x = case.x.clone();
    x[33] = f32::NAN;
    let mut products = [MatmulTask::new(&w, None, &mut good)];
    assert!(matches!(
        linear_many(LinearInput::Float(&x, 2), &mut products, &mut workspace),
        Err(Error::NotFinite { index: 33, .. })
    ));
    assert_eq!(good, [7.0; 40]);
}

/// Inputs of changing shapes in reused memory give the same results as in new memory.
#[test]
fn a_buffer_of_activations_is_used_again() {
    let quants = [
        ActivationQuant::Dynamic(ActivationGranularity::PerToken),
        ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
    ];
    let scheme =
        QuantScheme::per_tensor(Bits::Int4).with_granularity(Granularity::PerGroup { group_size: 5 });
    let mut all = QuantizedActivations::empty();
    for (m, k) in [(1, 100), (700, 60), (3, 9), (0, 5), (2, 64)] {
        let case = random_case(m, 18, k, scheme, 2);
        let w = PackedMatrix::new(case.w, KernelKind::best()).unwrap();
        for quant in &quants {
            quantize_activations_into(&case.x, m, k, quant, &mut all).unwrap();
            let new = quantize_activations(&case.x, m, k, quant).unwrap();
            assert_eq!((all.rows(), all.cols()), (m, k));
            for row in 0..m {
                assert_eq!((all.row_codes(row), all.qparams(row)), (new.row_codes(row), new.qparams(row)));
            }
            let mut out = [vec![0.0; m * 18], vec![0.0; m * 18]];
            let [reused, fresh] = &mut out;
            linear_quantized(&all, &w, None, reused).unwrap();
            linear_quantized(&new, &w, None, fresh).unwrap();
            assert_eq!(reused, fresh);
        }
    }
    let error =
        quantize_activations_into(&[1.0, 2.0, 3.0, f32::NAN], 2, 2, &quants[0], &mut all).unwrap_err();
    assert!(matches!(error, Error::NotFinite { index: 3, .. }), "{error}");
    assert_eq!(all.rows(), 0);
}

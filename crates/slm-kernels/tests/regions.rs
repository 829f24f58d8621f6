//! Parallel regions, and several products in one of them.

mod common;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::random_case;
use slm_kernels::{
    KernelKind, LinearInput, MatmulTask, PackedMatrix, QuantizedActivations, Workspace, linear_many,
    linear_quantized, quantize_activations, quantize_activations_into,
};
use slm_quant_core::{ActivationGranularity, ActivationQuant, Bits, Error, Granularity, QuantScheme};
use slm_runtime::{for_each_chunk, for_each_task};

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Runs a region of `tasks` tasks and checks that each ran once.
fn check_region(tasks: usize) {
    let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    for_each_task(tasks, |task| {
        runs[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{tasks} tasks");
}

#[test]
fn each_task_runs_once_on_any_number_of_threads() {
    for threads in [1, 2, 3, 8, 2] {
        pool(threads).install(|| {
            for round in 0..300 {
                check_region(round % 41);
            }
        });
    }
    check_region(100_000);
}

#[test]
fn threads_that_have_gone_to_sleep_wake_up() {
    pool(3).install(|| {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(3));
            check_region(50);
        }
    });
}

/// More tasks than threads that take long, so that every thread gets some; none other than a pool's number
/// of threads may.
#[test]
fn no_more_threads_work_than_the_pool_has() {
    for threads in [4, 2] {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        pool(threads).install(|| {
            for_each_task(24, |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                now.fetch_sub(1, Ordering::SeqCst);
            });
        });
        let most = most.into_inner();
        assert!(most <= threads, "{most} threads of {threads}");
    }
}

#[test]
fn regions_of_several_callers_and_within_tasks() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pool(3).install(|| (0..100).for_each(check_region)));
        }
    });
    for_each_task(8, |_| check_region(9));
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_threads_usable() {
    pool(3).install(|| {
        for bad in [0, 7, 19] {
            let result = catch_unwind(|| {
                for_each_task(20, |task| assert_ne!(task, bad, "this one"));
            });
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert!(message.contains("this one"), "{message}");
            check_region(30);
        }
    });
}

#[test]
fn chunks_are_disjoint_and_complete() {
    for len in [0, 1, 5, 6, 100] {
        let mut values = vec![0; len];
        for_each_chunk(&mut values, 6, |chunk, values| {
            for (i, value) in values.iter_mut().enumerate() {
                *value += chunk * 6 + i;
            }
        });
        assert!(values.iter().enumerate().all(|(i, &value)| i == value), "{len}");
    }
}

/// Matrices of different heights, schemes and kernels on one input, against each alone.
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

/// Inputs of changing shape into the same memory, against new memory.
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

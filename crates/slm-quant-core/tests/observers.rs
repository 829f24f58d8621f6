//! Tests of the choices, errors and names of observers.

use slm_quant_core::{
    Bits, Error, ErrorStats, Granularity, Mapping, ObserverKind, PerChannelMinMaxObserver, QuantRange,
    QuantScheme, TORCH_EPS, TORCHAO_EPS, choose_qparams, fake_quantize, histogram_search, quantize_matrix,
};

/// Laplace-distributed values with a few far outliers, the same on every machine.
fn heavy_tailed(count: usize) -> Vec<f32> {
    let mut state = 42_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 + 0.5) / (1_u64 << 24) as f64
    };
    (0..count)
        .map(|i| {
            let u = uniform() - 0.5;
            let x = -u.signum() * (1.0 - 2.0 * u.abs()).ln();
            (if i % 4096 == 17 { 60.0 * x.signum() } else { x }) as f32
        })
        .collect()
}

fn squared_error(values: &[f32], bounds: (f32, f32), range: QuantRange, mapping: Mapping) -> f64 {
    let qparams = choose_qparams(bounds.0, bounds.1, range, mapping, TORCHAO_EPS).unwrap();
    let y = fake_quantize(values, qparams, range).unwrap();
    values.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / values.len() as f64
}

/// The least error of a fine sweep over shrunken bounds: both together if symmetric, each separately if not.
fn swept(values: &[f32], range: QuantRange, mapping: Mapping) -> f64 {
    let (lo, hi) = ObserverKind::MinMax.choose_range(values, range, mapping, TORCHAO_EPS).unwrap();
    let mut best = f64::INFINITY;
    let factors: Vec<f32> = (0..160).map(|i| 0.97_f32.powi(i)).collect();
    for factor in &factors {
        if mapping.is_symmetric() {
            best = best.min(squared_error(values, (lo * factor, hi * factor), range, mapping));
        } else {
            for other in &factors {
                best = best.min(squared_error(values, (lo * factor, hi * other), range, mapping));
            }
        }
    }
    best
}

#[test]
fn mse_is_as_good_as_a_fine_sweep() {
    let all = heavy_tailed(8192);
    let skewed: Vec<f32> = all.iter().map(|x| if *x < 0.0 { 0.1 * x } else { x + 0.3 }).collect();
    for values in [&all[..], &all[100..132], &skewed[..2048], &skewed[40..72]] {
        for mapping in [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine] {
            for range in [QuantRange::INT4, QuantRange::INT8] {
                let best = swept(values, range, mapping);
                let exact = ObserverKind::Mse.choose_range(values, range, mapping, TORCHAO_EPS).unwrap();
                let error = squared_error(values, exact, range, mapping);
                println!(
                    "{} values, {mapping}, {range:?}: search {error:.4e}, sweep {best:.4e}",
                    values.len()
                );
                assert!(error <= best * 1.03, "{mapping} {range:?} {}: {error} {best}", values.len());
                if values.len() > 1000 {
                    let mut observer = ObserverKind::Mse.build().unwrap();
                    values.chunks(500).for_each(|batch| observer.observe(batch).unwrap());
                    let streamed = observer.choose_range(range, mapping, TORCHAO_EPS).unwrap();
                    let error = squared_error(values, streamed, range, mapping);
                    assert!(error <= best * 1.03, "streamed {mapping} {range:?}: {error} {best}");
                }
            }
        }
    }
}

#[test]
fn clipping_observers_beat_min_max_on_outliers() {
    let weight = heavy_tailed(256 * 256);
    let sqnr = |observer: &str| {
        let scheme = QuantScheme::per_tensor(Bits::Int4);
        let matrix = quantize_matrix(&weight, 256, 256, scheme, &observer.parse().unwrap()).unwrap();
        let mut stats = ErrorStats::default();
        stats.observe(&weight, &matrix.dequantize()).unwrap();
        stats.sqnr_db()
    };
    let (min_max, percentile, mse) = (sqnr("min-max"), sqnr("percentile:99.9"), sqnr("mse"));
    assert!(mse > min_max + 1.0 && mse >= percentile, "{min_max} {percentile} {mse}");
}

#[test]
fn percentile_is_exact_on_slices_and_close_when_streamed() {
    let ramp: Vec<f32> = (0..=1000).map(|i| i as f32 - 200.0).collect();
    let kind: ObserverKind = "percentile:90".parse().unwrap();
    let symmetric = kind.choose_range(&ramp, QuantRange::INT8, Mapping::SymmetricTorch, TORCH_EPS).unwrap();
    assert_eq!(symmetric, (-200.0, 700.0));
    let affine = kind.choose_range(&ramp, QuantRange::INT8, Mapping::Affine, TORCH_EPS).unwrap();
    assert!((affine.0 - -100.0).abs() < 1e-3 && (affine.1 - 700.0).abs() < 1e-3, "{affine:?}");
    let mut observer = kind.build().unwrap();
    ramp.chunks(7).for_each(|batch| observer.observe(batch).unwrap());
    for (mapping, exact) in [(Mapping::SymmetricTorch, symmetric), (Mapping::Affine, affine)] {
        let streamed = observer.choose_range(QuantRange::INT8, mapping, TORCH_EPS).unwrap();
        assert!(
            (streamed.0 - exact.0).abs() < 1.5 && (streamed.1 - exact.1).abs() < 1.5,
            "{streamed:?} {exact:?}"
        );
    }
}

#[test]
fn percentile_of_long_slices_is_resolved_as_documented() {
    let values = heavy_tailed(100_000);
    let kind: ObserverKind = "percentile:99.5".parse().unwrap();
    let (lo, hi) = kind.choose_range(&values, QuantRange::INT8, Mapping::Affine, TORCH_EPS).unwrap();
    let mut ranked = values;
    ranked.sort_by(f32::total_cmp);
    let width = 60.0 / 4096.0;
    assert!((lo - ranked[500]).abs() <= width && (hi - ranked[99_500]).abs() <= width, "{lo} {hi}");
}

#[test]
fn histogram_search_refuses_bad_histograms() {
    let search = |change: &dyn Fn(&mut Vec<f64>), min, max| {
        let mut counts = vec![1.0; 2048];
        change(&mut counts);
        histogram_search(&counts, min, max)
    };
    assert!(search(&|_| (), -1.0, 1.0).is_ok());
    assert!(matches!(search(&|c| c.truncate(9), -1.0, 1.0), Err(Error::Length { expected: 2048, .. })));
    assert!(matches!(search(&|c| c[3] = -1.0, -1.0, 1.0), Err(Error::Parameter { what: "histogram", .. })));
    assert!(matches!(search(&|c| c[3] = f64::NAN, -1.0, 1.0), Err(Error::Parameter { .. })));
    assert!(matches!(search(&|c| c.fill(0.0), -1.0, 1.0), Err(Error::NothingObserved { .. })));
    assert!(matches!(search(&|_| (), 1.0, -1.0), Err(Error::Parameter { what: "bounds", .. })));
    assert!(matches!(search(&|_| (), f32::NAN, 1.0), Err(Error::NotFinite { .. })));
}

#[test]
fn long_slices_and_thread_counts_do_not_change_results() {
    let weight = heavy_tailed(300 * 1024);
    for granularity in ["tensor", "channel", "group:32"] {
        let granularity: Granularity = granularity.parse().unwrap();
        for mapping in [Mapping::Symmetric, Mapping::Affine] {
            let scheme =
                QuantScheme::per_tensor(Bits::Int4).with_granularity(granularity).with_mapping(mapping);
            let with_threads = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| quantize_matrix(&weight, 300, 1024, scheme, &ObserverKind::Mse).unwrap())
            };
            assert!(with_threads(1) == with_threads(3), "{scheme}");
        }
    }
}

#[test]
fn nothing_observed_is_an_error() {
    for kind in ObserverKind::ALL {
        let mut observer = kind.build().unwrap();
        assert_eq!(observer.bounds(), None);
        let refused = observer.qparams(QuantRange::INT8, Mapping::Affine, TORCH_EPS);
        assert!(matches!(refused, Err(Error::NothingObserved { .. })), "{kind}: {refused:?}");
        assert!(matches!(observer.observe(&[]), Err(Error::Empty { .. })));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(matches!(observer.observe(&[0.0, bad]), Err(Error::NotFinite { index: 1, .. })));
            let direct = kind.choose_range(&[bad], QuantRange::INT8, Mapping::Affine, TORCH_EPS);
            assert!(matches!(direct, Err(Error::NotFinite { .. })), "{kind}");
        }
        assert_eq!(observer.bounds(), None, "{kind}: refused values left a trace");
        observer.observe(&[-1.0, 2.0]).unwrap();
        assert_eq!(observer.bounds(), Some((-1.0, 2.0)));
        assert!(observer.qparams(QuantRange::INT8, Mapping::Affine, TORCH_EPS).is_ok());
    }
}

#[test]
fn per_channel_refuses_what_does_not_divide() {
    assert!(matches!(PerChannelMinMaxObserver::new(0), Err(Error::Empty { .. })));
    assert!(PerChannelMinMaxObserver::moving_average(2, 0.0).is_err());
    let mut observer = PerChannelMinMaxObserver::new(2).unwrap();
    assert!(matches!(observer.observe(&[1.0; 3]), Err(Error::Length { .. })));
    assert!(matches!(observer.observe(&[]), Err(Error::Empty { .. })));
    let unseen = observer.qparams(QuantRange::INT8, Mapping::Affine, TORCH_EPS);
    assert!(matches!(unseen, Err(Error::NothingObserved { .. })));
    observer.observe(&[-1.0, 1.0, -2.0, 4.0]).unwrap();
    assert_eq!(observer.bounds(), [(-1.0, 1.0), (-2.0, 4.0)]);
}

#[test]
fn names_round_trip() {
    for kind in ObserverKind::ALL {
        assert_eq!(kind.to_string().parse::<ObserverKind>(), Ok(kind));
        assert!(!kind.to_string().contains(':'));
    }
    // Names as files and programs give them.
    for name in ["weighted-mse", "mse", "percentile:99.9"] {
        let kind = ObserverKind::try_from(name.to_owned()).unwrap();
        assert_eq!((kind.to_string(), String::from(kind)), (name.to_owned(), name.to_owned()));
    }
    assert!(ObserverKind::try_from("best".to_owned()).is_err());
    for name in ["percentile:99.9", "moving-average:0.1", "percentile:100"] {
        assert_eq!(name.parse::<ObserverKind>().unwrap().to_string(), name);
    }
    for name in [
        "",
        "minmax",
        "mse:1",
        "percentile:",
        "percentile:50",
        "percentile:nan",
        "moving-average:0",
        "moving-average:2",
    ] {
        assert!(matches!(name.parse::<ObserverKind>(), Err(Error::Parse { what: "observer", .. })), "{name}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn serialized_as_strings() {
    let kind: ObserverKind = serde_json::from_str("\"percentile:99.9\"").unwrap();
    assert_eq!(kind, ObserverKind::Percentile { percentile: 99.9 });
    assert_eq!(serde_json::to_string(&kind).unwrap(), "\"percentile:99.9\"");
    assert!(serde_json::from_str::<ObserverKind>("\"best\"").is_err());
}

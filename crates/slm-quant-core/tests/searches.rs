//! Tests of the exact results of the range searches on small inputs. The golden vectors compare the searches with PyTorch;
//! these values record their results.

use slm_quant_core::{
    Error, HistogramObserver, HistogramSearch, Mapping, MseObserver, Observer, ObserverKind,
    PercentileObserver, QuantRange, TORCH_EPS, histogram_search,
};

/// Bell-shaped values with some far outliers, from a small generator.
fn bell(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..count)
        .map(|i| {
            let bell = (0..6).map(|_| uniform()).sum::<f32>() - 3.0;
            if i % 97 == 11 { bell * 5.0 + 0.5 } else { bell }
        })
        .collect()
}

const RANGES: [QuantRange; 3] = [QuantRange::INT8, QuantRange::UINT8, QuantRange::INT4];
const MAPPINGS: [Mapping; 3] = [Mapping::Symmetric, Mapping::SymmetricTorch, Mapping::Affine];

/// Ranges by mapping and range of codes; the symmetric mapping has none for unsigned codes.
fn all_ranges(choose: impl Fn(QuantRange, Mapping) -> Option<(f32, f32)>) -> Vec<(f32, f32)> {
    let choose = &choose;
    MAPPINGS.iter().flat_map(|&m| RANGES.iter().filter_map(move |&r| choose(r, m))).collect()
}

/// A histogram with light tails: the search drops many bins on either side.
fn tails() -> Vec<f64> {
    (0..2048)
        .map(|i| {
            let x = (f64::from(i) - 900.0) / 150.0;
            (1e6 / (1.0 + x * x * x * x)).floor()
        })
        .collect()
}

/// The inputs of the tests.
fn inputs() -> [Vec<f32>; 3] {
    [(1, 700, 0.0), (2, 300, 2.0), (3, 40, -1.0)]
        .map(|(seed, count, offset)| bell(seed, count).iter().map(|v| v + offset).collect())
}

/// An observer that has seen values in batches of 100.
fn observed<O: Observer>(mut observer: O, values: &[f32]) -> O {
    for batch in values.chunks(100) {
        observer.observe(batch).unwrap();
    }
    observer
}

/// Least and greatest of the inputs.
const BOUNDS: [(f32, f32); 3] = [(-6.203109, 6.913007), (-1.6080308, 4.1748095), (-2.098159, 0.77680063)];

#[test]
fn mse_of_whole_slices() {
    let expected: [&[(f32, f32)]; 3] = [
        &[
            (-6.9690237, 6.9145784),
            (-4.1710587, 3.6496763),
            (-6.9136095, 6.9136095),
            (-6.9136095, 6.9136095),
            (-3.9103675, 3.9103675),
            (-6.2570434, 6.9292874),
            (-6.2570434, 6.9292874),
            (-3.729504, 4.2622905),
        ],
        &[
            (-4.20331, 4.1704717),
            (-3.7807324, 3.3081408),
            (-4.180446, 4.180446),
            (-4.180446, 4.180446),
            (-3.5369105, 3.5369105),
            (-1.6025945, 4.1532025),
            (-1.6025945, 4.1532025),
            (-1.2192593, 3.352963),
        ],
        &[
            (-2.09813, 2.0817382),
            (-1.9698007, 1.7235756),
            (-2.0870788, 2.0870788),
            (-2.0870788, 2.0870788),
            (-1.8466882, 1.8466882),
            (-2.097968, 0.7782785),
            (-2.097968, 0.7782785),
            (-2.0242484, 0.7360903),
        ],
    ];
    for (values, expected) in inputs().iter().zip(expected) {
        let choose = |r, m| ObserverKind::Mse.choose_range(values, r, m, TORCH_EPS).ok();
        assert_eq!(all_ranges(choose), expected);
    }
}

#[test]
fn mse_of_batches() {
    let expected: [&[(f32, f32)]; 3] = [
        &[
            (-6.965404, 6.910987),
            (-4.171063, 3.6496801),
            (-6.9135723, 6.9135723),
            (-6.9135723, 6.9135723),
            (-3.9103715, 3.9103715),
            (-6.257594, 6.929898),
            (-6.257594, 6.929898),
            (-3.7295055, 4.262292),
        ],
        &[
            (-4.202809, 4.1699743),
            (-3.7806916, 3.3081052),
            (-4.179611, 4.179611),
            (-4.179611, 4.179611),
            (-3.536872, 3.536872),
            (-1.6026363, 4.153311),
            (-1.6026363, 4.153311),
            (-1.2192463, 3.3529272),
        ],
        &[
            (-2.0976396, 2.0812519),
            (-1.9698352, 1.7236058),
            (-2.0871844, 2.0871844),
            (-2.0871844, 2.0871844),
            (-1.8467205, 1.8467205),
            (-2.0969663, 0.7779069),
            (-2.0969663, 0.7779069),
            (-2.0242805, 0.736102),
        ],
    ];
    for ((values, expected), bounds) in inputs().iter().zip(expected).zip(BOUNDS) {
        let observer = observed(MseObserver::default(), values);
        assert_eq!(observer.bounds(), Some(bounds));
        assert_eq!(all_ranges(|r, m| observer.choose_range(r, m, TORCH_EPS).ok()), expected);
    }
}

#[test]
fn percentiles_of_batches() {
    let expected: [&[(f32, f32)]; 3] = [
        &[(-2.015625, 2.015625), (-2.015625, 2.015625), (-1.7050781, 1.6884766)],
        &[(-1.6080308, 3.4804688), (-1.6080308, 3.4804688), (0.12792969, 3.4804688)],
        &[(-2.098159, 0.77680063), (-2.098159, 0.77680063), (-2.098159, 0.77666014)],
    ];
    for ((values, expected), bounds) in inputs().iter().zip(expected).zip(BOUNDS) {
        let observer = observed(PercentileObserver::new(99.0).unwrap(), values);
        assert_eq!(observer.bounds(), Some(bounds));
        let found = MAPPINGS.map(|m| observer.choose_range(QuantRange::INT8, m, TORCH_EPS).unwrap());
        assert_eq!(found, expected);
    }
}

#[test]
fn histograms_of_batches() {
    let expected = [(-6.203109, 6.9066024), (-1.6080308, 4.1719856), (-2.098159, 0.7753968)];
    // Sums of the bins' positions, weighted by their counts.
    let moments = [677566.3969726563, 383146.0, 33711.0];
    for (((values, expected), moment), bounds) in inputs().iter().zip(expected).zip(moments).zip(BOUNDS) {
        let observer = observed(HistogramObserver::default(), values);
        assert_eq!(observer.bounds(), Some(bounds));
        let counts = observer.counts();
        assert_eq!(counts.iter().sum::<f64>(), values.len() as f64);
        assert_eq!(counts.iter().enumerate().map(|(i, n)| i as f64 * n).sum::<f64>(), moment);
        for mapping in MAPPINGS {
            assert_eq!(observer.choose_range(QuantRange::INT4, mapping, TORCH_EPS), Ok(expected));
        }
    }
}

#[test]
fn a_histogram_widens_from_a_single_value() {
    let mut observer = HistogramObserver::default();
    observer.observe(&[2.0, 2.0]).unwrap();
    assert_eq!((observer.bounds(), observer.counts()[1024]), (Some((2.0, 2.0)), 2.0));
    observer.observe(&[0.0, 4.0]).unwrap();
    let filled: Vec<_> = observer.counts().iter().enumerate().filter(|(_, n)| **n > 0.0).collect();
    assert_eq!(filled, [(0, &1.0), (1024, &2.0), (2047, &1.0)]);
}

#[test]
fn a_search_gives_up_the_longer_tail() {
    let search = |counts: &[f64], min, max| histogram_search(counts, min, max).unwrap();
    let found = HistogramSearch { start_bin: 0, end_bin: 1976, min: -3.0, max: 4.7226563 };
    assert_eq!(search(&tails(), -3.0, 5.0), found);
    let flipped: Vec<f64> = tails().into_iter().rev().collect();
    let found = HistogramSearch { start_bin: 70, end_bin: 2047, min: 0.17089844, max: 5.0 };
    assert_eq!(search(&flipped, 0.0, 5.0), found);
    for (counts, min, max) in [(vec![1.0; 2047], 0.0, 1.0), (vec![-1.0; 2048], 0.0, 1.0), (tails(), 1.0, 0.0)]
    {
        assert!(histogram_search(&counts, min, max).is_err());
    }
    assert!(matches!(histogram_search(&[0.0; 2048], 0.0, 1.0), Err(Error::NothingObserved { .. })));
}

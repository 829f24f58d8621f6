//! Observers and the parameters they choose.

use slm_quant_core::{
    HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver, Observer, PerChannelMinMaxObserver,
    QParams, choose_qparams, histogram_search,
};

use crate::harness::{Case, mapping};

pub(crate) fn case(case: &mut Case) {
    match case.op() {
        "observe_per_tensor" | "observe_per_tensor_running" => per_tensor(case),
        "observe_per_channel" | "observe_per_channel_running" => per_channel(case),
        "observe_histogram" => histogram(case),
        "histogram_search" => search(case),
        _ => case.unknown_op(),
    }
}

/// The bounds and parameters after each batch, in the order they are compared.
#[derive(Default)]
struct Seen {
    bounds: Vec<(f32, f32)>,
    qparams: Vec<QParams>,
}

impl Seen {
    fn check(&self, case: &mut Case) {
        case.check("min_val", &self.bounds.iter().map(|b| b.0).collect::<Vec<_>>());
        case.check("max_val", &self.bounds.iter().map(|b| b.1).collect::<Vec<_>>());
        check_qparams(case, &self.qparams);
    }
}

pub(crate) fn check_qparams(case: &mut Case, qparams: &[QParams]) {
    case.check("scale", &qparams.iter().map(|q| q.scale).collect::<Vec<_>>());
    case.check("zero_point", &qparams.iter().map(|q| q.zero_point).collect::<Vec<_>>());
}

fn per_tensor(case: &mut Case) {
    let mut observer: Box<dyn Observer> = match case.param("observer").as_str().unwrap() {
        "MinMaxObserver" => Box::new(MinMaxObserver::default()),
        "MovingAverageMinMaxObserver" => {
            Box::new(MovingAverageMinMaxObserver::new(case.param_f32("averaging_constant")).unwrap())
        }
        other => panic!("unknown observer {other}"),
    };
    let x = case.input("x");
    let mut seen = Seen::default();
    for batch in x.chunks(x.len() / case.param_usize("batches")) {
        observer.observe(batch).unwrap();
        seen.bounds.push(observer.bounds().unwrap());
        let qparams = observer.qparams(case.range(), mapping(case.param("scheme")), case.param_f32("eps"));
        seen.qparams.push(qparams.unwrap());
    }
    seen.check(case);
}

fn per_channel(case: &mut Case) {
    assert_eq!(case.param_usize("ch_axis"), 0);
    let channels = *case.tensor("expected", "scale").shape.last().unwrap();
    let mut observer = match case.param("observer").as_str().unwrap() {
        "PerChannelMinMaxObserver" => PerChannelMinMaxObserver::new(channels).unwrap(),
        "MovingAveragePerChannelMinMaxObserver" => {
            let constant = case.param_f32("averaging_constant");
            PerChannelMinMaxObserver::moving_average(channels, constant).unwrap()
        }
        other => panic!("unknown observer {other}"),
    };
    let x = case.input("x");
    let mut seen = Seen::default();
    for batch in x.chunks(x.len() / case.param_usize("batches")) {
        observer.observe(batch).unwrap();
        seen.bounds.extend(observer.bounds());
        let qparams = observer.qparams(case.range(), mapping(case.param("scheme")), case.param_f32("eps"));
        seen.qparams.extend(qparams.unwrap());
    }
    seen.check(case);
}

fn histogram(case: &mut Case) {
    assert_eq!((case.param_usize("bins"), case.param_usize("upsample_rate")), (2048, 16));
    let (range, mapping, eps) = (case.range(), mapping(case.param("scheme")), case.param_f32("eps"));
    let x = case.input("x");
    let mut observer = HistogramObserver::default();
    for batch in x.chunks(x.len() / case.param_usize("batches")) {
        observer.observe(batch).unwrap();
    }
    case.check("histogram", observer.counts());
    if case.has_expected("new_min") {
        let (lo, hi) = observer.choose_range(range, mapping, eps).unwrap();
        case.check("new_min", &[lo]);
        case.check("new_max", &[hi]);
    }
    let qparams = observer.qparams(range, mapping, eps).unwrap();
    Seen { bounds: vec![observer.bounds().unwrap()], qparams: vec![qparams] }.check(case);
}

fn search(case: &mut Case) {
    let counts: Vec<f64> = case.input("histogram").iter().map(|n| f64::from(*n)).collect();
    let (min, max) = (case.input("min_val")[0], case.input("max_val")[0]);
    let found = histogram_search(&counts, min, max).unwrap();
    case.check("start_bin", &[found.start_bin as u32]);
    case.check("end_bin", &[found.end_bin as u32]);
    case.check("new_min", &[found.min]);
    case.check("new_max", &[found.max]);
    let mapping = mapping(case.param("scheme"));
    let qparams = choose_qparams(found.min, found.max, case.range(), mapping, case.param_f32("eps")).unwrap();
    check_qparams(case, &[qparams]);
}

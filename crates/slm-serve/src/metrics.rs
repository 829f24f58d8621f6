//! Counters of a server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters since the server's start, and gauges of current requests and connections.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Number of answers by path and status.
    responses: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) new_tokens: AtomicU64,
    pub(crate) abandoned: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) running: AtomicU64,
    pub(crate) connections: AtomicU64,
    steps: AtomicU64,
    step_nanos: AtomicU64,
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn answered(&self, path: &'static str, status: u16) {
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        *responses.entry((path, status)).or_default() += 1;
    }

    /// Counts a pass of the model.
    pub(crate) fn stepped(&self, time: Duration) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.step_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Formats the metrics in the Prometheus text exposition format, version 0.0.4.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: f64| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        one("slm_prompt_tokens_total", "counter", "Prompt tokens that were read.", get(&self.prompt_tokens));
        one("slm_generated_tokens_total", "counter", "Tokens that were generated.", get(&self.new_tokens));
        one(
            "slm_abandoned_requests_total",
            "counter",
            "Requests whose client disconnected.",
            get(&self.abandoned),
        );
        one("slm_steps_total", "counter", "Decoding steps.", get(&self.steps));
        one(
            "slm_step_seconds_total",
            "counter",
            "Time spent in decoding steps, in seconds.",
            get(&self.step_nanos) / 1e9,
        );
        one("slm_requests_waiting", "gauge", "Requests in the queue.", get(&self.waiting));
        one("slm_requests_running", "gauge", "Requests being answered.", get(&self.running));
        one("slm_connections", "gauge", "Open connections.", get(&self.connections));
        let _ = writeln!(
            text,
            "# HELP slm_responses_total HTTP responses by path and status.\n# TYPE slm_responses_total counter"
        );
        for ((path, status), count) in self.responses.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(text, "slm_responses_total{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        text
    }
}

/// Guard that adds 1 to a gauge while it is alive.
#[derive(Debug)]
pub(crate) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub(crate) fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let metrics = Metrics::default();
        metrics.answered("/health", 200);
        metrics.answered("/health", 200);
        metrics.stepped(Duration::from_millis(1500));
        {
            let _running = Counted::new(&metrics.running);
            assert!(metrics.render().contains("\nslm_requests_running 1\n"));
        }
        let text = metrics.render();
        assert!(
            text.contains("\nslm_requests_running 0\n") && text.contains("\nslm_step_seconds_total 1.5\n")
        );
        assert!(text.contains("slm_responses_total{path=\"/health\",status=\"200\"} 2\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("slm_"), "{line}");
            value.parse::<f64>().unwrap();
        }
    }
}

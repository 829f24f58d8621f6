//! Breakdown of the time of a pass.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use slm_model::PassTimes;

/// Milliseconds of a pass, or the mean over several passes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Profile {
    products_ms: f64,
    attention_ms: f64,
    rest_ms: f64,
    /// Choosing the next token, and all other time outside the model.
    outside_ms: f64,
}

impl Profile {
    /// Averages `passes` passes that took `time` in total.
    pub(super) fn new(times: PassTimes, time: Duration, passes: usize) -> Self {
        let mean = |time: Duration| time.as_secs_f64() * 1e3 / passes.max(1) as f64;
        Self {
            products_ms: mean(times.products),
            attention_ms: mean(times.attention),
            rest_ms: mean(times.rest),
            outside_ms: mean(time.saturating_sub(times.total())),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { products_ms, attention_ms, rest_ms, outside_ms } = *self;
        let total = products_ms + attention_ms + rest_ms + outside_ms;
        let share = |part: f64| if total > 0.0 { part / total * 100.0 } else { 0.0 };
        write!(
            f,
            "{total:.2} ms: products {:.1} %, attention {:.1} %, rest {:.1} %, outside the model {:.1} %",
            share(products_ms),
            share(attention_ms),
            share(rest_ms),
            share(outside_ms),
        )
    }
}

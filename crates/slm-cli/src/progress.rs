//! Progress bars on standard error, if it is a terminal and `--quiet` was not given.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{
    HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

/// Interval between two updates, and delay before a spinner or a bar appears. A unit of work may take minutes, in which
/// the time that has passed shows that the program runs.
const TICK: Duration = Duration::from_secs(1);

/// All bars of the process, so that lines printed in between know what is drawn.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// Clears the bars, calls `print`, and draws them again. `print` must not call this function, suspend a bar or log.
pub(crate) fn between_bars<T>(print: impl FnOnce() -> T) -> T {
    BARS.suspend(print)
}

pub(crate) struct Progress {
    quiet: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Creates a bar for `total` units of work. It draws nothing if standard error is not a terminal.
    pub(crate) fn bar(&self, what: &str, total: usize) -> ProgressBar {
        self.styled(what, 0, Some(total), "{prefix} [{bar:24}] {pos}/{len} {elapsed} (eta {left})")
    }

    /// Creates a bar that begins at unit `from`, with a message after it, which is cut at the edge of the terminal.
    pub(crate) fn bar_with_message(&self, what: &str, from: usize, total: usize) -> ProgressBar {
        self.styled(what, from, Some(total), "{prefix} [{bar:10}] {pos}/{len} (eta {left}) {wide_msg}")
    }

    /// Creates a spinner for work of unknown length. It ends with [`ProgressBar::finish_and_clear`].
    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        self.styled(what, 0, None, "{prefix} {spinner} {elapsed}")
    }

    fn styled(&self, what: &str, from: usize, total: Option<usize>, template: &str) -> ProgressBar {
        let hidden =
            ProgressBar::with_draw_target(total.map(|total| total as u64), ProgressDrawTarget::hidden());
        let bar = if self.quiet { hidden } else { BARS.add(hidden) };
        let from = from as u64;
        if let Ok(style) = ProgressStyle::with_template(template) {
            let left = move |state: &ProgressState, out: &mut dyn Write| {
                let left = time_left(state.elapsed(), state.pos().saturating_sub(from), state.len(), from);
                // A string that cannot be written to is not drawn, either.
                let _ = match left {
                    Some(left) => write!(out, "{:#}", HumanDuration(left)),
                    None => write!(out, "-"),
                };
            };
            bar.set_style(style.with_key("left", left).progress_chars("=> ").tick_chars("|/-\\ "));
        }
        let bar = bar.with_prefix(what.to_owned()).with_position(from);
        bar.enable_steady_tick(TICK);
        bar
    }
}

/// Returns the time that the rest of the work takes at the speed so far; `None` before the first unit is done.
/// indicatif's own estimate grows without bound while a single unit takes longer than some seconds.
fn time_left(elapsed: Duration, done: u64, len: Option<u64>, from: u64) -> Option<Duration> {
    let left = len?.saturating_sub(from + done);
    (done > 0).then(|| Duration::from_secs_f64(elapsed.as_secs_f64() / done as f64 * left as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_speed_so_far() {
        let left = |seconds, done, from| time_left(Duration::from_secs(seconds), done, Some(16), from);
        assert_eq!(left(30, 0, 0), None);
        assert_eq!(left(30, 3, 0), Some(Duration::from_secs(130)));
        // However long the current unit takes.
        assert_eq!(left(300, 3, 0), Some(Duration::from_secs(1300)));
        assert_eq!(left(30, 3, 10), Some(Duration::from_secs(30)));
        assert_eq!(left(30, 6, 10), Some(Duration::ZERO));
        assert_eq!(time_left(Duration::ZERO, 1, None, 0), None);
    }
}

//! Progress bars on standard error, if it is a terminal and `--quiet` was not given.

use std::fmt::Write;
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::terminal::stderr_width;

/// Interval between two updates, and delay before a spinner or a bar appears. A unit of work may take minutes, in which
/// the time that has passed shows that the program runs.
const TICK: Duration = Duration::from_secs(1);

/// Widths of a bar in columns.
const WIDEST_BAR: usize = 24;
const NARROWEST_BAR: usize = 4;

/// Number of columns of a line next to the bar.
const BESIDE_BAR: usize = 56;

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
        let room = stderr_width().unwrap_or_default().saturating_sub(BESIDE_BAR);
        let width = room.clamp(NARROWEST_BAR, WIDEST_BAR);
        let template = format!("{{prefix}} [{{bar:{width}}}] {{pos}}/{{len}} {{elapsed}} (eta {{left}})");
        self.styled(what, 0, Some(total), &template)
    }

    /// Creates a bar that begins at unit `from`, with a message after it, which is cut at the edge of the terminal.
    pub(crate) fn bar_with_message(&self, what: &str, from: usize, total: usize) -> ProgressBar {
        self.styled(what, from, Some(total), "{prefix} [{bar:10}] {pos}/{len} (eta {left}) {wide_msg}")
    }

    /// Creates a bar for the bytes of a file, which shows their share.
    pub(crate) fn bytes(&self, what: &str, total: u64) -> ProgressBar {
        let template = "{prefix} [{bar:24}] {percent} % {elapsed} (eta {left})";
        self.styled(what, 0, Some(usize::try_from(total).unwrap_or(usize::MAX)), template)
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
            // A string that cannot be written to is not drawn, either.
            let left = move |state: &ProgressState, out: &mut dyn Write| {
                let left = time_left(state.elapsed(), state.pos().saturating_sub(from), state.len(), from);
                let _ = out.write_str(&left.map_or_else(|| "-".to_owned(), in_words));
            };
            let elapsed = |state: &ProgressState, out: &mut dyn Write| {
                let _ = out.write_str(&in_words(state.elapsed()));
            };
            let style = style.with_key("left", left).with_key("elapsed", elapsed);
            bar.set_style(style.progress_chars("=> ").tick_chars("|/-\\ "));
        }
        let bar = bar.with_prefix(what.to_owned()).with_position(from);
        bar.enable_steady_tick(TICK);
        bar
    }
}

/// Formats a duration such as 59s, 4m05s or 3h20m.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
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

    #[test]
    fn times_are_short_and_change_every_second() {
        let shown = |seconds| in_words(Duration::from_secs_f64(seconds));
        assert_eq!([0.2, 59.4, 59.6, 245.0].map(shown), ["0s", "59s", "1m00s", "4m05s"]);
        assert_eq!([3599.0, 3600.0, 90_000.0].map(shown), ["59m59s", "1h00m", "25h00m"]);
    }
}

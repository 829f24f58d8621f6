//! Progress bars on standard error, if it is a terminal and `--quiet` was not given.

use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

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
        self.styled(what, Some(total), "{prefix} [{bar:24}] {pos}/{len} {elapsed} (eta {eta})")
    }

    /// Creates a bar with a message after it, which is cut at the edge of the terminal.
    pub(crate) fn bar_with_message(&self, what: &str, total: usize) -> ProgressBar {
        self.styled(what, Some(total), "{prefix} [{bar:10}] {pos}/{len} (eta {eta}) {wide_msg}")
    }

    /// Creates a spinner for work of unknown length. It ends with [`ProgressBar::finish_and_clear`].
    pub(crate) fn spinner(&self, what: &str) -> ProgressBar {
        self.styled(what, None, "{prefix} {spinner} {elapsed}")
    }

    fn styled(&self, what: &str, total: Option<usize>, template: &str) -> ProgressBar {
        let hidden =
            ProgressBar::with_draw_target(total.map(|total| total as u64), ProgressDrawTarget::hidden());
        let bar = if self.quiet { hidden } else { BARS.add(hidden) };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> ").tick_chars("|/-\\ "));
        }
        bar.enable_steady_tick(TICK);
        bar.with_prefix(what.to_owned())
    }
}

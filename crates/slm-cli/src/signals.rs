//! Signals that ask the program to end.

use std::io;

/// Exit code of a program that a signal ended, as shells report it, without the signal's number.
const ENDED_BY: u8 = 128;

/// Numbers of signals, the same on all systems.
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal(i32);

impl Signal {
    /// Ctrl-C.
    pub(crate) const fn ctrl_c() -> Self {
        Self(SIGINT)
    }

    /// A request to end by another program, such as `kill` or a supervisor.
    pub(crate) const fn termination() -> Self {
        Self(SIGTERM)
    }

    pub(crate) fn is_ctrl_c(self) -> bool {
        self == Self::ctrl_c()
    }

    /// Exit code of a program that the signal ended.
    pub(crate) const fn exit_code(self) -> u8 {
        ENDED_BY + self.0 as u8
    }
}

/// Calls `received` for each signal, on a thread of its own. A hang-up that is ignored, as under `nohup`, stays ignored.
#[cfg(unix)]
pub(crate) fn handle(received: impl Fn(Signal) + Send + 'static) -> io::Result<()> {
    let mut handled = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        handled.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(handled)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(|number| received(Signal(number))))?;
    Ok(())
}

/// Calls `received` for each Ctrl-C, on a thread of its own.
#[cfg(not(unix))]
pub(crate) fn handle(received: impl Fn(Signal) + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(move || received(Signal::ctrl_c())).map_err(io::Error::other)
}

/// Returns `true` if the program was started with a signal ignored, as far as Linux says so.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

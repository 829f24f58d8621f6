//! The mode of the terminal on standard input, which editing a line changes.

#[cfg(unix)]
pub(crate) use unix::TerminalMode;

#[cfg(unix)]
mod unix {
    use std::io::{self, Write};

    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

    /// Ends bracketed paste, which line editing begins, and moves to a new line.
    const LEAVE_LINE: &[u8] = b"\x1b[?2004l\r\n";

    /// A mode of the terminal; none if standard input is not a terminal.
    pub(crate) struct TerminalMode(Option<Termios>);

    impl TerminalMode {
        pub(crate) fn current() -> Self {
            Self(tcgetattr(io::stdin()).ok())
        }

        /// Restores this mode if it was changed.
        pub(crate) fn restore(&self) {
            let (Some(before), Ok(now)) = (&self.0, tcgetattr(io::stdin())) else { return };
            if before.local_modes != now.local_modes {
                // The program ends next: there is nobody to tell about a terminal that has gone.
                let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
                let _ = io::stderr().write_all(LEAVE_LINE);
            }
        }
    }
}

/// The mode of a terminal on a system that restores it itself.
#[cfg(not(unix))]
pub(crate) struct TerminalMode;

#[cfg(not(unix))]
impl TerminalMode {
    pub(crate) fn current() -> Self {
        Self
    }

    pub(crate) fn restore(&self) {}
}

//! A program in a pseudo-terminal, to which a test types.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use portable_pty::{Child, MasterPty, PtySize, native_pty_system};

use crate::{Sandbox, terminal};

/// Time after which a program that does not do what it should has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program and its terminal.
pub struct Session {
    line: String,
    terminal: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    output: Receiver<Vec<u8>>,
    /// Output that was not waited for yet.
    seen: Vec<u8>,
    /// Describes the mode of the terminal before the program ran.
    mode: String,
}

impl Sandbox {
    /// Starts the program with the arguments of `line` in a terminal.
    ///
    /// # Panics
    /// If the system has no pseudo-terminals.
    pub fn session(&self, line: &str) -> Session {
        let size = PtySize { rows: 40, cols: 80, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let mode = format!("{:?}", pair.master.get_termios());
        let child = pair.slave.spawn_command(terminal::command(self, line)).unwrap();
        let mut reader = pair.master.try_clone_reader().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        Session {
            line: line.to_owned(),
            terminal: pair.master,
            keyboard,
            child,
            output,
            seen: Vec::new(),
            mode,
        }
    }
}

impl Session {
    /// Types keys; `\r` is the enter key.
    ///
    /// # Panics
    /// If the terminal has gone.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    /// Waits until the terminal has received `part` since the last wait, and returns everything up to it.
    ///
    /// # Panics
    /// If it is not received within a minute.
    #[track_caller]
    pub fn wait_for(&mut self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.windows(part.len()).position(|found| found == part.as_bytes()) {
                let before: Vec<u8> = self.seen.drain(..at + part.len()).collect();
                return String::from_utf8_lossy(&before).into_owned();
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => {
                    let _ = self.child.kill();
                    let seen = String::from_utf8_lossy(&self.seen);
                    panic!("slm {}: {part:?} did not come after\n{seen:?}", self.line);
                }
            }
        }
    }

    /// Sends a signal, such as `TERM`.
    ///
    /// # Panics
    /// If there is no process any more.
    pub fn signal(&self, name: &str) {
        let process = self.child.process_id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args([format!("-{name}"), process]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end of the program, and returns its exit code.
    ///
    /// # Panics
    /// If it does not end within a minute, or leaves the terminal in another mode.
    #[track_caller]
    pub fn end(mut self) -> u32 {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                panic!("slm {}: it did not end", self.line);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(format!("{:?}", self.terminal.get_termios()), self.mode, "the mode of the terminal");
        status.exit_code()
    }
}

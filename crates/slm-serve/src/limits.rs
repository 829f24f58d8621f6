//! Limits of a server.

use std::time::Duration;

/// Limits that keep one client from taking the server away from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests that are decoded together. Default: 8.
    pub parallel: usize,
    /// Requests that wait for a place. Default: 64.
    pub queue: usize,
    /// Connections at once. Default: 512.
    pub connections: usize,
    /// Bytes of a request's body. Default: 1 MiB.
    pub body_bytes: usize,
    /// Maximum number of new tokens of an answer, whatever a request asks for. Default: 1024.
    pub new_tokens: usize,
    /// Time from a request's arrival to the end of its answer. Default: 5 minutes.
    pub request_time: Duration,
    /// Time that a client may take to send a request's head, to send its body, and to take the next part of an answer.
    /// Default: 20 seconds.
    pub idle_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parallel: 8,
            queue: 64,
            connections: 512,
            body_bytes: 1 << 20,
            new_tokens: 1024,
            request_time: Duration::from_secs(300),
            idle_time: Duration::from_secs(20),
        }
    }
}

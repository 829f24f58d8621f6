//! Limits of a server.

use std::time::Duration;

/// Limits that keep one client from blocking the server for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of requests that are decoded together. Default: 8.
    pub parallel: usize,
    /// Maximum number of requests that wait to be decoded. Default: 64.
    pub queue: usize,
    /// Maximum number of simultaneous connections. Default: 512.
    pub connections: usize,
    /// Maximum size of a request's body, in bytes. Default: 1 MiB.
    pub body_bytes: usize,
    /// Maximum number of new tokens of an answer, even if a request asks for more. Default: 1024.
    pub new_tokens: usize,
    /// Maximum time from a request's arrival to the end of its answer. Default: 5 minutes.
    pub request_time: Duration,
    /// Maximum time for a client to send a request's head, to send its body, and to receive the next part of an answer.
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

//! A plain HTTP client with one connection per request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

#[derive(Clone)]
pub(crate) struct Client(SocketAddr);

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

pub(crate) struct Connection(TcpStream);

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    pub(crate) fn try_connect(&self) -> Option<TcpStream> {
        TcpStream::connect(self.0).ok()
    }

    fn connect(&self) -> TcpStream {
        let stream = self.try_connect().expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, "", &body.to_string())
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let text = self.raw(request(method, path, headers, body).as_bytes());
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let text = if chunked { unchunk(rest) } else { rest.to_owned() };
        Reply { status, head: head.to_owned(), text }
    }

    /// Sends bytes and returns everything received until the connection closes.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may have answered and closed the connection before it read everything.
        let _ = stream.write_all(bytes);
        Connection(stream).read_all()
    }

    /// Sends a request, waits for the first bytes of the answer, and leaves the rest unread.
    pub(crate) fn begin(&self, path: &str, body: &Value) -> Connection {
        let mut stream = self.connect();
        stream.write_all(request("POST", path, "", &body.to_string()).as_bytes()).unwrap();
        let mut first = [0; 20];
        stream.read_exact(&mut first).unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first));
        Connection(stream)
    }
}

impl Connection {
    pub(crate) fn read_all(mut self) -> String {
        let mut bytes = Vec::new();
        // A reset after the answer counts as its end.
        let _ = self.0.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Reply {
    /// Checks the status of an answer and returns its body as JSON.
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The data of server-sent events.
    pub(crate) fn events(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.text);
        assert!(self.head.contains("text/event-stream"), "{}", self.head);
        self.text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// Decodes the body of a chunked answer.
fn unchunk(mut rest: &str) -> String {
    let mut text = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("size of a chunk");
        text += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    text
}

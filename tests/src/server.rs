//! A running `slm serve`, started from the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Sandbox, model};

/// A chat template for models without one.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";

/// A running `slm serve`, which ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Base URL for clients of OpenAI's API.
    pub url: String,
}

/// A response of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// Body, with chunks joined.
    pub body: String,
}

impl Sandbox {
    /// Creates a sandbox with the checkpoint `model`, which has a chat template.
    ///
    /// # Panics
    /// If the checkpoint cannot be created.
    pub fn with_chat_model() -> Self {
        let sandbox = Self::new();
        model().write(sandbox.path("hf"));
        sandbox.put("hf/tokenizer_config.json", json!({ "chat_template": TEMPLATE }).to_string());
        sandbox.slm("import hf --out model").success();
        sandbox
    }
}

impl Server {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(sandbox: &Sandbox, options: &str) -> Self {
        let mut command = sandbox.command(&format!("serve --port 0 --json {options}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { child, url: started["url"].as_str().unwrap().to_owned() }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Host and port of the server.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches("/v1")
    }

    /// Opens a connection.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// The bytes of a request after which the connection closes.
    pub fn request(&self, method: &str, path: &str, body: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.address(),
            body.len()
        )
    }

    /// Sends bytes and reads the response.
    ///
    /// # Panics
    /// If the received bytes are not a response.
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) -> HttpReply {
        let mut stream = self.connect();
        // The server may respond and close the connection before it has read everything.
        let _ = stream.write_all(bytes);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        HttpReply::parse(&reply)
    }

    /// Returns the response to a request, which must succeed.
    ///
    /// # Panics
    /// If the request fails.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let reply = self.send(self.request("POST", &format!("/v1/{path}"), &body.to_string()).as_bytes());
        assert_eq!(reply.status, 200, "{reply:?}");
        serde_json::from_str(&reply.body).unwrap()
    }

    /// Returns a value of `/metrics`.
    ///
    /// # Panics
    /// If there is no metric of this name.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.send(self.request("GET", "/metrics", "").as_bytes()).body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Ends the server with a signal, like a service manager.
    ///
    /// # Panics
    /// If it does not exit successfully.
    #[cfg(unix)]
    pub fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "a server that was asked to end ends well");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl HttpReply {
    /// Parses the bytes of a response.
    ///
    /// # Panics
    /// If they are not a response.
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = match head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            true => unchunked(body),
            false => body.to_owned(),
        };
        Self { status: status.unwrap_or_else(|| panic!("no status: {head}")), body }
    }

    /// Joins the text of a stream of completions. Returns `None` if the stream was cut off.
    pub fn streamed_text(&self) -> Option<String> {
        let mut text = String::new();
        for data in self.body.lines().filter_map(|line| line.strip_prefix("data: ")) {
            if data == "[DONE]" {
                return Some(text);
            }
            let part: Value = serde_json::from_str(data).ok()?;
            text += part["choices"][0]["text"].as_str()?;
        }
        None
    }
}

/// Joins the chunks of a body; the lengths of chunks count bytes.
fn unchunked(body: &str) -> String {
    let (mut rest, mut text) = (body.as_bytes(), Vec::new());
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let size =
            std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(chunk) = size.and_then(|size| rest.get(end + 2..end + 2 + size)) else { break };
        text.extend_from_slice(chunk);
        rest = rest.get(end + 4 + chunk.len()..).unwrap_or_default();
    }
    String::from_utf8_lossy(&text).into_owned()
}

//! A server under load: clients that behave, send garbage, read slowly, or disconnect. Every response must be correct,
//! and no resources may remain in use afterwards.
//!
//! `SLM_LOAD_REQUESTS=10000` runs the full test.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use slm_tests::{HttpReply, Sandbox, Server};

const PROMPTS: [&str; 4] = ["Tom", "Anna went", "The cat", "One day"];
const CLIENTS: usize = 16;
const TOKENS: usize = 12;

/// Resources that the system holds for a process.
#[derive(Debug, Clone, Copy)]
struct Held {
    resident_bytes: u64,
    files: usize,
    threads: usize,
}

impl Held {
    fn by(server: &Server) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            resident_bytes: field("VmRSS:") * 1024,
            files: (0..20).map(|_| open_files(server)).min().unwrap(),
            threads: field("Threads:") as usize,
        }
    }
}

/// Number of open files, after a short wait if necessary: the last connection may be about to close.
fn open_files(server: &Server) -> usize {
    thread::sleep(Duration::from_millis(10));
    fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count()
}

fn completion(prompt: &str, stream: bool) -> String {
    json!({"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": stream}).to_string()
}

/// Sends a request of the kind that `number` selects, and returns the name of the kind. Panics if the response is
/// wrong.
fn request(server: &Server, expected: &[String], number: usize) -> &'static str {
    let which = number / 7 % PROMPTS.len();
    let (prompt, text) = (PROMPTS[which], &expected[which]);
    let post = |body: &str| server.request("POST", "/v1/completions", body);
    match number % 20 {
        0..8 => {
            let reply = server.send(post(&completion(prompt, false)).as_bytes());
            assert_eq!(reply.status, 200, "{reply:?}");
            let reply: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(reply["choices"][0]["text"], text.as_str());
            "whole answers"
        }
        8..11 => {
            let reply = server.send(post(&completion(prompt, true)).as_bytes());
            assert_eq!((reply.status, reply.streamed_text().as_ref()), (200, Some(text)));
            "streamed answers"
        }
        11..15 => {
            let (bytes, status) = match number / 20 % 8 {
                0 => (post("{\"prompt\": "), 400),
                1 => (post("{\"prompt\": 7}"), 400),
                2 => (post("{\"prompt\": \"Tom\", \"temperature\": -1}"), 400),
                3 => (post("\u{0}\u{1}"), 400),
                4 => (server.request("GET", "/v1/nothing", ""), 404),
                5 => (server.request("DELETE", "/v1/completions", ""), 405),
                6 => (post("").replace("Content-Length: 0", "Content-Length: 3000000"), 413),
                _ => (format!("NONSENSE\r\n\r\n{prompt}"), 400),
            };
            assert_eq!(server.send(bytes.as_bytes()).status, status, "{:?}", &bytes[..bytes.len().min(80)]);
            "broken requests"
        }
        15 => {
            let mut stream = server.connect();
            for part in post(&completion(prompt, true)).as_bytes().chunks(40) {
                stream.write_all(part).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            let (mut bytes, mut part) = (Vec::new(), [0; 64]);
            loop {
                match stream.read(&mut part).unwrap() {
                    0 => break,
                    read => bytes.extend_from_slice(&part[..read]),
                }
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(HttpReply::parse(&bytes).streamed_text().as_ref(), Some(text));
            "slow readers and writers"
        }
        16 | 17 => {
            let mut stream = server.connect();
            stream.write_all(post(&completion(prompt, true)).as_bytes()).unwrap();
            let mut first = [0; 100];
            let read = stream.read(&mut first).unwrap();
            assert!(
                first[..read].starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(&first[..read])
            );
            "clients gone while they were answered"
        }
        18 => {
            let mut stream = server.connect();
            stream.write_all(post(&completion(prompt, false)).as_bytes()).unwrap();
            "clients gone before an answer"
        }
        _ => {
            let mut stream = server.connect();
            let bytes = post(&completion(prompt, false));
            stream.write_all(&bytes.as_bytes()[..bytes.len() / 2]).unwrap();
            "clients gone in the middle of a request"
        }
    }
}

/// Sends `count` requests, `CLIENTS` at a time, and counts them by kind.
fn run(server: &Server, expected: &[String], count: usize) -> BTreeMap<&'static str, usize> {
    let (next, kinds) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let kind = request(server, expected, number);
                    *kinds.lock().unwrap().entry(kind).or_default() += 1;
                }
            });
        }
    });
    kinds.into_inner().unwrap()
}

/// Waits until the server is idle.
fn settle(server: &Server) {
    let clock = Instant::now();
    // The connection of this request counts too.
    let left = || {
        ["slm_requests_waiting", "slm_requests_running"].map(|name| server.metric(name)).iter().sum::<f64>()
            + server.metric("slm_connections")
            - 1.0
    };
    while left() > 0.0 {
        assert!(clock.elapsed() < Duration::from_secs(60), "{} requests or connections are left", left());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_wrong_and_nothing_is_left() {
    let count = std::env::var("SLM_LOAD_REQUESTS").map_or(600, |count| count.parse().unwrap());
    let sandbox = Sandbox::with_chat_model();
    // The answers of a quantized model do not depend on the other requests, to the last bit.
    sandbox.slm("ptq --checkpoint model --type dynamic --granularity channel --no-eval --out int8").success();
    let expected = PROMPTS.map(|prompt| {
        let line = format!("generate --checkpoint int8 --max-new-tokens {TOKENS} --json --prompt");
        sandbox.slm_with(&line, &[prompt], &[]).json()["text"].as_str().unwrap().to_owned()
    });
    let server = Server::start(&sandbox, "--checkpoint int8");
    // One-time allocations happen in this run.
    run(&server, &expected, count / 10);
    settle(&server);
    let before = Held::by(&server);
    let clock = Instant::now();
    let kinds = run(&server, &expected, count);
    let seconds = clock.elapsed().as_secs_f64();
    settle(&server);
    let after = Held::by(&server);
    println!("{count} requests in {seconds:.1} s, {CLIENTS} at a time");
    for (kind, count) in &kinds {
        println!("{count:>6} {kind}");
    }
    println!("before: {before:?}\nafter:  {after:?}");
    println!("abandoned: {}", server.metric("slm_abandoned_requests_total"));
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    assert_eq!((before.threads, before.files), (after.threads, after.files));
    // The memory that the allocator keeps does not grow with the number of requests.
    assert!(after.resident_bytes < before.resident_bytes + (8 << 20), "{before:?} {after:?}");
    assert!(server.metric("slm_abandoned_requests_total") > 0.0);
    server.terminate();
}

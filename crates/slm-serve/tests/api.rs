//! The HTTP API, tested as clients use it.

mod client;

use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use serde_json::{Value, json};
use slm_chat::{ChatTemplate, RenderOptions};
use slm_model::{GenerateOptions, ModelConfig, SamplingOptions, Transformer, generate};
use slm_serve::{Chat, Limits, ServedModel, Server, ServerOptions};
use slm_text::Tokenizer;

use client::{Client, Reply};

const TEXT: &str = "The cat sat on the mat. The dog ran to the cat, and the cat ran up the tree. ";
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";

fn tokenizer() -> Tokenizer {
    Tokenizer::train(&TEXT.repeat(20), 280).unwrap()
}

fn model(tokenizer: &Tokenizer) -> Transformer {
    let config = ModelConfig::new(tokenizer.vocab_size(), 32, 64, 2, 4, 512);
    Transformer::new(&config, 11, &Device::flex()).unwrap()
}

fn served(with_chat: bool) -> ServedModel {
    let tokenizer = tokenizer();
    let chat = with_chat.then(|| Chat {
        template: ChatTemplate::new(TEMPLATE).unwrap(),
        render: RenderOptions::default(),
        stop_ids: vec![],
    });
    ServedModel { name: "tiny".to_owned(), model: model(&tokenizer), tokenizer, stop_ids: vec![], chat }
}

/// A server running in its own thread.
struct Running {
    client: Client,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<slm_serve::Result<()>>>,
}

impl Running {
    fn start(served: ServedModel, options: ServerOptions) -> Self {
        let server = Server::bind("127.0.0.1:0", served, options).unwrap();
        let client = Client::new(server.address());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            server.run(async {
                let _ = stopped.await;
            })
        });
        Self { client, stop: Some(stop), thread: Some(thread) }
    }

    fn with_limits(limits: Limits) -> Self {
        Self::start(served(true), ServerOptions { limits, ..ServerOptions::default() })
    }

    fn gauge(&self, name: &str) -> f64 {
        let text = self.client.get("/metrics").text;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn wait_for(&self, name: &str, value: f64) {
        let clock = Instant::now();
        while self.gauge(name) != value {
            assert!(clock.elapsed() < Duration::from_secs(60), "{name} is {}", self.gauge(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(mut self) {
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

fn defaults() -> Running {
    Running::with_limits(Limits::default())
}

/// The text with which the model continues `prompt` outside the server.
fn alone(prompt: &str, tokens: usize) -> String {
    let tokenizer = tokenizer();
    let model = model(&tokenizer);
    let ids = tokenizer.encode_with_special_tokens(prompt).unwrap();
    let options =
        GenerateOptions { max_new_tokens: tokens, sampling: SamplingOptions::default(), stop_ids: vec![] };
    let mut stream = tokenizer.stream();
    for &id in &ids {
        stream.push(id).unwrap();
    }
    let mut text = String::new();
    generate(&model, &ids, &options, |id| {
        text += &stream.push(id).unwrap();
        ControlFlow::Continue(())
    })
    .unwrap();
    text + &stream.finish().unwrap()
}

#[test]
fn a_completion_is_what_the_model_generates() {
    let server = defaults();
    let body =
        json!({"model": "any", "prompt": "The cat", "max_tokens": 12, "temperature": 0, "logprobs": 2});
    let reply = server.client.post("/v1/completions", &body).json(200);
    assert_eq!((&reply["object"], &reply["model"]), (&json!("text_completion"), &json!("tiny")));
    let choice = &reply["choices"][0];
    assert_eq!(choice["text"], json!(alone("The cat", 12)));
    assert_eq!(choice["finish_reason"], "length");
    let prompt = tokenizer().encode_with_special_tokens("The cat").unwrap().len();
    assert_eq!(
        reply["usage"],
        json!({"prompt_tokens": prompt, "completion_tokens": 12, "total_tokens": prompt + 12})
    );
    let logprobs = &choice["logprobs"];
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[field].as_array().unwrap().len(), 12, "{field}");
    }
    // Greedy sampling takes the most likely token.
    for at in 0..12 {
        let top = logprobs["top_logprobs"][at].as_object().unwrap();
        let best = top.values().map(|value| value.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(logprobs["token_logprobs"][at], json!(best));
        assert!(best < 0.0);
    }
    // Several prompts, as texts and as ids, and several answers.
    let ids = tokenizer().encode_with_special_tokens("The cat").unwrap();
    for prompts in [json!(["The dog", "The cat"]), json!([ids, ids])] {
        let body = json!({"prompt": prompts, "max_tokens": 5, "temperature": 0, "n": 2});
        let reply = server.client.post("/v1/completions", &body).json(200);
        let choices = reply["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 4);
        assert_eq!(choices[3]["text"], json!(alone("The cat", 5)));
        assert_eq!((&choices[2]["text"], &choices[3]["index"]), (&choices[3]["text"], &json!(3)));
    }
    server.stop();
}

#[test]
fn a_stream_has_the_same_text() {
    let server = defaults();
    let body = json!({"messages": [{"role": "user", "content": "The cat"}], "max_tokens": 20, "seed": 3,
                      "logprobs": true, "top_logprobs": 1});
    let whole = server.client.post("/v1/chat/completions", &body).json(200);
    let message = &whole["choices"][0]["message"];
    assert_eq!((&whole["object"], &message["role"]), (&json!("chat.completion"), &json!("assistant")));
    let mut streaming = body.clone();
    streaming["stream"] = json!(true);
    streaming["stream_options"] = json!({"include_usage": true});
    let events = server.client.post("/v1/chat/completions", &streaming).events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let parts: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(parts[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        parts.iter().filter_map(|part| part["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(json!(text), message["content"]);
    let (usage, finish) = (&parts[parts.len() - 1], &parts[parts.len() - 2]);
    assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
    assert_eq!(finish["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    let streamed: Vec<&Value> = parts
        .iter()
        .filter_map(|part| part["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    let expected = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(streamed, expected.iter().collect::<Vec<_>>());
    assert!(parts.iter().all(|part| part["object"] == "chat.completion.chunk"));
    server.stop();
}

#[test]
fn answers_do_not_depend_on_what_else_is_decoded() {
    let server = defaults();
    let prompts = ["The cat", "The dog ran", "the", "The cat sat on the mat. The dog", "up the tree"];
    let ask = |client: &Client, prompt: &str, tokens: usize, seed: u64| {
        let body = json!({"prompt": prompt, "max_tokens": tokens, "temperature": 0.9, "seed": seed});
        client.post("/v1/completions", &body).json(200)["choices"][0]["text"].clone()
    };
    let asked: Vec<(&str, usize, u64)> =
        (0..30).map(|i| (prompts[i % 5], 3 + 7 * i % 40, i as u64)).collect();
    let expected: Vec<Value> =
        asked.iter().map(|&(prompt, tokens, seed)| ask(&server.client, prompt, tokens, seed)).collect();
    std::thread::scope(|scope| {
        for (&(prompt, tokens, seed), expected) in asked.iter().zip(&expected) {
            let client = &server.client;
            scope.spawn(move || assert_eq!(&ask(client, prompt, tokens, seed), expected, "{prompt} {seed}"));
        }
    });
    server.wait_for("slm_requests_running", 0.0);
    assert_eq!(server.gauge("slm_requests_waiting"), 0.0);
    server.stop();
}

#[test]
fn stop_texts_end_an_answer_before_them() {
    let server = defaults();
    let all = alone("The cat", 40);
    let stop: String = all.chars().skip(9).take(3).collect();
    let body = json!({"prompt": "The cat", "max_tokens": 40, "temperature": 0, "stop": ["never", stop]});
    let reply = server.client.post("/v1/completions", &body).json(200);
    let expected = &all[..all.find(&stop).unwrap()];
    assert_eq!(
        (&reply["choices"][0]["text"], &reply["choices"][0]["finish_reason"]),
        (&json!(expected), &json!("stop"))
    );
    server.stop();
}

#[test]
fn bad_requests_get_an_error_in_json() {
    let limits = Limits { body_bytes: 2000, ..Limits::default() };
    let server = Running::with_limits(limits);
    let client = &server.client;
    let check = |reply: Reply, status: u16, named: &str| {
        let error = reply.json(status)["error"].clone();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(named), "{message}");
        assert!(error["type"].is_string() && error.get("param").is_some() && error.get("code").is_some());
    };
    check(client.send("POST", "/v1/completions", "", "{\"prompt\": "), 400, "JSON");
    check(client.send("POST", "/v1/completions", "", "\u{0}\u{1}"), 400, "JSON");
    check(client.post("/v1/completions", &json!({"prompt": ""})), 400, "no tokens");
    check(client.post("/v1/completions", &json!({"prompt": [999_999]})), 400, "999999");
    check(client.post("/v1/completions", &json!({"prompt": vec![1; 513]})), 400, "513 tokens");
    check(client.post("/v1/completions", &json!({"prompt": []})), 400, "prompt");
    check(client.post("/v1/completions", &json!({"prompt": vec!["a"; 17]})), 400, "17 prompts");
    check(client.post("/v1/completions", &json!({"prompt": "x".repeat(3000)})), 413, "2000 bytes");
    check(client.post("/v1/chat/completions", &json!({"messages": []})), 400, "messages");
    check(client.post("/v1/chat/completions", &json!({"messages": "hi"})), 400, "messages");
    check(client.get("/v1/completions"), 405, "GET");
    check(client.get("/v1/nothing"), 404, "/v1/nothing");
    check(client.get("/v1/models/other"), 404, "tiny");
    assert_eq!(client.get("/v1/models/tiny").json(200)["id"], "tiny");
    assert_eq!(client.get("/v1/models").json(200)["data"][0]["id"], "tiny");
    assert_eq!(client.get("/health").json(200), json!({"status": "ok"}));
    // Input that is not HTTP ends only its own connection.
    assert!(client.raw(b"\x16\x03\x01\x02\x00garbage\r\n\r\n").contains("400"));
    assert_eq!(client.get("/health").status, 200);
    server.stop();

    let options = ServerOptions { api_key: Some("key".to_owned()), ..ServerOptions::default() };
    let server = Running::start(served(false), options);
    check(server.client.get("/v1/models"), 401, "Authorization");
    let wrong = "Authorization: Bearer nokey\r\n";
    check(server.client.send("POST", "/v1/completions", wrong, "{}"), 401, "wrong");
    let right = "Authorization: Bearer key\r\n";
    assert_eq!(server.client.send("GET", "/v1/models", right, "").status, 200);
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]}).to_string();
    check(server.client.send("POST", "/v1/chat/completions", right, &body), 400, "chat template");
    server.stop();
}

/// A request long enough to be still running while the test does something else.
fn long_request() -> Value {
    json!({"prompt": "The", "max_tokens": 500, "temperature": 0, "stream": true})
}

#[test]
fn a_client_that_goes_away_stops_its_request() {
    let server = defaults();
    for _ in 0..3 {
        let connection = server.client.begin("/v1/completions", &long_request());
        drop(connection);
    }
    server.wait_for("slm_requests_running", 0.0);
    server.wait_for("slm_requests_waiting", 0.0);
    assert!(server.gauge("slm_abandoned_requests_total") >= 1.0);
    assert_eq!(server.client.post("/v1/completions", &json!({"prompt": "The"})).status, 200);
    server.stop();
}

#[test]
fn a_full_queue_turns_requests_away() {
    let server = Running::with_limits(Limits { parallel: 1, queue: 1, ..Limits::default() });
    let (status, statuses): (Sender<u16>, _) = channel();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            let (client, status) = (&server.client, status.clone());
            scope.spawn(move || {
                let reply = client.post("/v1/completions", &json!({"prompt": "The", "max_tokens": 400}));
                if reply.status == 429 {
                    assert!(reply.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", reply.head);
                    assert_eq!(reply.json(429)["error"]["code"], "queue_full");
                }
                status.send(reply.status).unwrap();
            });
        }
    });
    drop(status);
    let statuses: Vec<u16> = statuses.iter().collect();
    assert_eq!(statuses.len(), 12);
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    server.stop();
}

#[test]
fn stopping_finishes_what_runs() {
    let server = defaults();
    let connection = server.client.begin("/v1/completions", &long_request());
    let client = server.client.clone();
    let reader = std::thread::spawn(move || connection.read_all());
    server.stop();
    let text = reader.join().unwrap();
    assert!(text.contains("[DONE]"), "{text}");
    assert!(client.try_connect().is_none(), "nothing listens any more");
}

#[test]
fn time_limits_cut_an_answer() {
    let limits = Limits { request_time: Duration::ZERO, ..Limits::default() };
    let server = Running::with_limits(limits);
    let reply = server.client.post("/v1/completions", &json!({"prompt": "The", "max_tokens": 500}));
    let reply = reply.json(200);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["usage"]["completion_tokens"], 0);
    server.stop();
    // A client that sends its head too slowly is cut off.
    let server = Running::with_limits(Limits { idle_time: Duration::from_millis(200), ..Limits::default() });
    let clock = Instant::now();
    server.client.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n");
    assert!(clock.elapsed() < Duration::from_secs(30));
    let reply = server.client.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
    assert!(reply.contains("408"), "{reply}");
    server.stop();
}

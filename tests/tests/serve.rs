//! A server that is started as users start it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use slm_tests::{Sandbox, model, peer_python};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";

/// `slm serve`, which ends with the test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(sandbox: &Sandbox, options: &str) -> Self {
        let mut command = sandbox.command(&format!("serve --port 0 --json {options}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { child, url: started["url"].as_str().unwrap().to_owned() }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let address = self.url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST /v1/{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
        serde_json::from_str(body).unwrap()
    }

    /// Ends the server as a service manager does.
    #[cfg(unix)]
    fn terminate(mut self) {
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

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    model().write(sandbox.path("hf"));
    sandbox.put("hf/tokenizer_config.json", json!({ "chat_template": TEMPLATE }).to_string());
    sandbox.slm("import hf --out model").success();
    sandbox
}

#[test]
fn a_server_answers_like_generate_and_ends_on_request() {
    let sandbox = sandbox();
    let generated = sandbox.slm("generate --checkpoint model --prompt Tom --max-new-tokens 6 --json").json();
    let server = Server::start(&sandbox, "--checkpoint model");
    let reply = server.post("completions", &json!({"prompt": "Tom", "max_tokens": 6, "temperature": 0}));
    assert_eq!(reply["choices"][0]["text"], generated["text"]);
    assert_eq!(reply["model"], "model");
    let body = json!({"messages": [{"role": "user", "content": "Tom"}], "max_tokens": 3});
    let reply = server.post("chat/completions", &body);
    assert_eq!(reply["choices"][0]["message"]["role"], "assistant");
    #[cfg(unix)]
    server.terminate();
}

#[test]
fn what_cannot_be_served_is_said_at_once() {
    let sandbox = sandbox();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    sandbox.refuses(&format!("serve --checkpoint model --port {port}"), 1, &["cannot listen on", &address]);
    let line = "serve --checkpoint model --template none.jinja --port 0";
    sandbox.refuses(line, 1, &["none.jinja"]);
}

/// OpenAI's own client, where it is installed (see `.ci/peers`).
#[test]
fn the_openai_client_understands_the_server() {
    let Some(python) = peer_python("openai") else { return };
    let sandbox = sandbox();
    let server = Server::start(&sandbox, "--checkpoint model");
    let program = r#"
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
model = client.models.list().data[0].id
ask = dict(model=model, messages=[{"role": "user", "content": "Tom"}], max_tokens=8, seed=1, temperature=0.8)
whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
assert whole.usage.completion_tokens == len(whole.choices[0].logprobs.content), whole
parts = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
assert text == whole.choices[0].message.content, (text, whole)
assert parts[-1].usage == whole.usage
completion = client.completions.create(model=model, prompt=["Tom", "Anna"], max_tokens=4, temperature=0, logprobs=1)
assert len(completion.choices) == 2 and completion.choices[1].index == 1
try:
    client.chat.completions.create(model=model, messages=[], max_tokens=1)
    raise SystemExit("no error")
except openai.BadRequestError as error:
    assert error.param == "messages", error
print("ok")
"#;
    let output = Command::new(python).args(["-c", program, &server.url]).output().unwrap();
    assert!(
        output.status.success() && output.stdout == b"ok\n",
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

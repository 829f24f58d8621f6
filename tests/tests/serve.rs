//! A server started from the command line.

use std::process::Command;

use serde_json::json;
use slm_tests::{Sandbox, Server, peer_python};

#[test]
fn a_server_answers_like_generate_and_ends_on_request() {
    let sandbox = Sandbox::with_chat_model();
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
    let sandbox = Sandbox::with_chat_model();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    sandbox.refuses(&format!("serve --checkpoint model --port {port}"), 1, &["cannot listen on", &address]);
    let line = "serve --checkpoint model --template none.jinja --port 0";
    sandbox.refuses(line, 1, &["none.jinja"]);
}

/// OpenAI's own client, if it is installed (see `.ci/peers`).
#[test]
fn the_openai_client_understands_the_server() {
    let Some(python) = peer_python("openai") else { return };
    let sandbox = Sandbox::with_chat_model();
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

/// SmolLM2-135M-Instruct, if the environment variable `SLM_REAL` names its Hugging Face directory.
#[test]
fn a_real_model_knows_a_capital() {
    let Some(source) = std::env::var_os("SLM_REAL") else {
        println!("skipped: SLM_REAL does not name the directory of a real model");
        return;
    };
    let Some(python) = peer_python("openai") else { return };
    let sandbox = Sandbox::new();
    sandbox.slm_with("import --out float", &[source.to_str().unwrap()], &[]).success();
    for (name, options) in [
        ("int8", "--type dynamic --granularity channel"),
        ("int4", "--type weight-only --bits 4 --granularity group:32"),
    ] {
        sandbox.slm(&format!("ptq --checkpoint float --no-eval {options} --out {name}")).success();
    }
    let program = "
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key='none')
ask = [{'role': 'user', 'content': 'What is the capital of France?'}]
answer = client.chat.completions.create(model='any', messages=ask, temperature=0, max_tokens=40)
print(answer.choices[0].message.content)
";
    for checkpoint in ["float", "int8", "int4"] {
        let server = Server::start(&sandbox, &format!("--checkpoint {checkpoint}"));
        let output = Command::new(&python).args(["-c", program, &server.url]).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            answer.contains("Paris"),
            "{checkpoint}: {answer}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

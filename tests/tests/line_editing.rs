//! `slm chat` on a terminal: editing, history, Ctrl-C, Ctrl-D and signals.
#![cfg(unix)]

use serde_json::json;
use slm_tests::{Sandbox, Session, model};

/// Bytes that line editing writes when it begins to read a line.
const PROMPT: &str = "\u{1b}[?2004h";

const UP: &str = "\u{1b}[A";
const CTRL_A: &str = "\u{1}";
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";

/// A sandbox with a model of so many positions that an answer without an end takes minutes.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut model = model();
    model.config["max_position_embeddings"] = 500_000.into();
    model.write(sandbox.path("hf"));
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";
    sandbox.put("hf/tokenizer_config.json", json!({ "chat_template": template }).to_string());
    sandbox.slm("import hf --out model").success();
    sandbox
}

/// Starts a conversation, and waits for the first prompt.
fn talk(sandbox: &Sandbox, options: &str) -> Session {
    let mut session = sandbox.session(&format!("chat --checkpoint model {options}"));
    session.wait_for(PROMPT);
    session
}

/// Starts a conversation, and waits for the first letters of an answer without an end.
fn be_answered(sandbox: &Sandbox) -> Session {
    let mut session = talk(sandbox, "--max-new-tokens 400000");
    session.press("Tom\r");
    // The echo of the line is followed by the answer.
    session.wait_for("\u{1b}[?2004l");
    session.wait_for("\n");
    session.wait_for("e");
    session
}

#[test]
fn lines_can_be_edited_recalled_and_abandoned() {
    let sandbox = sandbox();
    let mut session = talk(&sandbox, "--max-new-tokens 2");
    session.press("Tom\r");
    session.wait_for(PROMPT);
    // The line before, with a word put in front of it.
    session.press(UP);
    session.wait_for("Tom");
    session.press(CTRL_A);
    session.press("Hello \r");
    session.wait_for(PROMPT);
    session.press("never sent");
    session.wait_for("sent");
    session.press(CTRL_C);
    session.wait_for(PROMPT);
    session.press("/save talk.json\r");
    session.wait_for("saved talk.json");
    session.wait_for(PROMPT);
    // The line above the last one.
    session.press(UP);
    session.wait_for("/save");
    session.press(UP);
    session.wait_for("Hello Tom");
    session.press(CTRL_C);
    session.wait_for(PROMPT);
    session.press(CTRL_D);
    assert_eq!(session.end(), 0);

    let saved = sandbox.read_json("talk.json");
    let said = saved["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
    assert_eq!(
        said.map(|message| message["content"].as_str().unwrap()).collect::<Vec<_>>(),
        ["Tom", "Hello Tom"]
    );
}

#[test]
fn ctrl_c_stops_an_answer_and_not_the_program() {
    let sandbox = sandbox();
    let mut session = be_answered(&sandbox);
    session.press(CTRL_C);
    session.wait_for("[stopped]");
    session.wait_for(PROMPT);
    session.press("/stats\r");
    session.wait_for("ended by interrupted");
    session.wait_for(PROMPT);
    session.press("/quit\r");
    assert_eq!(session.end(), 0);
}

#[test]
fn a_signal_ends_the_program_and_leaves_the_terminal_as_it_was() {
    let sandbox = sandbox();
    let mut session = talk(&sandbox, "");
    session.press("half a li");
    session.wait_for("li");
    session.signal("TERM");
    session.wait_for("\u{1b}[?2004l");
    assert_eq!(session.end(), 143);

    let mut session = be_answered(&sandbox);
    session.signal("TERM");
    session.wait_for("error: ended by a signal");
    assert_eq!(session.end(), 143);
}

//! Signals while a program waits for its input, and hang-ups that it was told to ignore.
#![cfg(unix)]

use std::io::Write;
use std::process::{Child, Command, Stdio};

use slm_tests::{Sandbox, binary};

/// Number of bytes that a pipe does not hold: once they are written, the program reads its input.
const MUCH: usize = 1 << 18;

fn write_much(child: &mut Child) {
    let text = "Tom has a red ball.\n";
    child.stdin.as_mut().unwrap().write_all(text.repeat(MUCH / text.len()).as_bytes()).unwrap();
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Starts a program that reads standard input, which stays open.
fn reading(mut command: Command) -> Child {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    write_much(&mut child);
    child
}

#[test]
fn a_program_that_waits_for_input_ends_at_the_first_signal() {
    let sandbox = Sandbox::with_model();
    for line in [
        "eval --checkpoint model --data -",
        "generate --checkpoint model --prompt -",
        "generate --checkpoint model --prompts -",
        "logits --checkpoint model --ids - --out logits.safetensors",
        "ptq --checkpoint model --calibration - --out int8",
        "finetune --checkpoint model --data - --out tuned --set training.sequence_length=32",
    ] {
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let mut child = reading(sandbox.command(line));
            send(signal, &child);
            // Standard input stays open until the program has ended.
            let input = child.stdin.take();
            assert_eq!(child.wait().unwrap().code(), Some(code), "{line}: SIG{signal}");
            drop(input);
        }
    }
}

#[test]
fn a_hang_up_that_is_ignored_does_not_end_a_run() {
    let sandbox = Sandbox::with_model();
    let run = |program: &[&str]| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args("eval --checkpoint model --data -".split(' '));
        command.current_dir(sandbox.path(""));
        reading(command)
    };
    let slm = binary().to_str().unwrap();
    let mut child = run(&[slm]);
    send("HUP", &child);
    let input = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(129));
    drop(input);

    let mut child = run(&["nohup", slm]);
    send("HUP", &child);
    // The program still reads.
    write_much(&mut child);
    send("TERM", &child);
    let input = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    drop(input);
}

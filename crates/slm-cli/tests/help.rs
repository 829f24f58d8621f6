//! What the program says about itself.

use std::process::{Command, Output};

const COMMANDS: [&str; 9] =
    ["train", "import", "ptq", "eval", "logits", "generate", "inspect", "compare", "corpus"];

fn slm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slm")).args(args).output().unwrap()
}

fn help(args: &[&str]) -> String {
    let output = slm(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    assert!(output.stderr.is_empty(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_has_help() {
    let all = help(&["--help"]);
    for command in COMMANDS {
        assert!(all.contains(&format!("\n  {command} ")), "{command} is not in:\n{all}");
        let long = help(&[command, "--help"]);
        assert!(long.contains(&format!("Usage: slm {command}")), "{long}");
        assert_eq!(long, help(&["help", command]));
        for option in ["--device", "--json", "--verbose", "--quiet"] {
            assert!(long.contains(option), "{option} is not in:\n{long}");
        }
    }
}

#[test]
fn every_option_is_explained() {
    for command in COMMANDS {
        let long = help(&[command, "--help"]);
        let lines: Vec<&str> = long.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let option = line.trim_start();
            if option.starts_with('-') || option.starts_with('<') {
                let explained = lines.get(index + 1).is_some_and(|next| next.starts_with("          "));
                assert!(explained || option.contains("  "), "slm {command}: {option}");
            }
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    assert_eq!(help(&["--version"]), format!("slm {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let cases: [&[&str]; 6] = [
        &[],
        &["nonsense"],
        &["eval"],
        &["eval", "--checkpoint"],
        &["inspect", "x", "--nonsense"],
        &["inspect", "x", "-q", "-v"],
    ];
    for args in cases {
        let output = slm(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("--help"), "{args:?}");
    }
}

//! Tests of the program's help texts.

use std::process::{Command, Output};

fn slm(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slm")).args(args).output().unwrap()
}

fn help(args: &[&str]) -> String {
    let output = slm(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    assert!(output.stderr.is_empty(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let all = help(&["--help"]);
    let (_, listed) = all.split_once("\nCommands:\n").unwrap();
    // A wrapped explanation is indented further than a name.
    let names = listed.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_has_help() {
    let commands = commands();
    for known in ["train", "qat", "ptq", "bench"] {
        assert!(commands.iter().any(|command| command == known), "{known} is not among {commands:?}");
    }
    for command in &commands {
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
    for command in &commands() {
        let long = help(&[command, "--help"]);
        // The description comes before the usage, and the examples after it.
        let lines = long.lines().skip_while(|line| !line.starts_with("Usage:"));
        let lines: Vec<&str> = lines.take_while(|line| *line != "Examples:").collect();
        for (index, line) in lines.iter().enumerate() {
            let option = line.trim_start();
            if option.starts_with('-') || option.starts_with('<') {
                let explained = lines.get(index + 1).is_some_and(|next| next.starts_with("          "));
                // One of the values that an option takes: `- name: explanation`.
                let value = option.starts_with("- ") && option.contains(": ");
                assert!(explained || value || option.contains("  "), "slm {command}: {option}");
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

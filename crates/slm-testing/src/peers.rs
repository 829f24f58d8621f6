//! Programs that tests compare results with.

use std::path::PathBuf;
use std::process::Command;

/// The Python interpreter of the peers' environment, if it has `module`: in the directory that `SLM_PEERS` names, or in
/// the one that `.ci/peers` creates. If there is none, prints a line and returns `None`, and the test is skipped.
pub fn peer_python(module: &str) -> Option<PathBuf> {
    let named = std::env::var_os("SLM_PEERS").map(PathBuf::from);
    let own = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/slm/peers"));
    let python = named.or_else(own)?.join("bin/python3");
    let found = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    println!("skipped: {} has no {module}; .ci/peers installs it", python.display());
    None
}

/// A program of llama.cpp that `.ci/peers` built, under `SLM_LLAMA_CPP` or `~/.cache/slm/llama.cpp`. If there is none,
/// prints a line and returns `None`.
pub fn llama_cpp(program: &str) -> Option<PathBuf> {
    let named = std::env::var_os("SLM_LLAMA_CPP").map(PathBuf::from);
    let own = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/slm/llama.cpp"));
    let path = named.or_else(own)?.join("build/bin").join(program);
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: no {}; .ci/peers builds it", path.display());
    None
}

//! Path of the built program.

use std::env::{self, consts::EXE_SUFFIX};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of the `slm` to test: the one in the environment variable `SLM_BIN`, or else that of the build to which this
/// test belongs. `cargo test --workspace` has built it; a run of this package alone builds it if it is missing.
///
/// # Panics
/// If there is no program and none can be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("SLM_BIN") {
        Some(path) => {
            let path = std::path::absolute(path).unwrap();
            assert!(path.is_file(), "SLM_BIN: {} is not a file", path.display());
            path
        }
        None => built(),
    })
}

/// Names of the CPU devices with which the program was built.
pub const CPU_DEVICES: &[&str] = if cfg!(feature = "ndarray") { &["flex", "ndarray"] } else { &["flex"] };

/// Environment variables that would affect the program.
pub(crate) const UNSET: [&str; 3] = ["SLM_KERNEL", "SLM_LOG", "CARGO_MANIFEST_DIR"];

/// A command that runs the program without these variables.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    for name in UNSET {
        command.env_remove(name);
    }
    command
}

/// Test programs are in `TARGET/PROFILE/deps`, programs in `TARGET/PROFILE`.
fn built() -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile_dir = test.ancestors().nth(2).unwrap();
    let path = profile_dir.join(format!("slm{EXE_SUFFIX}"));
    if !path.is_file() {
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()).unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or(OsString::from("cargo")));
        cargo.args(["build", "--package", "slm-cli", "--bin", "slm", "--profile", profile, "--target-dir"]);
        cargo.arg(profile_dir.parent().unwrap());
        for (feature, is_on) in [("ndarray", cfg!(feature = "ndarray")), ("wgpu", cfg!(feature = "wgpu"))] {
            if is_on {
                cargo.args(["--features", feature]);
            }
        }
        let status = cargo.status();
        assert!(
            status.is_ok_and(|status| status.success()) && path.is_file(),
            "{} is not there and could not be built; build it with `cargo build -p slm-cli`, or name another \
             with SLM_BIN",
            path.display()
        );
    }
    path
}

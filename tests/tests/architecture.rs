//! The diagram of the crates in docs/architecture.md, generated from `cargo metadata`.
//!
//! After a change of crates or their dependencies, regenerate it:
//! `SLM_BLESS=1 cargo test -p slm-tests --test architecture`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const BEGIN: &str = "<!-- crates: drawn by tests/tests/architecture.rs -->\n";
const END: &str = "<!-- end of crates -->\n";

/// The crates that each crate of the workspace depends on (by name), and its description.
struct Crates {
    needs: BTreeMap<String, BTreeSet<String>>,
    description: BTreeMap<String, String>,
}

impl Crates {
    fn read(root: &Path) -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let packages = metadata["packages"].as_array().unwrap();
        let names: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
        let mut crates = Self { needs: BTreeMap::new(), description: BTreeMap::new() };
        for package in packages {
            let name = text(&package["name"]);
            // Tests and their helper crates are not part of the diagram.
            if package["publish"] == Value::Array(Vec::new()) {
                continue;
            }
            let used = package["dependencies"].as_array().unwrap().iter();
            let used = used.filter(|dependency| dependency["kind"].is_null());
            let used = used.map(|dependency| text(&dependency["name"])).filter(|name| names.contains(name));
            crates.needs.insert(name.clone(), used.collect());
            crates.description.insert(name, text(&package["description"]));
        }
        crates
    }

    /// Returns `true` if `from` depends on `to` through another crate.
    fn needs_indirectly(&self, from: &str, to: &str) -> bool {
        self.needs[from].iter().any(|between| between != to && self.reaches(between, to))
    }

    fn reaches(&self, from: &str, to: &str) -> bool {
        from == to || self.needs[from].iter().any(|next| self.reaches(next, to))
    }

    /// Length of the longest path to a crate without dependencies.
    fn height(&self, name: &str) -> usize {
        self.needs[name].iter().map(|needed| self.height(needed) + 1).max().unwrap_or(0)
    }

    fn draw(&self) -> String {
        let mut text = String::from("\n```mermaid\ngraph BT\n");
        for (name, needs) in &self.needs {
            for needed in needs.iter().filter(|needed| !self.needs_indirectly(name, needed)) {
                writeln!(text, "    {name} --> {needed}").unwrap();
            }
        }
        text += "```\n\n| layer | crate | what is in it |\n|---|---|---|\n";
        let mut by_height: Vec<_> =
            self.needs.keys().map(|name| (self.height(name), name.as_str())).collect();
        by_height.sort_unstable();
        for (height, name) in by_height {
            writeln!(text, "| {height} | `{name}` | {} |", self.description[name]).unwrap();
        }
        text + "\n"
    }
}

#[test]
fn the_picture_of_the_crates_is_the_present_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let picture = Crates::read(root).draw();
    let path = root.join("docs/architecture.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the mark before the picture");
    let (drawn, after) = rest.split_once(END).expect("the mark after the picture");
    if std::env::var_os("SLM_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{picture}{END}{after}")).unwrap();
    } else {
        assert_eq!(drawn, picture, "draw it anew: SLM_BLESS=1 cargo test -p slm-tests --test architecture");
    }
}

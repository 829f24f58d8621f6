//! A headless Chromium, driven through ChromeDriver.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Arguments that keep Chromium from drawing on a screen and from accessing the network on its own.
const ARGUMENTS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
];

/// A headless Chromium with one page.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    session: String,
    agent: ureq::Agent,
    _profile: TempDir,
}

impl Browser {
    /// Starts Chromium. Prints a line and returns `None` if ChromeDriver is not installed.
    ///
    /// # Panics
    /// If ChromeDriver is installed but Chromium cannot be started.
    pub fn start() -> Option<Self> {
        let started =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = started else {
            println!("skipped: no chromedriver; .ci/browser installs it");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("ChromeDriver says on which port it listens");
        let profile = tempfile::tempdir().unwrap();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(120)))
            .http_status_as_error(false)
            .build()
            .into();
        let mut browser =
            Self { driver, session: format!("http://127.0.0.1:{port}/session"), agent, _profile: profile };
        let folder = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments: Vec<&str> = ARGUMENTS.into_iter().chain([&*folder]).collect();
        let session = browser.post(
            "",
            &json!({"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "goog:chromeOptions": {"args": arguments},
            }}}),
        );
        browser.session += &format!("/{}", session["sessionId"].as_str().unwrap());
        browser.post("/timeouts", &json!({"script": 100_000}));
        // Measures the time of the page's own thread, regardless of the load of the machine.
        browser.devtools("Performance.enable", &json!({"timeDomain": "threadTicks"}));
        // The initial page of Chromium is not tested.
        browser.post("/url", &json!({"url": "about:blank"}));
        browser.log("performance");
        browser.log("browser");
        Some(browser)
    }

    #[track_caller]
    fn post(&self, command: &str, body: &Value) -> Value {
        let url = format!("{}{command}", self.session);
        let mut reply = self.agent.post(&url).send(body.to_string()).unwrap();
        let text = reply.body_mut().with_config().limit(1 << 28).read_to_string().unwrap();
        let reply: Value = serde_json::from_str(&text).unwrap();
        let value = &reply["value"];
        assert!(value["error"].is_null(), "{command}: {}: {}", value["error"], value["message"]);
        value.clone()
    }

    /// Sets the width and height of the page in CSS pixels, and the preferred colour scheme.
    ///
    /// # Panics
    /// If Chromium returns an error.
    pub fn emulate(&self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": [feature]}));
    }

    /// Sends a command of the DevTools protocol.
    ///
    /// # Panics
    /// If Chromium returns an error.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Opens a file and waits until it is loaded.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[track_caller]
    pub fn open(&self, path: &Path) {
        self.post("/url", &json!({"url": format!("file://{}", path.display())}));
    }

    /// Returns the result of a function body that runs in the page, such as `return document.title`.
    ///
    /// # Panics
    /// If the script throws.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Presses keys, given as characters or as WebDriver's codes for keys without one.
    ///
    /// # Panics
    /// If Chromium returns an error.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()})))
            .collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}));
    }

    /// Returns the console messages since the last call.
    ///
    /// # Panics
    /// If ChromeDriver returns an error.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        self.log("browser").iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Returns the addresses requested since the last call.
    ///
    /// # Panics
    /// If ChromeDriver returns an error.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let entries = self.log("performance");
        let events = entries
            .iter()
            .map(|entry| serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap());
        events
            .filter(|event| event["message"]["method"] == "Network.requestWillBeSent")
            .map(|event| event["message"]["params"]["request"]["url"].as_str().unwrap().to_owned())
            .collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        self.post("/se/log", &json!({"type": kind})).as_array().unwrap().clone()
    }

    /// Describes the violations of accessibility rules that axe-core finds in the page. Returns `None` if axe-core is
    /// not installed.
    ///
    /// # Panics
    /// If axe-core fails.
    #[track_caller]
    pub fn violations(&self) -> Option<Vec<String>> {
        let source = std::fs::read_to_string(axe_path()?).ok()?;
        self.run(&source);
        let script = "const done = arguments[arguments.length - 1];
            axe.run(document, { resultTypes: ['violations'] }).then(found => done(found), error => done(String(error)))";
        let found = self.post("/execute/async", &json!({"script": script, "args": []}));
        let violations = found["violations"].as_array().unwrap_or_else(|| panic!("axe-core: {found}"));
        let words = violations.iter().map(|violation| {
            let node = &violation["nodes"][0];
            format!(
                "{}: {} at {} ({})",
                violation["id"], violation["help"], node["target"], node["failureSummary"]
            )
        });
        Some(words.collect())
    }

    /// Returns the processor time in seconds that the page has used since it was opened.
    ///
    /// # Panics
    /// If Chromium returns an error.
    #[track_caller]
    pub fn seconds(&self) -> f64 {
        let metrics = self.devtools("Performance.getMetrics", &json!({}));
        let metrics = metrics["metrics"].as_array().unwrap();
        let task = metrics.iter().find(|metric| metric["name"] == "TaskDuration").unwrap();
        task["value"].as_f64().unwrap()
    }

    /// Returns the visible part of the page as a PNG.
    ///
    /// # Panics
    /// If Chromium cannot draw it.
    #[track_caller]
    pub fn screenshot(&self) -> Vec<u8> {
        let picture = self.devtools("Page.captureScreenshot", &json!({"format": "png"}));
        base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }
}

/// Path of `axe.min.js` in the folder that `SLM_AXE` names, or in the one that `.ci/browser` creates.
fn axe_path() -> Option<PathBuf> {
    let cache = || match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => Some(PathBuf::from(cache)),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")),
    };
    let folder = std::env::var_os("SLM_AXE").map(PathBuf::from).or_else(|| Some(cache()?.join("slm/axe")))?;
    let path = folder.join("package/axe.min.js");
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: no {}; .ci/browser fetches it", path.display());
    None
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session also ends Chromium.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

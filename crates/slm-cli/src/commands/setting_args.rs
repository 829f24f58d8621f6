//! Options that override single values of a config.

use clap::Args;
use slm_train::Setting;

#[derive(Debug, Args)]
pub(super) struct SettingArgs {
    /// Optimizer steps: short for --set training.steps=N
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Set a value of the config, such as training.learning_rate=1e-4 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = set)]
    set: Vec<Setting>,
}

/// Parses a value of `--set`, which errors about it name.
pub(super) fn set(text: &str) -> Result<Setting, String> {
    text.parse::<Setting>().map(|setting| setting.given_by("--set"))
}

impl SettingArgs {
    /// Values that override the config, in this order.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let steps = self.steps.map(|steps| Setting::number("--steps", "training.steps", steps));
        self.set.iter().cloned().chain(steps).collect()
    }
}

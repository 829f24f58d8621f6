//! The command line as users see it.

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::commands::{
    bench, chat, compare, corpus, eval, export, finetune, generate, import, inspect, logits, migrate, ptq,
    qat, sample, sensitivity, serve, train,
};
use crate::device::DeviceName;

const AFTER_HELP: &str = "\
Start here, in a checkout of the project:
  slm ptq                              quantize the model that ships to INT8 and show everything
  slm ptq --bits 4 --granularity group:32
  slm import HF_DIR --out my-model     bring a Hugging Face model
  slm ptq --checkpoint my-model --calibration my-text.txt --out my-model-int8

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted by Ctrl-C.
SLM_KERNEL=NAME forces an integer kernel (see `slm inspect`).";

/// Heading of the options that every command has.
const EVERYWHERE: &str = "Everywhere";

/// Train, import and quantize small language models, and look at everything that was done to them.
#[derive(Debug, Parser)]
#[command(name = "slm", version, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Backend to run on: flex or ndarray (CPU), or wgpu (GPU, needs a build with `--features wgpu`)
    #[arg(long, global = true, value_enum, default_value_t = DeviceName::Flex, help_heading = EVERYWHERE)]
    pub(crate) device: DeviceName,
    /// Print one JSON object on standard output and nothing else there
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// Do not compare the files of checkpoints with their checksums before they are used
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) no_verify: bool,
    /// Say more about what happens (-vv: everything)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = EVERYWHERE)]
    pub(crate) verbose: u8,
    /// Print only results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = EVERYWHERE)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
// Each is described at its arguments: a comment here would take the place of the whole description.
pub(crate) enum Command {
    Train(train::TrainArgs),
    Qat(qat::QatArgs),
    Finetune(finetune::FinetuneArgs),
    Sample(sample::SampleArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Ptq(ptq::PtqArgs),
    Eval(eval::EvalArgs),
    Logits(logits::LogitsArgs),
    Generate(generate::GenerateArgs),
    Chat(chat::ChatArgs),
    Serve(serve::ServeArgs),
    Inspect(inspect::InspectArgs),
    Sensitivity(sensitivity::SensitivityArgs),
    Compare(compare::CompareArgs),
    Migrate(migrate::MigrateArgs),
    Corpus(corpus::CorpusArgs),
    Bench(bench::BenchArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_option_is_explained() {
        let program = Arguments::command();
        let commands: Vec<_> = program.get_subcommands().collect();
        assert!(commands.len() >= 14, "{} commands", commands.len());
        for command in commands {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "slm {name}");
            // A summary alone teaches nothing.
            let short = ["generate", "inspect"].contains(&name);
            assert!(
                short || command.get_long_about().is_some(),
                "slm {name} --help has no more than a summary"
            );
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "slm {name}: {}", option.get_id());
            }
        }
        for option in program.get_arguments() {
            assert!(option.get_help().is_some(), "{}", option.get_id());
        }
    }
}

//! Command-line arguments.

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::commands::{
    bench, chat, compare, completions, config, corpus, doctor, eval, explain, export, finetune, generate,
    import, inspect, logits, migrate, plan, ptq, qat, sample, sensitivity, serve, train,
};
use crate::device::DeviceName;
use crate::examples;

const AFTER_HELP: &str = "\
Start here, in a checkout of the project:
  slm ptq                              quantize the model that ships to INT8
  slm ptq --bits 4 --granularity group:32
  slm import HF_DIR --out my-model     import a Hugging Face model
  slm ptq --checkpoint my-model --calibration my-text.txt --out my-model-int8
  slm explain sqnr                     explain a term

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted by Ctrl-C.
SLM_KERNEL=NAME forces an integer kernel (see `slm doctor`).";

/// Heading of the options that all commands share.
const EVERYWHERE: &str = "Everywhere";

/// Train, import and quantize small language models, and examine the results.
#[derive(Debug, Parser)]
#[command(name = "slm", version, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Backend to run on: flex (CPU), or in a build with `--features wgpu` wgpu (GPU), or with `--features ndarray` ndarray (CPU)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = DeviceName::Flex,
        hide_possible_values = true,
        help_heading = EVERYWHERE
    )]
    pub(crate) device: DeviceName,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    /// Do not compare the files of checkpoints with their checksums before they are used
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) no_verify: bool,
    /// Print more about the run (-vv: everything)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = EVERYWHERE)]
    pub(crate) verbose: u8,
    /// Print only the one-line result and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = EVERYWHERE)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
// Each command is described at its arguments: a comment here would replace the whole description.
pub(crate) enum Command {
    #[command(after_help = examples::TRAIN)]
    Train(train::TrainArgs),
    #[command(after_help = examples::QAT)]
    Qat(qat::QatArgs),
    #[command(after_help = examples::FINETUNE)]
    Finetune(finetune::FinetuneArgs),
    #[command(after_help = examples::SAMPLE)]
    Sample(sample::SampleArgs),
    #[command(after_help = examples::IMPORT)]
    Import(import::ImportArgs),
    #[command(after_help = examples::EXPORT)]
    Export(export::ExportArgs),
    #[command(after_help = examples::PTQ)]
    Ptq(ptq::PtqArgs),
    #[command(after_help = examples::EVAL)]
    Eval(eval::EvalArgs),
    #[command(after_help = examples::LOGITS)]
    Logits(logits::LogitsArgs),
    #[command(after_help = examples::GENERATE)]
    Generate(generate::GenerateArgs),
    #[command(after_help = examples::CHAT)]
    Chat(chat::ChatArgs),
    #[command(after_help = examples::SERVE)]
    Serve(serve::ServeArgs),
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::InspectArgs),
    #[command(after_help = examples::SENSITIVITY)]
    Sensitivity(sensitivity::SensitivityArgs),
    #[command(after_help = examples::PLAN)]
    Plan(plan::PlanArgs),
    #[command(after_help = examples::COMPARE)]
    Compare(compare::CompareArgs),
    #[command(after_help = examples::MIGRATE)]
    Migrate(migrate::MigrateArgs),
    #[command(after_help = examples::CORPUS)]
    Corpus(corpus::CorpusArgs),
    #[command(after_help = examples::BENCH)]
    Bench(bench::BenchArgs),
    #[command(after_help = examples::CONFIG)]
    Config(config::ConfigArgs),
    #[command(after_help = examples::EXPLAIN)]
    Explain(explain::ExplainArgs),
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::DoctorArgs),
    #[command(after_help = examples::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
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
            // A summary alone is not enough, except for this command.
            let short = name == "generate";
            assert!(
                short || command.get_long_about().is_some(),
                "slm {name} --help has no more than a summary"
            );
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("slm {name}")), "slm {name} --help has no example");
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "slm {name}: {}", option.get_id());
            }
        }
        for option in program.get_arguments() {
            assert!(option.get_help().is_some(), "{}", option.get_id());
        }
    }
}

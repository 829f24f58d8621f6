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
pub(crate) enum Command {
    /// Train a model from scratch, in 32-bit floats
    Train(train::TrainArgs),
    /// Train a model so that it loses little when quantized, and quantize it (quantization-aware training)
    Qat(qat::QatArgs),
    /// Train a checkpoint further; a quantized one stays quantized
    Finetune(finetune::FinetuneArgs),
    /// Sample text from a model, to train on
    Sample(sample::SampleArgs),
    /// Convert a Hugging Face model directory or a GGUF file into a checkpoint
    Import(import::ImportArgs),
    /// Write a checkpoint in the format of another program: GGUF, Hugging Face, compressed-tensors
    Export(export::ExportArgs),
    /// Quantize a trained model to INT8 or INT4 (post-training quantization)
    Ptq(ptq::PtqArgs),
    /// Measure how well a checkpoint predicts texts, and how far it is from another
    Eval(eval::EvalArgs),
    /// Write the logits of given token ids to a safetensors file
    Logits(logits::LogitsArgs),
    /// Continue a text
    Generate(generate::GenerateArgs),
    /// Talk to a model, turn by turn
    Chat(chat::ChatArgs),
    /// Serve a model over HTTP, with the part of OpenAI's API that every client knows
    Serve(serve::ServeArgs),
    /// Show what a checkpoint holds, down to scales and zero points of a layer
    Inspect(inspect::InspectArgs),
    /// Rank layers by what quantizing each alone does to the predictions of a model
    Sensitivity(sensitivity::SensitivityArgs),
    /// Compare two checkpoints layer by layer on a text
    Compare(compare::CompareArgs),
    /// Rewrite an old checkpoint, or a model that Burn recorded, in the present format
    Migrate(migrate::MigrateArgs),
    /// Write a corpus of simple stories whose entropy is known
    Corpus(corpus::CorpusArgs),
    /// Measure how fast a model runs, and how near that is to the machine's limits
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
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "slm {name}: {}", option.get_id());
            }
        }
        for option in program.get_arguments() {
            assert!(option.get_help().is_some(), "{}", option.get_id());
        }
    }
}

//! One file per command.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod corpus;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod finetune;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod inspect;
mod kv_cache_args;
pub(crate) mod logits;
pub(crate) mod migrate;
pub(crate) mod plan;
pub(crate) mod ptq;
pub(crate) mod qat;
mod run_args;
mod run_output_args;
mod run_page;
mod run_quality;
pub(crate) mod sample;
mod sampling_args;
mod scheme_args;
pub(crate) mod sensitivity;
pub(crate) mod serve;
mod setting_args;
mod text_generation;
pub(crate) mod train;

use crate::args::Command;
use crate::context::Context;
use crate::error::Result;

pub(crate) fn run(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Train(args) => train::run(&args, context),
        Command::Qat(args) => qat::run(&args, context),
        Command::Finetune(args) => finetune::run(&args, context),
        Command::Sample(args) => sample::run(&args, context),
        Command::Import(args) => import::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Ptq(args) => ptq::run(&args, context),
        Command::Eval(args) => eval::run(&args, context),
        Command::Logits(args) => logits::run(&args, context),
        Command::Generate(args) => generate::run(&args, context),
        Command::Chat(args) => chat::run(&args, context),
        Command::Serve(args) => serve::run(&args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Sensitivity(args) => sensitivity::run(&args, context),
        Command::Plan(args) => plan::run(&args, context),
        Command::Compare(args) => compare::run(&args, context),
        Command::Migrate(args) => migrate::run(&args, context),
        Command::Corpus(args) => corpus::run(&args, context),
        Command::Bench(args) => bench::run(&args, context),
        Command::Config(args) => config::run(&args, context),
        Command::Explain(args) => explain::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
    }
}

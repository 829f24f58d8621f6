//! Context of every command: device, output and progress according to the global options.

use std::path::Path;

use burn::tensor::Device;
use indicatif::ProgressBar;
use slm_checkpoint::{Checkpoint, OpenOptions};
use slm_kernels::KernelKind;
use slm_model::Transformer;
use slm_ptq::Stage;
use tracing_subscriber::EnvFilter;

use crate::args::GlobalArgs;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::messages::{Messages, WrappedStderr};
use crate::output::Output;
use crate::progress::Progress;
use crate::terminal::colours;

pub(crate) struct Context {
    pub(crate) device: Device,
    pub(crate) device_name: &'static str,
    pub(crate) output: Output,
    pub(crate) progress: Progress,
    pub(crate) interrupt: Interrupt,
    /// Options for opening checkpoints, which Ctrl-C stops.
    pub(crate) open_options: OpenOptions,
}

impl Context {
    pub(crate) fn new(global: &GlobalArgs) -> Result<Self> {
        let level = match (global.quiet, global.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "info",
            (_, _) => "debug",
        };
        let filter = EnvFilter::try_from_env("SLM_LOG").unwrap_or_else(|_| EnvFilter::new(level));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(WrappedStderr::new)
            .with_ansi(colours())
            .event_format(Messages)
            .init();
        // The only place where the environment selects a kernel.
        KernelKind::select()?;
        let interrupt = Interrupt::install();
        let open_options = OpenOptions { verify: !global.no_verify, stop: interrupt.stop() };
        Ok(Self {
            device: global.device.open()?,
            device_name: global.device.name(),
            output: Output::new(global.json, global.quiet),
            progress: Progress::new(global.quiet),
            interrupt,
            open_options,
        })
    }

    /// Returns a callback that shows the progress of post-training quantization and ends it on Ctrl-C.
    pub(crate) fn quantizing(&self) -> impl FnMut(slm_ptq::Progress) -> Result<()> {
        let mut bar: Option<ProgressBar> = None;
        move |progress| {
            let what = match progress.stage {
                Stage::Calibrating => "calibrating",
                Stage::Quantizing => "quantizing layers",
            };
            let bar = bar.get_or_insert_with(|| self.progress.bar(what, progress.total));
            bar.set_position(progress.done as u64);
            if progress.done == progress.total {
                bar.finish_and_clear();
            }
            self.interrupt.check()
        }
    }

    /// Opens a checkpoint, verified unless the user disabled that.
    pub(crate) fn open_checkpoint(&self, dir: &Path) -> Result<Checkpoint> {
        let _spinner = self.progress.spinner("opening the checkpoint");
        opened(Checkpoint::open_with(dir, &self.open_options)?)
    }

    /// [`Context::open_checkpoint`] for commands that next load the model and read nothing else: the weights are
    /// verified while they are read.
    pub(crate) fn open_to_load(&self, dir: &Path) -> Result<Checkpoint> {
        opened(Checkpoint::open_to_load(dir, &self.open_options)?)
    }

    /// Loads the model of a checkpoint to the device.
    pub(crate) fn load_model(&self, checkpoint: &Checkpoint) -> Result<Transformer> {
        let _spinner = self.progress.spinner("loading the model");
        Ok(checkpoint.load_model(&self.device)?)
    }
}

/// Logs a description of an opened checkpoint.
fn opened(checkpoint: Checkpoint) -> Result<Checkpoint> {
    let config = checkpoint.config();
    let form = match checkpoint.metadata() {
        Some(metadata) => format!("{} quantized layers", metadata.layers.len()),
        None => "float".to_owned(),
    };
    tracing::info!(
        "{}: {} parameters, {form}, {} layers, {} positions, kernel {}",
        checkpoint.dir().display(),
        config.model.parameter_count(),
        config.model.num_layers,
        config.model.max_position_embeddings,
        KernelKind::selected()
    );
    Ok(checkpoint)
}

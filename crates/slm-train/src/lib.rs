//! Training of small language models, in FP32 or quantization-aware: config, data and training loop.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use burn::tensor::Device;
//! use slm_train::{Trainer, TrainingConfig};
//!
//! let config = TrainingConfig::from_file("configs/tiny.toml")?;
//! let text = slm_text::read_text("corpus.txt")?;
//! let stop = AtomicBool::new(false);
//! let mut trainer = Trainer::new(config, &text, &Device::flex(), "out/tiny", false)?;
//! let summary = trainer.run(&mut (), &stop)?;
//! println!("{} steps, {:?}", summary.step, summary.validation);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod checkpointing;
mod config;
mod data;
mod diagnose;
mod difference;
mod error;
mod loss;
mod observer;
mod optimizer;
mod pass;
mod plot;
mod quantization;
mod schedule;
mod sequences;
mod setup;
mod state;
#[cfg(test)]
mod testing;
mod trainer;
mod tuning;

pub use config::{
    QatTrainingOptions, Setting, TokenizerConfig, TrainingConfig, TrainingOptions, parse_toml, read_toml,
};
pub use data::{Batch, TrainingData};
pub use error::{Error, Result};
pub use observer::{Metric, StepReport, TrainObserver, ValidationReport};
pub use sequences::{Corpus, Sequences, check_sequences};
pub use setup::Start;
pub use slm_autograd::Precision;
pub use slm_ptq::{QuantizationConfig, QuantizationMode};
pub use state::{RunProgress, reserve_run, run_progress, training_metrics};
pub use trainer::{Outcome, Trainer, TrainingSummary};
pub use tuning::{FinetuneOptions, RoundingKind, TuningMemory};

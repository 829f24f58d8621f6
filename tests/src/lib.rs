//! Helpers of the whole-program tests: the built `slm` in a temporary directory, small generated models, and the
//! reference data if available.
#![forbid(unsafe_code)]

mod browser;
mod fixtures;
mod hugging_face;
pub mod importing;
mod outcome;
mod program;
mod reference;
mod sandbox;
mod server;
#[cfg(unix)]
mod session;
mod terminal;

pub use browser::Browser;
pub use fixtures::{Files, checkpoint, model, quantized, text, train_config};
pub use hugging_face::{HuggingFace, Tensor, read_tensors};
pub use outcome::Outcome;
pub use program::{CPU_DEVICES, binary, command};
pub use reference::{Reference, frequencies};
pub use sandbox::Sandbox;
pub use server::{HttpReply, Server};
#[cfg(unix)]
pub use session::Session;
pub use slm_testing::{Random, llama_cpp, peer_python, shared};
pub use terminal::Shown;

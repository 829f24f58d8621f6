//! An HTTP server for language models with the common part of OpenAI's API.
//!
//! | endpoint | |
//! |---|---|
//! | `POST /v1/chat/completions` | the answer to a conversation, whole or as server-sent events |
//! | `POST /v1/completions` | the continuation of texts or token ids |
//! | `GET /v1/models`, `GET /v1/models/{name}` | the served model |
//! | `GET /health` | `{"status": "ok"}`, or 503 if the thread of the model has ended |
//! | `GET /metrics` | counters in the Prometheus text format |
//!
//! One thread owns the model and decodes all requests together ([`slm_model::CpuBatch`]): each step reads the weights
//! once for all of them. Requests beyond [`Limits::parallel`] wait; requests beyond [`Limits::queue`] are rejected. A
//! request is cancelled when its client disconnects.
#![forbid(unsafe_code)]

mod access;
mod api;
mod connection;
mod error;
mod json_types;
mod limits;
mod metrics;
mod model;
mod responses;
mod routes;
mod scheduler;
mod sequence;
mod server;

pub use error::{Error, Result};
pub use limits::Limits;
pub use model::{Chat, ServedModel};
pub use server::{Server, ServerOptions};

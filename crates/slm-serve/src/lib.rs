//! An HTTP server of language models, with the part of OpenAI's API that every client knows.
//!
//! | endpoint | |
//! |---|---|
//! | `POST /v1/chat/completions` | the answer to a conversation, whole or as server-sent events |
//! | `POST /v1/completions` | the continuation of texts or token ids |
//! | `GET /v1/models`, `GET /v1/models/{name}` | the model that is served |
//! | `GET /health` | whether the model still computes |
//! | `GET /metrics` | counters in Prometheus' text format |
//!
//! One thread owns the model and decodes all requests together ([`slm_model::CpuBatch`]): each step reads the weights once
//! for all of them. Requests beyond [`Limits::parallel`] wait, and those beyond [`Limits::queue`] are turned away.
//! A request whose client goes away stops.
#![forbid(unsafe_code)]

mod access;
mod api;
mod connection;
mod error;
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

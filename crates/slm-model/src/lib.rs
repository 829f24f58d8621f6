//! Config-driven decoder-only transformer with KV cache, sampling and streaming generation

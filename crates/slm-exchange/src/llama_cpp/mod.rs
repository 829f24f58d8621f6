//! Models in llama.cpp's terms: its architectures, tensor names, metadata keys and tokenizers. Sources: llama.cpp's
//! `src/models`, `src/llama-arch.cpp`, `src/llama-vocab.cpp` and `conversion`.

pub(crate) mod arch;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod keys;
pub(crate) mod names;
pub(crate) mod pre;
pub(crate) mod rows;
pub(crate) mod tokenizer;
pub(crate) mod tokenizer_json;

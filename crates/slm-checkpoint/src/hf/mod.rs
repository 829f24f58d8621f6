//! Import of models in the Hugging Face layout.

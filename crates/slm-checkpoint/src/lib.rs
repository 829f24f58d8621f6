//! Checkpoint directories: write, read, verify, and import from Hugging Face

//! Corpus, tokenizer, training configuration and the FP32 training loop

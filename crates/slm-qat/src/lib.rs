//! Configuration of quantization-aware training

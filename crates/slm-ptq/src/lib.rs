//! Post-training quantization: calibrate, choose parameters, convert, report

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| slm_exchange::fuzzing::llama2c(bytes));

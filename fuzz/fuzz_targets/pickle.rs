#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| slm_checkpoint::fuzzing::pickle(bytes));

#![no_main]

// Panics of the tokenizers library are caught and become errors; libFuzzer's hook would end the program before.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| slm_text::fuzzing::sentencepiece(bytes)
);

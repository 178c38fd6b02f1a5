//! The head of an instance's answer.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::answer_head(bytes));

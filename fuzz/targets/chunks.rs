//! The body of an instance's answer, in chunks.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::chunks(bytes));

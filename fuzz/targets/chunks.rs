//! The chunked body of an instance's HTTP response.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::chunks(bytes));

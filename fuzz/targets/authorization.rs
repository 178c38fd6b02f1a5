//! The Authorization header of a request.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_server::fuzz::authorization(bytes));

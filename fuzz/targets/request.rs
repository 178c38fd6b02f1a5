//! A client's request as the router forwards the request.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::request(bytes));

//! The websocket frames that an instance sends.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::websocket(bytes));

//! The frames that an instance sends on a websocket.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gantry_router::fuzz::websocket(bytes));

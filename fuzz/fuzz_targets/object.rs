//! See [`calico_fuzz::object`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::object(data));

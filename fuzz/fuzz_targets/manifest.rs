//! See [`calico_fuzz::manifest`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::manifest(data));

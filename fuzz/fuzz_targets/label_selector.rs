//! See [`calico_fuzz::label_selector`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::label_selector(data));

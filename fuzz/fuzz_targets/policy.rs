//! See [`calico_fuzz::policy`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::policy(data));

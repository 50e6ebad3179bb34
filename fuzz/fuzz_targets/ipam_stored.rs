//! See [`calico_fuzz::ipam_stored`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::ipam_stored(data));

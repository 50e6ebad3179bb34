//! See [`calico_fuzz::ipam_ops`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::ipam_ops(data));

//! See [`calico_fuzz::bgp_update`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::bgp_update(data));

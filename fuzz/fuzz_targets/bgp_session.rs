//! See [`calico_fuzz::bgp_session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::bgp_session(data));

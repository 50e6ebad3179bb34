//! See [`calico_fuzz::netconf`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::netconf(data));

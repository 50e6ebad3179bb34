//! See [`calico_fuzz::etcd_key`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::etcd_key(data));

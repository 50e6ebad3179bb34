//! See [`calico_fuzz::datastore_value`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::datastore_value(data));

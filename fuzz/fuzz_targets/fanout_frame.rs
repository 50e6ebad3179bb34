//! See [`calico_fuzz::fanout_frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calico_fuzz::fanout_frame(data));

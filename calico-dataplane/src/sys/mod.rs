//! System calls that no safe library offers. The only unsafe code of the project lives here, one small
//! function per call, each with the argument why it is sound and a test.
#![allow(unsafe_code)]

pub mod datagram;
pub mod process;
pub mod sockbuf;
mod sockopt;
pub mod tcp_auth;
pub mod unshare;

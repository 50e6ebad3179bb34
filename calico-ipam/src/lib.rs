//! Calico's block-affinity IP address management as pure, resumable state machines.

#![forbid(unsafe_code)]

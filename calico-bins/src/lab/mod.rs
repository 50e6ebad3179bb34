//! `calico-lab`: a whole cluster on one machine, built from the real programs, proved with real packets.

pub mod args;
pub mod probe;
pub mod report;
pub mod sandbox;

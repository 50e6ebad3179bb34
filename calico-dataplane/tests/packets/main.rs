//! Real packets between pods in network namespaces: what the kernel lets through is what policy allows, and it stays
//! so while policy changes and the agent is killed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../netns/isolation.rs"]
#[allow(dead_code)]
mod isolation;

mod features;
mod kills;
mod pods;
mod random;
mod tightening;

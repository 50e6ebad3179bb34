//! The programs of Calico in Rust: agent, CNI plugins, command line, fan-out and lab.

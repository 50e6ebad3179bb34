//! A sans-IO BGP speaker with Calico's peering, export and import semantics.

#![forbid(unsafe_code)]

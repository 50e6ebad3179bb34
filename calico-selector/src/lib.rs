//! Calico's label selector language: parser, canonical ids, evaluation, indexes and explanations.

#![forbid(unsafe_code)]

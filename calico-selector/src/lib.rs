//! Calico's label selector language: parser, canonical ids, evaluation, indexes and explanations.
//!
//! A selector is a boolean expression over labels, such as `role == 'db' && env in {'prod', 'canary'}`. Policies, IP
//! pools, BGP peers and configurations use it to say what they apply to. This crate is the whole language and nothing
//! else: no I/O, no clock, no threads, no unsafe code.
//!
//! ```
//! use calico_selector::Selector;
//!
//! let selector = Selector::parse("role == 'db' && !has(legacy)")?;
//! assert!(selector.matches(&[("role", "db"), ("zone", "a")]));
//! assert_eq!(selector.canonical(), r#"(role == "db" && !has(legacy))"#);
//!
//! let error = Selector::parse("role == db").unwrap_err();
//! assert_eq!(error.to_string(), "column 9: expected a value in quotes; put the value in quotes: `'db'`");
//! # Ok::<(), calico_selector::ParseError>(())
//! ```
//!
//! | to | use |
//! |---|---|
//! | read, print, match one selector | [`Selector`], [`Labels`] |
//! | join the selectors of one rule or policy | [`compose`] |
//! | tell people why, or what looks wrong | [`explain()`], [`lint()`], [`satisfiability`] |
//! | match many selectors against many items, once | [`interned`] |
//! | keep many selectors matched against many items | [`MatchIndex`] |
//! | take over a label selector of Kubernetes | [`kubernetes`] |

#![forbid(unsafe_code)]

pub mod ast;
mod canonical;
pub mod compose;
mod error;
mod eval;
mod explain;
mod hints;
pub mod index;
pub mod interned;
pub mod kubernetes;
pub mod labels;
mod lexer;
mod lint;
mod parser;
mod satisfy;
mod selector;

pub use ast::{Comparison, Expr};
pub use canonical::{hashed_id, named_port_id, service_id};
pub use error::{ParseError, ParseErrorKind};
pub use explain::{Explanation, Finding, Reason, explain};
pub use hints::{Restriction, Restrictions};
pub use index::{MatchIndex, Transition};
pub use labels::Labels;
pub use lint::{Lint, LintKind, lint};
pub use parser::Limits;
pub use satisfy::{Satisfiability, satisfiability};
pub use selector::{InvalidExpr, Selector};

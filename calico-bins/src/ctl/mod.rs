//! The command line for people, `calicoctl`.
//!
//! [`input`] turns files into objects, [`apply`] writes objects (the lab and tests call it as a library), [`get`]
//! reads them back, [`table`] and [`columns`] lay them out. [`run`] is the whole program over a datastore.

pub mod admission;
pub mod apply;
pub mod args;
pub mod check;
pub mod columns;
pub mod get;
pub mod initialise;
pub mod input;
pub mod node;
pub mod object;
mod run;
pub mod table;

pub use run::{Streams, run};

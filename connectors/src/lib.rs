//! Files and logs in and out, exactly once, over the [`Log`](thalweg_core::Log) trait.
//!
//! Reading order: [`source`] and [`sink`] are the two seams; [`run`] drives either one inside
//! transactions of the log; [`position`] is where they stand; [`mod@file`] tails files; [`files`]
//! writes rolling files; [`decode`] turns lines into fields.

pub mod decode;
pub mod error;
pub mod file;
pub mod files;
pub mod position;
pub mod run;
pub mod sink;
pub mod source;

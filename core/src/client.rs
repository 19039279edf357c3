//! F7 · What users and the layers above see: the [`log::Log`] trait and its clients.

pub(crate) mod accumulate;
pub mod admin;
pub mod consumer;
pub mod log;
pub mod partitioner;
pub mod producer;
pub mod transaction;

//! F7 · What users and the layers above see: the [`log::Log`] trait and its clients.

pub mod log;

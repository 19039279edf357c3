//! Typed stream pipelines with durable state, exactly once, over the log.

pub mod state;

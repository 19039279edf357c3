//! Kafka's log in process.
//!
//! The rooms, from the ground up; a file imports only from its own room or from lower floors:
//!
//! | floor | rooms | nature |
//! |---|---|---|
//! | F0 | [`ids`], [`error`], [`config`], `request` | plain values |
//! | F1 | [`varint`], [`record`], [`batch`], [`compress`] | bytes <-> values |
//! | F2 | [`disk`] | the only door to files |
//! | F3 | [`log`] | one partition's files: segments, index, producers, recovery |
//! | F4 | [`partition`] | a log with a durability level: high watermark, last stable offset |
//! | F5 | [`coordinator`] | groups, transactions, metadata as pure state machines |
//! | F5 | [`verify`], [`repair`], [`stats`], [`backup`] | files without a log: what is bad, made good, counted, copied |
//! | F6 | [`engine`] | the embedded runtime: the only floor with threads, clock and async |
//! | F7 | [`client`] | the [`Log`] trait, producer, consumer, transaction, admin |

pub mod config;
pub mod error;
pub mod ids;
mod request;

pub mod batch;
pub mod compress;
pub mod record;
pub mod varint;

pub mod disk;

pub mod log;

pub mod partition;

pub mod coordinator;

pub mod backup;
pub mod repair;
pub mod stats;
pub mod verify;

pub mod engine;

pub mod client;

pub use client::log::Log;
pub use error::{Error, Result};

//! The crate that programs use: the log, the pipelines and the connectors under one name.
//!
#![doc = include_str!("../README.md")]

use std::path::Path;
use std::sync::Arc;

use thalweg_core::disk::real::RealDisk;
use thalweg_core::engine::{Engine, open_real};

pub use thalweg_connectors as connectors;
pub use thalweg_core as core;
pub use thalweg_streams as streams;

pub use thalweg_core::client::admin::Admin;
pub use thalweg_core::client::consumer::{
    Consumer, ConsumerConfig, ConsumerRecord, Polled, StartAt,
};
pub use thalweg_core::client::log::{Isolation, Log, NewTopic, TopicConfig};
pub use thalweg_core::client::producer::{Producer, ProducerConfig};
pub use thalweg_core::client::transaction::TransactionalProducer;
pub use thalweg_core::config::{Compression, Level, LogConfig};
pub use thalweg_core::ids::TopicPartition;
pub use thalweg_core::record::{Header, Record};
pub use thalweg_core::{Error, Result};

/// The log of a folder on this machine's disks.
pub type EmbeddedLog = Engine<RealDisk>;

/// Opens the log in `dir`, made when it is missing, with the default settings: acknowledged means
/// that it survives a power loss.
///
/// Call [`Engine::close`] before the process ends, then the next open need not look at anything.
///
/// # Errors
/// [`Error::InUse`] naming the process that has the folder; [`Error::Unsupported`] for a newer layout;
/// [`Error::Damaged`] naming file and byte.
pub async fn open(dir: impl AsRef<Path>) -> Result<Arc<EmbeddedLog>> {
    open_with(dir, LogConfig::default()).await
}

/// As [`open`], with settings.
///
/// # Errors
/// As [`open`].
pub async fn open_with(dir: impl AsRef<Path>, config: LogConfig) -> Result<Arc<EmbeddedLog>> {
    open_real(dir.as_ref(), config).await
}

/// The programs of the guide are tested as this crate's own.
#[cfg(doctest)]
#[doc = include_str!("../docs/GUIDE.md")]
mod guide {}

//! F0 · Settings, with units, defaults and why one would change them.
//!
//! Always true here: a setting is plain data; a value that makes no sense is refused where it enters.

mod topic;

use std::time::Duration;

use crate::error::{Error, Result};

pub use self::topic::{Cleanup, TimestampType, TopicConfig};

/// What an acknowledgement survives on this machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// A crash of the process: the bytes are in the operating system's cache.
    Os,
    /// A power loss: the bytes were synced to the medium (group commit).
    #[default]
    Disk,
}

impl Level {
    /// The level's name, `os` or `disk`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Disk => "disk",
        }
    }

    /// Reads the name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything but `os` and `disk`.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "os" => Ok(Self::Os),
            "disk" => Ok(Self::Disk),
            _ => Err(Error::invalid(format!("level {name:?}: use \"os\" or \"disk\""))),
        }
    }
}

/// How the records of a batch are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, level 6: the slowest. For readers that know nothing else. Feature `gzip`.
    Gzip,
    /// Snappy in the framing of Kafka's clients. Feature `snappy`.
    Snappy,
    /// LZ4 frames of 64 KiB independent blocks. Feature `lz4`.
    Lz4,
    /// Zstandard, level 1. Feature `zstd`.
    Zstd,
}

/// Settings of an embedded log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The level of topics that name none, and of the coordinators. Default `disk`: the only honest
    /// default on one machine.
    pub level: Level,
    /// Partitions of `__consumer_offsets` and `__transaction_state` when a folder is created.
    /// Default 1: in one process more of them only cost more syncs.
    pub coordinator_partitions: u32,
    /// Segment bytes of the internal topics. Default 100 MiB, as Kafka's.
    pub internal_segment_bytes: u32,
    /// How many files are synced at the same time. Default 16: many `fdatasync` share one barrier of
    /// the device.
    pub sync_threads: usize,
    /// How many files of partitions are open at most, beside those with bytes that are not synced.
    /// Default 4096; others are opened when they are used.
    pub open_files: usize,
    /// Refuse appends when less than this many bytes are free. Default 64 MiB, so that coordinators
    /// and checkpoints still find room when data no longer does.
    pub min_free_bytes: u64,
    /// The longest a transaction may stay open before the coordinator aborts it. Default 15 min.
    pub transaction_timeout_max: Duration,
    /// A partition forgets a producer that wrote nothing there for so long, and takes whatever sequence
    /// it comes with next; never one with an open transaction. Default 24 h, as Kafka's
    /// `producer.id.expiration.ms`; at least [`PRODUCER_EXPIRATION_MIN`]. Until then each costs some 200
    /// bytes of memory and 46 of every snapshot.
    pub producer_expiration: Duration,
    /// How many bytes of a partition opening reads at most after a crash, beyond what was not synced:
    /// the recovery point follows the log in steps of so many. Default 64 MiB; smaller steps write more
    /// side files.
    pub recovery_bytes: u64,
    /// How many bytes of a partition's newest records stay in the system's page cache once they are
    /// durable; at most twice as many are there. Default `None`: the system decides, which is best
    /// where consumers come back for old records. Set it where the log shares the machine: an ETL job
    /// then does not push the files of others out of memory, and memory that is used again costs
    /// less than memory that has to be found. Records that left are read from the medium.
    pub page_cache_bytes: Option<u64>,
    /// Memory for the keys of the partition that is being compacted, in bytes: 24 a key and a third on
    /// top. Default 16 MiB, half a million keys at a time; where there are more, a partition takes
    /// several rounds.
    pub compaction_map_bytes: usize,
    /// How many bytes compaction reads a second at most, over all partitions. Default 32 MiB; 0: only
    /// [`Engine::maintain`](crate::engine::Engine::maintain) compacts.
    pub compaction_rate: u64,
    /// How often durable ends are noted in the flushed-offset hint. Default 1 s.
    pub hint_interval: Duration,
}

/// The least a partition remembers a producer for: a quarter of an hour. A retry comes within minutes, and
/// producers believe to be known for ten.
pub const PRODUCER_EXPIRATION_MIN: Duration = Duration::from_secs(15 * 60);

impl LogConfig {
    /// Checks what would break a promise.
    ///
    /// # Errors
    /// `Invalid`, with the setting and what it may be.
    pub(crate) fn check(&self) -> Result<()> {
        if self.producer_expiration < PRODUCER_EXPIRATION_MIN {
            return Err(Error::invalid(format!(
                "producer_expiration is {:?}: a producer that is forgotten while it retries stores a batch twice; at least {PRODUCER_EXPIRATION_MIN:?}",
                self.producer_expiration
            )));
        }
        Ok(())
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: Level::Disk,
            coordinator_partitions: 1,
            internal_segment_bytes: 100 << 20,
            sync_threads: 16,
            open_files: 4096,
            min_free_bytes: 64 << 20,
            transaction_timeout_max: Duration::from_secs(900),
            producer_expiration: Duration::from_secs(24 * 60 * 60),
            recovery_bytes: 64 << 20,
            page_cache_bytes: None,
            compaction_map_bytes: 16 << 20,
            compaction_rate: 32 << 20,
            hint_interval: Duration::from_secs(1),
        }
    }
}

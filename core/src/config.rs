//! F0 · Settings, with units, defaults and why one would change them.
//!
//! Always true here: a setting is plain data; a value that makes no sense is refused where it enters.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};

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
    /// gzip, level 6: small, and five times slower than lz4. For readers that know nothing else.
    /// Feature `gzip`.
    Gzip,
    /// Snappy in the framing of Kafka's clients. Feature `snappy`.
    Snappy,
    /// LZ4 frames of 64 KiB independent blocks. Feature `lz4`.
    Lz4,
    /// Zstandard, level 1. Feature `zstd`.
    Zstd,
}

/// Settings of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicConfig {
    /// What an acknowledgement survives. `None`: the level given to `open`. Change it for telemetry
    /// that may be lost with the power (`os`).
    pub level: Option<Level>,
    /// Bytes of a segment file. Default 1 GiB, as Kafka's; smaller segments can be deleted sooner.
    pub segment_bytes: u32,
    /// An index entry every so many bytes of batches. Default 4096, as Kafka's.
    pub index_interval_bytes: u32,
    /// The largest batch accepted, in bytes. Default 1 MiB + 12, as Kafka's.
    pub max_message_bytes: u32,
    /// Whether old values of a key may be compacted away. Kept for the log engine's cleaner.
    pub compact: bool,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            level: None,
            segment_bytes: 1 << 30,
            index_interval_bytes: 4096,
            max_message_bytes: (1 << 20) + 12,
            compact: false,
        }
    }
}

impl TopicConfig {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the setting, the value and the limit.
    pub fn check(&self) -> Result<()> {
        if self.segment_bytes < 128 || self.segment_bytes > (1 << 30) {
            return Err(Error::invalid(format!(
                "segment.bytes {}: use 128 to 1073741824",
                self.segment_bytes
            )));
        }
        if self.index_interval_bytes == 0 {
            return Err(Error::invalid("index.interval.bytes 0: use at least 1"));
        }
        if self.max_message_bytes < 64 {
            return Err(Error::invalid("max.message.bytes below 64: no batch would fit"));
        }
        Ok(())
    }

    /// The settings as Kafka's names and values, without those at their default.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let default = Self::default();
        let mut map = BTreeMap::new();
        let mut put = |name: &str, value: String, same: bool| {
            if !same {
                map.insert(name.to_owned(), value);
            }
        };
        if let Some(level) = self.level {
            put("thalweg.level", level.name().to_owned(), false);
        }
        put(
            "segment.bytes",
            self.segment_bytes.to_string(),
            self.segment_bytes == default.segment_bytes,
        );
        put(
            "index.interval.bytes",
            self.index_interval_bytes.to_string(),
            self.index_interval_bytes == default.index_interval_bytes,
        );
        put(
            "max.message.bytes",
            self.max_message_bytes.to_string(),
            self.max_message_bytes == default.max_message_bytes,
        );
        put("cleanup.policy", "compact".to_owned(), !self.compact);
        map
    }

    /// Reads settings written by [`TopicConfig::to_map`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name or a value out of range.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self> {
        let mut config = Self::default();
        for (name, value) in map {
            let number = || {
                value.parse::<u32>().map_err(|_| {
                    Error::invalid(format!("{name} {value:?}: use a whole number of bytes"))
                })
            };
            match name.as_str() {
                "thalweg.level" => config.level = Some(Level::parse(value)?),
                "segment.bytes" => config.segment_bytes = number()?,
                "index.interval.bytes" => config.index_interval_bytes = number()?,
                "max.message.bytes" => config.max_message_bytes = number()?,
                "cleanup.policy" if value == "compact" => config.compact = true,
                "cleanup.policy" if value == "delete" => config.compact = false,
                _ => {
                    return Err(Error::invalid(format!(
                        "topic setting {name}={value} is not known"
                    )));
                }
            }
        }
        config.check()?;
        Ok(config)
    }
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
    /// Refuse appends when less than this many bytes are free. Default 64 MiB, so that coordinators
    /// and checkpoints still find room when data no longer does.
    pub min_free_bytes: u64,
    /// The longest a transaction may stay open before the coordinator aborts it. Default 15 min.
    pub transaction_timeout_max: Duration,
    /// How many bytes of a partition's newest records stay in the system's page cache once they are
    /// durable; at most twice as many are there. Default `None`: the system decides, which is best
    /// where consumers come back for old records. Set it where the log shares the machine: an ETL job
    /// then does not push the files of others out of memory, and memory that is used again costs
    /// less than memory that has to be found. Records that left are read from the medium.
    pub page_cache_bytes: Option<u64>,
    /// How often durable ends are noted in the flushed-offset hint. Default 1 s.
    pub hint_interval: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: Level::Disk,
            coordinator_partitions: 1,
            internal_segment_bytes: 100 << 20,
            sync_threads: 16,
            min_free_bytes: 64 << 20,
            transaction_timeout_max: Duration::from_secs(900),
            page_cache_bytes: None,
            hint_interval: Duration::from_secs(1),
        }
    }
}

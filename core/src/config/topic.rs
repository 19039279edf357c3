//! F0 · Settings of one topic, under Kafka's names where Kafka has them.
//!
//! Always true here: a setting that is kept is in range; `from_map(to_map(c)) == c`; a setting at its
//! default is not written down, so that a later version may choose a better default for it.
//!
//! Two defaults differ from Kafka's: nothing is ever deleted (`retention.ms` is -1, not seven days) and
//! segments are rolled by size alone (`segment.ms` is -1, not seven days). A program's own log is a
//! store: what is in it goes when somebody said so.

use std::collections::BTreeMap;

use super::Level;
use crate::error::{Error, Result};

/// What becomes of old records (`cleanup.policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cleanup {
    /// Segments behind the retention are deleted.
    #[default]
    Delete,
    /// The last record of each key is kept. Retention does not count.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl Cleanup {
    /// Whether old values of a key go.
    pub fn compacts(self) -> bool {
        self != Self::Delete
    }

    /// Whether whole segments go.
    pub fn deletes(self) -> bool {
        self != Self::Compact
    }

    fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactAndDelete => "compact,delete",
        }
    }
}

/// Whose time a record carries (`message.timestamp.type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// That of the append: the log writes it into every batch.
    LogAppendTime,
}

impl TimestampType {
    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateTime => "CreateTime",
            Self::LogAppendTime => "LogAppendTime",
        }
    }
}

/// Settings of one topic.
///
/// ```
/// use thalweg_core::config::TopicConfig;
///
/// let week = TopicConfig { retention_ms: Some(7 * 24 * 3_600_000), ..TopicConfig::default() };
/// assert_eq!(week.to_map()["retention.ms"], "604800000");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicConfig {
    /// `thalweg.level`: what an acknowledgement survives. `None`: the level given to `open`. Change it
    /// for telemetry that may be lost with the power (`os`).
    pub level: Option<Level>,
    /// `segment.bytes`: bytes of a segment file. Default 1 GiB, as Kafka's; smaller segments can be
    /// deleted and compacted sooner.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment that spans more time than this is sealed by the append that says so.
    /// Default `None`: by size alone.
    pub segment_ms: Option<u64>,
    /// `segment.jitter.ms`: up to so much is taken off `segment.ms`, so that the segments of many
    /// partitions are not sealed at once. Default 0.
    pub segment_jitter_ms: u64,
    /// `index.interval.bytes`: an index entry every so many bytes of batches. Default 4096, as Kafka's.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`: the largest batch accepted. Default 1 MiB + 12, as Kafka's.
    pub max_message_bytes: u32,
    /// `cleanup.policy`.
    pub cleanup: Cleanup,
    /// `retention.ms`: a segment goes when its newest record is older. Default `None`: never.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: the oldest segments go while a partition is larger. Default `None`: never.
    pub retention_bytes: Option<u64>,
    /// `file.delete.delay.ms`: how long the files of a deleted segment stay for readers that hold
    /// them. Default one minute.
    pub file_delete_delay_ms: u64,
    /// `min.cleanable.dirty.ratio`, in thousandths: compaction waits until so much of the log is new.
    /// Default 500.
    pub min_cleanable_dirty_permille: u16,
    /// `min.compaction.lag.ms`: younger records are never compacted away. Default 0.
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`: older records are compacted whatever the ratio. Default `None`.
    pub max_compaction_lag_ms: Option<u64>,
    /// `delete.retention.ms`: how long tombstones and markers stay after compaction met them. Default
    /// a day: a reader that takes longer from the start may miss a deletion.
    pub delete_retention_ms: u64,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: a batch with an older timestamp is refused. Default `None`.
    pub timestamp_before_max_ms: Option<u64>,
    /// `message.timestamp.after.max.ms`: a batch from so far in the future is refused. Default `None`
    /// (Kafka: an hour).
    pub timestamp_after_max_ms: Option<u64>,
    /// `flush.messages`: records are synced when so many are not, whatever the level. Default `None`.
    pub flush_messages: Option<u64>,
    /// `flush.ms`: records are synced when the oldest that is not is so old, whatever the level, as
    /// closely as the engine's tick comes. Default `None`.
    pub flush_ms: Option<u64>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            level: None,
            segment_bytes: 1 << 30,
            segment_ms: None,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            max_message_bytes: (1 << 20) + 12,
            cleanup: Cleanup::Delete,
            retention_ms: None,
            retention_bytes: None,
            file_delete_delay_ms: 60_000,
            min_cleanable_dirty_permille: 500,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: None,
            delete_retention_ms: 24 * 3_600_000,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: None,
            timestamp_after_max_ms: None,
            flush_messages: None,
            flush_ms: None,
        }
    }
}

/// One setting: its name, how it is written and how it is read.
struct Setting {
    name: &'static str,
    get: fn(&TopicConfig) -> String,
    set: fn(&mut TopicConfig, &str) -> Option<()>,
    /// What is accepted.
    accepts: &'static str,
}

const WHOLE: &str = "use a whole number";
const WHOLE_OR_NONE: &str = "use a whole number, or -1 for none";

/// A setting that is a number.
macro_rules! number {
    ($name:literal, $field:ident) => {
        Setting {
            name: $name,
            get: |c| c.$field.to_string(),
            set: |c, value| Some(c.$field = value.parse().ok()?),
            accepts: WHOLE,
        }
    };
}

/// A setting that is a number, or -1 for none.
macro_rules! limit {
    ($name:literal, $field:ident) => {
        Setting {
            name: $name,
            get: |c| c.$field.map_or_else(|| "-1".to_owned(), |value| value.to_string()),
            set: |c, value| Some(c.$field = limit(value)?),
            accepts: WHOLE_OR_NONE,
        }
    };
}

fn limit(value: &str) -> Option<Option<u64>> {
    // Kafka's own "no limit" for some of these is the greatest number there is.
    match value.parse::<i64>().ok()? {
        -1 | i64::MAX => Some(None),
        value => u64::try_from(value).ok().map(Some),
    }
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "thalweg.level",
        get: |c| c.level.map_or("", Level::name).to_owned(),
        set: |c, value| Some(c.level = Some(Level::parse(value).ok()?)),
        accepts: "use os or disk",
    },
    number!("segment.bytes", segment_bytes),
    limit!("segment.ms", segment_ms),
    number!("segment.jitter.ms", segment_jitter_ms),
    number!("index.interval.bytes", index_interval_bytes),
    number!("max.message.bytes", max_message_bytes),
    Setting {
        name: "cleanup.policy",
        get: |c| c.cleanup.name().to_owned(),
        set: |c, value| {
            c.cleanup = match value {
                "delete" => Cleanup::Delete,
                "compact" => Cleanup::Compact,
                "compact,delete" | "delete,compact" => Cleanup::CompactAndDelete,
                _ => return None,
            };
            Some(())
        },
        accepts: "use delete, compact or compact,delete",
    },
    limit!("retention.ms", retention_ms),
    limit!("retention.bytes", retention_bytes),
    number!("file.delete.delay.ms", file_delete_delay_ms),
    Setting {
        name: "min.cleanable.dirty.ratio",
        get: |c| format!("{}", f64::from(c.min_cleanable_dirty_permille) / 1000.0),
        set: |c, value| {
            let ratio: f64 = value.parse().ok()?;
            // Not a number is in no range.
            (0.0..=1.0).contains(&ratio).then_some(())?;
            Some(c.min_cleanable_dirty_permille = (ratio * 1000.0).round() as u16)
        },
        accepts: "use a number from 0 to 1",
    },
    number!("min.compaction.lag.ms", min_compaction_lag_ms),
    limit!("max.compaction.lag.ms", max_compaction_lag_ms),
    number!("delete.retention.ms", delete_retention_ms),
    Setting {
        name: "message.timestamp.type",
        get: |c| c.timestamp_type.name().to_owned(),
        set: |c, value| {
            c.timestamp_type = match value {
                "CreateTime" => TimestampType::CreateTime,
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => return None,
            };
            Some(())
        },
        accepts: "use CreateTime or LogAppendTime",
    },
    limit!("message.timestamp.before.max.ms", timestamp_before_max_ms),
    limit!("message.timestamp.after.max.ms", timestamp_after_max_ms),
    limit!("flush.messages", flush_messages),
    limit!("flush.ms", flush_ms),
];

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
        if self.segment_ms == Some(0) {
            return Err(Error::invalid("segment.ms 0: use at least 1, or -1 for none"));
        }
        if self.segment_ms.is_some_and(|ms| self.segment_jitter_ms >= ms) {
            return Err(Error::invalid(format!(
                "segment.jitter.ms {} is not below segment.ms",
                self.segment_jitter_ms
            )));
        }
        if self.max_compaction_lag_ms.is_some_and(|max| max < self.min_compaction_lag_ms) {
            return Err(Error::invalid("max.compaction.lag.ms is below min.compaction.lag.ms"));
        }
        if self.flush_messages == Some(0) {
            return Err(Error::invalid("flush.messages 0: use at least 1, or -1 for none"));
        }
        Ok(())
    }

    /// The settings as names and values, without those at their default.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let default = Self::default();
        SETTINGS
            .iter()
            .map(|s| (s.name, (s.get)(self), (s.get)(&default)))
            .filter(|(_, value, default)| value != default)
            .map(|(name, value, _)| (name.to_owned(), value))
            .collect()
    }

    /// All settings as names and values; the level is left out when it is that of the log.
    pub fn to_full_map(&self) -> BTreeMap<String, String> {
        let all = SETTINGS.iter().map(|s| (s.name.to_owned(), (s.get)(self)));
        all.filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Reads settings written by [`TopicConfig::to_map`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name or a value out of range.
    pub fn from_map(map: &BTreeMap<String, String>) -> Result<Self> {
        let mut config = Self::default();
        for (name, value) in map {
            config.set(name, value)?;
        }
        config.check()?;
        Ok(config)
    }

    /// The settings after some were changed: to a value, or, without one, back to the default.
    ///
    /// # Errors
    /// As [`TopicConfig::from_map`].
    pub fn altered(&self, changes: &BTreeMap<String, Option<String>>) -> Result<Self> {
        let mut map = self.to_map();
        for (name, value) in changes {
            setting(name)?;
            match value {
                Some(value) => _ = map.insert(name.clone(), value.clone()),
                None => _ = map.remove(name),
            }
        }
        Self::from_map(&map)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let setting = setting(name).map_err(|_| unknown(&format!("{name}={value}")))?;
        (setting.set)(self, value)
            .ok_or_else(|| Error::invalid(format!("{name}={value}: {}", setting.accepts)))
    }
}

fn setting(name: &str) -> Result<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name).ok_or_else(|| unknown(name))
}

fn unknown(what: &str) -> Error {
    let names: Vec<_> = SETTINGS.iter().map(|s| s.name).collect();
    Error::invalid(format!("topic setting {what} is not known; known are {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_comes_back_and_a_default_is_not_written() {
        assert_eq!(TopicConfig::default().to_map(), BTreeMap::new());
        let values = [
            ("thalweg.level", "os"),
            ("segment.bytes", "1048576"),
            ("segment.ms", "5000"),
            ("segment.jitter.ms", "100"),
            ("index.interval.bytes", "1024"),
            ("max.message.bytes", "2000"),
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "1"),
            ("file.delete.delay.ms", "0"),
            ("min.cleanable.dirty.ratio", "0.125"),
            ("min.compaction.lag.ms", "1"),
            ("max.compaction.lag.ms", "2"),
            ("delete.retention.ms", "3"),
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.before.max.ms", "4"),
            ("message.timestamp.after.max.ms", "5"),
            ("flush.messages", "6"),
            ("flush.ms", "7"),
        ];
        assert_eq!(values.len(), SETTINGS.len(), "a setting without a value here");
        let map: BTreeMap<_, _> =
            values.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let config = TopicConfig::from_map(&map).expect("in range");
        assert_eq!(config.to_map(), map);
        assert_eq!(config.to_full_map(), map);
        let back = map.keys().map(|name| (name.clone(), None)).collect();
        assert_eq!(config.altered(&back).expect("defaults"), TopicConfig::default());
    }

    #[test]
    fn a_bad_setting_is_named_with_what_is_accepted() {
        for (name, value, told) in [
            ("segment.bytes", "-1", "segment.bytes=-1: use a whole number"),
            ("segment.bytes", "127", "segment.bytes 127: use 128 to"),
            ("segment.ms", "0", "segment.ms 0"),
            ("retention.ms", "-2", "retention.ms=-2: use a whole number, or -1 for none"),
            ("retention.ms", "7d", "retention.ms=7d"),
            ("cleanup.policy", "both", "use delete, compact or compact,delete"),
            ("min.cleanable.dirty.ratio", "1.5", "use a number from 0 to 1"),
            ("min.cleanable.dirty.ratio", "NaN", "use a number from 0 to 1"),
            ("retention.hours", "1", "retention.hours=1 is not known"),
        ] {
            let map = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let e = TopicConfig::from_map(&map).expect_err(value).to_string();
            assert!(e.contains(told), "{e}");
        }
        let none = BTreeMap::from([("retention.ms".to_owned(), i64::MAX.to_string())]);
        assert_eq!(TopicConfig::from_map(&none).expect("Kafka's none").retention_ms, None);
    }
}

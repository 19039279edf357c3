//! F1 · What an append of bytes from outside checks before they become part of a log.
//!
//! ```text
//!                      sum, sizes, counts,     every record: lengths, offsets without gaps,
//!                      kind, producer          times, keys; bounded decompression
//!   validate_shallow          x                                                       batches this
//!                                                                                     program built
//!   validate_deep             x                             x                         foreign bytes
//! ```
//!
//! Always true here: nothing is copied or changed. The shallow look is one pass over the bytes, for
//! their sum; what it lets through is a batch that a log can store, find and recover. The deep walk
//! decompresses and reads every record as well, and finds what would only hurt readers: a greatest
//! time that misleads the time index, a count that lies, records that cannot be read.
//!
//! Source: Kafka's `LogValidator`; PROD-01 to PROD-09 of its behaviour.

use super::{BatchError, BatchHeader, BatchRef, Scratch};
use crate::compress::decompressed_max;
use crate::ids::Timestamp;

/// What a record without a time carries; no topic refuses it.
pub(super) const NO_TIMESTAMP: Timestamp = -1;

/// What a topic takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accept {
    /// The most bytes of a batch, as it is stored. Kafka's `max.message.bytes`.
    pub max_message_bytes: usize,
    /// Whether every record needs a key, because the topic is compacted by it.
    pub compacted: bool,
    /// The earliest time of a record that has one: now - Kafka's `message.timestamp.before.max.ms`.
    pub earliest: Timestamp,
    /// The latest: now + Kafka's `message.timestamp.after.max.ms`.
    pub latest: Timestamp,
}

impl Accept {
    /// Batches of up to `max_message_bytes`, of any time, with keys or without.
    pub fn up_to(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes,
            compacted: false,
            earliest: Timestamp::MIN,
            latest: Timestamp::MAX,
        }
    }
}

/// A batch from outside that may be appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validated {
    /// Its header.
    pub header: BatchHeader,
    /// The greatest time of its records. Where the header tells another, Kafka corrects it and stores
    /// the batch; [`super::stamp_time`] does that.
    pub max_timestamp: Timestamp,
}

impl Validated {
    /// The header, for a caller that stores the bytes as they are.
    ///
    /// # Errors
    /// [`BatchError::MaxTimestamp`] when it does not tell the greatest time.
    pub fn unchanged(self) -> Result<BatchHeader, BatchError> {
        let stored = self.header.max_timestamp;
        if stored == self.max_timestamp {
            Ok(self.header)
        } else {
            Err(BatchError::MaxTimestamp { stored, found: self.max_timestamp })
        }
    }
}

/// Checks that `bytes` are exactly one batch that a producer may append: its size, version and sum,
/// its counts, its codec, and that it claims nothing that only the log gives. The records are not read:
/// for batches that this program built.
///
/// # Errors
/// The [`BatchError`] that names the first rule broken.
pub fn validate_shallow(bytes: &[u8], max_message_bytes: usize) -> Result<BatchHeader, BatchError> {
    let batch = BatchRef::parse(bytes)?;
    let header = batch.header;
    let size = header.size();
    if bytes.len() > size {
        return Err(BatchError::Trailing { extra: bytes.len() - size });
    }
    check_size(&header, max_message_bytes)?;
    // Before the fields it covers are believed: a flipped bit is named as one.
    batch.check_crc()?;
    if header.is_control() {
        return Err(BatchError::Attributes("a control batch: only the log itself writes those"));
    }
    if header.attributes.log_append_time() {
        return Err(BatchError::Attributes("times of the append: only the log itself gives those"));
    }
    if header.attributes.delete_horizon() {
        return Err(BatchError::Attributes("a delete horizon: only compaction gives those"));
    }
    if header.record_count == 0 {
        return Err(BatchError::Count { stored: 0, what: "a batch has at least one" });
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        return Err(header.bad_deltas("it is one less than the count"));
    }
    header.attributes.codec()?.check_supported()?;
    check_producer(&header)?;
    Ok(header)
}

/// Checks that a batch is not larger than allowed.
pub(super) fn check_size(header: &BatchHeader, limit: usize) -> Result<(), BatchError> {
    let size = header.size();
    if size > limit { Err(BatchError::TooLarge { size, limit }) } else { Ok(()) }
}

/// Checks what a batch says about its producer.
pub(super) fn check_producer(header: &BatchHeader) -> Result<(), BatchError> {
    let bad = |what| BatchError::Producer {
        id: header.producer.id,
        epoch: header.producer.epoch,
        base_sequence: header.base_sequence,
        what,
    };
    if header.producer.id >= 0 {
        if header.producer.epoch < 0 {
            return Err(bad("a producer id needs an epoch"));
        }
        if header.base_sequence < 0 {
            return Err(bad("a producer id needs a sequence number"));
        }
    } else if header.is_transactional() {
        return Err(bad("a transactional batch needs a producer id"));
    }
    Ok(())
}

/// As [`validate_shallow`], and reads every record: for batches that anybody else built. A compressed
/// section may hold [`decompressed_max`] bytes, or fewer where the scratch allows fewer.
///
/// # Errors
/// The [`BatchError`] that names the first rule broken, and the first record that breaks it.
pub fn validate_deep(
    bytes: &[u8],
    accept: &Accept,
    scratch: &mut Scratch,
) -> Result<Validated, BatchError> {
    let header = validate_shallow(bytes, accept.max_message_bytes)?;
    let batch = BatchRef::parse(bytes)?;
    let limit = decompressed_max(accept.max_message_bytes);
    let mut max_timestamp = NO_TIMESTAMP;
    let mut next_offset = header.base_offset;
    for (index, record) in (0..).zip(batch.records_within(limit, scratch)?) {
        let record = record?;
        if record.offset != next_offset {
            let what = "its offset does not follow the one before";
            return Err(BatchError::Record { index, what });
        }
        next_offset = next_offset.saturating_add(1);
        if accept.compacted && record.key.is_none() {
            let what = "it has no key, and the topic is compacted by key";
            return Err(BatchError::Record { index, what });
        }
        let timestamp = record.timestamp;
        let &Accept { earliest, latest, .. } = accept;
        if timestamp != NO_TIMESTAMP && !(earliest..=latest).contains(&timestamp) {
            return Err(BatchError::Time { index, timestamp, earliest, latest });
        }
        max_timestamp = if index == 0 { timestamp } else { max_timestamp.max(timestamp) };
    }
    Ok(Validated { header, max_timestamp })
}

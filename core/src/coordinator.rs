//! F5 · Coordinators: transactions, groups and metadata, each a pure state machine over one partition
//! of an internal topic.
//!
//! ```text
//!   command(&self, .., now) -> Plan { records, reply }     nothing has changed yet
//!        |  the caller appends the records, in order
//!        v
//!   replay(&mut self, key, value)                          the only way state changes
//!        |  the caller waits until the records are as durable as the reply promises
//!        v
//!   the reply leaves
//! ```
//!
//! Always true here:
//! - A command changes nothing. A failed append therefore needs no undoing, and a coordinator rebuilt
//!   by replaying its partition equals the one that wrote it: there is no other store of truth.
//! - Between a command and the replay of its records no other command of the same coordinator runs
//!   (one lock each). So no half-done transition is ever visible.
//! - Time, fresh producer ids and random bytes are arguments.
//! - Records of [`transaction`] and [`group`] are Kafka's bytes. Records of an unknown type or version
//!   are counted and left where they are; bytes that cannot be read are [`Malformed`], and the state
//!   is as it was before them.
//!
//! | internal topic | coordinator | one for |
//! |---|---|---|
//! | `__transaction_state` | [`transaction::TransactionCoordinator`] | each of its partitions |
//! | `__consumer_offsets` | [`group::GroupCoordinator`] | each of its partitions |
//! | `__thalweg_metadata` | [`metadata::Metadata`] | the folder |

pub mod cluster;
mod field;
pub mod group;
pub mod metadata;
pub mod transaction;

use bytes::Bytes;

use crate::error::{Error, Result};

/// A record of an internal topic. `None` as value is a tombstone: it removes the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoordinatorRecord {
    /// The key: compaction keeps the last record of each.
    pub key: Bytes,
    /// The value.
    pub value: Option<Bytes>,
}

/// What a command decided: records to append, in order, and the reply that may leave when they are
/// safe. Without records the reply may leave as soon as all earlier records are.
#[must_use = "nothing has happened until the records are appended and replayed"]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<R> {
    /// To append to the coordinator's partition, then to replay.
    pub records: Vec<CoordinatorRecord>,
    /// The answer to the command.
    pub reply: R,
}

impl<R> Plan<R> {
    fn answer(reply: R) -> Self {
        Self { records: Vec::new(), reply }
    }
}

/// Bytes of a coordinator's record that are not what any version writes. The caller knows topic,
/// partition and offset and adds them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed at byte {position} of the {part}: {what}")]
pub struct Malformed {
    /// `key` or `value`.
    pub part: &'static str,
    /// The byte position in it.
    pub position: usize,
    /// What was expected there.
    pub what: String,
}

/// The partition of an internal topic that keeps `id` (a group or a transactional id): Java's
/// `String.hashCode` over UTF-16 code units, without its sign, modulo `partitions`, as Kafka has it.
///
/// ```
/// use thalweg_core::coordinator::partition_for;
/// assert_eq!(partition_for("abc", 50), 4); // "abc".hashCode() is 96354
/// ```
pub fn partition_for(id: &str, partitions: u32) -> u32 {
    let hash = id
        .encode_utf16()
        .fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Not `abs`: it has no answer for the smallest number, and Kafka clears the sign bit instead.
    (hash & i32::MAX).cast_unsigned() % partitions.max(1)
}

/// Checks a group, member or transactional id: not empty, and short enough for its length field.
fn check_id(what: &str, id: &str) -> Result<()> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{what} of {} bytes: use 1 to {ID_BYTES_MAX} bytes",
            id.len()
        )));
    }
    Ok(())
}

/// What the length field of a string, an int16, can say.
const ID_BYTES_MAX: usize = i16::MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes from Java: `"...".hashCode()`. The partition is the hash without its sign bit, mod 50.
    #[test]
    fn an_id_lands_on_the_partition_kafka_would_use() {
        let cases = [
            ("", 0_i32),
            ("a", 97),
            ("abc", 96_354),
            ("hello", 99_162_322),
            ("ä", 228),
            // One character beyond the first plane is two UTF-16 code units, d83d de00.
            ("😀", 1_772_899),
            ("g😀", 1_871_882),
            // The smallest number has no positive twin.
            ("polygenelubricants", i32::MIN),
        ];
        for (id, hash) in cases {
            assert_eq!(partition_for(id, 50), (hash & i32::MAX).cast_unsigned() % 50, "{id:?}");
            // Enough partitions to see the whole hash.
            assert_eq!(partition_for(id, u32::MAX), (hash & i32::MAX).cast_unsigned(), "{id:?}");
            assert_eq!(partition_for(id, 1), 0);
        }
    }
}

//! F0 · What is asked of a log and what it answers, as far as coordinators and clients share it.
//!
//! Always true here: plain values without behaviour. Users see them as part of [`crate::client::log`].

use std::sync::Arc;

use crate::config::TopicConfig;
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp, TopicPartition, Uuid};

/// What a topic is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its id: another one after it was deleted and created again.
    pub id: Uuid,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its settings.
    pub config: TopicConfig,
}

/// A topic to create.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions, at least 1.
    pub partitions: u32,
    /// Its settings.
    pub config: TopicConfig,
}

/// A member of a group: what a commit of offsets must show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The group.
    pub group: Arc<str>,
    /// The member's id, given by the coordinator.
    pub member: Arc<str>,
    /// The generation: a newer one fences this one.
    pub generation: i32,
}

impl Membership {
    /// Nobody's membership, as Kafka's clients show it when partitions were assigned by hand: empty
    /// member id, generation -1. A group accepts it only while it has no member.
    pub fn simple(group: impl Into<Arc<str>>) -> Self {
        Self { group: group.into(), member: "".into(), generation: -1 }
    }
}

/// A position of a group in one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OffsetCommit {
    /// The partition.
    pub at: TopicPartition,
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch of the record before `offset`, or -1: with it a position in records that
    /// were lost is recognised.
    pub leader_epoch: LeaderEpoch,
    /// Free text of at most 4096 bytes, given back as it was.
    pub metadata: String,
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionEnd {
    /// Everything becomes visible.
    Commit,
    /// Nothing does.
    Abort,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionOffsets {
    /// The first offset there is.
    pub start: Offset,
    /// Transactions below are all decided, and durable: what `read_committed` readers see.
    pub last_stable: Offset,
    /// Everything below is as durable as the topic's level says: what other readers see.
    pub high_watermark: Offset,
    /// The next offset to be written.
    pub end: Offset,
    /// The leader epoch of the last batch, or -1 when there is none.
    pub last_epoch: LeaderEpoch,
    /// Compaction may have removed deletions (records without a value) below: state that was built from
    /// a part of them may hold what was deleted.
    pub deletions_below: Offset,
}

/// Which offset of a partition is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetSpec {
    /// The first one there is.
    Earliest,
    /// Where the isolation ends: last stable offset or high watermark.
    Latest,
    /// The record with the greatest timestamp; the first of several.
    MaxTimestamp,
    /// The first record whose timestamp is at or after this one.
    AtOrAfter(Timestamp),
}

/// An offset and what is known of the record there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetAt {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp; -1 for `Earliest` and `Latest`, which name no record.
    pub timestamp: Timestamp,
    /// The leader epoch there, or -1.
    pub epoch: LeaderEpoch,
}

/// A group as lists show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupInfo {
    /// The group.
    pub group: Arc<str>,
    /// Its generation; 0 for one that never had a member.
    pub generation: i32,
    /// Its members: none or one in one process.
    pub members: Vec<Arc<str>>,
    /// Its stored positions, by partition.
    pub positions: Vec<OffsetCommit>,
}

/// A transactional id as lists show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionInfo {
    /// The transactional id.
    pub id: Arc<str>,
    /// Whose it is now.
    pub producer: ProducerIdentity,
    /// Where its transaction is, under Kafka's name: `Empty`, `Ongoing`, `PrepareCommit`,
    /// `PrepareAbort`, `CompleteCommit` or `CompleteAbort`.
    pub state: &'static str,
    /// The partitions that joined the transaction under way.
    pub partitions: Vec<TopicPartition>,
    /// When it began, or -1.
    pub started: Timestamp,
    /// How long it may stay open, in milliseconds.
    pub timeout_ms: i32,
}

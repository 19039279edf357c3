//! The meta record of a task: what the task knew, apart from its rows, when a transaction committed.
//!
//! It is written with *every* transaction of the task into every changelog partition of the task,
//! under the reserved key [`META_KEY`], and with every checkpoint into the backend, there together
//! with the changelog offsets up to which the rows are complete ([`CheckpointMeta`]). Two bytes differ,
//! the rest is the same:
//!
//! ```text
//!  at  bytes                          all integers big endian
//!   0   1   version = 1
//!   1   1   kind: 0 = record of a transaction, 1 = checkpoint
//!   2  16   id of the log
//!  18   8   topology hash
//!  26   4   task: subtopology
//!  30   4   task: partition
//!  34   8   txn_seq: 1 for the first committed transaction of the task, then rising by one
//!  42   1   flags: 1 = last clock present, 2 = clock advance present
//!  43   8   last clock, ms since 1970 (0 when absent)
//!  51   8   clock advance: time was moved to here by the clock, ms (0 when absent)
//!  59   4   number of input partitions, then for each:
//!              2 + n   topic name: length, UTF-8
//!              4       partition
//!             16       topic id
//!              4       leader epoch of the record before the next offset, or -1
//!              8       next offset
//!              1       flags: 1 = in a backlog, 2 = max timestamp present
//!              8       max timestamp, ms (0 when absent)
//!              4       number of upstream tasks heard of (0 unless it is a repartition topic), each:
//!                         4   subtopology
//!                         4   partition
//!                         8   its last watermark, ms
//!       4   number of operators with something to keep, then for each:
//!              2 + n   operator name: length, UTF-8
//!              4 + n   its bytes, opaque here
//!       4   number of stores, then for each:
//!              2       store id
//!             24       digest of its rows: sum (16), rows (8)
//!   --- kind 1 only ---
//!       4   number of changelog partitions, then for each:
//!              2       store id
//!              2 + n   topic name
//!              4       partition
//!             16       topic id
//!              4       leader epoch of the record before the offset, or -1
//!              8       offset c: the rows hold everything below it
//!   --- both ---
//!       8   xxh3_64 of all bytes before
//! ```
//!
//! Always true here: decoding takes any bytes and never allocates more than a small multiple of their
//! number; what it accepts encodes to the same bytes again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use thalweg_core::ids::{LeaderEpoch, Offset, Timestamp, TopicPartition, Uuid};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::backend::StoreId;
use crate::state::digest::Digest;

/// The key of the meta record: store id 0, no further bytes.
pub const META_KEY: &[u8] = &[0, 0];

/// The longest meta record, in bytes. Some tens of bytes per input partition, upstream task and
/// operator are normal; the limit keeps it within one record of a changelog.
pub const META_BYTES_MAX: usize = 512 * 1024;

/// A task: subtopology and partition. Printed as `{subtopology}-{partition}`, which also names its tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The number of the subtopology.
    pub subtopology: u32,
    /// The partition of its inputs.
    pub partition: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.subtopology, self.partition)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a task stands in one input partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputPosition {
    /// The partition.
    pub at: TopicPartition,
    /// The topic's id.
    pub topic_id: Uuid,
    /// The leader epoch of the record before `next_offset`, or -1.
    pub leader_epoch: LeaderEpoch,
    /// The first offset that was not consumed.
    pub next_offset: Offset,
    /// The greatest timestamp accepted so far.
    pub max_timestamp: Option<Timestamp>,
    /// Whether the source said "backlog begins" and not yet "backlog done".
    pub backlog: bool,
    /// The last watermark of each upstream task heard of; empty unless it is a repartition topic.
    pub upstream: Vec<(TaskId, Timestamp)>,
}

/// What an operator keeps over a restart, in bytes that only it understands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperatorState {
    /// The operator's name within the task.
    pub name: Arc<str>,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What a task knew, apart from its rows, when transaction `txn_seq` committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The id of the log that the transaction is in.
    pub log_id: Uuid,
    /// The hash of the topology that ran.
    pub topology_hash: u64,
    /// The task.
    pub task: TaskId,
    /// The number of the transaction; 0 only before the first.
    pub txn_seq: u64,
    /// The clock that the last batch was processed with.
    pub last_clock: Option<Timestamp>,
    /// Up to where the clock moved time while every input was idle.
    pub clock_advance: Option<Timestamp>,
    /// Positions in all input partitions.
    pub inputs: Vec<InputPosition>,
    /// What operators keep.
    pub operators: Vec<OperatorState>,
    /// The digest of each store's rows. A store that is missing has no rows.
    pub digests: Vec<(StoreId, Digest)>,
}

/// The position of a checkpoint in the changelog partition of one store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangelogPosition {
    /// The store.
    pub store: StoreId,
    /// The partition.
    pub at: TopicPartition,
    /// The topic's id.
    pub topic_id: Uuid,
    /// The leader epoch of the record before `offset`, or -1.
    pub leader_epoch: LeaderEpoch,
    /// The rows in the backend hold every change below this offset.
    pub offset: Offset,
}

/// What a checkpoint stores beside the rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointMeta {
    /// The meta record of the last transaction in the checkpoint.
    pub meta: Meta,
    /// How far the rows are complete, per store with a changelog.
    pub changelogs: Vec<ChangelogPosition>,
}

/// Why bytes are not a meta record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MetaError {
    /// *Use the newer program.*
    #[error("the meta record has version {version}; this program reads version {VERSION}")]
    Newer {
        /// The version found.
        version: u8,
    },
    /// *Rebuild or restore: the bytes are not what was written.*
    #[error("the meta record is damaged at byte {at} of {len}: {what}")]
    Damaged {
        /// Where.
        at: usize,
        /// Of how many bytes.
        len: usize,
        /// What was expected.
        what: &'static str,
    },
    /// *Keep less in operators, or read fewer partitions in one task.*
    #[error("the meta record would have {bytes} bytes, more than {META_BYTES_MAX}")]
    TooLong {
        /// How many bytes it would have.
        bytes: usize,
    },
    /// *Use a shorter name.*
    #[error("the name {name:?} in the meta record is longer than 65535 bytes")]
    LongName {
        /// Its beginning.
        name: String,
    },
}

impl Meta {
    /// What a task knows that never committed anything.
    pub fn fresh(log_id: Uuid, topology_hash: u64, task: TaskId) -> Self {
        Self {
            log_id,
            topology_hash,
            task,
            txn_seq: 0,
            last_clock: None,
            clock_advance: None,
            inputs: Vec::new(),
            operators: Vec::new(),
            digests: Vec::new(),
        }
    }

    /// The digest of a store's rows.
    pub fn digest(&self, store: StoreId) -> Digest {
        self.digests.iter().find(|(id, _)| *id == store).map_or_else(Digest::default, |(_, d)| *d)
    }

    /// The value of the changelog record.
    ///
    /// # Errors
    /// [`MetaError::TooLong`], [`MetaError::LongName`].
    pub fn encode(&self) -> Result<Bytes, MetaError> {
        let mut out = Vec::with_capacity(256);
        self.encode_body(KIND_TRANSACTION, &mut out)?;
        seal(out)
    }

    /// Reads the value of a changelog record.
    ///
    /// # Errors
    /// [`MetaError::Newer`], [`MetaError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut input = open(bytes, KIND_TRANSACTION)?;
        let meta = Self::decode_body(&mut input)?;
        input.done()?;
        Ok(meta)
    }

    fn encode_body(&self, kind: u8, out: &mut Vec<u8>) -> Result<(), MetaError> {
        out.extend([VERSION, kind]);
        out.extend(self.log_id.0);
        out.extend(self.topology_hash.to_be_bytes());
        put_task(out, self.task);
        out.extend(self.txn_seq.to_be_bytes());
        out.push(flag(self.last_clock.is_some(), 1) | flag(self.clock_advance.is_some(), 2));
        out.extend(self.last_clock.unwrap_or(0).to_be_bytes());
        out.extend(self.clock_advance.unwrap_or(0).to_be_bytes());
        put_count(out, self.inputs.len())?;
        for input in &self.inputs {
            put_partition(out, &input.at, input.topic_id, input.leader_epoch, input.next_offset)?;
            out.push(flag(input.backlog, 1) | flag(input.max_timestamp.is_some(), 2));
            out.extend(input.max_timestamp.unwrap_or(0).to_be_bytes());
            put_count(out, input.upstream.len())?;
            for &(task, watermark) in &input.upstream {
                put_task(out, task);
                out.extend(watermark.to_be_bytes());
            }
        }
        put_count(out, self.operators.len())?;
        for operator in &self.operators {
            put_name(out, &operator.name)?;
            put_count(out, operator.bytes.len())?;
            out.extend_from_slice(&operator.bytes);
        }
        put_count(out, self.digests.len())?;
        for (store, digest) in &self.digests {
            out.extend(store.to_be_bytes());
            out.extend(digest.to_bytes());
        }
        Ok(())
    }

    fn decode_body(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let log_id = Uuid(input.array()?);
        let topology_hash = u64::from_be_bytes(input.array()?);
        let task = input.task()?;
        let txn_seq = u64::from_be_bytes(input.array()?);
        let present = input.flags(3)?;
        let last_clock = input.optional(present & 1 != 0)?;
        let clock_advance = input.optional(present & 2 != 0)?;
        let inputs = input.list(INPUT_BYTES_MIN, |input| {
            let (at, topic_id, leader_epoch, next_offset) = input.partition()?;
            let flags = input.flags(3)?;
            let max_timestamp = input.optional(flags & 2 != 0)?;
            let upstream = input
                .list(16, |input| Ok((input.task()?, Timestamp::from_be_bytes(input.array()?))))?;
            let backlog = flags & 1 != 0;
            Ok(InputPosition {
                at,
                topic_id,
                leader_epoch,
                next_offset,
                max_timestamp,
                backlog,
                upstream,
            })
        })?;
        let operators = input.list(6, |input| {
            let name = input.name()?;
            let len = input.count(1)?;
            Ok(OperatorState { name, bytes: Bytes::copy_from_slice(input.take(len)?) })
        })?;
        let digests = input.list(2 + Digest::BYTES, |input| {
            Ok((StoreId::from_be_bytes(input.array()?), Digest::from_bytes(input.array()?)))
        })?;
        Ok(Self {
            log_id,
            topology_hash,
            task,
            txn_seq,
            last_clock,
            clock_advance,
            inputs,
            operators,
            digests,
        })
    }
}

impl CheckpointMeta {
    /// The value of the backend's meta row.
    ///
    /// # Errors
    /// [`MetaError::TooLong`], [`MetaError::LongName`].
    pub fn encode(&self) -> Result<Bytes, MetaError> {
        let mut out = Vec::with_capacity(512);
        self.meta.encode_body(KIND_CHECKPOINT, &mut out)?;
        put_count(&mut out, self.changelogs.len())?;
        for log in &self.changelogs {
            out.extend(log.store.to_be_bytes());
            put_partition(&mut out, &log.at, log.topic_id, log.leader_epoch, log.offset)?;
        }
        seal(out)
    }

    /// Reads the value of the backend's meta row.
    ///
    /// # Errors
    /// [`MetaError::Newer`], [`MetaError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let mut input = open(bytes, KIND_CHECKPOINT)?;
        let meta = Meta::decode_body(&mut input)?;
        let changelogs = input.list(2 + PARTITION_BYTES_MIN, |input| {
            let store = StoreId::from_be_bytes(input.array()?);
            let (at, topic_id, leader_epoch, offset) = input.partition()?;
            Ok(ChangelogPosition { store, at, topic_id, leader_epoch, offset })
        })?;
        input.done()?;
        Ok(Self { meta, changelogs })
    }
}

fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

fn put_task(out: &mut Vec<u8>, task: TaskId) {
    out.extend(task.subtopology.to_be_bytes());
    out.extend(task.partition.to_be_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) -> Result<(), MetaError> {
    let count = u32::try_from(count).map_err(|_| MetaError::TooLong { bytes: count })?;
    out.extend(count.to_be_bytes());
    Ok(())
}

fn put_name(out: &mut Vec<u8>, name: &str) -> Result<(), MetaError> {
    let long = |_| MetaError::LongName { name: name.chars().take(40).collect() };
    out.extend(u16::try_from(name.len()).map_err(long)?.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

fn put_partition(
    out: &mut Vec<u8>,
    at: &TopicPartition,
    topic_id: Uuid,
    epoch: LeaderEpoch,
    offset: Offset,
) -> Result<(), MetaError> {
    put_name(out, &at.topic)?;
    out.extend(at.partition.to_be_bytes());
    out.extend(topic_id.0);
    out.extend(epoch.to_be_bytes());
    out.extend(offset.to_be_bytes());
    Ok(())
}

/// Adds the checksum.
fn seal(mut out: Vec<u8>) -> Result<Bytes, MetaError> {
    let sum = xxh3_64(&out);
    out.extend(sum.to_be_bytes());
    if out.len() > META_BYTES_MAX {
        return Err(MetaError::TooLong { bytes: out.len() });
    }
    Ok(out.into())
}

/// Checks version, length, checksum and kind, in the order in which they can be trusted.
fn open(bytes: &[u8], kind: u8) -> Result<Input<'_>, MetaError> {
    let damaged = |at, what| MetaError::Damaged { at, len: bytes.len(), what };
    match bytes.first() {
        Some(&VERSION) => {}
        Some(&version) if version > VERSION => return Err(MetaError::Newer { version }),
        _ => return Err(damaged(0, "a version")),
    }
    if bytes.len() > META_BYTES_MAX {
        return Err(damaged(META_BYTES_MAX, "the end of the record"));
    }
    let Some((body, sum)) = bytes.split_last_chunk() else {
        return Err(damaged(bytes.len(), "a checksum"));
    };
    if u64::from_be_bytes(*sum) != xxh3_64(body) {
        return Err(damaged(body.len(), "the checksum of the bytes before"));
    }
    if body.get(1) != Some(&kind) {
        return Err(damaged(1, "the kind of record that belongs here"));
    }
    Ok(Input { body, at: 2, len: bytes.len() })
}

/// A cursor over bytes from outside.
struct Input<'a> {
    body: &'a [u8],
    at: usize,
    len: usize,
}

impl<'a> Input<'a> {
    fn damaged(&self, what: &'static str) -> MetaError {
        MetaError::Damaged { at: self.at, len: self.len, what }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], MetaError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or_else(|| self.damaged("more bytes"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let array = *rest.first_chunk().ok_or_else(|| self.damaged("more bytes"))?;
        self.at += N;
        Ok(array)
    }

    fn task(&mut self) -> Result<TaskId, MetaError> {
        let subtopology = u32::from_be_bytes(self.array()?);
        Ok(TaskId { subtopology, partition: u32::from_be_bytes(self.array()?) })
    }

    fn flags(&mut self, legal: u8) -> Result<u8, MetaError> {
        let [flags] = self.array()?;
        if flags & !legal != 0 { Err(self.damaged("known flags")) } else { Ok(flags) }
    }

    fn optional(&mut self, present: bool) -> Result<Option<Timestamp>, MetaError> {
        match (present, Timestamp::from_be_bytes(self.array()?)) {
            (true, value) => Ok(Some(value)),
            (false, 0) => Ok(None),
            (false, _) => Err(self.damaged("0 for an absent time")),
        }
    }

    /// A count of things of at least `bytes_each` bytes, which must fit into what is left.
    fn count(&mut self, bytes_each: usize) -> Result<usize, MetaError> {
        let count = u32::from_be_bytes(self.array()?) as usize;
        if count > (self.body.len() - self.at) / bytes_each {
            return Err(self.damaged("no more entries than there are bytes for"));
        }
        Ok(count)
    }

    fn list<T>(
        &mut self,
        bytes_each: usize,
        mut one: impl FnMut(&mut Self) -> Result<T, MetaError>,
    ) -> Result<Vec<T>, MetaError> {
        let count = self.count(bytes_each)?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(one(self)?);
        }
        Ok(list)
    }

    fn name(&mut self) -> Result<Arc<str>, MetaError> {
        let len = u16::from_be_bytes(self.array()?);
        let text = self.take(usize::from(len))?;
        std::str::from_utf8(text).map(Arc::from).map_err(|_| self.damaged("UTF-8"))
    }

    fn partition(&mut self) -> Result<(TopicPartition, Uuid, LeaderEpoch, Offset), MetaError> {
        let at =
            TopicPartition { topic: self.name()?, partition: u32::from_be_bytes(self.array()?) };
        let topic_id = Uuid(self.array()?);
        let epoch = LeaderEpoch::from_be_bytes(self.array()?);
        Ok((at, topic_id, epoch, Offset::from_be_bytes(self.array()?)))
    }

    fn done(&self) -> Result<(), MetaError> {
        if self.at == self.body.len() { Ok(()) } else { Err(self.damaged("the end")) }
    }
}

const VERSION: u8 = 1;
const KIND_TRANSACTION: u8 = 0;
const KIND_CHECKPOINT: u8 = 1;
/// Name length, partition, topic id, leader epoch, offset.
const PARTITION_BYTES_MIN: usize = 2 + 4 + 16 + 4 + 8;
/// A partition, flags, max timestamp, number of upstream tasks.
const INPUT_BYTES_MIN: usize = PARTITION_BYTES_MIN + 1 + 8 + 4;

//! F7 · The seam: what a pipeline or a connector needs from a log, wherever the log lives.
//!
//! ```text
//!   streams, connectors, Producer, Consumer, Transaction, Admin
//!                          |
//!                       dyn Log            one dynamic call per batch, never per record
//!              ____________|____________
//!    embedded engine              another cluster (package thalweg-kafka)
//! ```
//!
//! Always true here: bytes of batches are Kafka's record batch v2; an acknowledgement never precedes
//! the topic's durability level; inside a transaction a reply means *written*, and only the end of
//! the transaction waits for the level.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use crate::batch::Sealed;
use crate::disk::Region;
use crate::error::Result;
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp, TopicPartition, Uuid};

pub use crate::config::{Cleanup, Level, TimestampType, TopicConfig};
pub use crate::record::AbortedTransaction;

pub use crate::request::{
    GroupInfo, Membership, NewTopic, OffsetAt, OffsetCommit, OffsetSpec, PartitionOffsets,
    TopicInfo, TransactionEnd, TransactionInfo,
};

/// When an append is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// When the bytes are written (they survive a process crash). What transactions use.
    Written,
    /// When the topic's level holds.
    Level,
}

/// Where a batch went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// One past the offset of its last record.
    pub next_offset: Offset,
    /// Whether the batch had been stored before (a retry): the offsets are the original ones.
    pub duplicate: bool,
}

/// Which records a reader sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// Only records of committed transactions, and of no transaction.
    #[default]
    ReadCommitted,
    /// Everything below the high watermark.
    ReadUncommitted,
}

/// One partition to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchFrom {
    /// The partition.
    pub at: TopicPartition,
    /// The first offset wanted. The answer may begin earlier, at the head of the batch that holds it.
    pub offset: Offset,
    /// About how many bytes: whole batches, at least one when there is one.
    pub max_bytes: usize,
}

/// How to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchOptions {
    /// Which records are wanted.
    pub isolation: Isolation,
    /// How long to wait when no partition has anything: the append that brings something wakes the
    /// call. Zero never waits.
    pub max_wait: Duration,
    /// Bytes over all partitions; 0 for no limit beyond each partition's own.
    pub max_bytes: usize,
}

/// What one partition answered. [`crate::batch`] opens the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The partition.
    pub at: TopicPartition,
    /// Its offsets when it was read.
    pub offsets: PartitionOffsets,
    /// Whole batches, one after the other; empty when there is nothing.
    pub batches: Bytes,
    /// Aborted transactions that touch the range, by first offset (empty for `ReadUncommitted`).
    pub aborted: Vec<AbortedTransaction>,
    /// Where to read on.
    pub next_offset: Offset,
    /// The leader epoch of the record before `next_offset`, be it visible or not; -1 when there are no
    /// batches. A stored position carries it: with the epoch of the last *visible* record, a position
    /// behind a marker of a later epoch would look like one whose records were lost.
    pub leader_epoch: LeaderEpoch,
}

/// What one partition answered, as the place where its batches lie.
#[derive(Clone, Debug)]
pub struct FetchedRegion {
    /// The partition.
    pub at: TopicPartition,
    /// Its offsets when it was looked at.
    pub offsets: PartitionOffsets,
    /// Whole batches, one after the other; empty when there is nothing. Whoever reads them checks their
    /// sums.
    pub region: Region,
    /// Aborted transactions that touch the range, by first offset (empty for `ReadUncommitted`).
    pub aborted: Vec<AbortedTransaction>,
    /// Where to read on.
    pub next_offset: Offset,
}

/// A log: embedded, or on the other side of a network.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// The log's own id, made when its folder was created. Positions and state kept elsewhere carry
    /// it, so that they are never used with another log.
    fn id(&self) -> Uuid;

    /// Creates a topic; durable when it returns.
    ///
    /// # Errors
    /// [`crate::Error::TopicExists`], or `Invalid` for a bad name, partition count or setting.
    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicInfo>;
    /// Deletes a topic with all its records; durable when it returns.
    async fn delete_topic(&self, name: &str) -> Result<()>;
    /// What a topic is; `Unknown` when there is none of that name.
    async fn topic(&self, name: &str) -> Result<TopicInfo>;
    /// All topics, internal ones (names with two leading underscores) included, by name.
    async fn topics(&self) -> Result<Vec<TopicInfo>>;
    /// Changes settings of a topic: to a value, or, without one, back to the default. Durable when it
    /// returns. The answer is the topic as it is then.
    ///
    /// # Errors
    /// `Unknown`; `Invalid` for a setting that is not known, out of range, or fixed for good.
    async fn alter_topic(
        &self,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<TopicInfo>;
    /// Where a partition begins and ends.
    async fn offsets(&self, at: &TopicPartition) -> Result<PartitionOffsets>;
    /// The offset of a partition that `which` asks for; `None` when no record answers it. Records
    /// beyond what `isolation` lets readers see do not count.
    ///
    /// # Errors
    /// `Unknown`, `Damaged`.
    async fn list_offset(
        &self,
        at: &TopicPartition,
        which: OffsetSpec,
        isolation: Isolation,
    ) -> Result<Option<OffsetAt>>;
    /// Makes `before` the first offset there is: older records are gone for every reader when it
    /// returns, durably; their files go when whole segments are below. Returns the log start, which is
    /// higher when it was higher before.
    ///
    /// # Errors
    /// `OffsetOutOfRange` above the high watermark, `Unknown`; `Invalid` for an internal topic.
    async fn delete_records(&self, at: &TopicPartition, before: Offset) -> Result<Offset>;

    /// Appends one whole batch. A transactional batch names its producer in its header and must give
    /// the transactional id; the partition joins the transaction by its first batch.
    ///
    /// # Errors
    /// `Fenced` for an older producer epoch, `Invalid` for bytes that are no legal batch or a
    /// sequence out of order, `Full` when there is no room (nothing was written), `Stopped`.
    async fn append(
        &self,
        at: &TopicPartition,
        batch: Bytes,
        transactional_id: Option<&str>,
        ack: Ack,
    ) -> Result<Appended>;

    /// As [`Log::append`], a batch that a [`BatchBuilder`](crate::batch::BatchBuilder) of this process
    /// sealed: a log in the same process believes its sum, which was taken a moment ago.
    ///
    /// # Errors
    /// As [`Log::append`].
    async fn append_sealed(
        &self,
        at: &TopicPartition,
        batch: &Sealed,
        transactional_id: Option<&str>,
        ack: Ack,
    ) -> Result<Appended> {
        self.append(at, batch.bytes().clone(), transactional_id, ack).await
    }

    /// Reads from several partitions; the answer holds those that had something, or, for those
    /// asked beyond `high_watermark`, nothing. Waits as `options` say.
    ///
    /// # Errors
    /// `OffsetOutOfRange`, `Unknown`, `Damaged`.
    async fn fetch(&self, from: &[FetchFrom], options: FetchOptions) -> Result<Vec<Fetched>>;

    /// As [`Log::fetch`], without reading: answers where the batches lie, for whoever hands them on as
    /// they are. The bytes are those that a fetch with the same question would bring, and stay readable
    /// for as long as the region is held, also when they are deleted meanwhile.
    ///
    /// A log without files of its own answers with regions in memory.
    ///
    /// # Errors
    /// As [`Log::fetch`].
    async fn fetch_regions(
        &self,
        from: &[FetchFrom],
        options: FetchOptions,
    ) -> Result<Vec<FetchedRegion>> {
        let fetched = self.fetch(from, options).await?;
        let region = |fetched: Fetched| FetchedRegion {
            at: fetched.at,
            offsets: fetched.offsets,
            region: fetched.batches.into(),
            aborted: fetched.aborted,
            next_offset: fetched.next_offset,
        };
        Ok(fetched.into_iter().map(region).collect())
    }

    /// Says whether a stored position still means the same records: the partition of topic `id` held
    /// `offset` under `epoch`, and still does.
    ///
    /// # Errors
    /// [`crate::Error::PositionLost`] saying what was lost.
    async fn check_position(
        &self,
        at: &TopicPartition,
        id: Uuid,
        epoch: LeaderEpoch,
        offset: Offset,
    ) -> Result<()>;

    /// Gives a producer its identity. With a transactional id: fences whoever used it before, and
    /// returns only when that one's open transaction is finished either way.
    async fn init_producer(
        &self,
        transactional_id: Option<&str>,
        timeout: Duration,
    ) -> Result<ProducerIdentity>;

    /// Makes positions part of a transaction: they are stored if it commits. Fenced by the
    /// member's generation and by the producer's epoch.
    async fn commit_offsets_in(
        &self,
        transactional_id: &str,
        producer: ProducerIdentity,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<()>;

    /// Ends a transaction and returns the identity for the next one (the epoch rises with every
    /// transaction, KIP-890). `Ok` for a commit means: durable at the coordinator's level, and
    /// visible as soon as the markers are. Idempotent: a repeated call after a lost answer succeeds.
    ///
    /// # Errors
    /// `Fenced`; `Abortable` when a part of the transaction was refused; `Stopped` when the outcome
    /// is unknown until the log was reopened.
    async fn end_transaction(
        &self,
        transactional_id: &str,
        producer: ProducerIdentity,
        end: TransactionEnd,
    ) -> Result<ProducerIdentity>;

    /// All transactional ids, by name.
    async fn transactions(&self) -> Result<Vec<TransactionInfo>>;
    /// Aborts the open transaction of an id and fences its producer.
    ///
    /// # Errors
    /// `Unknown`; `Invalid` when none is open.
    async fn abort_transaction(&self, transactional_id: &str) -> Result<()>;

    /// All groups with their positions, by name.
    async fn groups(&self) -> Result<Vec<GroupInfo>>;
    /// Joins a group. In one process there is one member: whoever held the group before is expelled
    /// by the new generation.
    async fn join_group(&self, group: &str) -> Result<Membership>;
    /// Leaves a group.
    async fn leave_group(&self, member: &Membership) -> Result<()>;
    /// Stores positions of a group; durable at the coordinator's level when it returns.
    async fn commit_offsets(&self, member: &Membership, offsets: &[OffsetCommit]) -> Result<()>;
    /// The stored positions of a group, in the order asked; `None` where there is none. Waits for
    /// transactions that are about to decide one of them (`require_stable`).
    async fn committed_offsets(
        &self,
        group: &str,
        at: &[TopicPartition],
    ) -> Result<Vec<Option<OffsetCommit>>>;

    /// The wall clock, in milliseconds since 1970.
    fn now(&self) -> Timestamp;
    /// A timer.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
    /// Runs something on the log's own runtime, after `delay`.
    fn run_later(&self, delay: Duration, what: BoxFuture<'static, ()>);
    /// The weakest promise a commit rests on: what survives what, for people to read.
    fn guarantee(&self) -> String;
}

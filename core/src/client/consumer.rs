//! F7 · The consumer: records of assigned partitions, in order, from a position it keeps.
//!
//! [`Consumer::poll`] gives records that own their bytes; [`Consumer::poll_borrowed`] gives a view of
//! what was fetched, in which a record costs no allocation, no copy and no counter.
//!
//! Always true here: records of a partition come in offset order and once; control records and
//! aborted transactions are never given out under `read_committed`; the position is one past the last
//! record *given out* (and past what no reader sees behind it), so committing it never skips a record
//! that was not seen, also when another partition could not be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::log::{
    FetchFrom, FetchOptions, Fetched, Isolation, Log, Membership, OffsetCommit, TopicInfo,
};
use crate::batch::{BatchError, Plain, Records, Scratch, Visible};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, Timestamp, TopicPartition};
use crate::record::{Header, RecordRef};

/// Where a consumer begins in a partition for which its group has no position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StartAt {
    /// With the oldest record.
    #[default]
    Earliest,
    /// With what is written from now on.
    Latest,
}

/// Settings of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Whose positions it uses and commits. `None`: it has no positions but its own. Default none.
    pub group: Option<String>,
    /// Which records it sees. Default only committed ones.
    pub isolation: Isolation,
    /// Where it begins without a position. Default with the oldest record.
    pub start_at: StartAt,
    /// Bytes asked of each partition at a time. Default 1 MiB; it bounds what a poll returns.
    pub fetch_bytes: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            isolation: Isolation::ReadCommitted,
            start_at: StartAt::Earliest,
            fetch_bytes: 1 << 20,
        }
    }
}

/// A record that was read. Its bytes are slices of what was fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerRecord {
    /// The partition.
    pub at: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<Header>,
}

/// What one [`Consumer::poll_borrowed`] brought: records of several partitions, borrowed from the bytes
/// that were fetched. Everything in it was summed and read once, so that reading it cannot fail.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    partitions: Vec<PolledPartition>,
}

impl Polled {
    /// Each partition that has records, with its records.
    pub fn partitions(&self) -> impl Iterator<Item = &PolledPartition> {
        self.partitions.iter()
    }

    /// All records, one partition after the other, each in offset order.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.partitions.iter().flat_map(PolledPartition::records)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
}

/// The records of one partition in a [`Polled`]; at least one.
#[derive(Clone, Debug)]
pub struct PolledPartition {
    at: TopicPartition,
    from: Offset,
    batches: Vec<Plain>,
}

impl PolledPartition {
    /// The partition.
    pub fn at(&self) -> &TopicPartition {
        &self.at
    }

    /// Its records, in offset order.
    pub fn records(&self) -> RecordRefs<'_> {
        RecordRefs { from: self.from, batches: self.batches.iter(), records: None }
    }
}

/// Iterates over records that borrow from what was fetched; made by [`PolledPartition::records`].
#[derive(Clone, Debug)]
pub struct RecordRefs<'p> {
    from: Offset,
    batches: std::slice::Iter<'p, Plain>,
    records: Option<Records<'p>>,
}

impl<'p> Iterator for RecordRefs<'p> {
    type Item = RecordRef<'p>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'p>> {
        loop {
            // An error ends a batch, but there is none: all of them were read before.
            if let Some(Ok(record)) = self.records.as_mut().and_then(Iterator::next) {
                return Some(record);
            }
            self.records = Some(self.batches.next()?.starting_at(self.from));
        }
    }
}

/// A position, and the leader epoch of the record before it.
#[derive(Clone, Copy, Debug)]
struct Position {
    offset: Offset,
    epoch: LeaderEpoch,
}

/// Reads partitions.
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// # use thalweg_core::client::{consumer::*, log::Log};
/// # async fn read(log: Arc<dyn Log>) -> thalweg_core::Result<()> {
/// let config = ConsumerConfig { group: Some("readers".into()), ..Default::default() };
/// let mut consumer = Consumer::open(log, config);
/// consumer.subscribe(&["greetings"]).await?;
/// for record in consumer.poll(Duration::from_secs(1)).await? {
///     println!("{:?}", record.value);
/// }
/// consumer.commit().await?; // Everything polled so far is done.
/// # Ok(()) }
/// ```
pub struct Consumer {
    log: Arc<dyn Log>,
    config: ConsumerConfig,
    member: Option<Membership>,
    positions: BTreeMap<TopicPartition, Position>,
    scratch: Scratch,
    /// Which partition the next poll serves first.
    turn: usize,
}

impl Consumer {
    /// A consumer without partitions.
    pub fn open(log: Arc<dyn Log>, config: ConsumerConfig) -> Self {
        let scratch = Scratch::default();
        Self { log, config, member: None, positions: BTreeMap::new(), scratch, turn: 0 }
    }

    /// Becomes the member of its group and takes all partitions of the topics, at the group's
    /// positions. Whoever was the member before is fenced.
    ///
    /// # Errors
    /// `Invalid` without a group, `Unknown` for a topic that does not exist.
    pub async fn subscribe(&mut self, topics: &[&str]) -> Result<()> {
        let Some(group) = self.config.group.clone() else {
            return Err(Error::invalid(
                "subscribe needs a group: set ConsumerConfig::group, or use assign",
            ));
        };
        let mut all = Vec::new();
        for topic in topics {
            let TopicInfo { name, partitions, .. } = self.log.topic(topic).await?;
            all.extend((0..partitions).map(|n| TopicPartition::new(Arc::clone(&name), n)));
        }
        self.member = Some(self.log.join_group(&group).await?);
        self.assign(&all).await
    }

    /// Takes these partitions, at the group's positions where there are any.
    ///
    /// # Errors
    /// `Unknown` for a partition that does not exist.
    pub async fn assign(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let stored = match &self.config.group {
            Some(group) => self.log.committed_offsets(group, partitions).await?,
            None => vec![None; partitions.len()],
        };
        let mut positions = BTreeMap::new();
        for (at, stored) in partitions.iter().zip(stored) {
            let offsets = self.log.offsets(at).await?;
            let position = match (stored, self.config.start_at) {
                (Some(commit), _) => {
                    let id = self.log.topic(&at.topic).await?.id;
                    self.log.check_position(at, id, commit.leader_epoch, commit.offset).await?;
                    Position { offset: commit.offset, epoch: commit.leader_epoch }
                }
                (None, StartAt::Earliest) => Position { offset: offsets.start, epoch: -1 },
                (None, StartAt::Latest) => Position { offset: offsets.high_watermark, epoch: -1 },
            };
            positions.insert(at.clone(), position);
        }
        self.positions = positions;
        Ok(())
    }

    /// The partitions it has.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.positions.keys().cloned().collect()
    }

    /// The next offset it reads in a partition; `None` for one it does not have.
    pub fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.positions.get(at).map(|p| p.offset)
    }

    /// Reads on from `offset`.
    ///
    /// # Errors
    /// `Unknown` for a partition it does not have.
    pub fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()> {
        let Some(position) = self.positions.get_mut(at) else {
            return Err(Error::Unknown { what: format!("an assignment of {at}") });
        };
        *position = Position { offset, epoch: -1 };
        Ok(())
    }

    /// The next records, at most about `fetch_bytes` of each partition. Waits up to `max_wait` when
    /// there are none, and is woken by the append that brings some.
    ///
    /// # Errors
    /// `OffsetOutOfRange` after a bad seek; `Damaged` naming partition and place, by the first call
    /// that has nothing to give out before it.
    pub async fn poll(&mut self, max_wait: Duration) -> Result<Vec<ConsumerRecord>> {
        let polled = self.poll_borrowed(max_wait).await?;
        let mut records = Vec::new();
        for partition in polled.partitions() {
            for batch in &partition.batches {
                let keep = |part: &[u8]| batch.section().slice_ref(part);
                let of_batch = batch.starting_at(partition.from).flatten();
                records.extend(of_batch.map(|record| {
                    ConsumerRecord {
                        at: partition.at.clone(),
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key.map(keep),
                        value: record.value.map(keep),
                        headers: record
                            .headers
                            .iter()
                            .map(|(key, value)| Header {
                                key: String::from_utf8_lossy(key).into_owned(),
                                value: value.map(keep),
                            })
                            .collect(),
                    }
                }));
            }
        }
        Ok(records)
    }

    /// As [`Consumer::poll`], but the records borrow from what was fetched: for reading many of them.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use thalweg_core::client::consumer::*;
    /// # async fn count(consumer: &mut Consumer) -> thalweg_core::Result<usize> {
    /// let polled = consumer.poll_borrowed(Duration::from_secs(1)).await?;
    /// let mut bytes = 0;
    /// for record in polled.records() {
    ///     bytes += record.value.map_or(0, |value| value.len());
    /// }
    /// # Ok(bytes) }
    /// ```
    ///
    /// # Errors
    /// As [`Consumer::poll`].
    pub async fn poll_borrowed(&mut self, max_wait: Duration) -> Result<Polled> {
        loop {
            let mut from: Vec<FetchFrom> = self
                .positions
                .iter()
                .map(|(at, position)| FetchFrom {
                    at: at.clone(),
                    offset: position.offset,
                    max_bytes: self.config.fetch_bytes,
                })
                .collect();
            if from.is_empty() {
                return Ok(Polled::default());
            }
            let turn = self.turn % from.len();
            from.rotate_left(turn);
            self.turn = self.turn.wrapping_add(1);
            let options = FetchOptions { isolation: self.config.isolation, max_wait, max_bytes: 0 };
            let fetched = self.log.fetch(&from, options).await?;
            let moved = fetched.iter().any(|one| !one.batches.is_empty());
            let mut polled = Polled::default();
            for one in &fetched {
                match self.take(one) {
                    Ok(partition) => polled.partitions.extend(partition),
                    Err(e) if polled.is_empty() => return Err(e),
                    // What came before it is given out, or it would be lost: its positions have moved.
                    Err(_) => break,
                }
            }
            // A region of markers and aborted records moves the position and gives out nothing.
            if !polled.is_empty() || !moved {
                return Ok(polled);
            }
        }
    }

    /// Opens what was fetched of a partition and moves its position behind it.
    fn take(&mut self, fetched: &Fetched) -> Result<Option<PolledPartition>> {
        let Some(position) = self.positions.get_mut(&fetched.at) else { return Ok(None) };
        if fetched.batches.is_empty() {
            return Ok(None);
        }
        let from = position.offset;
        let mut reached = from;
        let damaged = |offset: Offset, e: BatchError| {
            let what =
                format!("the batch at or after offset {offset}: {e}; restore its file from a copy");
            Error::damaged(fetched.at.folder().as_ref(), 0, what)
        };
        let mut batches = Vec::new();
        let mut next = Position { offset: fetched.next_offset, epoch: fetched.leader_epoch };
        let mut sound = next;
        for batch in Visible::new(&fetched.batches, &fetched.aborted, from) {
            let opened = batch.and_then(|batch| {
                reached = batch.header.base_offset;
                let plain = Plain::open(&batch, &fetched.batches, &mut self.scratch)?;
                Ok((batch.header, plain))
            });
            match opened {
                Ok((header, plain)) => {
                    sound = Position { offset: header.next_offset(), epoch: header.leader_epoch };
                    // Compaction may have left nothing behind `from` in the batch that holds it.
                    if plain.starting_at(from).next().is_some() {
                        batches.push(plain);
                    }
                }
                Err(e) if batches.is_empty() => return Err(damaged(reached, e)),
                // What lies before it is as good as ever; the next call is told.
                Err(_) => {
                    next = sound;
                    break;
                }
            }
        }
        *position = next;
        let at = fetched.at.clone();
        Ok((!batches.is_empty()).then_some(PolledPartition { at, from, batches }))
    }

    /// Stores the positions of all partitions for the group. Durable when it returns.
    ///
    /// # Errors
    /// `Invalid` without a group; `Fenced` when another member took over.
    pub async fn commit(&self) -> Result<()> {
        let Some(group) = &self.config.group else {
            return Err(Error::invalid("commit needs a group: set ConsumerConfig::group"));
        };
        let commits: Vec<OffsetCommit> = self
            .positions
            .iter()
            .map(|(at, position)| OffsetCommit {
                at: at.clone(),
                offset: position.offset,
                leader_epoch: position.epoch,
                metadata: String::new(),
            })
            .collect();
        let member = self.member.clone().unwrap_or_else(|| Membership::simple(group.as_str()));
        self.log.commit_offsets(&member, &commits).await
    }

    /// What a transaction needs to store this consumer's positions
    /// ([`super::transaction::TransactionalProducer::send_offsets`]); `None` before `subscribe`.
    pub fn membership(&self) -> Option<&Membership> {
        self.member.as_ref()
    }
}

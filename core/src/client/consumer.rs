//! F7 · The consumer: records of assigned partitions, in order, from a position it keeps.
//!
//! Always true here: records of a partition come in offset order and once; control records and
//! aborted transactions are never given out under `read_committed`; the position is one past the last
//! record *given out*, so committing it never skips a record that was not seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::log::{
    FetchFrom, FetchOptions, Fetched, Isolation, Log, Membership, OffsetCommit, TopicInfo,
};
use crate::batch::{Scratch, Visible};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, Timestamp, TopicPartition};
use crate::record::Header;

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
            return Err(Error::invalid("subscribe needs a group: set ConsumerConfig::group, or use assign"));
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
    /// `OffsetOutOfRange` after a bad seek; `Damaged` naming partition and place.
    pub async fn poll(&mut self, max_wait: Duration) -> Result<Vec<ConsumerRecord>> {
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
                return Ok(Vec::new());
            }
            let turn = self.turn % from.len();
            from.rotate_left(turn);
            self.turn = self.turn.wrapping_add(1);
            let options = FetchOptions { isolation: self.config.isolation, max_wait, max_bytes: 0 };
            let fetched = self.log.fetch(&from, options).await?;
            let moved = fetched.iter().any(|one| !one.batches.is_empty());
            let mut records = Vec::new();
            for one in &fetched {
                self.take(one, &mut records)?;
            }
            // A region of markers and aborted records moves the position and gives out nothing.
            if !records.is_empty() || !moved {
                return Ok(records);
            }
        }
    }

    fn take(&mut self, fetched: &Fetched, records: &mut Vec<ConsumerRecord>) -> Result<()> {
        let Some(position) = self.positions.get_mut(&fetched.at) else { return Ok(()) };
        let bytes = &fetched.batches;
        for batch in Visible::new(bytes, &fetched.aborted, position.offset) {
            let batch = batch.map_err(Error::from)?;
            batch.check_crc().map_err(Error::from)?;
            let compressed = batch.header.attributes.compression_code() != 0;
            let keep = |part: &[u8]| {
                if compressed { Bytes::copy_from_slice(part) } else { bytes.slice_ref(part) }
            };
            let all = batch.records(&mut self.scratch).map_err(Error::from)?;
            for record in all.starting_at(position.offset) {
                let record = record.map_err(Error::from)?;
                let headers = record.headers.iter().map(|(key, value)| Header {
                    key: String::from_utf8_lossy(key).into_owned(),
                    value: value.map(keep),
                });
                records.push(ConsumerRecord {
                    at: fetched.at.clone(),
                    offset: record.offset,
                    timestamp: record.timestamp,
                    key: record.key.map(keep),
                    value: record.value.map(keep),
                    headers: headers.collect(),
                });
            }
            position.epoch = batch.header.leader_epoch;
        }
        position.offset = fetched.next_offset.max(position.offset);
        Ok(())
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

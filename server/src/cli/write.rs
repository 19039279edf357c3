//! Records on their way into the log: plain batches, or transactions.
//!
//! ```text
//!   push -> open batch of the partition --(full, pause, end)--> append, up to IN_FLIGHT at a time
//! ```
//!
//! Always true here: batches of a partition are written in the order of their lines (an append is
//! begun before the next one is); a record is copied once, into its batch; a batch never exceeds the
//! topic's limit; no record is counted as stored before its append was answered.
//!
//! Batches carry no producer id: every command would leave one behind in the log's producer state,
//! and a log in the same process never leaves an append unanswered. The first append that is refused
//! ends the command.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use futures::task::Poll;
use thalweg_core::batch::{BatchBuilder, HEADER_LEN, Sealed, size_of_record};
use thalweg_core::client::log::{Ack, TimestampType, TopicConfig, TopicInfo};
use thalweg_core::client::partitioner::partition_of;
use thalweg_core::client::transaction::{ProducerConfig, Slot, TransactionalProducer};
use thalweg_core::config::Compression;
use thalweg_core::ids::{ProducerIdentity, Timestamp, TopicPartition};
use thalweg_core::{Log, Result};

/// Batches under way at the same time: they share a sync.
const IN_FLIGHT: usize = 8;

/// A record, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

impl Parts<'_> {
    fn size(&self) -> usize {
        size_of_record(self.key, self.value, self.headers)
    }
}

/// How records are batched.
#[derive(Clone, Copy)]
pub(crate) struct Batching {
    pub(crate) compression: Compression,
    pub(crate) bytes: usize,
}

impl Batching {
    /// The largest batch that is sure to be accepted, before compression: bytes that do not compress
    /// grow a little.
    pub(crate) fn limit(self, info: &TopicInfo) -> usize {
        let limit = info.config.max_message_bytes as usize;
        match self.compression {
            Compression::None => limit,
            _ => limit.saturating_sub(limit / 128 + 64),
        }
    }
}

/// Where records go.
pub(crate) enum Writer {
    Plain(Plain),
    Transactional(Transactional),
}

impl Writer {
    /// Why a record cannot be stored, if so.
    pub(crate) fn refuses(
        info: &TopicInfo,
        batching: Batching,
        now: Timestamp,
        partition: Option<u32>,
        parts: &Parts<'_>,
    ) -> Option<String> {
        let (size, limit) = (parts.size() + HEADER_LEN, batching.limit(info));
        if let Some(partition) = partition.filter(|partition| *partition >= info.partitions) {
            Some(format!(
                "there is no partition {partition}: {} has {}",
                info.name, info.partitions
            ))
        } else if size > limit {
            Some(format!(
                "the record takes {size} bytes, {limit} fit: raise max.message.bytes of {}, or send less",
                info.name
            ))
        } else if info.config.cleanup.compacts() && parts.key.is_none() {
            Some(format!("it has no key, and {} is compacted by key", info.name))
        } else {
            refused_time(&info.config, now, parts.timestamp)
        }
    }

    /// Adds a record that is not refused. True: call [`Writer::drain`] before the next one.
    #[inline]
    pub(crate) fn push(&mut self, partition: Option<u32>, parts: &Parts<'_>) -> Result<bool> {
        match self {
            Self::Plain(plain) => plain.push(partition, parts),
            Self::Transactional(transactional) => transactional.push(partition, parts),
        }
    }

    /// Appends what is full, and ends a transaction that is.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        match self {
            Self::Plain(plain) => plain.drain().await,
            Self::Transactional(transactional) => transactional.drain().await,
        }
    }

    /// Appends everything and waits for it; inside a transaction, nothing is to be seen anyway.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        match self {
            Self::Plain(plain) => plain.flush().await,
            Self::Transactional(_) => Ok(()),
        }
    }

    /// The end of input: everything is stored, an open transaction is committed.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        match self {
            Self::Plain(plain) => plain.flush().await,
            Self::Transactional(transactional) => transactional.commit().await,
        }
    }

    /// Ends early: what was read is stored, an open transaction is aborted.
    pub(crate) async fn give_up(&mut self) -> Result<()> {
        match self {
            Self::Plain(plain) => plain.flush().await,
            Self::Transactional(transactional) => transactional.abort().await,
        }
    }

    /// Waits for what is under way, so that [`Writer::stored`] counts it; errors were told before.
    pub(crate) async fn settle(&mut self) {
        if let Self::Plain(plain) = self {
            while !plain.in_flight.is_empty() {
                plain.answered().await.ok();
            }
        }
    }

    /// How many records are stored, or committed.
    pub(crate) fn stored(&self) -> u64 {
        match self {
            Self::Plain(plain) => plain.stored,
            Self::Transactional(transactional) => transactional.committed,
        }
    }
}

/// What a topic's limits of time say against a record's; one without a time is exempt.
fn refused_time(config: &TopicConfig, now: Timestamp, time: Timestamp) -> Option<String> {
    let beyond = |limit: Option<u64>, distance: i64| {
        let distance = u64::try_from(distance).unwrap_or(0);
        limit.filter(|limit| distance > *limit && time != -1)
    };
    if config.timestamp_type == TimestampType::LogAppendTime {
        None
    } else if let Some(limit) = beyond(config.timestamp_after_max_ms, time.saturating_sub(now)) {
        Some(format!("timestamp {time} is beyond message.timestamp.after.max.ms {limit} from now"))
    } else {
        let limit = beyond(config.timestamp_before_max_ms, now.saturating_sub(time))?;
        Some(format!("timestamp {time} is older than message.timestamp.before.max.ms {limit}"))
    }
}

struct Lane {
    at: TopicPartition,
    builder: BatchBuilder,
}

impl Lane {
    #[inline]
    fn has_no_room(&self, size: usize, batch_bytes: usize) -> bool {
        !self.builder.is_empty() && self.builder.bytes() + size > batch_bytes
    }
}

/// One open batch per partition.
pub(crate) struct Plain {
    log: Arc<dyn Log>,
    lanes: Vec<Lane>,
    batch_bytes: usize,
    /// In order.
    full: VecDeque<Full>,
    /// The lane of records without a key, until its batch is full.
    sticky: usize,
    in_flight: FuturesOrdered<BoxFuture<'static, Result<Full>>>,
    /// The memory of batches that are stored, for the next ones.
    spare: Vec<Bytes>,
    stored: u64,
}

/// A batch to be appended.
struct Full {
    lane: usize,
    batch: Sealed,
    records: u64,
}

impl Plain {
    pub(crate) fn new(log: Arc<dyn Log>, info: &TopicInfo, batching: Batching) -> Self {
        let batch_bytes = batching.bytes.min(batching.limit(info));
        // Each lane's buffer comes with its first record.
        let lane = |number| Lane {
            at: TopicPartition::new(Arc::clone(&info.name), number),
            builder: BatchBuilder::new(batching.compression, batch_bytes),
        };
        Self {
            log,
            lanes: (0..info.partitions).map(lane).collect(),
            batch_bytes,
            full: VecDeque::new(),
            sticky: 0,
            in_flight: FuturesOrdered::new(),
            spare: Vec::new(),
            stored: 0,
        }
    }

    #[inline]
    fn push(&mut self, partition: Option<u32>, parts: &Parts<'_>) -> Result<bool> {
        let mut lane = match (partition, parts.key) {
            (Some(partition), _) => partition as usize,
            (None, Some(key)) => partition_of(key, self.lanes.len() as u32) as usize,
            (None, None) => self.sticky,
        };
        let size = parts.size();
        while self.lanes[lane].has_no_room(size, self.batch_bytes) {
            self.seal(lane)?;
            if partition.is_none() && parts.key.is_none() {
                lane = self.sticky;
            }
        }
        let builder = &mut self.lanes[lane].builder;
        if builder.is_empty()
            && let Some(spare) = self.spare.pop()
        {
            builder.reuse(spare);
        }
        builder.push(parts.timestamp, parts.key, parts.value, parts.headers)?;
        Ok(!self.full.is_empty())
    }

    fn seal(&mut self, lane: usize) -> Result<()> {
        let builder = &mut self.lanes[lane].builder;
        let records = builder.count() as u64;
        let batch = builder.seal(ProducerIdentity::NONE, -1, false)?;
        self.full.push_back(Full { lane, batch, records });
        if lane == self.sticky {
            self.sticky = (lane + 1) % self.lanes.len();
        }
        Ok(())
    }

    async fn drain(&mut self) -> Result<()> {
        // Given up while it waits, it goes on with the next call: a batch is in one queue or the other.
        while !self.full.is_empty() {
            while self.in_flight.len() >= IN_FLIGHT {
                self.answered().await?;
            }
            let Some(full) = self.full.pop_front() else { break };
            let (log, at) = (Arc::clone(&self.log), self.lanes[full.lane].at.clone());
            let mut append: BoxFuture<'static, Result<Full>> = Box::pin(async move {
                log.append_sealed(&at, &full.batch, None, Ack::Level).await?;
                Ok(full)
            });
            // Begun here, so that batches are written in this order; waited for later.
            match futures::poll!(append.as_mut()) {
                Poll::Ready(stored) => self.take(stored?),
                Poll::Pending => self.in_flight.push_back(append),
            }
        }
        Ok(())
    }

    async fn answered(&mut self) -> Result<()> {
        if let Some(stored) = self.in_flight.next().await {
            self.take(stored?);
        }
        Ok(())
    }

    /// Counts a batch that is stored.
    fn take(&mut self, stored: Full) {
        self.stored += stored.records;
        if self.spare.len() < IN_FLIGHT {
            self.spare.push(stored.batch.into_bytes());
        }
    }

    async fn flush(&mut self) -> Result<()> {
        for lane in 0..self.lanes.len() {
            if !self.lanes[lane].builder.is_empty() {
                self.seal(lane)?;
            }
        }
        self.drain().await?;
        while !self.in_flight.is_empty() {
            self.answered().await?;
        }
        Ok(())
    }
}

/// How transactions are cut.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    /// Records of one.
    pub(crate) size: u64,
    /// Every so many are aborted; 0 for none.
    pub(crate) abort_every: u64,
}

/// One transaction after the other.
pub(crate) struct Transactional {
    producer: TransactionalProducer,
    slots: Vec<Slot>,
    batch_bytes: usize,
    sticky: usize,
    cut: Cut,
    /// Records of the open transaction.
    open: u64,
    /// Transactions that were ended.
    ended: u64,
    /// A record that needs a batch of its own came: what was pushed before it goes first.
    large: bool,
    committed: u64,
}

impl Transactional {
    /// Takes over the transactional id.
    pub(crate) async fn open(
        log: &Arc<dyn Log>,
        info: &TopicInfo,
        id: &str,
        batching: Batching,
        cut: Cut,
    ) -> Result<Self> {
        // A batch is closed behind the record that fills it: two of half the limit keep within it.
        let batch_bytes = batching.bytes.min(batching.limit(info) / 2);
        let config = ProducerConfig {
            batch_bytes,
            compression: batching.compression,
            // Input may come slowly; the log's own limit.
            transaction_timeout: Duration::from_secs(900),
            ..ProducerConfig::default()
        };
        let mut producer = TransactionalProducer::open(Arc::clone(log), id, config).await?;
        let slots = (0..info.partitions)
            .map(|number| producer.slot(&TopicPartition::new(Arc::clone(&info.name), number)))
            .collect();
        let (open, ended, sticky, committed) = (0, 0, 0, 0);
        let large = false;
        Ok(Self { producer, slots, batch_bytes, sticky, cut, open, ended, large, committed })
    }

    fn push(&mut self, partition: Option<u32>, parts: &Parts<'_>) -> Result<bool> {
        let slot = match (partition, parts.key) {
            (Some(partition), _) => partition as usize,
            (None, Some(key)) => partition_of(key, self.slots.len() as u32) as usize,
            (None, None) => self.sticky,
        };
        let (slot, Parts { timestamp, key, value, headers }) = (self.slots[slot], *parts);
        let full = self.producer.push(slot, timestamp, key, value, headers)?;
        self.open += 1;
        if full {
            self.sticky = (self.sticky + 1) % self.slots.len();
        }
        Ok(full || self.open == self.cut.size)
    }

    /// What must happen before a record is pushed: a transaction is open, and there is room.
    pub(crate) async fn make_room(&mut self, parts: &Parts<'_>) -> Result<()> {
        if self.open == 0 && !self.producer.in_transaction() {
            self.producer.begin().await?;
        }
        let large = parts.size() > self.batch_bytes;
        if large || self.large {
            self.producer.flush().await?;
        }
        self.large = large;
        Ok(())
    }

    /// Whether [`Transactional::make_room`] has something to do.
    #[inline]
    pub(crate) fn needs_room(&self, parts: &Parts<'_>) -> bool {
        self.open == 0 || self.large || parts.size() > self.batch_bytes
    }

    async fn drain(&mut self) -> Result<()> {
        self.producer.flush_full().await?;
        if self.open < self.cut.size {
            return Ok(());
        }
        let number = self.ended + 1;
        if self.cut.abort_every > 0 && number.is_multiple_of(self.cut.abort_every) {
            // Written all the same: an aborted transaction is wanted, not none.
            self.producer.flush().await?;
            self.abort().await
        } else {
            self.commit().await
        }
    }

    async fn commit(&mut self) -> Result<()> {
        if self.producer.in_transaction() {
            self.producer.commit().await?;
            self.committed += self.open;
            self.ended += 1;
            self.open = 0;
        }
        Ok(())
    }

    async fn abort(&mut self) -> Result<()> {
        if self.producer.in_transaction() {
            self.producer.abort().await?;
            self.ended += 1;
            self.open = 0;
        }
        Ok(())
    }
}

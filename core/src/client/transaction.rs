//! F7 · Transactions: records in many partitions, and offsets of a group, all or none.
//!
//! ```text
//!   open --begin--> open transaction --push, flush, send_offsets--> --commit--> next epoch, open
//!                          |                                      \--abort---> next epoch, open
//!                          '- an error that only an abort heals: commit refuses until abort
//! ```
//!
//! Always true here: one transaction at a time; a new instance with the same transactional id fences
//! this one; every transaction has its own epoch (KIP-890), so a late request of an earlier one is
//! refused; nothing is sent to the log before the first batch is full or flushed.

use std::sync::Arc;
use std::time::Duration;

use super::accumulate::Accumulator;
pub use super::accumulate::Slot;
use super::log::{Ack, Log, Membership, OffsetCommit, TransactionEnd};
use super::partitioner::partition_of;
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp, TopicPartition};
use crate::record::Record;

/// Settings of a producer, transactional or not.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// The most bytes of a batch, before compression; one record alone may take more. A batch leaves
    /// when it has no room for another record. Default 256 KiB: larger writes cost less each.
    pub batch_bytes: usize,
    /// How batches are compressed. Default none.
    pub compression: Compression,
    /// How long a record may wait for company. Default 5 ms, as Kafka's. (Not used in transactions:
    /// there the commit decides.)
    pub linger: Duration,
    /// Bytes that may wait to be appended; `send` waits when they are used up. Default 32 MiB.
    pub buffer_bytes: usize,
    /// How long a full disk or a busy partition is tried again. Default 2 min.
    pub delivery_timeout: Duration,
    /// The coordinator aborts a transaction that is open for longer. Default 60 s.
    pub transaction_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            batch_bytes: 256 << 10,
            compression: Compression::None,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
            delivery_timeout: Duration::from_secs(120),
            transaction_timeout: Duration::from_secs(60),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No transaction.
    Ready,
    /// Between `begin` and the end.
    Open,
    /// An append was refused: only an abort leads on.
    MustAbort,
    /// Fenced, or the outcome is unknown: only a new instance leads on.
    Dead,
}

/// A producer that writes in transactions.
///
/// ```
/// # use std::sync::Arc;
/// # use thalweg_core::client::{log::*, transaction::*};
/// # use thalweg_core::record::Record;
/// # async fn transfer(log: Arc<dyn Log>) -> thalweg_core::Result<()> {
/// let mut producer = TransactionalProducer::open(log, "transfers", ProducerConfig::default()).await?;
/// producer.begin().await?;
/// producer.send("debits", Record::value("10 from anna")).await?;
/// producer.send("credits", Record::value("10 to bert")).await?;
/// producer.commit().await?; // Both, or neither, also after a power loss.
/// # Ok(()) }
/// ```
pub struct TransactionalProducer {
    log: Arc<dyn Log>,
    id: String,
    identity: ProducerIdentity,
    state: State,
    accumulator: Accumulator,
    /// Whether the log knows of the open transaction.
    touched: bool,
    bytes: u64,
    sticky: u32,
}

impl TransactionalProducer {
    /// Takes over the transactional id: whoever used it before is fenced, and its open transaction
    /// is finished either way when this returns.
    ///
    /// # Errors
    /// `Invalid` for an empty id or a timeout beyond the log's limit; `Stopped`.
    pub async fn open(log: Arc<dyn Log>, id: &str, config: ProducerConfig) -> Result<Self> {
        if id.is_empty() {
            return Err(Error::invalid(
                "an empty transactional id: give a name that is unique to this task",
            ));
        }
        let identity = log.init_producer(Some(id), config.transaction_timeout).await?;
        let accumulator = Accumulator::new(config.batch_bytes, config.compression, true);
        Ok(Self {
            log,
            id: id.to_owned(),
            identity,
            state: State::Ready,
            accumulator,
            touched: false,
            bytes: 0,
            sticky: 0,
        })
    }

    /// The transactional id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The current identity: another epoch with every transaction.
    pub fn identity(&self) -> ProducerIdentity {
        self.identity
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// `Invalid` when one is open, `Fenced` when this producer is dead.
    pub async fn begin(&mut self) -> Result<()> {
        match self.state {
            State::Ready => {
                self.state = State::Open;
                self.touched = false;
                self.bytes = 0;
                Ok(())
            }
            State::Open | State::MustAbort => {
                Err(Error::invalid("a transaction is open: commit or abort it first"))
            }
            State::Dead => Err(self.dead()),
        }
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        matches!(self.state, State::Open | State::MustAbort)
    }

    /// Registers a partition, for [`TransactionalProducer::push`]. Its batches take up to
    /// [`ProducerConfig::batch_bytes`]: give those a topic takes.
    pub fn slot(&mut self, at: &TopicPartition) -> Slot {
        self.accumulator.slot(at)
    }

    /// Encodes a record into the open batch of its partition. True when a whole batch waits: call
    /// [`TransactionalProducer::flush`] soon, it bounds the memory.
    ///
    /// # Errors
    /// `Invalid` outside of a transaction, or for a record larger than any batch.
    #[inline]
    pub fn push(
        &mut self,
        slot: Slot,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<bool> {
        self.check_open()?;
        self.bytes += (key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)) as u64;
        self.accumulator.push(self.identity, slot, timestamp, key, value, headers)?;
        Ok(self.accumulator.has_ready())
    }

    /// Adds an owned record; the partition follows from its key, or is the next in turn.
    ///
    /// # Errors
    /// As [`TransactionalProducer::push`], and those of the append when a batch became full.
    pub async fn send(&mut self, topic: &str, record: Record) -> Result<()> {
        self.check_open()?;
        let info = self.log.topic(topic).await?;
        let partition = match &record.key {
            Some(key) => partition_of(key, info.partitions),
            None => {
                self.sticky = self.sticky.wrapping_add(1);
                self.sticky % info.partitions
            }
        };
        let at = TopicPartition::new(info.name, partition);
        let slot = self.accumulator.slot_within(&at, info.config.max_message_bytes as usize);
        let timestamp = record.timestamp.unwrap_or_else(|| self.log.now());
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|h| (h.key.as_bytes(), h.value.as_deref())).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        if self.push(slot, timestamp, key, value, &headers)? {
            self.flush_full().await?;
        }
        Ok(())
    }

    /// Appends the whole batches that wait. Returns when they are written.
    ///
    /// # Errors
    /// `Full` and `Retry`: nothing is lost, call again. Anything else: abort.
    pub async fn flush_full(&mut self) -> Result<()> {
        self.check_open()?;
        while let Some(ready) = self.accumulator.first_ready() {
            let slot = ready.slot;
            let at = self.accumulator.partition(slot);
            self.touched = true;
            // If this wait is given up, the batch is appended again by the next call, which the log
            // answers with where it was stored.
            let log = &self.log;
            let sent = log.append_sealed(at, &ready.batch, Some(&self.id), Ack::Written).await;
            let appended = sent.map_err(|e| self.failed(e))?;
            if let Some(done) = self.accumulator.next_ready() {
                self.accumulator.reuse(done.batch.into_bytes());
            }
            self.accumulator.appended(slot, appended.next_offset);
        }
        Ok(())
    }

    /// Appends everything that was pushed. Returns when it is written.
    ///
    /// # Errors
    /// As [`TransactionalProducer::flush_full`].
    pub async fn flush(&mut self) -> Result<()> {
        self.check_open()?;
        self.accumulator.seal_all(self.identity)?;
        self.flush_full().await
    }

    /// Bytes pushed and not appended yet.
    pub fn buffered_bytes(&self) -> usize {
        self.accumulator.buffered_bytes()
    }

    /// Bytes of keys and values pushed since `begin`.
    pub fn transaction_bytes(&self) -> u64 {
        self.bytes
    }

    /// One past the last record of this transaction's producer in the slot's partition, once flushed.
    pub fn next_offset(&self, slot: Slot) -> Option<Offset> {
        self.accumulator.next_offset(slot)
    }

    /// Makes positions of a group part of the transaction.
    ///
    /// # Errors
    /// `Fenced` when the member's generation is over.
    pub async fn send_offsets(
        &mut self,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        self.check_open()?;
        self.touched = true;
        let sent = self.log.commit_offsets_in(&self.id, self.identity, member, offsets).await;
        sent.map_err(|e| self.failed(e))
    }

    /// Appends what is left and commits. When this returns `Ok`, everything is durable at the
    /// coordinator's level; readers see it as soon as the markers are written.
    ///
    /// # Errors
    /// `Full`, `Retry`: call again. `Abortable` and refused appends: abort. `Fenced`, `Stopped`: open
    /// a new producer; it finds out how the transaction ended.
    pub async fn commit(&mut self) -> Result<()> {
        self.flush().await?;
        self.end(TransactionEnd::Commit).await
    }

    /// Gives up the transaction: nothing of it is ever seen.
    ///
    /// # Errors
    /// `Fenced`, `Stopped`: open a new producer.
    pub async fn abort(&mut self) -> Result<()> {
        if self.state == State::Dead {
            return Err(self.dead());
        }
        if self.state == State::Ready {
            return Err(Error::invalid("no transaction is open"));
        }
        self.end(TransactionEnd::Abort).await
    }

    async fn end(&mut self, end: TransactionEnd) -> Result<()> {
        if self.touched {
            match self.log.end_transaction(&self.id, self.identity, end).await {
                Ok(next) => self.identity = next,
                Err(e) => return Err(self.failed(e)),
            }
        }
        // A new epoch follows; where the log never heard of the transaction, nothing was written under
        // this one. Either way sequences begin anew.
        self.accumulator.restart();
        self.state = State::Ready;
        self.touched = false;
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        match self.state {
            State::Open => Ok(()),
            State::Ready => Err(Error::invalid("no transaction is open: call begin first")),
            State::MustAbort => {
                Err(Error::Abortable { what: "an earlier append of it was refused".to_owned() })
            }
            State::Dead => Err(self.dead()),
        }
    }

    fn failed(&mut self, e: Error) -> Error {
        self.state = match &e {
            Error::Full { .. } | Error::Retry { .. } => self.state,
            Error::Fenced { .. } | Error::Stopped { .. } => State::Dead,
            _ => State::MustAbort,
        };
        e
    }

    fn dead(&self) -> Error {
        Error::Fenced {
            who: format!("transactional id {:?}", self.id),
            why: "this producer was fenced or stopped earlier: open a new one".to_owned(),
        }
    }
}

//! F7 · The producer: records in, whole batches out, each stored once.
//!
//! ```text
//!   send -> partition (key hash, or the sticky one) -> open batch --(full, linger, flush)--> ready
//!                                                                                             |
//!   Delivery <---- offset, or the error of its batch ------------------- one drain at a time -+
//! ```
//!
//! Always true here: batches of a partition arrive in order and once (idempotent producer, KIP-98);
//! memory is bounded: when `buffer_bytes` wait, `send` waits too; a full disk is tried again until
//! `delivery_timeout`; no record is dropped without its [`Delivery`] saying so.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::accumulate::{Accumulator, Ready, Slot};
use super::log::{Ack, Appended, Log, TopicInfo};
use super::partitioner::partition_of;
pub use super::transaction::ProducerConfig;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, TopicPartition};
use crate::record::Record;

/// How many batches of one producer are under way at the same time, as Kafka's default.
const IN_FLIGHT: usize = 5;
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// An idempotent producer. Cheap to clone; clones share their batches.
///
/// ```
/// # use std::sync::Arc;
/// # use thalweg_core::client::{log::Log, producer::*};
/// # use thalweg_core::record::Record;
/// # async fn hello(log: Arc<dyn Log>) -> thalweg_core::Result<()> {
/// let producer = Producer::open(log, ProducerConfig::default()).await?;
/// let delivery = producer.send("greetings", Record::value("hello")).await?;
/// println!("stored at offset {}", delivery.await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    log: Arc<dyn Log>,
    identity: ProducerIdentity,
    config: ProducerConfig,
    state: Mutex<State>,
    /// One drain at a time, so that batches leave in order.
    draining: tokio::sync::Mutex<()>,
    /// Rings when room was made, or everything was sent.
    room: Notify,
}

struct State {
    accumulator: Accumulator,
    topics: HashMap<String, Arc<Topic>, foldhash::fast::FixedState>,
    /// The receipt of each slot's open batch.
    open: Vec<Arc<Receipt>>,
    /// The receipts of the batches in the ready queue, in its order.
    ready: VecDeque<Arc<Receipt>>,
    unanswered: usize,
    linger_armed: bool,
    drain_armed: bool,
    failed: Option<Arc<Error>>,
}

/// A whole batch on its way to the log.
struct Batch {
    at: TopicPartition,
    ready: Ready,
    receipt: Arc<Receipt>,
    tries_left: u128,
}

/// What a record that was taken in makes due.
enum Due {
    Nothing,
    Drain,
    Linger,
}

struct Topic {
    slots: Vec<Slot>,
    sticky: std::sync::atomic::AtomicU32,
}

/// What became of a batch.
#[derive(Default)]
struct Receipt {
    result: OnceLock<Result<Offset, Arc<Error>>>,
    answered: Notify,
}

impl Receipt {
    fn answer(&self, result: Result<Offset, Arc<Error>>) {
        if self.result.set(result).is_ok() {
            self.answered.notify_waiters();
        }
    }
}

/// The outcome of one record: a future that gives its offset once the topic's level holds.
pub struct Delivery {
    wait: BoxFuture<'static, Result<Offset>>,
}

impl Future for Delivery {
    type Output = Result<Offset>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.wait.as_mut().poll(cx)
    }
}

/// The outcome of one record, before anybody asks: cheaper than a [`Delivery`] when nobody does.
pub struct Sent {
    receipt: Arc<Receipt>,
    index: Offset,
}

impl IntoFuture for Sent {
    type Output = Result<Offset>;
    type IntoFuture = Delivery;

    fn into_future(self) -> Delivery {
        Delivery {
            wait: Box::pin(async move {
                loop {
                    let answered = self.receipt.answered.notified();
                    let mut answered = std::pin::pin!(answered);
                    answered.as_mut().enable();
                    match self.receipt.result.get() {
                        Some(Ok(base)) => return Ok(base + self.index),
                        Some(Err(e)) => return Err(e.repeat()),
                        None => answered.await,
                    }
                }
            }),
        }
    }
}

impl Producer {
    /// A producer of this log.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn open(log: Arc<dyn Log>, config: ProducerConfig) -> Result<Self> {
        let identity = log.init_producer(None, config.transaction_timeout).await?;
        let accumulator = Accumulator::new(config.batch_bytes, config.compression, false);
        let state = State {
            accumulator,
            topics: HashMap::default(),
            open: Vec::new(),
            ready: VecDeque::new(),
            unanswered: 0,
            linger_armed: false,
            drain_armed: false,
            failed: None,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                log,
                identity,
                config,
                state: Mutex::new(state),
                draining: tokio::sync::Mutex::new(()),
                room: Notify::new(),
            }),
        })
    }

    /// Adds a record to its batch. Returns at once, unless `buffer_bytes` wait already. Await the
    /// answer to learn its offset; records that nobody awaits are sent all the same.
    ///
    /// # Errors
    /// `Unknown` for a topic that does not exist; `Stopped` after an earlier batch was refused for
    /// good: open a new producer.
    #[expect(
        clippy::await_holding_lock,
        reason = "dropped before: the guard is not Send, the future is"
    )]
    pub async fn send(&self, topic: &str, record: Record) -> Result<Sent> {
        let shared = &self.shared;
        loop {
            let room = shared.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            {
                let mut state = shared.state.lock();
                if let Some(e) = &state.failed {
                    return Err(e.repeat());
                }
                if let Some(topic) = state.topics.get(topic).cloned() {
                    if state.accumulator.buffered_bytes() < shared.config.buffer_bytes {
                        let (sent, due) = self.push(&mut state, &topic, &record)?;
                        // Without the lock: in line, what is due runs now.
                        drop(state);
                        match due {
                            Due::Nothing => {}
                            Due::Drain => self.drain_later(),
                            Due::Linger => self.linger_later(),
                        }
                        return Ok(sent);
                    }
                    drop(state);
                    self.arm_drain();
                    room.await;
                    continue;
                }
            }
            let info = shared.log.topic(topic).await?;
            let mut state = shared.state.lock();
            let known = state.register(&info);
            state.topics.insert(topic.to_owned(), known);
        }
    }

    fn push(&self, state: &mut State, topic: &Topic, record: &Record) -> Result<(Sent, Due)> {
        use std::sync::atomic::Ordering::Relaxed;
        let shared = &self.shared;
        let count = topic.slots.len() as u32;
        let partition = match &record.key {
            Some(key) => partition_of(key, count),
            None => topic.sticky.load(Relaxed) % count,
        };
        let slot = topic.slots[partition as usize];
        let timestamp = record.timestamp.unwrap_or_else(|| shared.log.now());
        let index = state.accumulator.open_records(slot) as Offset;
        let receipt = Arc::clone(&state.open[slot.0]);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        if record.headers.is_empty() {
            state.accumulator.push(shared.identity, slot, timestamp, key, value, &[])?;
        } else {
            let headers: Vec<(&[u8], Option<&[u8]>)> =
                record.headers.iter().map(|h| (h.key.as_bytes(), h.value.as_deref())).collect();
            state.accumulator.push(shared.identity, slot, timestamp, key, value, &headers)?;
        }
        let mut due = Due::Nothing;
        if state.accumulator.open_records(slot) == 0 {
            // The push filled the batch: the next keyless records go to the next partition.
            state.sealed(slot);
            if record.key.is_none() {
                topic.sticky.fetch_add(1, Relaxed);
            }
            if !std::mem::replace(&mut state.drain_armed, true) {
                due = Due::Drain;
            }
        } else if index == 0 && !std::mem::replace(&mut state.linger_armed, true) {
            due = Due::Linger;
        }
        Ok((Sent { receipt, index }, due))
    }

    /// Sends everything and waits until all of it is answered.
    ///
    /// # Errors
    /// The first error of a batch that was refused.
    pub async fn flush(&self) -> Result<()> {
        self.shared.seal_all()?;
        // Not in this call, which may be given up: what is under way must be answered all the same.
        self.arm_drain();
        loop {
            let room = self.shared.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            {
                let state = self.shared.state.lock();
                if let Some(e) = &state.failed {
                    return Err(e.repeat());
                }
                if state.unanswered == 0 && !state.accumulator.has_ready() {
                    return Ok(());
                }
            }
            room.await;
        }
    }

    fn arm_drain(&self) {
        let mut state = self.shared.state.lock();
        if !state.drain_armed {
            state.drain_armed = true;
            drop(state);
            self.drain_later();
        }
    }

    fn drain_later(&self) {
        let shared = Arc::clone(&self.shared);
        let drain = async move { shared.drain().await };
        self.shared.log.run_later(Duration::ZERO, Box::pin(drain));
    }

    fn linger_later(&self) {
        // Keeps the producer alive until then, so that records are sent that nobody waits for.
        let shared = Arc::clone(&self.shared);
        let linger = async move {
            shared.state.lock().linger_armed = false;
            if shared.seal_all().is_ok() {
                shared.drain().await;
            }
        };
        self.shared.log.run_later(self.shared.config.linger, Box::pin(linger));
    }
}

impl State {
    fn register(&mut self, info: &TopicInfo) -> Arc<Topic> {
        let slots: Vec<Slot> = (0..info.partitions)
            .map(|n| self.accumulator.slot(&TopicPartition::new(Arc::clone(&info.name), n)))
            .collect();
        let count = slots.iter().map(|slot| slot.0 + 1).max().unwrap_or(0);
        self.open.resize_with(count.max(self.open.len()), Default::default);
        Arc::new(Topic { slots, sticky: std::sync::atomic::AtomicU32::new(0) })
    }

    /// The slot's open batch is in the ready queue now.
    fn sealed(&mut self, slot: Slot) {
        let receipt = std::mem::take(&mut self.open[slot.0]);
        self.ready.push_back(receipt);
        self.unanswered += 1;
    }
}

impl Shared {
    fn seal_all(&self) -> Result<()> {
        let mut state = self.state.lock();
        for slot in (0..state.open.len()).map(Slot) {
            if state.accumulator.open_records(slot) > 0 {
                state.accumulator.seal(self.identity, slot)?;
                state.sealed(slot);
            }
        }
        Ok(())
    }

    /// Appends what is ready, a few batches at a time and each partition's in order, until nothing is.
    ///
    /// A batch that the log may take later (a full disk) goes again, and with it those of its partition
    /// that were under way behind it and were refused for coming too early.
    async fn drain(self: &Arc<Self>) {
        let _one_at_a_time = self.draining.lock().await;
        let mut under_way = FuturesOrdered::new();
        let mut slots: VecDeque<Slot> = VecDeque::new();
        let mut again: Vec<Batch> = Vec::new();
        loop {
            while again.is_empty() && under_way.len() < IN_FLIGHT {
                let Some(batch) = self.next_batch(&slots) else { break };
                slots.push_back(batch.ready.slot);
                under_way.push_back(self.attempt(batch));
            }
            match under_way.next().await {
                Some((mut batch, result)) => {
                    slots.pop_front();
                    let behind = again.iter().any(|earlier| earlier.ready.slot == batch.ready.slot);
                    let later = result.as_ref().is_err_and(|e| behind || e.is_retriable());
                    if later && batch.tries_left > 0 && self.state.lock().failed.is_none() {
                        batch.tries_left -= 1;
                        again.push(batch);
                    } else {
                        self.answer(&batch, result);
                    }
                    self.room.notify_waiters();
                }
                None if again.is_empty() => return self.room.notify_waiters(),
                None => {
                    self.log.sleep(RETRY_AFTER).await;
                    slots.extend(again.iter().map(|batch| batch.ready.slot));
                    under_way.extend(again.drain(..).map(|batch| self.attempt(batch)));
                }
            }
        }
    }

    /// The next batch to append. The first one of a partition goes alone: to a log that does not know
    /// the producer yet, any sequence is good, also that of a batch that overtook it.
    fn next_batch(&self, under_way: &VecDeque<Slot>) -> Option<Batch> {
        let mut state = self.state.lock();
        state.drain_armed = false;
        let (slot, _) = state.accumulator.first_ready()?;
        if state.accumulator.next_offset(slot).is_none() && under_way.contains(&slot) {
            return None;
        }
        let (ready, receipt) = state.accumulator.next_ready().zip(state.ready.pop_front())?;
        let at = state.accumulator.partition(slot).clone();
        let tries = self.config.delivery_timeout.as_millis() / RETRY_AFTER.as_millis();
        Some(Batch { at, ready, receipt, tries_left: tries })
    }

    async fn attempt(&self, batch: Batch) -> (Batch, Result<Appended>) {
        let failed = self.state.lock().failed.clone();
        let result = match failed {
            Some(e) => Err(e.repeat()),
            None => self.log.append(&batch.at, batch.ready.bytes.clone(), None, Ack::Level).await,
        };
        (batch, result)
    }

    fn answer(&self, batch: &Batch, result: Result<Appended>) {
        let mut state = self.state.lock();
        state.unanswered -= 1;
        match result {
            Ok(appended) => {
                state.accumulator.appended(batch.ready.slot, appended.next_offset);
                batch.receipt.answer(Ok(appended.base_offset));
            }
            Err(e) => {
                // A batch is missing: the partition would refuse every later sequence.
                let e = Arc::new(e);
                state.failed.get_or_insert_with(|| Arc::clone(&e));
                batch.receipt.answer(Err(e));
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let left = self.state.get_mut();
        let records: usize =
            (0..left.open.len()).map(|s| left.accumulator.open_records(Slot(s))).sum();
        if records > 0 || left.accumulator.has_ready() {
            tracing::warn!(
                records,
                "a producer was dropped with records that were not sent: call flush first"
            );
            let gone = Arc::new(Error::Stopped {
                why: "the producer was dropped before it sent this".to_owned(),
            });
            for receipt in left.open.iter().chain(&left.ready) {
                receipt.answer(Err(Arc::clone(&gone)));
            }
        }
    }
}

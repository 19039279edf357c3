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
//!
//! What a record costs: `send` takes one lock, reads the clock once and counts one more holder of its
//! batch's receipt; `send_all` does so once for many records. Both encode into the batch where it
//! stands. Whoever fills a batch also begins to append it, while its bytes are in the processor's
//! cache; where the log waits (for a sync, for a network), the log's runtime goes on with it.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt, select};
use futures::stream::{FuturesOrdered, StreamExt};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::accumulate::{Accumulator, Ready, Slot};
use super::log::{Ack, Appended, Log, TopicInfo};
use super::partitioner::partition_of;
pub use super::transaction::ProducerConfig;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp, TopicPartition};
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
    /// Rings when a batch became ready while a drain is under way.
    sealed: Notify,
    /// Rings when room was made, or everything was sent.
    room: Notify,
}

struct State {
    accumulator: Accumulator,
    topics: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize, foldhash::fast::FixedState>,
    /// The topic of the last record: mostly that of the next one too.
    last_topic: usize,
    /// Of each slot's open batch.
    open: Vec<OpenBatch>,
    /// The receipts of the batches in the ready queue, in its order.
    ready: VecDeque<Arc<Receipt>>,
    /// Batches sealed and not answered, and the bytes of those that left the ready queue.
    unanswered: usize,
    under_way_bytes: usize,
    /// Whether somebody looks twice in a linger, and how often that was done so far.
    linger_armed: bool,
    turn: u64,
    /// One drain at a time, so that batches leave in order: set by whoever begins it, cleared under
    /// the same lock under which it found nothing left.
    draining: bool,
    failed: Option<Arc<Error>>,
}

/// Whom a batch answers that still takes records, and in which turn it got its first one.
#[derive(Default)]
struct OpenBatch {
    receipt: Arc<Receipt>,
    turn: u64,
    /// When the partition last took a batch.
    taken_at: Timestamp,
}

/// For how long a log certainly remembers a producer: less than
/// [`PRODUCER_EXPIRATION_MIN`](crate::config::PRODUCER_EXPIRATION_MIN); in Kafka it is a day by default.
const KNOWN_MS: i64 = 10 * 60_000;

/// A whole batch on its way to the log.
struct Batch {
    at: TopicPartition,
    ready: Ready,
    receipt: Arc<Receipt>,
    tries_left: u128,
}

/// What records that were taken in make due, once the lock is released: in line, it runs at once.
#[derive(Clone, Copy, Default)]
struct Due {
    drain: bool,
    linger: bool,
}

struct Topic {
    name: Arc<str>,
    slots: Vec<Slot>,
    /// Where records without a key go until that partition's batch is full.
    sticky: usize,
}

/// Adds a batch's receipt, once.
fn note(receipts: &mut Vec<Arc<Receipt>>, open: &Arc<Receipt>) {
    if !receipts.iter().rev().any(|noted| Arc::ptr_eq(noted, open)) {
        receipts.push(Arc::clone(open));
    }
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

/// The outcome of many records, of one topic: await it to learn that all of them are stored.
pub struct SentAll {
    /// Of each batch that holds some of them, once.
    receipts: Vec<Arc<Receipt>>,
}

impl IntoFuture for SentAll {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'static, Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            for receipt in self.receipts {
                Sent { receipt, index: 0 }.await?;
            }
            Ok(())
        })
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
            topics: Vec::new(),
            by_name: HashMap::default(),
            last_topic: 0,
            open: Vec::new(),
            ready: VecDeque::new(),
            unanswered: 0,
            under_way_bytes: 0,
            linger_armed: false,
            turn: 0,
            draining: false,
            failed: None,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                log,
                identity,
                config,
                state: Mutex::new(state),
                sealed: Notify::new(),
                room: Notify::new(),
            }),
        })
    }

    /// Adds a record to its batch. Returns at once, unless `buffer_bytes` wait already. Await the
    /// answer to learn its offset; records that nobody awaits are sent all the same. The record is
    /// encoded here and now, so a borrowed one (`&record`) does as well and costs less.
    ///
    /// # Errors
    /// `Unknown` for a topic that does not exist; `Stopped` after an earlier batch was refused for
    /// good: open a new producer.
    pub async fn send(&self, topic: &str, record: impl Borrow<Record>) -> Result<Sent> {
        let shared = &self.shared;
        loop {
            let record: &Record = record.borrow();
            let now = if record.timestamp.is_none() { shared.log.now() } else { 0 };
            let mut due = Due::default();
            let sent = {
                let mut state = shared.state.lock();
                match state.topic(topic)? {
                    Some(topic) if state.has_room(shared) => {
                        Some(state.push(shared, topic, now, record, &mut due))
                    }
                    _ => None,
                }
            };
            // Also before an error is told: the batch that it did not fit into is sent.
            self.arrange(due);
            if let Some(sent) = sent {
                return sent;
            }
            // Boxed, so that the common case does not carry a wait about.
            Box::pin(self.make_ready(topic)).await?;
        }
    }

    /// Adds records of one topic to their batches, in order: as [`Producer::send`] of each, at a
    /// fraction of its cost. Returns when all are taken in; it waits when `buffer_bytes` wait
    /// already. Await the answer to learn that all of them are stored.
    ///
    /// ```
    /// # use thalweg_core::client::producer::*;
    /// # use thalweg_core::record::Record;
    /// # async fn load(producer: &Producer) -> thalweg_core::Result<()> {
    /// let records: Vec<Record> = (0..1000).map(|n| Record::value(format!("line {n}"))).collect();
    /// producer.send_all("lines", &records).await?.await?; // Taken in, then stored.
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Producer::send`]; of the records those before a certain one were taken in then, and are
    /// sent unless this producer failed altogether.
    pub async fn send_all(&self, topic: &str, records: &[Record]) -> Result<SentAll> {
        let shared = &self.shared;
        let mut receipts: Vec<Arc<Receipt>> = Vec::new();
        let mut rest = records;
        loop {
            let now = shared.log.now();
            let mut due = Due::default();
            let pushed = {
                let mut state = shared.state.lock();
                match state.topic(topic)? {
                    Some(topic) => {
                        let to = (&mut receipts, &mut due);
                        state.push_some(shared, topic, now, &mut rest, to)
                    }
                    None => Ok(()),
                }
            };
            // Also before an error is told: what was taken in is sent.
            self.arrange(due);
            pushed?;
            if rest.is_empty() {
                return Ok(SentAll { receipts });
            }
            if !due.drain {
                Box::pin(self.make_ready(topic)).await?;
            }
        }
    }

    /// Waits until the topic is known and there is room, or has reason to believe so.
    async fn make_ready(&self, name: &str) -> Result<()> {
        let shared = &self.shared;
        if shared.state.lock().topic(name)?.is_none() {
            let info = shared.log.topic(name).await?;
            shared.state.lock().register(name, &info);
            return Ok(());
        }
        let room = shared.room.notified();
        let mut room = std::pin::pin!(room);
        room.as_mut().enable();
        let due = {
            let mut state = shared.state.lock();
            if state.has_room(shared) {
                return Ok(());
            }
            if state.unanswered == 0 {
                // Open batches alone use the memory up: they cannot wait for company.
                state.seal_all(shared)?;
            }
            state.due_drain()
        };
        self.arrange(due);
        room.await;
        Ok(())
    }

    /// Sends everything and waits until all of it is answered.
    ///
    /// # Errors
    /// The first error of a batch that was refused.
    pub async fn flush(&self) -> Result<()> {
        let (sealed, due) = {
            let mut state = self.shared.state.lock();
            (state.seal_all(&self.shared), state.due_drain())
        };
        self.arrange(due);
        sealed?;
        loop {
            let room = self.shared.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            {
                let state = self.shared.state.lock();
                if let Some(e) = &state.failed {
                    return Err(e.repeat());
                }
                if state.unanswered == 0 {
                    return Ok(());
                }
            }
            room.await;
        }
    }

    #[inline]
    fn arrange(&self, due: Due) {
        if due.drain {
            self.drain_now();
        }
        if due.linger {
            self.linger_later();
        }
    }

    /// Drains as far as that goes without waiting; the rest goes on behind the caller's back, who may
    /// give up: what is under way must be answered all the same.
    #[cold]
    fn drain_now(&self) {
        let shared = Arc::clone(&self.shared);
        let mut drain: BoxFuture<'static, ()> = Box::pin(async move { shared.drain().await });
        // Not counted against the turn of the caller's task: it would be told to wait for nothing.
        let first = tokio::task::unconstrained(&mut drain);
        if first.now_or_never().is_none() {
            self.shared.log.run_later(Duration::ZERO, drain);
        }
    }

    /// Sends batches whose first record has waited for half a linger, twice in a linger, until none is
    /// open. Batches that fill up before that are the sender's, who appends them where they are made.
    #[cold]
    fn linger_later(&self) {
        // Keeps the producer alive until then, so that records are sent that nobody waits for.
        let producer = self.clone();
        let half = self.shared.config.linger / 2;
        let linger = async move {
            loop {
                let shared = &producer.shared;
                let due = shared.state.lock().linger(shared);
                if due.drain {
                    producer.drain_now();
                }
                if !due.linger {
                    return;
                }
                shared.log.sleep(half).await;
            }
        };
        self.shared.log.run_later(half, Box::pin(linger));
    }
}

impl State {
    /// The topic's place, if it is known.
    ///
    /// # Errors
    /// What made this producer fail.
    #[inline]
    fn topic(&mut self, name: &str) -> Result<Option<usize>> {
        if let Some(e) = &self.failed {
            return Err(e.repeat());
        }
        match self.topics.get(self.last_topic) {
            Some(last) if *last.name == *name => {}
            _ => match self.by_name.get(name) {
                Some(topic) => self.last_topic = *topic,
                None => return Ok(None),
            },
        }
        Ok(Some(self.last_topic))
    }

    fn register(&mut self, name: &str, info: &TopicInfo) {
        if self.by_name.contains_key(name) {
            return;
        }
        let slots: Vec<Slot> = (0..info.partitions)
            .map(|n| {
                let at = TopicPartition::new(Arc::clone(&info.name), n);
                self.accumulator.slot_within(&at, info.config.max_message_bytes as usize)
            })
            .collect();
        let count = slots.iter().map(|slot| slot.0 + 1).max().unwrap_or(0);
        self.open.resize_with(count.max(self.open.len()), Default::default);
        let name: Arc<str> = Arc::from(name);
        self.by_name.insert(Arc::clone(&name), self.topics.len());
        self.topics.push(Topic { name, slots, sticky: 0 });
    }

    #[inline]
    fn has_room(&self, shared: &Shared) -> bool {
        self.room(shared) > 0
    }

    /// Bytes that may wait beside those that do.
    #[inline]
    fn room(&self, shared: &Shared) -> usize {
        let waiting = self.accumulator.buffered_bytes() + self.under_way_bytes;
        shared.config.buffer_bytes.saturating_sub(waiting)
    }

    /// Encodes a record into its batch.
    #[inline]
    fn push(
        &mut self,
        shared: &Shared,
        topic: usize,
        now: Timestamp,
        record: &Record,
        due: &mut Due,
    ) -> Result<Sent> {
        let sent = |open: &Arc<Receipt>, index| Sent { receipt: Arc::clone(open), index };
        self.encode(shared, topic, now, record, due, sent)
    }

    /// Encodes records from the front of `rest` until a batch is full or the memory is; notes the
    /// receipt of each batch that got some.
    fn push_some(
        &mut self,
        shared: &Shared,
        topic: usize,
        now: Timestamp,
        rest: &mut &[Record],
        (receipts, due): (&mut Vec<Arc<Receipt>>, &mut Due),
    ) -> Result<()> {
        while let [record, after @ ..] = *rest
            && !due.drain
            && self.has_room(shared)
        {
            self.encode(shared, topic, now, record, due, |open, _| note(receipts, open))?;
            *rest = after;
            if record.key.is_none() {
                // Those behind it without a key go where it went, until that batch is full.
                let slot = self.slot_of(topic, record);
                if self.accumulator.open_records(slot) > 0 {
                    let room = self.room(shared);
                    let count = self.accumulator.push_values(slot, now, after, room);
                    if count > 0 {
                        note(receipts, &self.open[slot.0].receipt);
                        *rest = &after[count..];
                    }
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn slot_of(&self, topic: usize, record: &Record) -> Slot {
        let topic = &self.topics[topic];
        match &record.key {
            Some(key) => topic.slots[partition_of(key, topic.slots.len() as u32) as usize],
            None => topic.slots[topic.sticky],
        }
    }

    /// Encodes a record into the open batch of its partition, and shows that batch's receipt and the
    /// record's place in it to `note`.
    #[inline]
    fn encode<T>(
        &mut self,
        shared: &Shared,
        topic: usize,
        now: Timestamp,
        record: &Record,
        due: &mut Due,
        note: impl FnOnce(&Arc<Receipt>, Offset) -> T,
    ) -> Result<T> {
        let (slot, index) = loop {
            let slot = self.slot_of(topic, record);
            let index = self.accumulator.open_records(slot) as Offset;
            if self.accumulator.push_record(shared.identity, slot, now, record)? {
                break (slot, index);
            }
            // Too large for what is left of this batch; the next one may be that of another partition.
            self.accumulator.seal(shared.identity, slot)?;
            self.filled(shared, topic, slot, record, due);
        };
        let noted = note(&self.open[slot.0].receipt, index);
        match self.accumulator.open_records(slot) {
            0 => self.filled(shared, topic, slot, record, due),
            1 => {
                self.open[slot.0].turn = self.turn;
                due.linger = due.linger || !std::mem::replace(&mut self.linger_armed, true);
            }
            _ => {}
        }
        Ok(noted)
    }

    /// The slot's batch was full and waits now: the next records without a key go to the next partition.
    fn filled(
        &mut self,
        shared: &Shared,
        topic: usize,
        slot: Slot,
        record: &Record,
        due: &mut Due,
    ) {
        self.sealed(slot);
        let topic = &mut self.topics[topic];
        if record.key.is_none() {
            topic.sticky = (topic.sticky + 1) % topic.slots.len();
        }
        if self.draining {
            shared.sealed.notify_waiters();
        } else {
            self.draining = true;
            due.drain = true;
        }
    }

    /// The slot's open batch is in the ready queue now.
    fn sealed(&mut self, slot: Slot) {
        let receipt = std::mem::take(&mut self.open[slot.0].receipt);
        self.ready.push_back(receipt);
        self.unanswered += 1;
    }

    /// Puts every open batch into the ready queue.
    fn seal_all(&mut self, shared: &Shared) -> Result<()> {
        for slot in (0..self.open.len()).map(Slot) {
            if self.accumulator.open_records(slot) > 0 {
                self.accumulator.seal(shared.identity, slot)?;
                self.sealed(slot);
            }
        }
        shared.sealed.notify_waiters();
        Ok(())
    }

    /// A turn of the linger: seals what has waited, and is due again while something is open.
    fn linger(&mut self, shared: &Shared) -> Due {
        self.turn += 1;
        // A batch of the turn before may have been begun a moment ago.
        let waited = if shared.config.linger.is_zero() { 0 } else { 2 };
        self.linger_armed = false;
        for slot in (0..self.open.len()).map(Slot) {
            if self.accumulator.open_records(slot) == 0 {
                continue;
            }
            if self.open[slot.0].turn + waited > self.turn {
                self.linger_armed = true;
            } else if self.accumulator.seal(shared.identity, slot).is_ok() {
                self.sealed(slot);
            }
            // What cannot be sealed stays open, and its next record says why.
        }
        shared.sealed.notify_waiters();
        Due { linger: self.linger_armed, ..self.due_drain() }
    }

    /// A drain, when there is something for it to do and none is under way.
    fn due_drain(&mut self) -> Due {
        let drain = self.accumulator.has_ready() && !std::mem::replace(&mut self.draining, true);
        Due { drain, linger: false }
    }
}

/// A drain that is under way. One that is dropped half way (its runtime was shut down) lets the next
/// one begin.
struct Draining<'a> {
    shared: &'a Shared,
    over: bool,
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.shared.state.lock().draining = false;
        }
    }
}

impl Shared {
    /// Appends what is ready, a few batches at a time and each partition's in order, until nothing is.
    ///
    /// A batch that the log may take later (a full disk) goes again, and with it those of its partition
    /// that were under way behind it and were refused for coming too early.
    async fn drain(&self) {
        let mut draining = Draining { shared: self, over: false };
        let mut under_way = FuturesOrdered::new();
        let mut slots: VecDeque<Slot> = VecDeque::new();
        let mut again: Vec<Batch> = Vec::new();
        loop {
            // Registered before the look at what is ready, so that no batch in between is missed.
            let sealed = self.sealed.notified();
            let mut sealed = std::pin::pin!(sealed);
            sealed.as_mut().enable();
            while again.is_empty() && under_way.len() < IN_FLIGHT {
                let mut state = self.state.lock();
                let Some(batch) = self.next_batch(&mut state, &slots) else {
                    draining.over = under_way.is_empty();
                    state.draining = !draining.over;
                    break;
                };
                drop(state);
                slots.push_back(batch.ready.slot);
                under_way.push_back(self.attempt(batch));
            }
            if draining.over {
                return self.room.notify_waiters();
            }
            if under_way.is_empty() {
                self.log.sleep(RETRY_AFTER).await;
                slots.extend(again.iter().map(|batch| batch.ready.slot));
                under_way.extend(again.drain(..).map(|batch| self.attempt(batch)));
                continue;
            }
            let Either::Left((Some((mut batch, result)), _)) =
                select(under_way.next(), sealed).await
            else {
                continue;
            };
            slots.pop_front();
            let behind = again.iter().any(|earlier| earlier.ready.slot == batch.ready.slot);
            let later = result.as_ref().is_err_and(|e| behind || e.is_retriable());
            if later && batch.tries_left > 0 && self.state.lock().failed.is_none() {
                batch.tries_left -= 1;
                again.push(batch);
            } else {
                self.answer(batch, result);
            }
            self.room.notify_waiters();
        }
    }

    /// The next batch to append. The first one of a partition goes alone: to a log that does not know
    /// the producer, any sequence is good, also that of a batch that overtook it. So does the first one
    /// behind a pause: the log may have forgotten the producer.
    fn next_batch(
        &self,
        state: &mut MutexGuard<'_, State>,
        under_way: &VecDeque<Slot>,
    ) -> Option<Batch> {
        let slot = state.accumulator.first_ready()?.slot;
        if under_way.contains(&slot) {
            let silent = self.log.now() - state.open[slot.0].taken_at;
            if state.accumulator.next_offset(slot).is_none() || !(0..=KNOWN_MS).contains(&silent) {
                return None;
            }
        }
        let (ready, receipt) = state.accumulator.next_ready().zip(state.ready.pop_front())?;
        state.under_way_bytes += ready.batch.bytes().len();
        let at = state.accumulator.partition(slot).clone();
        let tries = self.config.delivery_timeout.as_millis() / RETRY_AFTER.as_millis();
        Some(Batch { at, ready, receipt, tries_left: tries })
    }

    async fn attempt(&self, batch: Batch) -> (Batch, Result<Appended>) {
        let failed = self.state.lock().failed.clone();
        let result = match failed {
            Some(e) => Err(e.repeat()),
            None => self.log.append_sealed(&batch.at, &batch.ready.batch, None, Ack::Level).await,
        };
        (batch, result)
    }

    fn answer(&self, batch: Batch, result: Result<Appended>) {
        let mut state = self.state.lock();
        state.unanswered -= 1;
        state.under_way_bytes -= batch.ready.batch.bytes().len();
        match result {
            Ok(appended) => {
                state.accumulator.appended(batch.ready.slot, appended.next_offset);
                state.open[batch.ready.slot.0].taken_at = self.log.now();
                batch.receipt.answer(Ok(appended.base_offset));
                state.accumulator.reuse(batch.ready.batch.into_bytes());
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
            for receipt in left.open.iter().map(|open| &open.receipt).chain(&left.ready) {
                receipt.answer(Err(Arc::clone(&gone)));
            }
        }
    }
}

//! A log in memory for tests of connectors: topics, transactions, fencing, groups; every call is a
//! point at which it can die or refuse.
//!
//! Always true here: what a completed call did is durable (the log of another room has its own tests);
//! a crash loses nothing but open transactions; the clock moves only when somebody sleeps.

#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod files;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::executor::block_on;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use thalweg_connectors::sink::visible_records;
use thalweg_core::batch::{
    BatchBuilder, BatchHeader, HEADER_LEN, Marker, Scratch, control_batch, stamp,
};
use thalweg_core::client::log::{
    AbortedTransaction, Ack, Appended, FetchFrom, FetchOptions, Fetched, GroupInfo, Isolation, Log,
    Membership, NewTopic, OffsetAt, OffsetCommit, OffsetSpec, PartitionOffsets, TopicConfig,
    TopicInfo, TransactionEnd, TransactionInfo,
};
use thalweg_core::config::Compression;
use thalweg_core::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp, TopicPartition, Uuid};
use thalweg_core::{Error, Result};

/// Where in its work the log dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// The call has no effect.
    Before,
    /// The call has its effect, but nobody hears of it.
    After,
}

/// The log. Clones are doors to the same one.
#[derive(Clone)]
pub(crate) struct FakeLog(Arc<Mutex<State>>);

struct State {
    id: Uuid,
    topics: BTreeMap<String, Topic>,
    producers: BTreeMap<String, Producer>,
    groups: BTreeMap<String, Group>,
    next_producer: i64,
    next_topic: u8,
    leader_epoch: LeaderEpoch,
    now_ms: Timestamp,
    calls: u64,
    crash_at: Option<(u64, When)>,
    dead: bool,
    alive: Box<dyn Fn() -> bool + Send>,
    refusals: VecDeque<(&'static str, Error)>,
    /// Markers are written so many calls after the decision.
    marker_delay: u64,
    markers: VecDeque<(u64, TopicPartition, ProducerIdentity, Marker)>,
}

struct Topic {
    info: TopicInfo,
    parts: Vec<Part>,
}

#[derive(Default)]
struct Part {
    batches: Vec<(BatchHeader, Bytes)>,
    end: Offset,
    open: BTreeMap<i64, Offset>,
    aborted: Vec<AbortedTransaction>,
    sequences: BTreeMap<ProducerIdentity, i32>,
}

struct Producer {
    identity: ProducerIdentity,
    parts: BTreeSet<TopicPartition>,
    offsets: Vec<(String, OffsetCommit)>,
}

#[derive(Default)]
struct Group {
    generation: i32,
    offsets: BTreeMap<TopicPartition, OffsetCommit>,
}

impl FakeLog {
    pub(crate) fn new() -> Self {
        Self::with_id(1)
    }

    pub(crate) fn with_id(id: u8) -> Self {
        Self(Arc::new(Mutex::new(State {
            id: Uuid::from_random([id; 16]),
            topics: BTreeMap::new(),
            producers: BTreeMap::new(),
            groups: BTreeMap::new(),
            next_producer: 1000,
            next_topic: 1,
            leader_epoch: 0,
            now_ms: 1_700_000_000_000,
            calls: 0,
            crash_at: None,
            dead: false,
            alive: Box::new(|| true),
            refusals: VecDeque::new(),
            marker_delay: 0,
            markers: VecDeque::new(),
        })))
    }

    pub(crate) fn door(&self) -> Arc<dyn Log> {
        Arc::new(self.clone())
    }

    /// Dies at the call of this number, counted from 1.
    pub(crate) fn crash_at(&self, call: u64, when: When) {
        self.0.lock().crash_at = Some((call, when));
    }

    /// Lives only as long as `alive` says: for a log in the process of a program that dies.
    pub(crate) fn live_while(&self, alive: impl Fn() -> bool + Send + 'static) {
        self.0.lock().alive = Box::new(alive);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    pub(crate) fn is_dead(&self) -> bool {
        let state = self.0.lock();
        state.dead || !(state.alive)()
    }

    /// Opens the log again: what was undecided is aborted.
    pub(crate) fn restart(&self) {
        let mut state = self.0.lock();
        state.dead = false;
        state.crash_at = None;
        state.alive = Box::new(|| true);
        state.refusals.clear();
        state.leader_epoch += 1;
        state.write_markers(u64::MAX);
        let ids: Vec<String> = state.producers.keys().cloned().collect();
        for id in ids {
            state.end(&id, TransactionEnd::Abort);
        }
        state.write_markers(u64::MAX);
    }

    /// The next calls of this name fail so.
    pub(crate) fn refuse(&self, call: &'static str, error: Error) {
        self.0.lock().refusals.push_back((call, error));
    }

    pub(crate) fn delay_markers(&self, calls: u64) {
        self.0.lock().marker_delay = calls;
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.0.lock().now_ms += time.as_millis() as i64;
    }

    pub(crate) fn create(&self, topic: &str, partitions: u32) {
        let config = TopicConfig::default();
        let new = NewTopic { name: topic.to_owned(), partitions, config };
        self.0.lock().create(&new).expect("a new topic");
    }

    pub(crate) fn set_back(&self, time: Duration) {
        self.0.lock().now_ms -= time.as_millis() as i64;
    }

    /// Appends values as one batch of no transaction.
    pub(crate) fn produce(&self, topic: &str, partition: u32, values: &[&str]) {
        let mut builder = BatchBuilder::new(Compression::None, 1024);
        for value in values {
            builder.push(0, None, Some(value.as_bytes()), &[]).expect("small");
        }
        let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("not empty");
        let at = TopicPartition::new(topic, partition);
        let mut state = self.0.lock();
        let epoch = state.leader_epoch;
        state.part(&at).expect("the topic exists").append(&batch, epoch);
    }

    /// The committed values of a partition.
    pub(crate) fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        let mut state = self.0.lock();
        state.write_markers(u64::MAX);
        let at = TopicPartition::new(topic, partition);
        let from = FetchFrom { at, offset: 0, max_bytes: usize::MAX };
        let answer = state.read(&from, Isolation::ReadCommitted).expect("the topic exists");
        let mut values = Vec::new();
        let mut scratch = Scratch::default();
        visible_records(&answer, 0, &mut scratch, |record| {
            values.push(String::from_utf8_lossy(record.value.unwrap_or(b"(null)")).into_owned());
            Ok(())
        })
        .expect("legal batches");
        values
    }

    pub(crate) fn committed(
        &self,
        group: &str,
        topic: &str,
        partition: u32,
    ) -> Option<OffsetCommit> {
        let state = self.0.lock();
        state.groups.get(group)?.offsets.get(&TopicPartition::new(topic, partition)).cloned()
    }

    pub(crate) fn forget_group(&self, group: &str) {
        self.0.lock().groups.remove(group);
    }

    /// Loses the records from `offset` on, as a power loss at level `os` does.
    pub(crate) fn lose_tail(&self, topic: &str, partition: u32, offset: Offset) {
        let mut state = self.0.lock();
        let part = state.part(&TopicPartition::new(topic, partition)).expect("the topic exists");
        part.batches.retain(|(header, _)| header.next_offset() <= offset);
        part.end = part.batches.last().map_or(0, |(header, _)| header.next_offset());
    }

    /// Flips a bit of the last value of a partition: the batch can still be read.
    pub(crate) fn damage(&self, topic: &str, partition: u32) {
        let mut state = self.0.lock();
        let part = state.part(&TopicPartition::new(topic, partition)).expect("the topic exists");
        let (_, bytes) = part.batches.last_mut().expect("there is a batch");
        let mut damaged = BytesMut::from(&bytes[..]);
        // Behind the value there is only the number of headers.
        let last = damaged.len() - 2;
        damaged[last] ^= 1;
        *bytes = damaged.freeze();
    }

    /// No transaction is open, none is half decided.
    pub(crate) fn is_settled(&self) -> bool {
        let mut state = self.0.lock();
        state.write_markers(u64::MAX);
        state.topics.values().all(|topic| topic.parts.iter().all(|part| part.open.is_empty()))
    }

    /// One call: counted, refused when dead or when a refusal waits, and cut off by a crash.
    fn call<T>(&self, name: &'static str, run: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.0.lock();
        let stopped = || Error::Stopped { why: "the log died".to_owned() };
        if state.dead || !(state.alive)() {
            state.dead = true;
            return Err(stopped());
        }
        state.calls += 1;
        let crash = state.crash_at.filter(|(call, _)| *call == state.calls).map(|(_, when)| when);
        if crash == Some(When::Before) {
            state.dead = true;
            return Err(stopped());
        }
        let now = state.calls;
        state.write_markers(now);
        if let Some((call, _)) = state.refusals.front()
            && *call == name
            && let Some((_, error)) = state.refusals.pop_front()
        {
            return Err(error);
        }
        let result = run(&mut state);
        if crash == Some(When::After) {
            state.dead = true;
            return Err(stopped());
        }
        result
    }
}

impl State {
    fn create(&mut self, new: &NewTopic) -> Result<TopicInfo> {
        if let Some(topic) = self.topics.get(&new.name) {
            let partitions = topic.info.partitions;
            return Err(Error::TopicExists { topic: new.name.clone(), partitions });
        }
        let info = TopicInfo {
            name: new.name.as_str().into(),
            id: Uuid::from_random([self.next_topic; 16]),
            partitions: new.partitions,
            config: new.config.clone(),
        };
        self.next_topic += 1;
        let parts = (0..new.partitions).map(|_| Part::default()).collect();
        self.topics.insert(new.name.clone(), Topic { info: info.clone(), parts });
        Ok(info)
    }

    fn part(&mut self, at: &TopicPartition) -> Result<&mut Part> {
        let unknown = || Error::Unknown { what: at.to_string() };
        let topic = self.topics.get_mut(&*at.topic).ok_or_else(unknown)?;
        topic.parts.get_mut(at.partition as usize).ok_or_else(unknown)
    }

    fn check(&mut self, id: &str, identity: ProducerIdentity) -> Result<&mut Producer> {
        match self.producers.get_mut(id) {
            Some(producer) if producer.identity == identity => Ok(producer),
            _ => Err(Error::Fenced { who: id.to_owned(), why: "a newer epoch".to_owned() }),
        }
    }

    /// Decides a transaction; its markers follow.
    fn end(&mut self, id: &str, end: TransactionEnd) {
        let due = self.calls + self.marker_delay;
        let Some(producer) = self.producers.get_mut(id) else { return };
        let identity = producer.identity;
        producer.identity.epoch += 1;
        let parts = std::mem::take(&mut producer.parts);
        let offsets = std::mem::take(&mut producer.offsets);
        let marker = match end {
            TransactionEnd::Commit => Marker::Commit,
            TransactionEnd::Abort => Marker::Abort,
        };
        for at in parts {
            self.markers.push_back((due, at, identity, marker));
        }
        if end == TransactionEnd::Commit {
            for (group, commit) in offsets {
                let group = self.groups.entry(group).or_default();
                group.offsets.insert(commit.at.clone(), commit);
            }
        }
        self.write_markers(self.calls);
    }

    fn write_markers(&mut self, upto: u64) {
        while self.markers.front().is_some_and(|(due, ..)| *due <= upto) {
            let Some((_, at, producer, marker)) = self.markers.pop_front() else { return };
            let (epoch, now) = (self.leader_epoch, self.now_ms);
            let Ok(part) = self.part(&at) else { continue };
            let batch = control_batch(marker, producer, 0, now);
            let at = part.append(&batch, epoch);
            if let Some(first_offset) = part.open.remove(&producer.id)
                && marker == Marker::Abort
            {
                let last_offset = at.base_offset;
                part.aborted.push(AbortedTransaction {
                    producer_id: producer.id,
                    first_offset,
                    last_offset,
                });
            }
        }
    }

    fn read(&mut self, from: &FetchFrom, isolation: Isolation) -> Result<Fetched> {
        let part = self.part(&from.at)?;
        let offsets = part.offsets();
        if from.offset > part.end {
            return Err(Error::OffsetOutOfRange {
                at: from.at.clone(),
                offset: from.offset,
                start: 0,
                end: part.end,
            });
        }
        let limit = match isolation {
            Isolation::ReadCommitted => offsets.last_stable,
            Isolation::ReadUncommitted => offsets.high_watermark,
        };
        let mut bytes = BytesMut::new();
        let (mut next_offset, mut leader_epoch) = (from.offset, -1);
        for (header, batch) in &part.batches {
            if header.next_offset() <= from.offset || header.base_offset >= limit {
                continue;
            }
            if !bytes.is_empty() && bytes.len() + batch.len() > from.max_bytes {
                break;
            }
            bytes.extend_from_slice(batch);
            (next_offset, leader_epoch) = (header.next_offset(), header.leader_epoch);
        }
        let touches =
            |a: &&AbortedTransaction| a.last_offset >= from.offset && a.first_offset < next_offset;
        let mut aborted: Vec<_> = match isolation {
            Isolation::ReadCommitted => part.aborted.iter().filter(touches).copied().collect(),
            Isolation::ReadUncommitted => Vec::new(),
        };
        aborted.sort_by_key(|a| a.first_offset);
        let at = from.at.clone();
        Ok(Fetched { at, offsets, batches: bytes.freeze(), aborted, next_offset, leader_epoch })
    }
}

impl Part {
    fn append(&mut self, batch: &[u8], epoch: LeaderEpoch) -> Appended {
        let mut bytes = BytesMut::from(batch);
        let head: &mut [u8; HEADER_LEN] = bytes.first_chunk_mut().expect("a whole header");
        stamp(head, self.end, epoch);
        let header = BatchHeader::parse(&bytes).expect("a legal batch");
        self.batches.push((header, bytes.freeze()));
        self.end = header.next_offset();
        Appended {
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            duplicate: false,
        }
    }

    fn offsets(&self) -> PartitionOffsets {
        PartitionOffsets {
            start: 0,
            last_stable: self.open.values().copied().min().unwrap_or(self.end),
            high_watermark: self.end,
            end: self.end,
            last_epoch: self.batches.last().map_or(-1, |(header, _)| header.leader_epoch),
            deletions_below: 0,
        }
    }

    fn epoch_before(&self, offset: Offset) -> LeaderEpoch {
        let holds = |header: &BatchHeader| header.base_offset < offset;
        let last = self.batches.iter().rev().find(|(header, _)| holds(header));
        last.map_or(-1, |(header, _)| header.leader_epoch)
    }
}

/// Connectors do without these calls.
fn no_part(call: &str) -> Error {
    Error::invalid(format!("{call}: not part of this log"))
}

#[async_trait]
impl Log for FakeLog {
    fn id(&self) -> Uuid {
        self.0.lock().id
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicInfo> {
        self.call("create_topic", |state| state.create(topic))
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.call("delete_topic", |state| {
            state.topics.remove(name);
            Ok(())
        })
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo> {
        self.call("topic", |state| match state.topics.get(name) {
            Some(topic) => Ok(topic.info.clone()),
            None => Err(Error::Unknown { what: format!("topic {name:?}") }),
        })
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.call("topics", |state| Ok(state.topics.values().map(|t| t.info.clone()).collect()))
    }

    async fn alter_topic(
        &self,
        _name: &str,
        _changes: &BTreeMap<String, Option<String>>,
    ) -> Result<TopicInfo> {
        Err(no_part("alter_topic"))
    }

    async fn list_offset(
        &self,
        _at: &TopicPartition,
        _which: OffsetSpec,
        _isolation: Isolation,
    ) -> Result<Option<OffsetAt>> {
        Err(no_part("list_offset"))
    }

    async fn delete_records(&self, _at: &TopicPartition, _before: Offset) -> Result<Offset> {
        Err(no_part("delete_records"))
    }

    async fn transactions(&self) -> Result<Vec<TransactionInfo>> {
        Err(no_part("transactions"))
    }

    async fn abort_transaction(&self, _transactional_id: &str) -> Result<()> {
        Err(no_part("abort_transaction"))
    }

    async fn groups(&self) -> Result<Vec<GroupInfo>> {
        Err(no_part("groups"))
    }

    async fn offsets(&self, at: &TopicPartition) -> Result<PartitionOffsets> {
        self.call("offsets", |state| Ok(state.part(at)?.offsets()))
    }

    async fn append(
        &self,
        at: &TopicPartition,
        batch: Bytes,
        transactional_id: Option<&str>,
        _ack: Ack,
    ) -> Result<Appended> {
        self.call("append", |state| {
            let header = BatchHeader::parse(&batch)?;
            let epoch = state.leader_epoch;
            if let Some(id) = transactional_id {
                assert!(header.is_transactional(), "a transactional batch says so");
                // A transactional id's next data comes after its own markers.
                if state.markers.iter().any(|(_, _, p, _)| p.id == header.producer.id) {
                    state.write_markers(u64::MAX);
                }
                state.check(id, header.producer)?.parts.insert(at.clone());
            }
            let part = state.part(at)?;
            if header.producer.id >= 0 {
                let expected = part.sequences.entry(header.producer).or_insert(0);
                assert_eq!(*expected, header.base_sequence, "sequences of {at} have no gap");
                *expected += header.record_count;
            }
            if header.is_transactional() {
                let end = part.end;
                part.open.entry(header.producer.id).or_insert(end);
            }
            Ok(part.append(&batch, epoch))
        })
    }

    async fn fetch(&self, from: &[FetchFrom], options: FetchOptions) -> Result<Vec<Fetched>> {
        let answers = self.call("fetch", |state| {
            let mut answers = Vec::new();
            let mut bytes = 0;
            for from in from {
                let answer = state.read(from, options.isolation)?;
                let full = options.max_bytes > 0 && bytes >= options.max_bytes;
                if answer.next_offset > from.offset && !full {
                    bytes += answer.batches.len();
                    answers.push(answer);
                }
            }
            Ok(answers)
        })?;
        if answers.is_empty() {
            self.advance(options.max_wait);
        }
        Ok(answers)
    }

    async fn check_position(
        &self,
        at: &TopicPartition,
        id: Uuid,
        epoch: LeaderEpoch,
        offset: Offset,
    ) -> Result<()> {
        self.call("check_position", |state| {
            let found = state.topics.get(&*at.topic).map(|topic| topic.info.id);
            let part = state.part(at)?;
            let same = found == Some(id)
                && offset <= part.end
                && (epoch < 0 || part.epoch_before(offset) == epoch);
            if same {
                return Ok(());
            }
            Err(Error::PositionLost {
                at: at.clone(),
                offset,
                epoch,
                why: "the log is shorter".to_owned(),
            })
        })
    }

    async fn init_producer(
        &self,
        transactional_id: Option<&str>,
        _timeout: Duration,
    ) -> Result<ProducerIdentity> {
        self.call("init_producer", |state| {
            let id = transactional_id.unwrap_or("none").to_owned();
            if state.producers.contains_key(&id) {
                state.end(&id, TransactionEnd::Abort);
            } else {
                let identity = ProducerIdentity { id: state.next_producer, epoch: 0 };
                state.next_producer += 1;
                let parts = BTreeSet::new();
                let producer = Producer { identity, parts, offsets: Vec::new() };
                state.producers.insert(id.clone(), producer);
            }
            Ok(state.producers[&id].identity)
        })
    }

    async fn commit_offsets_in(
        &self,
        transactional_id: &str,
        producer: ProducerIdentity,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        self.call("commit_offsets_in", |state| {
            let group = state.groups.entry(member.group.to_string()).or_default();
            if group.generation != member.generation {
                let who = member.member.to_string();
                return Err(Error::Fenced { who, why: "a newer generation".to_owned() });
            }
            let open = state.check(transactional_id, producer)?;
            for commit in offsets {
                assert!(commit.metadata.len() <= 4096, "metadata fits");
                open.offsets.push((member.group.to_string(), commit.clone()));
            }
            Ok(())
        })
    }

    async fn end_transaction(
        &self,
        transactional_id: &str,
        producer: ProducerIdentity,
        end: TransactionEnd,
    ) -> Result<ProducerIdentity> {
        self.call("end_transaction", |state| {
            state.check(transactional_id, producer)?;
            state.end(transactional_id, end);
            Ok(state.producers[transactional_id].identity)
        })
    }

    async fn join_group(&self, group: &str) -> Result<Membership> {
        self.call("join_group", |state| {
            let entry = state.groups.entry(group.to_owned()).or_default();
            entry.generation += 1;
            Ok(Membership {
                group: group.into(),
                member: format!("member-{}", entry.generation).as_str().into(),
                generation: entry.generation,
            })
        })
    }

    async fn leave_group(&self, _member: &Membership) -> Result<()> {
        self.call("leave_group", |_| Ok(()))
    }

    async fn commit_offsets(&self, member: &Membership, offsets: &[OffsetCommit]) -> Result<()> {
        self.call("commit_offsets", |state| {
            let group = state.groups.entry(member.group.to_string()).or_default();
            for commit in offsets {
                group.offsets.insert(commit.at.clone(), commit.clone());
            }
            Ok(())
        })
    }

    async fn committed_offsets(
        &self,
        group: &str,
        at: &[TopicPartition],
    ) -> Result<Vec<Option<OffsetCommit>>> {
        self.call("committed_offsets", |state| {
            let group = state.groups.entry(group.to_owned()).or_default();
            Ok(at.iter().map(|at| group.offsets.get(at).cloned()).collect())
        })
    }

    fn now(&self) -> Timestamp {
        self.0.lock().now_ms
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.advance(time);
        futures::future::ready(()).boxed()
    }

    fn run_later(&self, _delay: Duration, what: BoxFuture<'static, ()>) {
        block_on(what);
    }

    fn guarantee(&self) -> String {
        "a fake".to_owned()
    }
}

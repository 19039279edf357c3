//! Runs a pipeline in one thread, in memory, with a clock that a test holds: the same tasks and
//! stages, topics as vectors, transactions that are whole or nothing.
//!
//! ```text
//!   pipe --> [ topic ] --process--> task --emit--> pending --commit--> [ topic ] --> next task ...
//!                                     ^               |
//!                                     '---- abort ----'        crash: tasks grow again from changelogs
//! ```
//!
//! Always true here: records pass through real record batches; nothing is seen by a reader or by the
//! next task before its transaction is committed; the same calls give the same results, byte for byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_core::batch::{BatchBuilder, BatchRef, Scratch};
use thalweg_core::config::Compression;
use thalweg_core::ids::{Offset, ProducerIdentity, Timestamp, Uuid};
use thalweg_core::record::{BACKLOG_HEADER, RecordRef, WATERMARK_HEADER};

use crate::codec::Codec;
use thalweg_core::client::partitioner::partition_of;

use crate::cx::{Emit, Outgoing, Route};
use crate::error::{CodecError, Error, Result};
use crate::state::backend::StateStore;
use crate::state::digest::Digest;
use crate::state::memory::MemoryStore;
use crate::state::meta::{META_KEY, Meta};
use crate::task::{Commit, Consumed, Task};
use crate::topic::{Store, Topic, changelog_name};
use crate::topology::{OutputKind, Topology};

/// A pipeline under test.
///
/// ```
/// use thalweg_streams::driver::TestDriver;
/// use thalweg_streams::{Builder, Store, Topic, Topology};
///
/// const WORDS: Topic<String, u32> = Topic::new("words");
/// const COUNTS: Topic<String, u64> = Topic::new("counts");
/// const COUNT: Store<String, u64> = Store::new("count");
///
/// let topology = Topology::build("words", |b: &Builder| {
///     b.stream(&WORDS).count(&COUNT).to(&COUNTS);
///     Ok(())
/// })?;
/// let mut t = TestDriver::new(topology);
/// t.pipe(&WORDS, &"log".to_owned(), &1, 0)?;
/// t.pipe(&WORDS, &"log".to_owned(), &1, 1)?;
/// t.run()?;
/// assert_eq!(t.read(&COUNTS)?, [("log".to_owned(), 2)]); // once per commit
/// # Ok::<(), thalweg_streams::Error>(())
/// ```
pub struct TestDriver {
    topology: Topology,
    partitions: u32,
    topics: Topics,
    tasks: Vec<Driven>,
    clock: Timestamp,
    batch: usize,
    at_once: Option<usize>,
    reads: BTreeMap<(String, u32), usize>,
    log_id: Uuid,
}

/// Every topic's partitions: one record batch of one record per offset.
type Topics = BTreeMap<String, BTreeMap<u32, Vec<Bytes>>>;

/// A task, its open transaction, and where it has read to.
struct Driven {
    subtopology: usize,
    partition: u32,
    task: Task,
    /// Where the open transaction has read to, and where the last committed one had.
    read: usize,
    committed: usize,
    pending: Pending,
    /// What the last commit stored beside the offsets, and what the next one will.
    meta: Option<Meta>,
    flushed: Option<Meta>,
}

/// What an open transaction has written: topic, partition, batch.
struct Pending {
    partitions: u32,
    topics: Vec<String>,
    records: Vec<(String, u32, Bytes)>,
}

/// A record as a reader of a topic finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<K, V> {
    /// Its partition.
    pub partition: u32,
    /// Its key.
    pub key: K,
    /// Its value.
    pub value: V,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its headers, null values as empty ones.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl TestDriver {
    /// Topics have one partition; the clock stands at 2100-01-01, so that no timestamp is ahead of
    /// it unless a test says so.
    pub fn new(topology: Topology) -> Self {
        Self::with_partitions(topology, 1)
    }

    /// Every topic has this many partitions.
    pub fn with_partitions(topology: Topology, partitions: u32) -> Self {
        const YEAR_2100: Timestamp = 4_102_444_800_000;
        let mut driver = Self {
            topology,
            partitions: partitions.max(1),
            topics: Topics::new(),
            tasks: Vec::new(),
            clock: YEAR_2100,
            batch: 1024,
            at_once: None,
            reads: BTreeMap::new(),
            log_id: Uuid([1; 16]),
        };
        driver.tasks = driver.grow();
        driver
    }

    /// About how many rows of windows a task closes at once. Default 8,192.
    pub fn close_at_once(&mut self, rows: usize) -> &mut Self {
        self.at_once = Some(rows);
        self.tasks.iter_mut().for_each(|driven| driven.task.close_at_once(rows));
        self
    }

    /// How many records a task is given at once. Default 1024.
    pub fn batch(&mut self, records: usize) -> &mut Self {
        self.batch = records.max(1);
        self
    }

    /// Sets the clock that batches are processed with.
    pub fn clock(&mut self, now: Timestamp) -> &mut Self {
        self.clock = now;
        self
    }

    /// The pipeline.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Appends a record to a topic. Nothing is processed yet.
    ///
    /// # Errors
    /// When a codec refuses key or value.
    pub fn pipe<K, V, KC, VC>(
        &mut self,
        topic: &Topic<K, V, KC, VC>,
        key: &K,
        value: &V,
        at: Timestamp,
    ) -> Result<()>
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
        let refused = Error::encode(topic.name());
        let key = topic.key.encode_nullable(key, &mut key_bytes).map_err(refused)?;
        let refused = Error::encode(topic.name());
        let value = topic.value.encode_nullable(value, &mut value_bytes).map_err(refused)?;
        let partition = key.map_or(0, |key| partition_of(key, self.partitions));
        self.pipe_raw(topic.name(), partition, key, value, &[], at)
    }

    /// Appends a record of bytes to a partition. Nothing is processed yet.
    ///
    /// # Errors
    /// When the record is too large for a batch.
    pub fn pipe_raw(
        &mut self,
        topic: &str,
        partition: u32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
        at: Timestamp,
    ) -> Result<()> {
        let batch = batch(at, key, value, headers)?;
        append(&mut self.topics, topic, partition, batch);
        Ok(())
    }

    /// Appends the marker "backlog begins" or "backlog done" to every partition of a topic.
    ///
    /// # Errors
    /// Those of [`TestDriver::pipe_raw`].
    pub fn pipe_backlog(&mut self, topic: &str, begins: bool) -> Result<()> {
        let value: &[u8] = if begins { b"begin" } else { b"done" };
        for partition in 0..self.partitions {
            let headers = [(BACKLOG_HEADER.as_bytes(), Some(value))];
            self.pipe_raw(topic, partition, None, None, &headers, self.clock)?;
        }
        Ok(())
    }

    /// Lets every task process what is in its partition, in open transactions.
    ///
    /// # Errors
    /// Those of [`Task::process`].
    pub fn process(&mut self) -> Result<()> {
        for at in 0..self.tasks.len() {
            while self.turn(at)? {}
        }
        Ok(())
    }

    /// Lets every task do one thing, in open transactions: emit a part of what it is closing, or
    /// process a batch of records.
    ///
    /// # Errors
    /// Those of [`Task::process`].
    pub fn turns(&mut self) -> Result<()> {
        (0..self.tasks.len()).try_for_each(|at| self.turn(at).map(drop))
    }

    fn turn(&mut self, at: usize) -> Result<bool> {
        let driven = &mut self.tasks[at];
        if driven.task.is_closing() {
            driven.task.close(self.clock, &mut driven.pending)?;
            return Ok(true);
        }
        let source = self.topology.subtopologies()[driven.subtopology].source();
        let partition = self.topics.get(source).and_then(|topic| topic.get(&driven.partition));
        let records = partition.map_or(&[][..], |records| &records[driven.read..]);
        let records = &records[..records.len().min(self.batch)];
        if records.is_empty() {
            return Ok(false);
        }
        let base = driven.read as Offset;
        let mut scratches: Vec<Scratch> = records.iter().map(|_| Scratch::default()).collect();
        let mut records = (records.iter().zip(base..).zip(&mut scratches))
            .filter_map(|((bytes, at), scratch)| open(bytes, at, scratch));
        driven.task.process(0, &mut records, self.clock, &mut driven.pending)?;
        driven.read += self.batch.min(partition.map_or(0, Vec::len) - driven.read);
        Ok(true)
    }

    /// Commits the open transaction of every task that has one.
    ///
    /// # Errors
    /// Those of [`Task::flush`].
    pub fn commit(&mut self) -> Result<bool> {
        let mut any = false;
        for at in 0..self.tasks.len() {
            any |= self.commit_task(at)?;
        }
        Ok(any)
    }

    fn commit_task(&mut self, at: usize) -> Result<bool> {
        if !self.flush_task(at)? {
            return Ok(false);
        }
        let driven = &mut self.tasks[at];
        for (topic, partition, batch) in std::mem::take(&mut driven.pending.records) {
            append(&mut self.topics, &topic, partition, batch);
        }
        driven.committed = driven.read;
        driven.meta = driven.flushed.take();
        driven.task.committed();
        Ok(true)
    }

    fn flush_task(&mut self, at: usize) -> Result<bool> {
        let driven = &mut self.tasks[at];
        let moved = driven.read != driven.committed || !driven.pending.records.is_empty();
        if !moved && !driven.task.is_dirty() {
            return Ok(false);
        }
        let consumed = Consumed {
            topic_id: Uuid([2; 16]),
            leader_epoch: 0,
            next_offset: driven.read as Offset,
        };
        let txn_seq = driven.task.txn_seq() + 1;
        let commit = Commit { log_id: self.log_id, txn_seq, consumed: &[consumed] };
        driven.flushed = Some(driven.task.flush(&commit, &mut driven.pending)?);
        Ok(true)
    }

    /// As [`TestDriver::abort`], but at the last moment: when everything was flushed, the commit is
    /// refused.
    ///
    /// # Errors
    /// Those of [`Task::flush`].
    pub fn refuse(&mut self) -> Result<()> {
        for at in 0..self.tasks.len() {
            self.flush_task(at)?;
        }
        self.abort();
        Ok(())
    }

    /// Aborts every open transaction: what it wrote is gone, and its input will be read again.
    pub fn abort(&mut self) {
        for driven in &mut self.tasks {
            driven.pending.records.clear();
            driven.read = driven.committed;
            driven.task.abort();
        }
    }

    /// Loses every open transaction and all local state; the tasks grow again from what is committed.
    /// The rows of every changelog are checked against the digests in the meta records.
    ///
    /// # Errors
    /// When what was committed is not enough to go on.
    pub fn crash(&mut self) -> Result<()> {
        self.regrow()
    }

    /// As [`TestDriver::crash`], and the program that comes back is another one.
    ///
    /// # Errors
    /// When what was committed is not enough to go on, or means something else to the new program.
    pub fn restart(&mut self, topology: Topology) -> Result<()> {
        self.topology = topology;
        self.regrow()
    }

    fn regrow(&mut self) -> Result<()> {
        let old = std::mem::take(&mut self.tasks);
        self.tasks = self.grow();
        for (old, at) in old.into_iter().zip(0..) {
            self.restore(at, old)?;
        }
        Ok(())
    }

    fn restore(&mut self, at: usize, old: Driven) -> Result<()> {
        let driven = &mut self.tasks[at];
        driven.read = old.committed;
        driven.committed = old.committed;
        driven.meta = old.meta;
        let Some(meta) = &driven.meta else { return Ok(()) };
        for output in self.topology.subtopologies()[driven.subtopology].outputs() {
            let OutputKind::Changelog(store) = output.kind else { continue };
            let (rows, stored) = fold(&self.topics, &output.topic, driven.partition);
            if stored.as_ref() != Some(meta) {
                return Err(Error::invalid(format!(
                    "{}: its last meta record differs",
                    output.topic
                )));
            }
            let mut digest = Digest::default();
            rows.iter().for_each(|(key, value)| digest.add(key, value));
            if digest != meta.digest(store) {
                return Err(Error::invalid(format!(
                    "{}: its rows have another digest",
                    output.topic
                )));
            }
            let mut rows = rows.into_iter().map(|(key, value)| (key, Some(value)));
            driven.task.base().write(&mut rows)?;
        }
        driven.task.restore(meta)
    }

    /// Moves committed rows from memory to the backend, as a checkpoint does.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn checkpoint(&mut self) -> Result<()> {
        for driven in &mut self.tasks {
            let frozen = driven.task.freeze();
            driven.task.base().write(&mut frozen.changes()?.into_iter())?;
            driven.task.drop_frozen();
        }
        Ok(())
    }

    /// Processes and commits until nothing is left to do, over every hop.
    ///
    /// # Errors
    /// Those of [`TestDriver::process`] and [`TestDriver::commit`].
    pub fn run(&mut self) -> Result<()> {
        const ROUNDS_MAX: usize = 10_000;
        for _ in 0..ROUNDS_MAX {
            self.process()?;
            if !self.commit()? {
                return Ok(());
            }
        }
        Err(Error::invalid(format!("the pipeline does not come to rest in {ROUNDS_MAX} rounds")))
    }

    /// Every partition has been at its end for long enough to count as idle.
    ///
    /// # Errors
    /// Those of [`TestDriver::run`].
    pub fn idle(&mut self) -> Result<()> {
        self.run()?;
        // Idleness travels with the marks: it takes a round per hop to reach the last task.
        for _ in 0..self.topology.subtopologies().len() {
            self.tasks.iter_mut().for_each(|driven| driven.task.set_at_end(0, true));
            self.run()?;
        }
        self.tasks.iter_mut().for_each(|driven| driven.task.set_at_end(0, true));
        Ok(())
    }

    /// The clock moves on, with every input idle.
    ///
    /// # Errors
    /// Those of [`TestDriver::run`].
    pub fn tick(&mut self, ms: i64) -> Result<()> {
        self.idle()?;
        self.clock += ms;
        for driven in &mut self.tasks {
            driven.task.advance_clock(self.clock, &mut driven.pending)?;
        }
        self.run()
    }

    /// The inputs have come to their end: part after part, writers before readers, everything is
    /// processed and open windows are emitted, with a commit after each part of what a task closes.
    ///
    /// # Errors
    /// Those of [`TestDriver::run`].
    pub fn end_of_input(&mut self) -> Result<()> {
        for &part in &self.topology.order().to_vec() {
            self.run()?;
            for at in 0..self.tasks.len() {
                while self.tasks[at].subtopology == part && self.end_some(at)? {
                    self.commit_task(at)?;
                }
            }
        }
        self.run()
    }

    /// As [`TestDriver::end_of_input`], but it stops after the first part of what each task closes:
    /// where a crash may stop it.
    ///
    /// # Errors
    /// Those of [`TestDriver::run`].
    pub fn end_of_input_begins(&mut self) -> Result<()> {
        self.run()?;
        (0..self.tasks.len()).try_for_each(|at| self.end_some(at).map(drop))
    }

    fn end_some(&mut self, at: usize) -> Result<bool> {
        let driven = &mut self.tasks[at];
        driven.task.end_of_input(self.clock, &mut driven.pending)
    }

    /// The committed records of a topic that were not read before, partition by partition. Marks of
    /// time in repartition topics are left out.
    ///
    /// # Errors
    /// When a codec refuses a record.
    pub fn read<K, V, KC, VC>(&mut self, topic: &Topic<K, V, KC, VC>) -> Result<Vec<(K, V)>>
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        Ok(self.find(topic)?.into_iter().map(|found| (found.key, found.value)).collect())
    }

    /// As [`TestDriver::read`], with timestamps, headers and partitions.
    ///
    /// # Errors
    /// When a codec refuses a record.
    pub fn find<K, V, KC, VC>(&mut self, topic: &Topic<K, V, KC, VC>) -> Result<Vec<Found<K, V>>>
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        let mut found = Vec::new();
        for (&partition, records) in self.topics.get(topic.name()).into_iter().flatten() {
            let next = self.reads.entry((topic.name().to_owned(), partition)).or_default();
            for (bytes, offset) in records.iter().zip(0..).skip(*next) {
                let mut scratch = Scratch::default();
                let Some(record) = open(bytes, offset, &mut scratch) else { continue };
                if record.headers.iter().any(|(key, _)| key == WATERMARK_HEADER.as_bytes()) {
                    continue;
                }
                let refused = |source: CodecError| Error::Record {
                    topic: topic.name().to_owned(),
                    partition,
                    offset,
                    source,
                };
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = record.headers.iter();
                found.push(Found {
                    partition,
                    key: topic.key.decode_nullable(record.key).map_err(refused)?,
                    value: topic.value.decode_nullable(record.value).map_err(refused)?,
                    timestamp: record.timestamp,
                    headers: headers.map(|(k, v)| (text(k), v.unwrap_or(&[]).to_vec())).collect(),
                });
            }
            *next = records.len();
        }
        Ok(found)
    }

    /// The committed rows of a store by key, as its changelogs have them.
    ///
    /// # Errors
    /// When a codec refuses a row.
    pub fn rows<K: Ord, V, KC, VC>(&self, store: &Store<K, V, KC, VC>) -> Result<BTreeMap<K, V>>
    where
        KC: Codec<K>,
        VC: Codec<V>,
    {
        let changelog = changelog_name(self.topology.app(), store.name());
        let mut found = BTreeMap::new();
        for partition in 0..self.partitions {
            for (key, value) in fold(&self.topics, &changelog, partition).0 {
                let refused = Error::encode(store.name());
                let row = store.key.decode(&key[2..]).and_then(|key| {
                    let value = store.value.decode(&value)?;
                    Ok((key, value))
                });
                let (key, value) = row.map_err(refused)?;
                found.insert(key, value);
            }
        }
        Ok(found)
    }

    /// Every committed record of every topic, in order: two runs are equal when these are.
    pub fn everything(&self) -> Vec<(String, u32, Bytes)> {
        let mut all = Vec::new();
        for (topic, partitions) in &self.topics {
            for (&partition, records) in partitions {
                all.extend(records.iter().map(|r| (topic.clone(), partition, r.clone())));
            }
        }
        all
    }

    /// A task, to look at.
    pub fn task(&self, subtopology: usize, partition: u32) -> Option<&Task> {
        let here = |d: &&Driven| d.subtopology == subtopology && d.partition == partition;
        self.tasks.iter().find(here).map(|driven| &driven.task)
    }

    fn grow(&self) -> Vec<Driven> {
        let mut tasks = Vec::new();
        for &subtopology in self.topology.order() {
            for partition in 0..self.partitions {
                let outputs = self.topology.subtopologies()[subtopology].outputs();
                let topics = outputs.iter().map(|o| o.topic.to_string()).collect();
                let partitions = self.partitions;
                // A backend in memory opens: it has nothing that could fail.
                let Ok(base) = MemoryStore::default().open("task") else { continue };
                let mut task = self.topology.task(subtopology, partition, &|_| partitions, base);
                if let Some(rows) = self.at_once {
                    task.close_at_once(rows);
                }
                tasks.push(Driven {
                    subtopology,
                    partition,
                    task,
                    read: 0,
                    committed: 0,
                    pending: Pending { partitions, topics, records: Vec::new() },
                    meta: None,
                    flushed: None,
                });
            }
        }
        tasks
    }
}

impl Emit for Pending {
    fn emit(&mut self, record: Outgoing<'_>) -> Result<()> {
        let batch = batch(record.timestamp, record.key, record.value, record.headers)?;
        let topic = self.topics[usize::from(record.output.0)].clone();
        let to = match record.route {
            Route::Key => {
                let at = partition_of(record.key.unwrap_or_default(), self.partitions);
                at..at + 1
            }
            Route::Any => 0..1,
            Route::Partition(at) => at..at + 1,
            Route::Every => 0..self.partitions,
        };
        self.records.extend(to.map(|partition| (topic.clone(), partition, batch.clone())));
        Ok(())
    }
}

/// A batch of one record.
fn batch(
    at: Timestamp,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&[u8], Option<&[u8]>)],
) -> Result<Bytes> {
    let refused = |e: &dyn std::fmt::Display| Error::invalid(format!("no batch: {e}"));
    let mut builder = BatchBuilder::new(Compression::None, 256);
    builder.push(at, key, value, headers).map_err(|e| refused(&e))?;
    Ok(builder.finish(ProducerIdentity::NONE, -1, false)?)
}

/// The record of a batch of one.
fn open<'s>(bytes: &'s Bytes, offset: Offset, scratch: &'s mut Scratch) -> Option<RecordRef<'s>> {
    let record = BatchRef::parse(bytes).ok()?.records(scratch).ok()?.next()?.ok()?;
    Some(RecordRef { offset, ..record })
}

fn append(topics: &mut Topics, topic: &str, partition: u32, batch: Bytes) {
    topics.entry(topic.to_owned()).or_default().entry(partition).or_default().push(batch);
}

/// The rows that a changelog partition stands for, and its last meta record.
fn fold(
    topics: &Topics,
    changelog: &str,
    partition: u32,
) -> (BTreeMap<Bytes, Bytes>, Option<Meta>) {
    let mut rows = BTreeMap::new();
    let mut meta = None;
    let records = topics.get(changelog).and_then(|topic| topic.get(&partition));
    for bytes in records.into_iter().flatten() {
        let mut scratch = Scratch::default();
        let Some(record) = open(bytes, 0, &mut scratch) else { continue };
        match (record.key.unwrap_or_default(), record.value) {
            (META_KEY, Some(value)) => meta = Meta::decode(value).ok(),
            (key, Some(value)) => {
                rows.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            }
            (key, None) => {
                rows.remove(key);
            }
        }
    }
    (rows, meta)
}

//! What the engine's tests share: an engine in line on a simulated disk, batches made by hand, a
//! workload whose outcome anybody can check, and a look at files behind the engine's back.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thalweg_core::batch::{BatchBuilder, Scratch, Visible};
use thalweg_core::client::log::*;
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::config::{Compression, LogConfig};
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_simulated};
use thalweg_core::ids::{Offset, ProducerIdentity, TopicPartition};
use thalweg_core::record::Record;
use thalweg_core::{Error, Result};

pub(crate) type SimEngine = Arc<Engine<SimDisk>>;

/// When every test takes place.
pub(crate) const NOW: i64 = 1_790_000_000_000;

/// Where the log of the tests lies.
pub(crate) const DIR: &str = "/data";

/// Runs a future that never waits.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// The recovery point moves within segments as well, though they are small.
pub(crate) fn config(level: Level) -> LogConfig {
    LogConfig {
        level,
        min_free_bytes: 0,
        recovery_bytes: 600,
        internal_segment_bytes: 1200,
        ..LogConfig::default()
    }
}

pub(crate) fn open(disk: &SimDisk, level: Level, seed: u64) -> Result<SimEngine> {
    open_at(disk, config(level), Clock::fixed(NOW), seed)
}

pub(crate) fn open_at(
    disk: &SimDisk,
    config: LogConfig,
    clock: Clock,
    seed: u64,
) -> Result<SimEngine> {
    let entropy = Entropy::seeded(seed);
    open_simulated(disk, Path::new(DIR), config, Runtime::Stepped, clock, entropy)
}

/// Kills the program or cuts the power now, and opens the log again.
pub(crate) fn reopen(disk: &SimDisk, crash: Crash, level: Level) -> (SimDisk, SimEngine) {
    disk.crash(crash);
    let disk = disk.restart();
    let log = open(&disk, level, 99).expect("opens after a crash");
    (disk, log)
}

/// Stops cleanly and opens the log again.
pub(crate) fn reopen_cleanly(disk: &SimDisk, log: SimEngine, level: Level) -> SimEngine {
    log.close().expect("closes");
    drop(log);
    let log = open(disk, level, 98).expect("opens after a clean stop");
    assert!(log.report().clean);
    log
}

/// The first partition of a topic.
pub(crate) fn at(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

pub(crate) fn create(log: &dyn Log, name: &str, partitions: u32, segment_bytes: u32) -> Result<()> {
    let config = TopicConfig { segment_bytes, index_interval_bytes: 150, ..TopicConfig::default() };
    match now(log.create_topic(&NewTopic { name: name.to_owned(), partitions, config })) {
        Ok(_) | Err(Error::TopicExists { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

// Batches and records.

pub(crate) fn batch(values: &[&str]) -> Bytes {
    batch_of(ProducerIdentity::NONE, -1, false, values)
}

pub(crate) fn batch_of(
    producer: ProducerIdentity,
    sequence: i32,
    transactional: bool,
    values: &[&str],
) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, 1024);
    for value in values {
        builder.push(NOW, None, Some(value.as_bytes()), &[]).expect("small");
    }
    builder.finish(producer, sequence, transactional).expect("no codec")
}

/// Appends one record outside of any producer, at the topic's level.
pub(crate) fn append(log: &dyn Log, at: &TopicPartition, value: &str) -> Result<Appended> {
    now(log.append(at, batch(&[value]), None, Ack::Level))
}

/// Writes one record in a transaction.
pub(crate) fn append_in(
    log: &dyn Log,
    id: &str,
    producer: ProducerIdentity,
    at: &TopicPartition,
    sequence: i32,
    value: &str,
) -> Result<Appended> {
    let bytes = batch_of(producer, sequence, true, &[value]);
    now(log.append(at, bytes, Some(id), Ack::Written))
}

pub(crate) fn init(log: &dyn Log, id: &str) -> ProducerIdentity {
    now(log.init_producer(Some(id), Duration::from_secs(60))).expect("a producer")
}

pub(crate) fn end(
    log: &dyn Log,
    id: &str,
    producer: ProducerIdentity,
    how: TransactionEnd,
) -> Result<ProducerIdentity> {
    now(log.end_transaction(id, producer, how))
}

/// All offsets and values that a reader of this isolation sees from an offset on, read `max_bytes` at
/// a time.
pub(crate) fn records_from(
    log: &dyn Log,
    at: &TopicPartition,
    isolation: Isolation,
    mut offset: Offset,
    max_bytes: usize,
) -> Result<Vec<(Offset, String)>> {
    let mut found = Vec::new();
    let options = FetchOptions { isolation, max_wait: Duration::ZERO, max_bytes: 0 };
    loop {
        let fetched = now(log.fetch(&[FetchFrom { at: at.clone(), offset, max_bytes }], options))?;
        let one = &fetched[0];
        if one.batches.is_empty() {
            return Ok(found);
        }
        let mut scratch = Scratch::default();
        for batch in Visible::new(&one.batches, &one.aborted, offset) {
            let batch = batch.map_err(Error::from)?;
            batch.check_crc().map_err(Error::from)?;
            for record in batch.records(&mut scratch).map_err(Error::from)?.starting_at(offset) {
                let record = record.map_err(Error::from)?;
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                found.push((record.offset, value));
            }
        }
        assert!(one.next_offset > offset, "an answer with batches leads on");
        offset = one.next_offset;
    }
}

/// All values a reader of this isolation sees in a partition.
pub(crate) fn values(
    log: &dyn Log,
    at: &TopicPartition,
    isolation: Isolation,
) -> Result<Vec<String>> {
    let start = now(log.offsets(at))?.start;
    let records = records_from(log, at, isolation, start, 700)?;
    Ok(records.into_iter().map(|(_, value)| value).collect())
}

/// What readers of committed records see.
pub(crate) fn committed(log: &dyn Log, topic: &str) -> Vec<String> {
    values(log, &at(topic), Isolation::ReadCommitted).expect("read")
}

/// Everything is decided: readers of committed records see as far as others.
pub(crate) fn assert_decided(log: &dyn Log, topic: &str, what: &str) {
    let offsets = now(log.offsets(&at(topic))).expect("there");
    assert_eq!(offsets.last_stable, offsets.high_watermark, "{what}: {topic} stays undecided");
    assert_eq!(offsets.high_watermark, offsets.end, "{what}: {topic} is not all durable");
}

// Files, behind the engine's back.

pub(crate) fn folder(topic: &str) -> PathBuf {
    Path::new(DIR).join("log").join(format!("{topic}-0"))
}

/// The path of a segment's file.
pub(crate) fn segment(topic: &str, base: Offset, suffix: &str) -> PathBuf {
    folder(topic).join(format!("{base:020}.{suffix}"))
}

/// The names in a folder that end so, in order.
pub(crate) fn names<D: Disk>(disk: &D, folder: &Path, suffix: &str) -> Vec<String> {
    let entries = disk.list(folder).expect("a folder");
    let names = entries.into_iter().map(|e| e.name.to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(suffix)).collect()
}

/// The bases of a partition's segments, in order.
pub(crate) fn bases<D: Disk>(disk: &D, folder: &Path) -> Vec<Offset> {
    let names = names(disk, folder, ".log");
    names.iter().map(|n| n.trim_end_matches(".log").parse().expect("a number")).collect()
}

pub(crate) fn bytes_of<D: Disk>(disk: &D, path: &Path) -> Vec<u8> {
    read_file(disk, path, 1 << 30).expect("read")
}

/// Replaces a file's bytes.
pub(crate) fn overwrite<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, Open::Create).expect("opened");
    file.set_len(0).expect("cut");
    write_all_at(&file, bytes, 0).expect("written");
    file.sync_data().expect("synced");
    let folder = path.parent().expect("in a folder");
    disk.sync_dir(folder).expect("synced");
}

// A workload: numbers go into two topics and the group's position, all or none.

/// Runs transfers until the disk goes down; returns how many numbers were acknowledged. Goes on after
/// what is there. Every third number is aborted.
pub(crate) fn transfers(disk: &SimDisk, level: Level, seed: u64, count: usize) -> Result<usize> {
    let mut acknowledged = 0;
    let log = open(disk, level, seed)?;
    create(&*log, "a", 1, 600)?;
    create(&*log, "b", 1, 600)?;
    let run = async {
        let mut producer =
            TransactionalProducer::open(log.clone(), "tx", ProducerConfig::default()).await?;
        let member = log.join_group("g").await?;
        let stored = log.committed_offsets("g", &[at("a")]).await?;
        let first = stored[0].as_ref().map_or(0, |c| c.metadata.parse().unwrap_or(0) + 1);
        for n in first..first + count {
            producer.begin().await?;
            producer.send("a", Record::value(format!("{n}"))).await?;
            producer.send("b", Record::value(format!("{n}"))).await?;
            if n % 3 == 2 {
                producer.flush().await?;
                producer.abort().await?;
                continue;
            }
            let end = log.offsets(&at("a")).await?.high_watermark;
            let commit = OffsetCommit {
                at: at("a"),
                offset: end.min(n as i64),
                leader_epoch: 0,
                metadata: n.to_string(),
            };
            producer.send_offsets(&member, &[commit]).await?;
            producer.commit().await?;
            acknowledged = n + 1;
            if n % 4 == 1 {
                log.tick().await?;
            }
        }
        Result::<()>::Ok(())
    };
    // The crash ends the run; what was acknowledged before it counts.
    let _ = now(run);
    Ok(acknowledged)
}

/// Opens what [`transfers`] left and checks all of it. Returns how many numbers are there.
pub(crate) fn check(disk: &SimDisk, level: Level, acknowledged: usize, what: &str) -> usize {
    let log = open(disk, level, 77).unwrap_or_else(|e| panic!("{what}: {e}\n{:#?}", disk.trace()));
    log.check_coordinators().unwrap_or_else(|e| panic!("{what}: {e}"));
    create(&*log, "a", 1, 600).expect("created");
    create(&*log, "b", 1, 600).expect("created");
    let read = |topic| {
        values(&*log, &at(topic), Isolation::ReadCommitted)
            .unwrap_or_else(|e| panic!("{what}: {e}"))
    };
    let (a, b) = (read("a"), read("b"));
    assert_eq!(a, b, "{what}: both or neither");
    let wanted: Vec<String> =
        (0..).filter(|n| n % 3 != 2).take(a.len()).map(|n| n.to_string()).collect();
    assert_eq!(a, wanted, "{what}: in order, each once");
    let acked = (0..acknowledged).filter(|n| n % 3 != 2).count();
    assert!(a.len() >= acked, "{what}: {acked} were acknowledged, {} are there", a.len());
    let stored = now(log.committed_offsets("g", &[at("a")])).expect("nothing pends");
    let stored = stored[0].as_ref().map(|c| c.metadata.clone());
    assert_eq!(stored, a.last().cloned(), "{what}: the offsets went with the records");
    for topic in ["a", "b"] {
        assert_decided(&*log, topic, what);
    }
    a.last().map_or(0, |last| last.parse::<usize>().expect("a number") + 1)
}

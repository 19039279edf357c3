//! What the engine's tests share: an engine in line, on a simulated disk.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use bytes::Bytes;
use thalweg_core::batch::{BatchBuilder, Scratch, Visible};
use thalweg_core::client::log::*;
use thalweg_core::config::{Compression, LogConfig};
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::engine::Engine;
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::ids::{ProducerIdentity, TopicPartition};
use thalweg_core::{Error, Result};

pub(crate) type SimEngine = Arc<Engine<SimDisk>>;

/// Runs a future that never waits.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

pub(crate) fn config(level: Level) -> LogConfig {
    LogConfig { level, min_free_bytes: 0, ..LogConfig::default() }
}

pub(crate) fn open(disk: &SimDisk, level: Level, seed: u64) -> Result<SimEngine> {
    let opened = Engine::open(
        disk.clone(),
        "/data",
        config(level),
        Runtime::Inline,
        Clock::fixed(1_790_000_000_000),
        Entropy::seeded(seed),
    );
    now(opened).map(Arc::new)
}

pub(crate) fn create(log: &dyn Log, name: &str, partitions: u32, segment_bytes: u32) -> Result<()> {
    let config = TopicConfig { segment_bytes, ..TopicConfig::default() };
    match now(log.create_topic(&NewTopic { name: name.to_owned(), partitions, config })) {
        Ok(_) | Err(Error::TopicExists { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

pub(crate) fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, 1024);
    for value in values {
        builder.push(1_790_000_000_000, None, Some(value.as_bytes()), &[]).expect("small");
    }
    builder.finish(ProducerIdentity::NONE, -1, false).expect("no codec")
}

/// All values a reader of this isolation sees in a partition.
pub(crate) fn values(log: &dyn Log, at: &TopicPartition, isolation: Isolation) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut offset = 0;
    let options = FetchOptions { isolation, max_wait: std::time::Duration::ZERO, max_bytes: 0 };
    loop {
        let from = FetchFrom { at: at.clone(), offset, max_bytes: 700 };
        let fetched = now(log.fetch(&[from], options))?;
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
                found.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
            }
        }
        offset = one.next_offset;
    }
}

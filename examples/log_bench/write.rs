//! Appending and producing, at level `os`, so that the device's barrier does not hide our cost.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use thalweg::core::batch::batches;
use thalweg::core::client::log::{Ack, FetchFrom, FetchOptions};
use thalweg::core::disk::Disk;
use thalweg::core::disk::real::RealDisk;
use thalweg::{
    EmbeddedLog, Error, Isolation, Level, Log, LogConfig, NewTopic, Producer, ProducerConfig,
    Record, Result, TopicConfig, TopicPartition,
};
use tokio::runtime::Runtime;

use super::hand::{self, FloorFile};
use super::measure::{Name, Turn, cpu_of, fresh_folder, in_turn};

/// Bytes of one slice: some hundredths of a second.
const BYTES: usize = 64 << 20;
const MIB: f64 = (1 << 20) as f64;
/// Records handed over by one call of `send_all`.
const AT_ONCE: usize = 500;

/// A log of one topic `t`.
pub(crate) async fn open(dir: &Path, level: Level, partitions: u32) -> Result<Arc<EmbeddedLog>> {
    let config = LogConfig { level, ..Default::default() };
    let log = thalweg::open_with(dir.join("data"), config).await?;
    create(&log, partitions).await?;
    Ok(log)
}

/// Makes topic `t`: its files are fresh.
async fn create(log: &EmbeddedLog, partitions: u32) -> Result<()> {
    let config = TopicConfig { max_message_bytes: 2 << 20, ..Default::default() };
    log.create_topic(&NewTopic { name: "t".to_owned(), partitions, config }).await?;
    Ok(())
}

/// Removes its files, and makes it anew.
async fn refresh(log: &EmbeddedLog) -> Result<()> {
    log.delete_topic("t").await?;
    create(log, 1).await
}

/// Removes a floor's file.
fn remove(path: &Path) -> Result<()> {
    RealDisk.remove(path).map_err(|e| Error::io("remove", path, e))
}

/// Whose batches are appended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Built {
    /// This program's: `BatchBuilder` sealed them.
    Here,
    /// Anybody's: bytes.
    Elsewhere,
}

/// Given batches through the engine, against `write()` of the same bytes.
pub(crate) fn append(
    runtime: &Runtime,
    len: usize,
    built: Built,
    name: &str,
    preallocate: bool,
) -> Result<()> {
    let chunks = hand::batches_of(len);
    let rounds = BYTES / hand::bytes_of(&chunks);
    let mib = (rounds * hand::bytes_of(&chunks)) as f64 / MIB;
    let all = || (0..rounds).flat_map(|_| &chunks);
    let folder = fresh_folder()?;
    let path = folder.path().join("floor");
    let log = runtime.block_on(open(folder.path(), Level::Os, 1))?;
    let at = TopicPartition::new("t", 0);
    let ours = || {
        runtime.block_on(async {
            let seconds = cpu_of(async {
                for chunk in all() {
                    match built {
                        Built::Here => log.append_sealed(&at, chunk, None, Ack::Level).await?,
                        Built::Elsewhere => {
                            log.append(&at, chunk.bytes().clone(), None, Ack::Level).await?
                        }
                    };
                }
                Ok(())
            })
            .await?;
            refresh(&log).await?;
            Ok(Turn { amount: mib, seconds })
        })
    };
    let floor = || {
        let mut file = FloorFile::create(&path, preallocate)?;
        let write = async {
            all()
                .try_for_each(|chunk| file.write(chunk.bytes()))
                .map_err(|e| Error::io("write", &path, e))
        };
        let seconds = runtime.block_on(cpu_of(write))?;
        remove(&path)?;
        Ok(Turn { amount: mib, seconds })
    };
    in_turn(&Name { figure: name, unit: "MiB/cpu_s", level: "os" }, ours, floor)?;
    log.close()
}

/// How records are handed to the producer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// One by one, each with a receipt.
    Send,
    /// Five hundred at a time.
    SendAll,
}

/// Records through the producer, against a loop by hand that encodes the same batches, sums and writes
/// them.
pub(crate) fn produce(
    runtime: &Runtime,
    len: usize,
    by: By,
    name: &str,
    preallocate: bool,
) -> Result<()> {
    let records = hand::records_of(len);
    let count = (BYTES / (len + 10)).next_multiple_of(records.len());
    let config = ProducerConfig::default();
    let folder = fresh_folder()?;
    let path = folder.path().join("floor");
    let log = runtime.block_on(open(folder.path(), Level::Os, 1))?;
    let ours = || {
        runtime.block_on(async {
            let producer = Producer::open(log.clone(), config.clone()).await?;
            let seconds = cpu_of(async {
                for _ in 0..count / records.len() {
                    hand_over(&producer, &records, by).await?;
                }
                producer.flush().await
            })
            .await?;
            check(&log, count).await?;
            refresh(&log).await?;
            Ok(Turn { amount: count as f64, seconds })
        })
    };
    let floor = || {
        let mut file = FloorFile::create(&path, preallocate)?;
        let work = async {
            hand::produce(&records, count, config.batch_bytes, |batch| file.write(batch))
                .map_err(|e| Error::io("write", &path, e))
        };
        let seconds = runtime.block_on(cpu_of(work))?;
        remove(&path)?;
        Ok(Turn { amount: count as f64, seconds })
    };
    check_hand(&records)?;
    in_turn(&Name { figure: name, unit: "records/cpu_s", level: "os" }, ours, floor)?;
    log.close()
}

async fn hand_over(producer: &Producer, records: &[Record], by: By) -> Result<()> {
    match by {
        By::Send => {
            for record in records {
                producer.send("t", record).await?;
            }
        }
        By::SendAll => {
            for some in records.chunks(AT_ONCE) {
                producer.send_all("t", some).await?;
            }
        }
    }
    Ok(())
}

/// All records arrived.
async fn check(log: &Arc<EmbeddedLog>, count: usize) -> Result<()> {
    let offsets = log.offsets(&TopicPartition::new("t", 0)).await?;
    assert_eq!(offsets.high_watermark, count as i64, "every record is there once");
    let options = FetchOptions {
        isolation: Isolation::ReadCommitted,
        max_wait: std::time::Duration::ZERO,
        max_bytes: 0,
    };
    let from = FetchFrom { at: TopicPartition::new("t", 0), offset: 0, max_bytes: 1 };
    let fetched = log.fetch(&[from], options).await?;
    check_batches(&fetched[0].batches)
}

/// The loop by hand makes real batches.
fn check_hand(records: &[Record]) -> Result<()> {
    let mut bytes = Vec::new();
    let keep = |batch: &[u8]| {
        bytes.extend_from_slice(batch);
        Ok(())
    };
    hand::produce(records, records.len(), 16 << 10, keep)
        .map_err(|e| Error::io("write", Path::new("memory"), e))?;
    check_batches(&Bytes::from(bytes))
}

fn check_batches(bytes: &Bytes) -> Result<()> {
    let mut scratch = Default::default();
    for batch in batches(bytes) {
        let batch = batch?;
        batch.check_crc()?;
        for record in batch.records(&mut scratch)? {
            let record = record?;
            assert!(record.key.is_none() && record.value.is_some(), "as it was sent");
        }
    }
    Ok(())
}

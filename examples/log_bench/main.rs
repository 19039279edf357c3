//! Figures of the log against floors measured in the same run: one JSON line each.
//!
//! ```text
//! cargo run --release --example log_bench [-- FIGURE...]     default: all
//! {"figure","value","unit","floor","ratio","level","cpu_s"}
//! ```
//!
//! `value` and `floor` are per CPU-second of this process (getrusage); `ratio` is value / floor. Floors
//! use chunks of the same size on a fresh file in the same folder. Ours and the floor take turns, fifteen
//! times, and the best of each is printed: in a virtual machine the same write costs four times as much
//! when the host has to find the pages first, which comes and goes, and has nothing to do with either.
//! Everything runs at level `os` (the page cache), so that the device's barrier does not hide our cost.

#[path = "../../streams/benches/dsl/workload.rs"]
mod workload;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use thalweg::core::batch::{BatchBuilder, batches, crc32c};
use thalweg::core::client::log::{Ack, FetchFrom, FetchOptions};
use thalweg::core::disk::real::RealDisk;
use thalweg::core::disk::{Disk, DiskFile, Open};
use thalweg::core::ids::ProducerIdentity;
use thalweg::{
    Compression, EmbeddedLog, Isolation, Level, Log, LogConfig, NewTopic, Producer, ProducerConfig,
    Record, Result, TopicConfig, TopicPartition,
};

const ROUNDS: usize = 15;
const APPEND_BYTES: usize = 256 << 20;
const PRODUCE_RECORDS: usize = 2_000_000;

/// Measures in a folder.
type Figure<'a> = &'a dyn Fn(&Path) -> Result<Pair>;

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let asked =
        |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.starts_with(w.as_str()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| thalweg::Error::io("start", Path::new("runtime"), e))?;
    let figures: [(&str, Figure<'_>); 4] = [
        ("append/1KiB", &|dir| runtime.block_on(append(dir, 1024))),
        ("append/100B", &|dir| runtime.block_on(append(dir, 100))),
        ("read/fetch", &|dir| runtime.block_on(read(dir))),
        ("producer/100B", &|dir| runtime.block_on(produce(dir))),
    ];
    for (name, run) in figures {
        if asked(name) {
            report(name, run)?;
        }
    }
    if asked("dsl/4ops") {
        report("dsl/4ops", &|_| Ok(four_operators()))?;
    }
    Ok(())
}

/// The DSL's cost per record, against a hand-written loop that does the same; no log, no level.
fn four_operators() -> Pair {
    const BATCHES: usize = 2_000;
    let (input, mut task) = (workload::input(), workload::task());
    let (mut ours, mut theirs, mut scratch) =
        (workload::Batch::default(), workload::Batch::default(), Default::default());
    let before = cpu_seconds();
    for _ in 0..BATCHES {
        ours.bytes.clear();
        workload::by_the_dsl(&mut task, &input, &mut ours);
    }
    let between = cpu_seconds();
    for _ in 0..BATCHES {
        theirs.bytes.clear();
        workload::by_hand(&input, &mut scratch, &mut theirs);
    }
    let after = cpu_seconds();
    assert!(ours.bytes == theirs.bytes && ours.records == theirs.records, "both do the same");
    let records = (BATCHES * workload::RECORDS) as f64;
    let (value, floor) = (records / (between - before), records / (after - between));
    Pair { value, floor, unit: "records/cpu_s", level: "none", cpu_s: between - before }
}

/// One measurement beside its floor, both per CPU-second.
pub struct Pair {
    value: f64,
    floor: f64,
    unit: &'static str,
    level: &'static str,
    cpu_s: f64,
}

fn report(name: &str, run: Figure<'_>) -> Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..ROUNDS {
        // Beside the target folder, which is on a real disk: a temporary folder may be memory.
        let dir = tempfile::Builder::new().prefix("log-bench-").tempdir_in(".");
        let dir = dir.map_err(|e| thalweg::Error::io("create", Path::new("."), e))?;
        pairs.push(run(dir.path())?);
    }
    let best = |of: fn(&Pair) -> f64| pairs.iter().map(of).fold(0.0, f64::max);
    let (value, floor) = (best(|pair| pair.value), best(|pair| pair.floor));
    let Some(Pair { unit, level, cpu_s, .. }) = pairs.iter().find(|pair| pair.value == value)
    else {
        return Ok(());
    };
    let line = format!(
        "{{\"figure\":\"{name}\",\"value\":{value:.0},\"unit\":\"{unit}\",\"floor\":{floor:.0},\"ratio\":{:.3},\"level\":\"{level}\",\"cpu_s\":{cpu_s:.2}}}",
        value / floor
    );
    // A reader that went away ends the run.
    writeln!(std::io::stdout(), "{line}")
        .map_err(|e| thalweg::Error::io("write", Path::new("standard output"), e))
}

/// CPU seconds of this process, all threads, user and system.
pub fn cpu_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Runs `work` and says how many CPU seconds it took.
pub async fn timed(work: impl Future<Output = Result<()>>) -> Result<f64> {
    let before = cpu_seconds();
    work.await?;
    Ok(cpu_seconds() - before)
}

async fn open(dir: &Path) -> Result<Arc<EmbeddedLog>> {
    let log =
        thalweg::open_with(dir.join("data"), LogConfig { level: Level::Os, ..Default::default() })
            .await?;
    let config = TopicConfig { max_message_bytes: 2 << 20, ..Default::default() };
    log.create_topic(&NewTopic { name: "t".to_owned(), partitions: 1, config }).await?;
    Ok(log)
}

/// Batches of 64 KiB to 1 MiB, in turn, of records of `record` bytes.
fn batches_of(record: usize) -> Vec<Bytes> {
    let value = vec![b'x'; record];
    [64 << 10, 256 << 10, 1 << 20, 128 << 10, 512 << 10]
        .into_iter()
        .map(|size| {
            let mut builder = BatchBuilder::new(Compression::None, size);
            while builder.bytes() + record + 32 < size {
                builder.push(1_790_000_000_000, None, Some(&value), &[]).expect("far below 2 GiB");
            }
            builder.finish(ProducerIdentity::NONE, -1, false).expect("no codec")
        })
        .collect()
}

/// Given batches through the engine, against `write()` of the same bytes.
async fn append(dir: &Path, record: usize) -> Result<Pair> {
    let log = open(dir).await?;
    let chunks = batches_of(record);
    let at = TopicPartition::new("t", 0);
    let total: usize = chunks.iter().map(Bytes::len).sum();
    let rounds = APPEND_BYTES / total;
    let ours = timed(async {
        for _ in 0..rounds {
            for chunk in &chunks {
                log.append(&at, chunk.clone(), None, Ack::Level).await?;
            }
        }
        Ok(())
    })
    .await?;
    let path = dir.join("floor");
    let file = RealDisk
        .open(&path, Open::CreateNew)
        .map_err(|e| thalweg::Error::io("create", &path, e))?;
    let floor = timed(async {
        let mut position = 0;
        for chunk in (0..rounds).flat_map(|_| &chunks) {
            thalweg::core::disk::write_all_at(&file, chunk, position)
                .map_err(|e| thalweg::Error::io("write", &path, e))?;
            position += chunk.len() as u64;
        }
        Ok(())
    })
    .await?;
    log.close()?;
    let mib = (rounds * total) as f64 / f64::from(1 << 20);
    Ok(Pair { value: mib / ours, floor: mib / floor, unit: "MiB/cpu_s", level: "os", cpu_s: ours })
}

/// Fetch and CRC, undecoded, against `pread` and CRC of the same bytes.
async fn read(dir: &Path) -> Result<Pair> {
    let log = open(dir).await?;
    let at = TopicPartition::new("t", 0);
    let chunks = batches_of(100);
    let total: usize = chunks.iter().map(Bytes::len).sum();
    let rounds = APPEND_BYTES / total;
    for chunk in (0..rounds).flat_map(|_| &chunks) {
        log.append(&at, chunk.clone(), None, Ack::Written).await?;
    }
    let mut seen = 0u64;
    let ours = timed(async {
        let mut offset = 0;
        let options = FetchOptions {
            isolation: Isolation::ReadUncommitted,
            max_wait: std::time::Duration::ZERO,
            max_bytes: 0,
        };
        loop {
            let from = FetchFrom { at: at.clone(), offset, max_bytes: 1 << 20 };
            let fetched = log.fetch(&[from], options).await?;
            if fetched[0].batches.is_empty() {
                return Ok(());
            }
            for batch in batches(&fetched[0].batches) {
                let batch = batch?;
                batch.check_crc()?;
                seen += batch.bytes.len() as u64;
            }
            offset = fetched[0].next_offset;
        }
    })
    .await?;
    let folder = dir.join("data/log/t-0");
    let mut raw = 0u64;
    let floor = timed(async {
        let mut buffer = vec![0; 1 << 20];
        let list = RealDisk.list(&folder).map_err(|e| thalweg::Error::io("list", &folder, e))?;
        for entry in list.iter().filter(|e| e.name.to_string_lossy().ends_with(".log")) {
            let path = folder.join(&entry.name);
            let io = |e| thalweg::Error::io("read", &path, e);
            let file = RealDisk.open(&path, Open::Read).map_err(io)?;
            let mut position = 0;
            loop {
                let n = file.read_at(&mut buffer, position).map_err(io)?;
                if n == 0 {
                    break;
                }
                std::hint::black_box(crc32c(&buffer[..n]));
                position += n as u64;
            }
            raw += position;
        }
        Ok(())
    })
    .await?;
    assert_eq!(seen, raw, "both read the same bytes");
    log.close()?;
    let mib = seen as f64 / f64::from(1 << 20);
    Ok(Pair { value: mib / ours, floor: mib / floor, unit: "MiB/cpu_s", level: "os", cpu_s: ours })
}

/// Records through the producer, against a loop that encodes the same batches and writes them.
async fn produce(dir: &Path) -> Result<Pair> {
    let log = open(dir).await?;
    let config = ProducerConfig::default();
    let batch_bytes = config.batch_bytes;
    let producer = Producer::open(log.clone(), config).await?;
    let value = Bytes::from(vec![b'x'; 100]);
    let ours = timed(async {
        for _ in 0..PRODUCE_RECORDS {
            producer.send("t", Record::value(value.clone())).await?;
        }
        producer.flush().await
    })
    .await?;
    let path = dir.join("floor");
    let io = |e| thalweg::Error::io("write", &path, e);
    let file = RealDisk.open(&path, Open::CreateNew).map_err(io)?;
    let floor = timed(async {
        let mut position = 0;
        let mut builder = BatchBuilder::new(Compression::None, batch_bytes);
        for n in 1..=PRODUCE_RECORDS {
            builder.push(1_790_000_000_000, None, Some(&value), &[])?;
            if builder.bytes() >= batch_bytes || n == PRODUCE_RECORDS {
                let batch = builder.finish(ProducerIdentity::NONE, -1, false)?;
                thalweg::core::disk::write_all_at(&file, &batch, position).map_err(io)?;
                position += batch.len() as u64;
            }
        }
        Ok(())
    })
    .await?;
    let records = PRODUCE_RECORDS as f64;
    let (value, floor) = (records / ours, records / floor);
    log.close()?;
    Ok(Pair { value, floor, unit: "records/cpu_s", level: "os", cpu_s: ours })
}

//! Reading from the page cache, alone and beside a writer.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use thalweg::core::batch::{Sealed, batches, crc32c};
use thalweg::core::client::log::{Ack, FetchFrom, FetchOptions};
use thalweg::core::disk::real::{RealDisk, RealFile};
use thalweg::core::disk::{Disk, DiskFile, Open};
use thalweg::{
    Consumer, ConsumerConfig, EmbeddedLog, Error, Isolation, Level, Log, Result, TopicPartition,
};
use tokio::runtime::Runtime;

use super::hand::{self, FloorFile};
use super::measure::{Name, Pair, Turn, cpu_of, cpu_of_thread, fresh_folder, pairs, report};
use super::write::open;

const BYTES: usize = 256 << 20;
/// What the writer writes while the reader reads.
const BESIDE_BYTES: usize = 128 << 20;
const SEALED_BYTES: usize = 2 << 30;
const MIB: f64 = (1 << 20) as f64;
/// Bytes asked for at a time, by both sides.
const ASK: usize = 1 << 20;
const NO_WAIT: FetchOptions =
    FetchOptions { isolation: Isolation::ReadUncommitted, max_wait: Duration::ZERO, max_bytes: 0 };

/// What is read: the log, and the same bytes as files.
struct Stored {
    log: Arc<EmbeddedLog>,
    at: TopicPartition,
    files: Vec<RealFile>,
    bytes: u64,
    records: i64,
    folder: tempfile::TempDir,
}

impl Stored {
    async fn make(bytes: usize, len: usize) -> Result<Self> {
        let folder = fresh_folder()?;
        let log = open(folder.path(), Level::Os, 1).await?;
        let at = TopicPartition::new("t", 0);
        let chunks = hand::batches_of(len);
        let rounds = bytes.div_ceil(hand::bytes_of(&chunks));
        append(&log, &at, (0..rounds).flat_map(|_| &chunks)).await?;
        let dir = folder.path().join("data/log/t-0");
        let io = |e| Error::io("read", &dir, e);
        let mut files = Vec::new();
        for entry in RealDisk.list(&dir).map_err(io)? {
            if entry.name.to_string_lossy().ends_with(".log") {
                files.push(RealDisk.open(&dir.join(&entry.name), Open::Read).map_err(io)?);
            }
        }
        let bytes = (rounds * hand::bytes_of(&chunks)) as u64;
        let records = log.offsets(&at).await?.high_watermark;
        Ok(Self { log, at, files, bytes, records, folder })
    }

    /// `pread` of all bytes, each piece of which `look` is shown.
    fn by_hand(&self, look: impl Fn(&[u8])) -> Result<()> {
        let mut buffer = vec![0; ASK];
        let mut all = 0;
        for file in &self.files {
            let mut position = 0;
            loop {
                let n = file.read_at(&mut buffer, position);
                let n = n.map_err(|e| Error::io("read", Path::new("floor"), e))?;
                if n == 0 {
                    break;
                }
                look(&buffer[..n]);
                position += n as u64;
            }
            all += position;
        }
        assert_eq!(all, self.bytes, "both read the same bytes");
        Ok(())
    }
}

fn sum(bytes: &[u8]) {
    std::hint::black_box(crc32c(bytes));
}

/// Writes to a file and removes it.
fn warm<'c>(path: &Path, chunks: impl Iterator<Item = &'c Sealed>) -> Result<()> {
    let mut file = FloorFile::create(path, false)?;
    for chunk in chunks {
        file.write(chunk.bytes()).map_err(|e| Error::io("write", path, e))?;
    }
    RealDisk.remove(path).map_err(|e| Error::io("remove", path, e))
}

async fn append<'c>(
    log: &EmbeddedLog,
    at: &TopicPartition,
    chunks: impl Iterator<Item = &'c Sealed>,
) -> Result<()> {
    for chunk in chunks {
        log.append_sealed(at, chunk, None, Ack::Written).await?;
    }
    Ok(())
}

/// One fetch, whose batches are summed and not decoded; its bytes, and where to read on.
async fn fetch(log: &EmbeddedLog, at: &TopicPartition, offset: i64) -> Result<(u64, i64)> {
    let from = FetchFrom { at: at.clone(), offset, max_bytes: ASK };
    let fetched = log.fetch(&[from], NO_WAIT).await?;
    for batch in batches(&fetched[0].batches) {
        batch?.check_crc()?;
    }
    Ok((fetched[0].batches.len() as u64, fetched[0].next_offset))
}

/// Fetched and summed, against `pread` and sum of the same bytes.
pub(crate) fn fetches(runtime: &Runtime) -> Result<()> {
    let stored = runtime.block_on(Stored::make(BYTES, 100))?;
    let name = Name { figure: "read/fetch", unit: "MiB/cpu_s", level: "os" };
    let mib = stored.bytes as f64 / MIB;
    pairs(&name, || {
        let ours = cpu_of(async {
            let (mut offset, mut seen) = (0, 0);
            while let (bytes @ 1.., next) = fetch(&stored.log, &stored.at, offset).await? {
                seen += bytes;
                offset = next;
            }
            assert_eq!(seen, stored.bytes, "both read the same bytes");
            Ok(())
        });
        let value = Turn { amount: mib, seconds: runtime.block_on(ours)? }.rate();
        let floor = runtime.block_on(cpu_of(async { stored.by_hand(sum) }))?;
        Ok(Pair { value, floor: Turn { amount: mib, seconds: floor }.rate() })
    })?;
    stored.log.close()
}

/// Regions, each read into the same buffer, against `pread` of the same bytes.
pub(crate) fn regions(runtime: &Runtime) -> Result<()> {
    let stored = runtime.block_on(Stored::make(BYTES, 100))?;
    let name = Name { figure: "read/regions", unit: "MiB/cpu_s", level: "os" };
    let mib = stored.bytes as f64 / MIB;
    let mut buffer = vec![0; ASK];
    pairs(&name, || {
        let ours = cpu_of(async {
            let (mut offset, mut seen) = (0, 0);
            loop {
                let from = FetchFrom { at: stored.at.clone(), offset, max_bytes: ASK };
                let found = stored.log.fetch_regions(&[from], NO_WAIT).await?;
                let region = &found[0].region;
                if region.is_empty() {
                    break;
                }
                // The first batch is there also when it alone is larger than asked.
                buffer.resize(buffer.len().max(region.len() as usize), 0);
                let bytes = &mut buffer[..region.len() as usize];
                let read = region.read_exact_at(bytes, 0);
                read.map_err(|e| Error::io("read", Path::new("region"), e))?;
                std::hint::black_box(bytes);
                seen += region.len();
                offset = found[0].next_offset;
            }
            assert_eq!(seen, stored.bytes, "both read the same bytes");
            Ok(())
        });
        let value = Turn { amount: mib, seconds: runtime.block_on(ours)? }.rate();
        let by_hand = cpu_of(async { stored.by_hand(|bytes| _ = std::hint::black_box(bytes)) });
        let floor = runtime.block_on(by_hand)?;
        Ok(Pair { value, floor: Turn { amount: mib, seconds: floor }.rate() })
    })?;
    stored.log.close()
}

/// Records through the consumer, every key and value visited, against `pread` and sum of their bytes.
pub(crate) fn records(runtime: &Runtime) -> Result<()> {
    let stored = runtime.block_on(Stored::make(BYTES, 100))?;
    for (figure, borrowed) in [("read/records", true), ("read/records/owned", false)] {
        let name = Name { figure, unit: "records/cpu_s", level: "os" };
        let amount = stored.records as f64;
        pairs(&name, || {
            let ours = cpu_of(async {
                let (seen, sum) = visit(&stored, borrowed).await?;
                std::hint::black_box(sum);
                assert_eq!(seen, stored.records, "every record once");
                Ok(())
            });
            let value = Turn { amount, seconds: runtime.block_on(ours)? }.rate();
            let floor = runtime.block_on(cpu_of(async { stored.by_hand(sum) }))?;
            Ok(Pair { value, floor: Turn { amount, seconds: floor }.rate() })
        })?;
    }
    stored.log.close()
}

/// The number of records, and a sum that needs each key and value.
async fn visit(stored: &Stored, borrowed: bool) -> Result<(i64, u64)> {
    let mut consumer = Consumer::open(stored.log.clone(), ConsumerConfig::default());
    consumer.assign(std::slice::from_ref(&stored.at)).await?;
    let (mut seen, mut sum) = (0, 0u64);
    let mut look = |key: Option<&[u8]>, value: Option<&[u8]>| {
        seen += 1;
        for part in [key, value].into_iter().flatten() {
            let ends = [part.first(), part.last()].map(|byte| byte.copied().unwrap_or(0));
            sum += part.len() as u64 + u64::from(u16::from_le_bytes(ends));
        }
    };
    loop {
        let more = if borrowed {
            let polled = consumer.poll_borrowed(Duration::ZERO).await?;
            polled.records().for_each(|record| look(record.key, record.value));
            !polled.is_empty()
        } else {
            let polled = consumer.poll(Duration::ZERO).await?;
            polled.iter().for_each(|record| look(record.key.as_deref(), record.value.as_deref()));
            !polled.is_empty()
        };
        if !more {
            return Ok((seen, sum));
        }
    }
}

/// What a thread moved: by the seconds of its own CPU time, and by the clock's.
#[derive(Clone, Copy)]
struct Moved {
    by_cpu: f64,
    by_clock: f64,
}

fn moved(work: impl FnOnce() -> Result<u64>) -> Result<Moved> {
    let begin = Instant::now();
    let (bytes, cpu) = cpu_of_thread(work)?;
    let mib = bytes as f64 / MIB;
    Ok(Moved { by_cpu: mib / cpu, by_clock: mib / begin.elapsed().as_secs_f64() })
}

/// A reader that loops over 2 GiB of sealed segments and a writer to the same partition, beside each
/// other, against each alone. CPU time of a thread does not count what it waits for a lock, so the
/// clock's figure stands beside it; the clock's needs two free cores.
pub(crate) fn beside_a_writer(runtime: &Runtime) -> Result<()> {
    let stored = runtime.block_on(Stored::make(SEALED_BYTES, 100))?;
    let sealed = stored.records;
    let chunks = hand::batches_of(100);
    let rounds = BESIDE_BYTES / hand::bytes_of(&chunks);
    let scratch = stored.folder.path().join("scratch");
    let write = |begin: Option<&Barrier>| {
        // Pages that are warm: found, used and given back a moment ago.
        warm(&scratch, (0..rounds).flat_map(|_| &chunks))?;
        begin.map(Barrier::wait);
        moved(|| {
            block_on(append(&stored.log, &stored.at, (0..rounds).flat_map(|_| &chunks)))?;
            Ok((rounds * hand::bytes_of(&chunks)) as u64)
        })
    };
    // Reads until it is told to stop, and once all over at least when nobody does.
    let read = |together: Option<(&Barrier, &AtomicBool)>| {
        together.map(|(begin, _)| begin.wait());
        moved(|| {
            let (mut offset, mut seen) = (0, 0);
            loop {
                let (bytes, next) = block_on(fetch(&stored.log, &stored.at, offset))?;
                seen += bytes;
                offset = if next < sealed { next } else { 0 };
                let over = together.map_or(offset == 0, |(_, stop)| stop.load(Ordering::Relaxed));
                if over {
                    return Ok(seen);
                }
            }
        })
    };
    let mut all: [Vec<Pair>; 4] = Default::default();
    for turn in 0..=5 {
        let (writer_alone, reader_alone) = (write(None)?, read(None)?);
        let (begin, stop) = (Barrier::new(2), AtomicBool::new(false));
        let (writer, reader) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(Some((&begin, &stop))));
            let writer = write(Some(&begin));
            stop.store(true, Ordering::Relaxed);
            (writer, reader.join().expect("the reader does not panic"))
        });
        let (writer, reader) = (writer?, reader?);
        if turn > 0 {
            let together = [reader.by_cpu, writer.by_cpu, reader.by_clock, writer.by_clock];
            let alone = [
                reader_alone.by_cpu,
                writer_alone.by_cpu,
                reader_alone.by_clock,
                writer_alone.by_clock,
            ];
            for ((pairs, value), floor) in all.iter_mut().zip(together).zip(alone) {
                pairs.push(Pair { value, floor });
            }
        }
    }
    let names = [
        ("read+write/reader", "MiB/cpu_s"),
        ("read+write/writer", "MiB/cpu_s"),
        ("read+write/reader/clock", "MiB/s"),
        ("read+write/writer/clock", "MiB/s"),
    ];
    for ((figure, unit), pairs) in names.iter().zip(&all) {
        report(&Name { figure, unit, level: "os" }, pairs)?;
    }
    stored.log.close()
}

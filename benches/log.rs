//! The log beside its floors, by the clock: given batches through the engine and `write()` of the same
//! bytes; fetch and CRC, undecoded, and `pread` and CRC; records through the producer and a loop that
//! encodes and writes them. Level `os`: the device's barrier would hide our cost.
//!
//! `cargo bench -p thalweg --bench log`. The twin of `examples/log_bench`, which counts CPU time.
//!
//! The loop by hand and the batches are those of `examples/log_bench/hand.rs`.
//!
//! Always true here: each sample writes to a fresh topic or file, which is removed behind it.

#[path = "../examples/log_bench/hand.rs"]
#[expect(dead_code, reason = "shared with the example, which measures more")]
mod hand;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use thalweg::core::batch::{batches, crc32c};
use thalweg::core::client::log::{Ack, FetchFrom, FetchOptions};
use thalweg::core::disk::real::RealDisk;
use thalweg::core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg::{
    EmbeddedLog, Isolation, Level, Log, LogConfig, NewTopic, Producer, ProducerConfig, TopicConfig,
    TopicPartition,
};
use tokio::runtime::Runtime;

/// Records of one iteration of the producer.
const RECORDS: usize = 20_000;
/// Bytes that are read.
const READ_BYTES: usize = 256 << 20;
const WORKS: &str = "a fresh folder on a disk with room";

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    // Beside the sources, which are on a real disk: a temporary folder may be memory.
    let dir = tempfile::Builder::new().prefix("log-bench-").tempdir_in(".").expect(WORKS);
    let config = LogConfig { level: Level::Os, ..Default::default() };
    let open = thalweg::open_with(dir.path().join("data"), config);
    let log = runtime.block_on(open).expect(WORKS);
    let file = dir.path().join("floor");
    appends(c, &runtime, &log, &file);
    reads(c, &runtime, &log, dir.path());
    produces(c, &runtime, &log, &file);
    log.close().expect(WORKS);
}

fn appends(c: &mut Criterion, runtime: &Runtime, log: &Arc<EmbeddedLog>, file: &Path) {
    for (name, record) in [("append/1KiB", 1024), ("append/100B", 100)] {
        let chunks = hand::batches_of(record);
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(hand::bytes_of(&chunks) as u64));
        group.bench_function("engine", |bencher| {
            bencher.iter_custom(|times| {
                let at = runtime.block_on(fresh(log));
                let begin = Instant::now();
                runtime.block_on(async {
                    for chunk in (0..times).flat_map(|_| &chunks) {
                        log.append_sealed(&at, chunk, None, Ack::Level).await.expect(WORKS);
                    }
                });
                begin.elapsed()
            });
        });
        group.bench_function("write()", |bencher| {
            bencher.iter_custom(|times| {
                written(file, |write| {
                    (0..times).flat_map(|_| &chunks).for_each(|chunk| write(chunk.bytes()));
                })
            });
        });
        group.finish();
    }
}

fn reads(c: &mut Criterion, runtime: &Runtime, log: &Arc<EmbeddedLog>, dir: &Path) {
    let chunks = hand::batches_of(100);
    let rounds = READ_BYTES as u64 / hand::bytes_of(&chunks) as u64;
    let at = runtime.block_on(fresh(log));
    runtime.block_on(async {
        for chunk in (0..rounds).flat_map(|_| &chunks) {
            log.append_sealed(&at, chunk, None, Ack::Written).await.expect(WORKS);
        }
    });
    let mut group = c.benchmark_group("read/fetch");
    group.throughput(Throughput::Bytes(rounds * hand::bytes_of(&chunks) as u64));
    group.bench_function("engine", |bencher| {
        bencher.iter(|| runtime.block_on(fetched(log, &at)));
    });
    let folder = dir.join("data/log/t-0");
    group.bench_function("pread", |bencher| {
        let mut buffer = vec![0; 1 << 20];
        bencher.iter(|| {
            for entry in RealDisk.list(&folder).expect(WORKS) {
                if !entry.name.to_string_lossy().ends_with(".log") {
                    continue;
                }
                let file = RealDisk.open(&folder.join(&entry.name), Open::Read).expect(WORKS);
                let mut position = 0;
                loop {
                    let n = file.read_at(&mut buffer, position).expect(WORKS);
                    if n == 0 {
                        break;
                    }
                    std::hint::black_box(crc32c(&buffer[..n]));
                    position += n as u64;
                }
            }
        });
    });
    group.finish();
}

fn produces(c: &mut Criterion, runtime: &Runtime, log: &Arc<EmbeddedLog>, file: &Path) {
    let values = hand::records_of(100);
    let mut group = c.benchmark_group("producer/100B");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("producer", |bencher| {
        bencher.iter_custom(|times| {
            runtime.block_on(async {
                fresh(log).await;
                let config = ProducerConfig::default();
                let producer = Producer::open(log.clone(), config).await.expect(WORKS);
                let begin = Instant::now();
                for some in (0..times as usize * RECORDS / 500).zip(values.chunks(500).cycle()) {
                    producer.send_all("t", some.1).await.expect(WORKS);
                }
                producer.flush().await.expect(WORKS);
                begin.elapsed()
            })
        });
    });
    group.bench_function("encode and write()", |bencher| {
        let batch_bytes = ProducerConfig::default().batch_bytes;
        bencher.iter_custom(|times| {
            written(file, |write| {
                let records = times as usize * RECORDS;
                let write = |batch: &[u8]| {
                    write(batch);
                    Ok(())
                };
                hand::produce(&values, records, batch_bytes, write).expect(WORKS);
            })
        });
    });
    group.finish();
}

/// Makes topic `t` anew.
async fn fresh(log: &Arc<EmbeddedLog>) -> TopicPartition {
    // There is none at first.
    let _ = log.delete_topic("t").await;
    let config = TopicConfig { max_message_bytes: 2 << 20, ..Default::default() };
    let topic = NewTopic { name: "t".to_owned(), partitions: 1, config };
    log.create_topic(&topic).await.expect(WORKS);
    TopicPartition::new("t", 0)
}

/// Fetches everything there is, and sums it up.
async fn fetched(log: &Arc<EmbeddedLog>, at: &TopicPartition) {
    let mut offset = 0;
    let options = FetchOptions {
        isolation: Isolation::ReadUncommitted,
        max_wait: Duration::ZERO,
        max_bytes: 0,
    };
    loop {
        let from = FetchFrom { at: at.clone(), offset, max_bytes: 1 << 20 };
        let fetched = log.fetch(&[from], options).await.expect(WORKS);
        if fetched[0].batches.is_empty() {
            return;
        }
        for batch in batches(&fetched[0].batches) {
            batch.expect("whole").check_crc().expect("as it was written");
        }
        offset = fetched[0].next_offset;
    }
}

/// How long `work` takes, which writes chunks one behind the other to a fresh file.
fn written(path: &Path, work: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Duration {
    let file = RealDisk.open(path, Open::CreateNew).expect(WORKS);
    let mut position = 0;
    let begin = Instant::now();
    work(&mut |chunk| {
        write_all_at(&file, chunk, position).expect(WORKS);
        position += chunk.len() as u64;
    });
    let took = begin.elapsed();
    RealDisk.remove(path).expect(WORKS);
    took
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = bench
}
criterion_main!(benches);

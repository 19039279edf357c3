//! The ways to move many records at once keep every promise of those that move one: `send_all` beside
//! `send`, `poll_borrowed` beside `poll`, memory that goes round beside fresh memory.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{at, config};
use futures::future::{Either, select};
use thalweg_core::batch::{BatchBuilder, batches};
use thalweg_core::client::consumer::{Consumer, ConsumerConfig};
use thalweg_core::client::log::*;
use thalweg_core::client::producer::Producer;
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::config::Compression;
use thalweg_core::disk::sim::{Call, Failure, SimDisk};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_simulated};
use thalweg_core::ids::{ProducerIdentity, TopicPartition};
use thalweg_core::record::{Header, Record};
use thalweg_core::{Error, Result};

/// Longer than any test: nothing here may rest on a linger that ends.
const FOR_EVER: Duration = Duration::from_secs(600);

fn run(test: impl Future<Output = Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test).expect("no error");
}

fn open(disk: &SimDisk, level: Level) -> Result<Arc<Engine<SimDisk>>> {
    let (runtime, clock, entropy) = (Runtime::current(), Clock::System, Entropy::System);
    open_simulated(disk, Path::new("/data"), config(level), runtime, clock, entropy)
}

async fn create(log: &dyn Log, name: &str, partitions: u32) -> Result<()> {
    let topic = NewTopic { name: name.to_owned(), partitions, config: TopicConfig::default() };
    log.create_topic(&topic).await.map(drop)
}

fn partitions(topic: &str, count: u32) -> Vec<TopicPartition> {
    (0..count).map(|n| TopicPartition::new(topic, n)).collect()
}

/// The values of each partition, in order.
async fn values(log: Arc<dyn Log>, at: &[TopicPartition]) -> Result<Vec<Vec<String>>> {
    let mut consumer = Consumer::open(log, ConsumerConfig::default());
    consumer.assign(at).await?;
    let mut values = vec![Vec::new(); at.len()];
    loop {
        let records = consumer.poll(Duration::ZERO).await?;
        if records.is_empty() {
            return Ok(values);
        }
        for record in records {
            let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
            values[record.at.partition as usize].push(text.into_owned());
        }
    }
}

/// Some of a row, then some without.
fn has_key(n: usize) -> bool {
    n % 20 < 9
}

fn numbered(range: std::ops::Range<usize>) -> Vec<Record> {
    let record = |n: usize| match (has_key(n), n % 5) {
        (true, _) => Record::value(format!("{n}")).key(format!("key {}", n % 7)).header("h", "x"),
        (false, 0) => Record::value(format!("{n}")).header("h", "x"),
        (false, _) => Record::value(format!("{n}")),
    };
    range.map(record).collect()
}

/// `send_all` in pieces of any length, between single sends, at both levels: each record once, those of
/// a key in their order, and every answer comes after its records are there.
#[test]
fn records_sent_together_arrive_once_and_in_order() {
    for (level, batch_bytes) in [(Level::Os, 90), (Level::Disk, 90), (Level::Disk, 700)] {
        run(async {
            let disk = SimDisk::new(1);
            let log = open(&disk, level)?;
            create(&*log, "t", 3).await?;
            let settings = ProducerConfig { batch_bytes, ..ProducerConfig::default() };
            let producer = Producer::open(log.clone(), settings).await?;
            let records = numbered(0..400);
            let mut rest = &records[..];
            let mut size = 0;
            while !rest.is_empty() {
                let (some, after) = rest.split_at(size.min(rest.len()));
                let together = producer.send_all("t", some).await?;
                if let Some((one, after)) = after.split_first() {
                    producer.send("t", one).await?;
                    rest = after;
                } else {
                    rest = after;
                }
                if size % 5 == 4 {
                    together.await?;
                    // Those that were sent together; others may be on their way to other partitions.
                    let there = values(log.clone(), &partitions("t", 3)).await?.concat();
                    for record in some {
                        let value = String::from_utf8_lossy(record.value.as_ref().expect("one"));
                        assert!(there.iter().any(|it| *it == value), "{level:?}: answered early");
                    }
                }
                size += 1;
            }
            producer.flush().await?;
            let found = values(log.clone(), &partitions("t", 3)).await?;
            let mut all: Vec<&String> = found.iter().flatten().collect();
            all.sort_by_key(|n| n.parse::<usize>().expect("a number"));
            let wanted: Vec<String> = (0..400).map(|n| n.to_string()).collect();
            assert_eq!(all, wanted.iter().collect::<Vec<_>>(), "each once");
            for partition in &found {
                let mut last: BTreeMap<usize, usize> = BTreeMap::new();
                for n in partition.iter().map(|n| n.parse::<usize>().expect("a number")) {
                    if has_key(n) {
                        assert!(last.insert(n % 7, n).is_none_or(|l| l < n), "key {}", n % 7);
                    }
                }
            }
            log.close()
        });
    }
}

/// A batch that has room leaves when its first record has waited for the linger; before that, only when
/// it is full. The linger of an earlier batch is none of its business: a busy producer's batches would
/// leave half full, and by another thread.
#[test]
fn a_batch_waits_for_its_own_linger() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
    let outcome: Result<()> = runtime.block_on(async {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Os)?;
        create(&*log, "t", 1).await?;
        let wait = |ms| log.sleep(Duration::from_millis(ms));
        let end = async || Ok::<_, Error>(log.offsets(&partitions("t", 1)[0]).await?.end);
        let linger = Duration::from_millis(20);
        let settings = ProducerConfig { batch_bytes: 200, linger, ..ProducerConfig::default() };
        let producer = Producer::open(log.clone(), settings).await?;
        drop(producer.send("t", Record::value("alone")).await?);
        wait(9).await;
        assert_eq!(end().await?, 0, "it waits for company");
        wait(12).await;
        assert_eq!(end().await?, 1, "for so long");
        for _ in 0..300 {
            drop(producer.send("t", Record::value("x".repeat(30))).await?);
            wait(1).await;
        }
        producer.flush().await?;
        let options = FetchOptions {
            isolation: Isolation::ReadUncommitted,
            max_wait: Duration::ZERO,
            max_bytes: 0,
        };
        let ask = FetchFrom { at: partitions("t", 1).remove(0), offset: 1, max_bytes: 1 << 20 };
        let fetched = log.fetch(&[ask], options).await?.remove(0);
        let mut counts: Vec<i32> = batches(&fetched.batches)
            .map(|batch| batch.expect("as it was written").header.record_count)
            .collect();
        assert_eq!(counts.iter().sum::<i32>(), 300);
        counts.pop();
        assert!(counts.iter().all(|count| *count == counts[0]), "all are full: {counts:?}");
        log.close()
    });
    outcome.expect("no error");
}

/// Memory for less than one batch: what is open must leave, or everybody would wait for a linger that
/// never ends.
#[test]
fn memory_for_less_than_a_batch_is_enough() {
    for together in [false, true] {
        run(async {
            let disk = SimDisk::new(1);
            let log = open(&disk, Level::Disk)?;
            create(&*log, "t", 1).await?;
            let settings =
                ProducerConfig { buffer_bytes: 300, linger: FOR_EVER, ..ProducerConfig::default() };
            let producer = Producer::open(log.clone(), settings).await?;
            let records: Vec<Record> = (0..200).map(|n| Record::value(format!("{n}"))).collect();
            if together {
                producer.send_all("t", &records).await?;
            } else {
                for record in records {
                    producer.send("t", record).await?;
                }
            }
            producer.flush().await?;
            let wanted: Vec<String> = (0..200).map(|n| n.to_string()).collect();
            assert_eq!(values(log.clone(), &[at("t")]).await?, [wanted]);
            log.close()
        });
    }
}

/// While the disk is full the producer takes in what its memory holds, and no more, counting the
/// batches that are under way; then it goes on.
#[test]
fn a_full_disk_holds_the_sender_back_and_loses_nothing() {
    run(async {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk)?;
        create(&*log, "t", 1).await?;
        let settings =
            ProducerConfig { batch_bytes: 200, buffer_bytes: 1000, ..ProducerConfig::default() };
        let producer = Producer::open(log.clone(), settings).await?;
        let is_t = |path: &Path| path.to_string_lossy().contains("/t-0/");
        disk.fail_on(Call::Write, Failure::NoSpace, 4, is_t);
        let records: Vec<Record> = (0..1000).map(|n| Record::value(format!("{n}"))).collect();
        let mut sending = Box::pin(producer.send_all("t", &records));
        for _ in 0..10 {
            assert!(futures::poll!(&mut sending).is_pending(), "there is no room for all of it");
        }
        assert!(values(log.clone(), &[at("t")]).await?[0].is_empty(), "the disk is full");
        sending.await?.await?;
        let wanted: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert_eq!(values(log.clone(), &[at("t")]).await?, [wanted]);
        log.close()
    });
}

/// A failed producer says so to everybody, also to those who send together; an unknown topic is named.
#[test]
fn errors_reach_those_who_send_together() {
    run(async {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk)?;
        create(&*log, "t", 1).await?;
        let settings = ProducerConfig { batch_bytes: 90, ..ProducerConfig::default() };
        let producer = Producer::open(log.clone(), settings).await?;
        let records = numbered(0..20);
        let told = producer.send_all("nowhere", &records).await.err();
        assert!(matches!(told, Some(Error::Unknown { .. })), "{told:?}");
        producer.send_all("t", &records).await?.await?;
        log.delete_topic("t").await?;
        let told = match producer.send_all("t", &records).await {
            Ok(sent) => sent.await.err(),
            Err(e) => Some(e),
        };
        assert!(told.is_some(), "the topic is gone");
        assert!(producer.send_all("t", &records).await.is_err(), "a failed producer stays so");
        assert!(producer.flush().await.is_err());
        log.close()
    });
}

/// Borrowed records are those that `poll` gives: plain and compressed, keyed and not, with headers,
/// beside transactions that were aborted, from the middle of a batch too; and so are the positions.
#[test]
fn borrowed_records_are_the_same_records() {
    run(async {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Os)?;
        create(&*log, "t", 2).await?;
        let codecs = [
            Compression::None,
            #[cfg(feature = "lz4")]
            Compression::Lz4,
            #[cfg(feature = "zstd")]
            Compression::Zstd,
        ];
        for (n, compression) in codecs.into_iter().enumerate() {
            let settings =
                ProducerConfig { compression, batch_bytes: 400, ..ProducerConfig::default() };
            let producer = Producer::open(log.clone(), settings.clone()).await?;
            let mut records = numbered(100 * n..100 * n + 60);
            records.push(Record::tombstone("key 1"));
            records.push(Record::value("").key(""));
            producer.send_all("t", &records).await?.await?;
            let mut transaction = TransactionalProducer::open(log.clone(), "tx", settings).await?;
            for commit in [false, true] {
                transaction.begin().await?;
                for record in numbered(0..5) {
                    transaction.send("t", record).await?;
                }
                transaction.flush().await?;
                if commit { transaction.commit().await? } else { transaction.abort().await? }
            }
        }
        log.init_producer(Some("tx"), Duration::from_secs(1)).await?;
        for from in [0, 1, 7, 20, 33] {
            let settings = ConsumerConfig { fetch_bytes: 900, ..ConsumerConfig::default() };
            let mut owning = Consumer::open(log.clone(), settings.clone());
            let mut borrowing = Consumer::open(log.clone(), settings);
            for consumer in [&mut owning, &mut borrowing] {
                consumer.assign(&partitions("t", 2)).await?;
                consumer.seek(&at("t"), from)?;
            }
            let mut count = 0;
            loop {
                let owned = owning.poll(Duration::ZERO).await?;
                let polled = borrowing.poll_borrowed(Duration::ZERO).await?;
                let borrowed: Vec<_> = polled
                    .partitions()
                    .flat_map(|part| part.records().map(|record| (part.at().clone(), record)))
                    .collect();
                assert_eq!(polled.records().count(), borrowed.len());
                assert_eq!(owned.len(), borrowed.len());
                for (owned, (partition, record)) in owned.iter().zip(&borrowed) {
                    assert_eq!(owned.at, *partition);
                    assert_eq!(owned.offset, record.offset);
                    assert_eq!(owned.timestamp, record.timestamp);
                    assert_eq!(owned.key.as_deref(), record.key);
                    assert_eq!(owned.value.as_deref(), record.value);
                    let headers = owned.headers.iter();
                    let headers = headers.map(|h| (h.key.as_bytes(), h.value.as_deref()));
                    assert!(headers.eq(record.headers.iter()));
                }
                for partition in partitions("t", 2) {
                    assert_eq!(owning.position(&partition), borrowing.position(&partition));
                }
                count += owned.len();
                if owned.is_empty() {
                    assert!(polled.is_empty());
                    break;
                }
            }
            assert!(count > 20, "from {from}: {count}");
        }
        log.close()
    });
}

/// A batch that was let go of gives its memory to the next one, which has nothing of it in it; one that
/// somebody holds is left alone.
#[test]
fn memory_that_is_used_again_leaves_no_trace() {
    let batch = |builder: &mut BatchBuilder, len: usize, count: usize| {
        for n in 0..count {
            let value = vec![(n + len) as u8; len];
            builder.push(1000 + n as i64, Some(b"key"), Some(&value), &[]).expect("small");
        }
        builder.finish(ProducerIdentity::NONE, -1, false).expect("no codec")
    };
    let mut again = BatchBuilder::new(Compression::None, 4000);
    for (len, count) in [(500, 60), (3, 2), (90_000, 1), (0, 400), (1, 1), (700, 30)] {
        let fresh = batch(&mut BatchBuilder::new(Compression::None, 4000), len, count);
        let reused = batch(&mut again, len, count);
        assert_eq!(fresh, reused, "{count} of {len} bytes");
        let held = reused.clone();
        again.reuse(reused);
        assert_eq!(batch(&mut again, 40, 40).len(), batch(&mut again, 40, 40).len());
        assert_eq!(fresh, held, "whoever holds a batch keeps it");
        let pointer = held.as_ptr();
        again = BatchBuilder::new(Compression::None, 4000);
        again.reuse(held);
        let next = batch(&mut again, 1, 1);
        assert_eq!(next.as_ptr(), pointer, "nobody else held it");
        again.reuse(next);
    }
}

/// The story: two hundred kilobytes of small records wait in the open batch when one of 900 KiB comes.
/// Together they would be more than the topic takes in one batch, and the log would refuse small and
/// large alike; each fits. So the batch in the making leaves without the large one.
#[test]
fn a_large_record_behind_small_ones_begins_a_batch_of_its_own() {
    let sizes = |small: usize, large: usize| {
        let small = (0..small).map(|n| Record::value(format!("small {n:>94}")));
        let mut records: Vec<Record> = small.collect();
        records.push(Record::value(vec![b'x'; large]));
        records.extend((0..3).map(|n| Record::value(format!("after {n}"))));
        records
    };
    // The topic's limit beside the producer's: far above, and below.
    let limits =
        [(1 << 20, 256 << 10, sizes(2000, 900 << 10)), (4096, 256 << 10, sizes(500, 3000))];
    for (max_message_bytes, batch_bytes, records) in limits {
        run(async {
            let disk = SimDisk::new(7);
            let log = open(&disk, Level::Os)?;
            for name in ["single", "together", "transaction"] {
                let config = TopicConfig { max_message_bytes, ..TopicConfig::default() };
                let topic = NewTopic { name: name.to_owned(), partitions: 1, config };
                log.create_topic(&topic).await?;
            }
            let settings =
                ProducerConfig { batch_bytes, linger: FOR_EVER, ..ProducerConfig::default() };
            let producer = Producer::open(log.clone(), settings.clone()).await?;
            let mut sent = Vec::new();
            for record in &records {
                sent.push(producer.send("single", record).await?);
            }
            let together = producer.send_all("together", &records).await?;
            producer.flush().await?;
            together.await?;
            for (n, sent) in sent.into_iter().enumerate() {
                assert_eq!(sent.await?, n as i64, "each receipt is that of its record");
            }
            let mut transaction = TransactionalProducer::open(log.clone(), "id", settings).await?;
            transaction.begin().await?;
            for record in &records {
                transaction.send("transaction", record.clone()).await?;
            }
            transaction.commit().await?;
            for name in ["single", "together", "transaction"] {
                let found = values(log.clone(), &partitions(name, 1)).await?;
                assert_eq!(found[0].len(), records.len(), "{name}: each once");
                let same = found[0]
                    .iter()
                    .zip(&records)
                    .all(|(found, sent)| Some(found.as_bytes()) == sent.value.as_deref());
                assert!(same, "{name}: in their order");
            }
            Ok(())
        });
    }
}

/// A record that no batch can hold closes the open one before that is known. The producer once
/// believed then that somebody was sending that batch, and nobody ever was.
#[test]
fn a_record_that_no_batch_holds_keeps_none_back() {
    let header = Header { key: "h".into(), value: Some(vec![0; 1 << 20].into()) };
    // 2 GiB and a bit, of one mebibyte of memory.
    let headers = vec![header; 2049];
    for together in [false, true] {
        run(async {
            let disk = SimDisk::new(1);
            let log = open(&disk, Level::Disk)?;
            create(&*log, "t", 1).await?;
            let settings = ProducerConfig { linger: FOR_EVER, ..ProducerConfig::default() };
            let producer = Producer::open(log.clone(), settings).await?;
            let sent = producer.send("t", Record::value("small")).await?;
            let huge = Record { headers: headers.clone(), ..Record::value("huge") };
            let refused = match together {
                false => producer.send("t", &huge).await.map(drop),
                true => producer.send_all("t", std::slice::from_ref(&huge)).await.map(drop),
            };
            assert!(refused.is_err(), "no batch has 2 GiB");
            let long = std::pin::pin!(log.sleep(Duration::from_secs(30)));
            let Either::Left((stored, _)) = select(sent.into_future(), long).await else {
                panic!("nobody sends what was there before");
            };
            assert_eq!(stored?, 0);
            producer.send("t", Record::value("after")).await?;
            producer.flush().await?;
            assert_eq!(values(log.clone(), &[at("t")]).await?, [["small", "after"]]);
            log.close()
        });
    }
}

/// A log forgets a producer that was idle for a day, and takes any sequence of it next. Had the second
/// batch behind such a pause been under way when the first was refused for want of room, it would have
/// been that one, and the first could never follow.
#[test]
fn a_producer_that_was_forgotten_goes_on_behind_a_full_disk() {
    run(async {
        let disk = SimDisk::new(1);
        let clock = Clock::fixed(1_790_000_000_000);
        let (runtime, entropy) = (Runtime::current(), Entropy::System);
        let config = config(Level::Disk);
        let log =
            open_simulated(&disk, Path::new("/data"), config, runtime, clock.clone(), entropy)?;
        create(&*log, "t", 1).await?;
        let settings = ProducerConfig { batch_bytes: 200, ..ProducerConfig::default() };
        let producer = Producer::open(log.clone(), settings).await?;
        producer.send("t", Record::value("before")).await?.await?;
        for _ in 0..110 {
            clock.advance(864_000);
            log.tick().await?;
        }
        let is_t = |path: &Path| path.to_string_lossy().contains("/t-0/");
        disk.fail_on(Call::Write, Failure::NoSpace, 2, is_t);
        let values_sent: Vec<String> = (0..40).map(|n| format!("{n:030}")).collect();
        let records: Vec<Record> = values_sent.iter().cloned().map(Record::value).collect();
        producer.send_all("t", &records).await?.await?;
        let mut wanted = vec!["before".to_owned()];
        wanted.extend(values_sent);
        assert_eq!(values(log.clone(), &[at("t")]).await?, [wanted]);
        log.close()
    });
}

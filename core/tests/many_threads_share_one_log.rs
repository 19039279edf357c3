//! The engine as it runs: threads, a tokio runtime, real files. Nothing here looks at a clock; what
//! must happen is waited for.
#![expect(clippy::disallowed_methods, reason = "writers and readers are tasks here")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{at, batch, batch_of, config};
use thalweg_core::client::consumer::{Consumer, ConsumerConfig};
use thalweg_core::client::log::*;
use thalweg_core::client::producer::Producer;
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::disk::real::RealDisk;
use thalweg_core::disk::sim::{Call, Failure, SimDisk};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_real, open_simulated};
use thalweg_core::ids::{ProducerIdentity, TopicPartition};
use thalweg_core::record::Record;
use thalweg_core::{Error, Result};

/// Longer than any test: whoever waits for so long was not woken.
const FOR_EVER: Duration = Duration::from_secs(600);

/// With threads, on a disk that fails where it is told to.
fn open_on(disk: &SimDisk, dir: &Path, level: Level) -> Result<Arc<Engine<SimDisk>>> {
    let (runtime, clock, entropy) = (Runtime::current(), Clock::System, Entropy::System);
    open_simulated(disk, dir, config(level), runtime, clock, entropy)
}

async fn open(dir: &Path, level: Level) -> Result<Arc<Engine<RealDisk>>> {
    open_real(dir, config(level)).await
}

async fn create(log: &dyn Log, name: &str, partitions: u32, segment_bytes: u32) {
    let config = TopicConfig { segment_bytes, ..TopicConfig::default() };
    let topic = NewTopic { name: name.to_owned(), partitions, config };
    log.create_topic(&topic).await.expect("created");
}

/// Everything a reader of committed records sees in these partitions.
async fn read_all(log: Arc<dyn Log>, partitions: &[TopicPartition]) -> Vec<String> {
    let mut consumer = Consumer::open(log, ConsumerConfig::default());
    consumer.assign(partitions).await.expect("assigned");
    let mut values = Vec::new();
    loop {
        let records = consumer.poll(Duration::ZERO).await.expect("polled");
        if records.is_empty() {
            return values;
        }
        let value = |r: &thalweg_core::client::consumer::ConsumerRecord| {
            String::from_utf8_lossy(r.value.as_deref().unwrap_or_default()).into_owned()
        };
        values.extend(records.iter().map(value));
    }
}

fn multi() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn single() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Sixty-four writers over four partitions with tiny segments, so that syncs, rolls and appends meet
/// in every order; half of the time the log is dropped without a stop, half of the time closed.
#[test]
fn what_many_writers_were_told_is_there_after_the_next_open() {
    for clean in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        multi().block_on(async {
            let log = open(folder.path(), Level::Disk).await.expect("opens");
            create(&*log, "t", 4, 2000).await;
            let writers: Vec<_> = (0..64)
                .map(|writer| {
                    let log = Arc::clone(&log);
                    tokio::spawn(async move {
                        let partition = TopicPartition::new("t", writer % 4);
                        for n in 0..12 {
                            let value = format!("{writer}/{n}");
                            let bytes = batch(&[&value]);
                            log.append(&partition, bytes, None, Ack::Level).await.expect("told");
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.await.expect("no panic");
            }
            if clean {
                log.close().expect("closes");
            }
            drop(log);
            let log = open(folder.path(), Level::Disk).await.expect("opens again");
            assert_eq!(log.report().clean, clean);
            let partitions: Vec<_> = (0..4).map(|n| TopicPartition::new("t", n)).collect();
            let found = read_all(log, &partitions).await;
            assert_eq!(found.len(), 64 * 12);
            assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 64 * 12, "each once");
        });
    }
}

/// Transactions over two topics from eight producers at once, some aborted, while a reader looks on.
#[test]
fn concurrent_transactions_are_seen_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    multi().block_on(async {
        let log = open(folder.path(), Level::Disk).await.expect("opens");
        create(&*log, "a", 1, 3000).await;
        create(&*log, "b", 1, 3000).await;
        let producers: Vec<_> = (0..8)
            .map(|who| {
                let log: Arc<dyn Log> = log.clone();
                tokio::spawn(async move {
                    let id = format!("tx {who}");
                    let settings = ProducerConfig::default();
                    let mut producer = TransactionalProducer::open(log, &id, settings).await?;
                    for n in 0..10 {
                        producer.begin().await?;
                        producer.send("a", Record::value(format!("{who}/{n}"))).await?;
                        producer.send("b", Record::value(format!("{who}/{n}"))).await?;
                        if n % 3 == 2 {
                            producer.flush().await?;
                            producer.abort().await?;
                        } else {
                            producer.commit().await?;
                        }
                    }
                    Result::<()>::Ok(())
                })
            })
            .collect();
        for producer in producers {
            producer.await.expect("no panic").expect("all committed");
        }
        let wanted: BTreeSet<String> = (0..8)
            .flat_map(|who| (0..10).filter(|n| n % 3 != 2).map(move |n| format!("{who}/{n}")))
            .collect();
        for who in 0..8 {
            // Whoever takes over finishes what is under way.
            log.init_producer(Some(&format!("tx {who}")), Duration::from_secs(1))
                .await
                .expect("done");
        }
        for topic in ["a", "b"] {
            let found = read_all(log.clone(), &[at(topic)]).await;
            assert_eq!(found.len(), wanted.len());
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
            let offsets = log.offsets(&at(topic)).await.expect("there");
            assert_eq!(offsets.last_stable, offsets.end);
        }
        log.check_coordinators().expect("equal");
        log.close().expect("closes");
    });
}

/// A fetch that waits is woken by the append that brings something, at either level; a committed
/// record wakes the reader when its marker does. (Not woken, it would come back empty.)
#[test]
fn a_waiting_fetch_is_woken_by_the_append() {
    for level in [Level::Os, Level::Disk] {
        let folder = tempfile::tempdir().expect("a folder");
        multi().block_on(async {
            let log = open(folder.path(), level).await.expect("opens");
            create(&*log, "t", 2, 1 << 20).await;
            let wait = |offset| {
                let log = log.clone();
                tokio::spawn(async move {
                    let from: Vec<_> = (0..2)
                        .map(|n| FetchFrom {
                            at: TopicPartition::new("t", n),
                            offset,
                            max_bytes: 1 << 20,
                        })
                        .collect();
                    let options = FetchOptions {
                        isolation: Isolation::ReadCommitted,
                        max_wait: FOR_EVER,
                        max_bytes: 0,
                    };
                    log.fetch(&from, options).await
                })
            };
            for round in 0..20 {
                let reader = wait(round);
                tokio::task::yield_now().await;
                for n in 0..2 {
                    let partition = TopicPartition::new("t", n);
                    log.append(&partition, batch(&["x"]), None, Ack::Level).await.expect("told");
                }
                let fetched = reader.await.expect("no panic").expect("fetched");
                assert!(fetched.iter().any(|f| !f.batches.is_empty()), "{level:?} {round}");
            }
            let reader = wait(20);
            let settings = ProducerConfig::default();
            let mut producer =
                TransactionalProducer::open(log.clone(), "tx", settings).await.expect("opens");
            producer.begin().await.expect("begins");
            producer.send("t", Record::value("committed")).await.expect("sent");
            producer.commit().await.expect("committed");
            let fetched = reader.await.expect("no panic").expect("fetched");
            assert!(fetched.iter().any(|f| !f.batches.is_empty()), "{level:?}: the marker wakes");

            // Stopping wakes too, with the reason.
            let end = log.offsets(&at("t")).await.expect("there").end;
            let reader = tokio::spawn({
                let log = log.clone();
                async move {
                    let from = FetchFrom { at: at("t"), offset: end, max_bytes: 1 };
                    let isolation = Isolation::ReadUncommitted;
                    let options = FetchOptions { isolation, max_wait: FOR_EVER, max_bytes: 0 };
                    log.fetch(&[from], options).await
                }
            });
            tokio::task::yield_now().await;
            log.close().expect("closes");
            let told = reader.await.expect("no panic").expect_err("closed");
            assert!(matches!(told, Error::Stopped { .. }), "{told}");
        });
    }
}

/// A reader that waits, and a writer that waits, on a topic that somebody deletes: both are told, and
/// the log goes on. Once, the sync of a folder that was just removed stopped everything.
#[test]
fn deleting_a_topic_under_readers_and_writers_stops_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    multi().block_on(async {
        let log = open(folder.path(), Level::Disk).await.expect("opens");
        create(&*log, "other", 1, 1 << 20).await;
        for round in 0..12 {
            create(&*log, "t", 2, 600).await;
            let reader = tokio::spawn({
                let log = log.clone();
                async move {
                    let mut offset = 0;
                    loop {
                        let from = FetchFrom { at: at("t"), offset, max_bytes: 1 };
                        let isolation = Isolation::ReadCommitted;
                        let options = FetchOptions { isolation, max_wait: FOR_EVER, max_bytes: 0 };
                        match log.fetch(&[from], options).await {
                            Ok(fetched) => offset = fetched[0].next_offset,
                            Err(e) => return e,
                        }
                    }
                }
            });
            let writers: Vec<_> = (0..8)
                .map(|n| {
                    let log = log.clone();
                    tokio::spawn(async move {
                        let partition = TopicPartition::new("t", n % 2);
                        loop {
                            let appended = log
                                .append(&partition, batch(&["some value"]), None, Ack::Level)
                                .await;
                            if let Err(e) = appended {
                                return e;
                            }
                        }
                    })
                })
                .collect();
            log.append(&at("other"), batch(&["x"]), None, Ack::Level).await.expect("goes on");
            log.delete_topic("t").await.unwrap_or_else(|e| panic!("round {round}: {e}"));
            let told = reader.await.expect("no panic");
            assert!(matches!(told, Error::Unknown { .. }), "round {round}: {told}");
            for writer in writers {
                let told = writer.await.expect("no panic");
                assert!(matches!(told, Error::Unknown { .. }), "round {round}: {told}");
            }
            log.append(&at("other"), batch(&["x"]), None, Ack::Level).await.expect("goes on");
        }
        log.close().expect("closes");
        drop(log);
        let log = open(folder.path(), Level::Disk).await.expect("opens");
        assert_eq!(log.report().strangers, Vec::<std::path::PathBuf>::new());
        assert_eq!(read_all(log, &[at("other")]).await.len(), 24);
    });
}

/// Writers are at it when the log is closed: each append was refused, or is there.
#[test]
fn closing_under_writers_keeps_what_they_were_told() {
    for level in [Level::Os, Level::Disk] {
        for _ in 0..3 {
            let folder = tempfile::tempdir().expect("a folder");
            multi().block_on(async {
                let log = open(folder.path(), level).await.expect("opens");
                create(&*log, "t", 3, 700).await;
                let writers: Vec<_> = (0..6)
                    .map(|writer| {
                        let log = log.clone();
                        tokio::spawn(async move {
                            let partition = TopicPartition::new("t", writer % 3);
                            let mut told = Vec::new();
                            for n in 0..500 {
                                let value = format!("{writer}/{n}");
                                let bytes = batch(&[&value]);
                                match log.append(&partition, bytes, None, Ack::Level).await {
                                    Ok(_) => told.push(value),
                                    Err(e) => {
                                        assert!(matches!(e, Error::Stopped { .. }), "{e}");
                                        break;
                                    }
                                }
                            }
                            told
                        })
                    })
                    .collect();
                for _ in 0..20 {
                    let bytes = batch(&["mine"]);
                    log.append(&at("t"), bytes, None, Ack::Level).await.expect("told");
                }
                log.close().expect("closes");
                let mut wanted = BTreeSet::new();
                for writer in writers {
                    wanted.extend(writer.await.expect("no panic"));
                }
                drop(log);
                let log = open(folder.path(), level).await.expect("opens");
                assert!(log.report().clean);
                let partitions: Vec<_> = (0..3).map(|n| TopicPartition::new("t", n)).collect();
                let found: BTreeSet<String> =
                    read_all(log, &partitions).await.into_iter().collect();
                let lost: Vec<_> = wanted.difference(&found).collect();
                assert!(lost.is_empty(), "{level:?}: {lost:?}");
            });
        }
    }
}

/// A log is dropped while its background still has something to finish, and opened again at once: the
/// background of the first must not write into the second's files.
#[test]
fn a_dropped_log_writes_nothing_behind_its_successors_back() {
    for seed in 0..20 {
        single().block_on(async {
            let disk = SimDisk::new(seed);
            let dir = Path::new("/data");
            let mut values = Vec::new();
            for life in 0..4 {
                let log = open_on(&disk, dir, Level::Disk).expect("opens");
                if life == 0 {
                    create(&*log, "t", 1, 400).await;
                }
                let settings = ProducerConfig::default();
                let mut producer =
                    TransactionalProducer::open(log.clone(), "tx", settings).await.expect("opens");
                for n in 0..2 {
                    producer.begin().await.expect("begins");
                    let value = format!("{life}/{n}");
                    producer.send("t", Record::value(value.clone())).await.expect("sent");
                    producer.commit().await.expect("committed");
                    values.push(value);
                }
                log.check_coordinators().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                // Here it goes. The last markers' sync and Complete are still to come, on this very
                // runtime, while the next one opens.
            }
            let log = open_on(&disk, dir, Level::Disk).expect("opens again");
            log.check_coordinators().expect("equal");
            assert_eq!(log.report().cut_bytes, 0, "seed {seed}: nothing was written over");
            assert_eq!(read_all(log, &[at("t")]).await, values, "seed {seed}");
        });
    }
}

/// In one process, and from another one, a folder has one opener; the refused one learns which.
#[test]
fn a_second_opener_is_refused_and_told_who_has_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    if let Some(dir) = std::env::var_os("THALWEG_TEST_SECOND_OPENER") {
        // The other process.
        let error = single().block_on(open(Path::new(&dir), Level::Disk)).err();
        print_answer(&error.map_or_else(|| "opened".to_owned(), |e| e.to_string()));
        return;
    }
    let runtime = multi();
    let log = runtime.block_on(open(folder.path(), Level::Disk)).expect("opens");
    let own = std::process::id();
    for _ in 0..2 {
        match runtime.block_on(open(folder.path(), Level::Disk)) {
            Err(Error::InUse { path, by }) => {
                assert_eq!((path.as_path(), by), (folder.path(), format!(" by process {own}")));
            }
            other => panic!("{:?}", other.map(|log| log.report().clone())),
        }
    }
    let ask = || {
        let program = std::env::current_exe().expect("this test");
        let output = std::process::Command::new(program)
            .args([
                "--exact",
                "a_second_opener_is_refused_and_told_who_has_the_folder",
                "--nocapture",
            ])
            .env("THALWEG_TEST_SECOND_OPENER", folder.path())
            .output()
            .expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let answer = ask();
    assert!(answer.contains(&format!("is in use by process {own}: close it there")), "{answer}");
    runtime
        .block_on(async { log.append(&at("x"), batch(&["x"]), None, Ack::Level).await })
        .expect_err("no such topic, but it runs");
    log.close().expect("closes");
    drop(log);
    let answer = ask();
    assert!(answer.contains("opened"), "{answer}");
}

#[expect(clippy::print_stdout, reason = "the answer of the other process")]
fn print_answer(answer: &str) {
    println!("{answer}");
}

/// The disk is full for a while: batches of a producer that were under way behind the refused one are
/// sent again with it. They arrive in order and once.
#[test]
fn a_producer_keeps_its_order_over_a_full_disk() {
    single().block_on(async {
        for skip in 0..6 {
            let disk = SimDisk::new(skip);
            let log = open_on(&disk, Path::new("/data"), Level::Disk).expect("opens");
            create(&*log, "t", 1, 1 << 20).await;
            create(&*log, "u", 1, 1 << 20).await;
            let settings = ProducerConfig { batch_bytes: 90, ..ProducerConfig::default() };
            let producer = Producer::open(log.clone(), settings).await.expect("opens");
            let mut sent = Vec::new();
            for n in 0..skip {
                sent.push(
                    producer.send("t", Record::value(format!("{n}"))).await.expect("taken in"),
                );
            }
            producer.flush().await.expect("sent");
            let is_t = |path: &Path| {
                path.to_string_lossy().contains("/t-0/")
                    && path.extension().is_some_and(|e| e == "log")
            };
            disk.fail_on(Call::Write, Failure::NoSpace, 3, is_t);
            for n in skip..30 {
                let topic = if n % 5 == 4 { "u" } else { "t" };
                sent.push(
                    producer.send(topic, Record::value(format!("{n}"))).await.expect("taken in"),
                );
            }
            producer.flush().await.expect("sent when there was room");
            for one in sent {
                one.await.expect("told its offset");
            }
            let wanted: Vec<String> =
                (0..30).filter(|n| *n < skip || n % 5 != 4).map(|n| n.to_string()).collect();
            assert_eq!(read_all(log.clone(), &[at("t")]).await, wanted, "skip {skip}");
        }
    });
}

/// Whoever gives up waiting for a flush loses nothing: what was under way is answered all the same.
#[test]
fn a_flush_that_is_given_up_loses_no_record() {
    single().block_on(async {
        let disk = SimDisk::new(1);
        let log = open_on(&disk, Path::new("/data"), Level::Disk).expect("opens");
        create(&*log, "t", 1, 1 << 20).await;
        let settings =
            ProducerConfig { batch_bytes: 90, linger: FOR_EVER, ..ProducerConfig::default() };
        let producer = Producer::open(log.clone(), settings).await.expect("opens");
        let mut sent = Vec::new();
        for n in 0..20 {
            sent.push(producer.send("t", Record::value(format!("{n}"))).await.expect("taken in"));
            let mut flush = Box::pin(producer.flush());
            // Begun, and let go of.
            let _ = futures::poll!(&mut flush);
            drop(flush);
        }
        producer.flush().await.expect("sent");
        for (n, one) in (0..).zip(sent) {
            assert_eq!(one.await.expect("told its offset"), n);
        }
        assert_eq!(read_all(log, &[at("t")]).await.len(), 20);
    });
}

/// Records are sent whether or not anybody keeps the producer until then.
#[test]
fn records_of_a_producer_that_was_let_go_of_are_sent() {
    single().block_on(async {
        let disk = SimDisk::new(1);
        let log = open_on(&disk, Path::new("/data"), Level::Disk).expect("opens");
        create(&*log, "t", 1, 1 << 20).await;
        let producer = Producer::open(log.clone(), ProducerConfig::default()).await.expect("opens");
        let sent = producer.send("t", Record::value("x")).await.expect("taken in");
        drop(producer);
        assert_eq!(sent.await.expect("told its offset"), 0);
    });
}

/// A commit that is given up half way, for a timeout say, and called again: the batch that it was just
/// about to append is in the transaction.
#[test]
fn a_commit_that_is_given_up_and_called_again_holds_every_record() {
    single().block_on(async {
        let disk = SimDisk::new(1);
        let log = open_on(&disk, Path::new("/data"), Level::Disk).expect("opens");
        create(&*log, "t", 1, 1 << 20).await;
        let settings = ProducerConfig::default();
        let mut producer =
            TransactionalProducer::open(log.clone(), "tx", settings).await.expect("opens");
        let mut wanted = Vec::new();
        for n in 0..12 {
            producer.begin().await.expect("begins");
            let value = format!("{n}");
            producer.send("t", Record::value(value.clone())).await.expect("sent");
            wanted.push(value);
            for _ in 0..n % 4 {
                // The last transaction's markers are under way, so the first append waits.
                let mut commit = Box::pin(producer.commit());
                if futures::poll!(&mut commit).is_ready() {
                    break;
                }
                drop(commit);
            }
            if producer.in_transaction() {
                producer.commit().await.expect("committed");
            }
        }
        log.init_producer(Some("tx"), Duration::from_secs(1)).await.expect("finished");
        assert_eq!(read_all(log, &[at("t")]).await, wanted);
    });
}

/// In line a producer works too: what it would do later it does at once.
#[test]
fn a_producer_works_in_line() {
    let disk = SimDisk::new(1);
    let log = common::open(&disk, Level::Disk, 1).expect("opens");
    common::create(&*log, "t", 1, 1 << 20).expect("created");
    common::now(async {
        let settings = ProducerConfig { batch_bytes: 90, ..ProducerConfig::default() };
        let producer = Producer::open(log.clone(), settings).await?;
        for n in 0..20 {
            let sent = producer.send("t", Record::value(format!("{n}"))).await?;
            assert_eq!(sent.await?, n);
        }
        producer.flush().await
    })
    .expect("sent");
    assert_eq!(common::committed(&*log, "t").len(), 20);
}

/// Producers of the same id fence each other while both are at it, in every order of their steps: one
/// of them wins each time, and nothing stays open.
#[test]
fn two_instances_of_one_id_leave_nothing_open() {
    let folder = tempfile::tempdir().expect("a folder");
    multi().block_on(async {
        let log = open(folder.path(), Level::Os).await.expect("opens");
        create(&*log, "t", 1, 4000).await;
        let instances: Vec<_> = (0..3)
            .map(|who| {
                let log = log.clone();
                tokio::spawn(async move {
                    let nobody = Membership::simple("g");
                    for n in 0..60 {
                        let Ok(mut producer) =
                            log.init_producer(Some("tx"), Duration::from_secs(60)).await
                        else {
                            continue;
                        };
                        for round in 0..2 {
                            let value = format!("{who}/{n}/{round}");
                            let bytes = batch_of(producer, 0, true, &[&value]);
                            let at = at("t");
                            let commit = OffsetCommit {
                                at: at.clone(),
                                offset: 0,
                                leader_epoch: -1,
                                metadata: value.clone(),
                            };
                            let written = async {
                                log.append(&at, bytes, Some("tx"), Ack::Written).await?;
                                log.commit_offsets_in("tx", producer, &nobody, &[commit]).await?;
                                log.end_transaction("tx", producer, TransactionEnd::Commit).await
                            };
                            match written.await {
                                Ok(next) => producer = next,
                                Err(_) => break,
                            }
                        }
                    }
                })
            })
            .collect();
        for instance in instances {
            instance.await.expect("no panic");
        }
        let _: ProducerIdentity =
            log.init_producer(Some("tx"), Duration::from_secs(1)).await.expect("the last one");
        for topic in ["t", "__consumer_offsets"] {
            let offsets = log.offsets(&at(topic)).await.expect("there");
            assert_eq!(offsets.last_stable, offsets.end, "{topic}: something stays open");
        }
        let stored = log.committed_offsets("g", &[at("t")]).await.expect("nothing pends");
        let last = read_all(log.clone(), &[at("t")]).await.pop();
        assert_eq!(stored[0].as_ref().map(|c| c.metadata.clone()), last);
        log.check_coordinators().expect("equal");
    });
}

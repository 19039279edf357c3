//! Crash catalogue 8: before the first client everything under way is brought to an end, and nothing
//! afterwards leaves a last stable offset behind for good.

mod common;

use std::time::Duration;

use common::*;
use thalweg_core::Error;
use thalweg_core::batch::{BatchHeader, Marker};
use thalweg_core::client::log::*;
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::config::TopicConfig;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, write_all_at};
use thalweg_core::engine::clock::Clock;
use thalweg_core::ids::{ProducerIdentity, Uuid};
use thalweg_core::log::{Opening, Origin, PartitionLog};
use thalweg_core::partition::Partition;
use thalweg_core::record::Record;

/// The coordinator's record of an open transaction is lost, its records are not: it is aborted by
/// whoever opens the log, since nobody else will.
#[test]
fn a_transaction_that_no_coordinator_knows_is_aborted_at_open() {
    let disk = SimDisk::new(2);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    let log = reopen_cleanly(&disk, log, Level::Os);
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "orphan").expect("written");
    append(&*log, &at("t"), "other").expect("acknowledged");
    disk.drop_unsynced(&segment("__transaction_state", 0, "log")).expect("there");
    let (_, log) = reopen(&disk, Crash::Process, Level::Os);
    assert_eq!(log.report().aborted, 1);
    assert_decided(&*log, "t", "orphan");
    assert_eq!(committed(&*log, "t"), ["other"]);
}

/// The first batch of such a one cannot be read: whose it was is not known, and nothing is decided. It
/// refused the whole log once: fuzzing found it.
#[test]
fn an_orphan_that_cannot_be_read_keeps_nobody_else_from_opening() {
    let disk = SimDisk::new(2);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    for topic in ["t", "u"] {
        create(&*log, topic, 1, 250).expect("created");
    }
    let log = reopen_cleanly(&disk, log, Level::Disk);
    let producer = init(&*log, "tx");
    let state = segment("__transaction_state", 0, "log");
    let before = bytes_of(&disk, &state);
    append_in(&*log, "tx", producer, &at("t"), 0, "orphan").expect("written");
    for n in 0..8 {
        append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
    }
    append(&*log, &at("u"), "other").expect("acknowledged");
    log.close().expect("closes");
    drop(log);
    // The coordinator's folder is one from before, and the oldest segment rots.
    overwrite(&disk, &state, &before);
    disk.remove(&folder("__transaction_state").join("flushed-offset")).expect("removed");
    disk.remove(&std::path::Path::new(DIR).join("log/.kafka_cleanshutdown")).expect("removed");
    disk.flip_bit(&segment("t", 0, "log"), 16, 0).expect("flipped");
    let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert_eq!((log.report().aborted, &log.report().damaged), (0, &Vec::new()));
    assert_eq!(committed(&*log, "u"), ["other"]);
    let offsets = now(log.offsets(&at("t"))).expect("there");
    assert_eq!((offsets.start, offsets.last_stable), (0, 0));
    // The same producer goes on, and not there: its next marker would decide what is open.
    let producer = init(&*log, "tx");
    let e = append_in(&*log, "tx", producer, &at("t"), 0, "next").expect_err("undecided");
    assert!(matches!(e, Error::Invalid { .. }) && e.to_string().contains("offset 0"), "{e}");
    append_in(&*log, "tx", producer, &at("u"), 0, "elsewhere").expect("written");
    end(&*log, "tx", producer, TransactionEnd::Commit).expect("committed");
    now(log.tick()).expect("the marker is durable");
    assert_eq!(committed(&*log, "u"), ["other", "elsewhere"]);
    let offsets = now(log.offsets(&at("t"))).expect("there");
    assert_eq!((offsets.start, offsets.last_stable), (0, 0), "and still");
}

/// A broker that was killed between a decision and its markers, with a client from before KIP-890: the
/// markers have the epoch that the data has, which is no sign that they were written.
#[test]
fn a_commit_of_an_older_client_gets_its_markers() {
    for end in [TransactionEnd::Commit, TransactionEnd::Abort] {
        let disk = SimDisk::new(4);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        let producer = init(&*log, "tx");
        append_in(&*log, "tx", producer, &at("t"), 0, "decided").expect("written");
        log.close().expect("closes");
        drop(log);
        rewrite_state(&disk, |value| {
            // State 2 is PrepareCommit, 3 PrepareAbort; the last tagged field is the client's version.
            assert_eq!((value[16], &value[value.len() - 2..]), (1, &[0, 2][..]), "{value:?}");
            value[16] = if end == TransactionEnd::Commit { 2 } else { 3 };
            *value.last_mut().expect("a version") = 1;
        });
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!((log.report().finished, log.report().aborted), (1, 0), "{end:?}");
        let commits = end == TransactionEnd::Commit;
        assert_eq!(committed(&*log, "t"), &["decided"][..usize::from(commits)]);
        assert_decided(&*log, "t", "it got its marker");
    }
}

/// A record of a kind that this version does not know may be the one that owns the transaction: then
/// it is left open rather than an acknowledged commit aborted.
#[test]
fn behind_a_coordinator_that_could_not_be_read_whole_no_transaction_is_an_orphan() {
    let disk = SimDisk::new(2);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    let log = reopen_cleanly(&disk, log, Level::Os);
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "whose?").expect("written");
    drop(log);
    let path = segment("__transaction_state", 0, "log");
    disk.drop_unsynced(&path).expect("there");
    // Key type 7 does not exist yet.
    append_by_hand(&disk, &path, &[0, 7, 0, 1, b'x'], b"future");
    let disk = disk.restart();
    let log = open(&disk, Level::Os, 3).expect("opens");
    assert_eq!(log.report().aborted, 0);
    let offsets = now(log.offsets(&at("t"))).expect("there");
    assert_eq!((offsets.last_stable, offsets.high_watermark), (0, 1));
}

/// Appends a record to a segment file, as another version of the program would have.
fn append_by_hand(disk: &SimDisk, path: &std::path::Path, key: &[u8], value: &[u8]) {
    let file = disk.open(path, Open::Write).expect("there");
    let bytes = bytes_of(disk, path);
    let next = thalweg_core::batch::batches(&bytes)
        .map(|b| b.expect("whole").header.next_offset())
        .last()
        .unwrap_or(0);
    let mut builder =
        thalweg_core::batch::BatchBuilder::new(thalweg_core::config::Compression::None, 256);
    builder.push(NOW, Some(key), Some(value), &[]).expect("small");
    let mut batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("no codec").to_vec();
    thalweg_core::batch::stamp(batch.first_chunk_mut().expect("a header"), next, 0);
    write_all_at(&file, &batch, bytes.len() as u64).expect("written");
    file.sync_data().expect("synced");
}

/// A snapshot that says more than the log holds would be believed once the log has grown past it.
#[test]
fn a_snapshot_above_the_log_end_is_gone_before_the_log_grows() {
    let disk = SimDisk::new(3);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 330).expect("created");
    let log = reopen_cleanly(&disk, log, Level::Os);
    let producer = init(&*log, "tx");
    // An open transaction, and a roll whose snapshot knows of it.
    let fill = |log: &dyn Log, text: &str| {
        (0..4).for_each(|n| {
            append(log, &at("t"), &format!("{text} {n}")).expect("acknowledged");
        });
    };
    append_in(&*log, "tx", producer, &at("t"), 0, "open 0").expect("written");
    fill(&*log, "value");
    let base = *bases(&disk, &folder("t")).last().expect("segments");
    let snapshot = segment("t", base, "snapshot");
    assert!(base > 0 && disk.stat(&snapshot).is_ok());
    // All of it is lost, but not the snapshot; nor does the coordinator know of the transaction.
    drop(log);
    overwrite(&disk, &segment("t", 0, "log"), b"");
    disk.remove(&segment("t", base, "log")).expect("removed");
    disk.remove(&folder("t").join("flushed-offset")).expect("removed");
    disk.drop_unsynced(&segment("__transaction_state", 0, "log")).expect("there");
    let (disk, log) = reopen(&disk, Crash::Process, Level::Os);
    assert!(disk.stat(&snapshot).is_err(), "gone");
    let (disk, log) = {
        drop(log);
        reopen(&disk, Crash::Power, Level::Os)
    };
    assert!(disk.stat(&snapshot).is_err(), "durably");
    // The log grows past its place; the next recovery begins there.
    fill(&*log, "again");
    fill(&*log, "again");
    now(log.tick()).expect("tick");
    let (_, log) = reopen(&disk, Crash::Process, Level::Os);
    assert_eq!(log.report().aborted, 0);
    assert_decided(&*log, "t", "nothing was open");
    assert_eq!(committed(&*log, "t").len(), 8);
}

/// A producer that went away without a word, or forgot its transaction, holds readers up only until
/// its time is up; then it is fenced.
#[test]
fn a_transaction_open_for_too_long_is_aborted_and_its_producer_fenced() {
    let disk = SimDisk::new(1);
    let clock = Clock::fixed(NOW);
    let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "forgotten").expect("written");
    append(&*log, &at("t"), "other").expect("acknowledged");
    clock.advance(60_000);
    now(log.tick()).expect("tick");
    assert_eq!(committed(&*log, "t"), Vec::<String>::new(), "not yet");
    clock.advance(1);
    now(log.tick()).expect("tick");
    assert_eq!(committed(&*log, "t"), ["other"]);
    assert_decided(&*log, "t", "aborted by time");
    let late = append_in(&*log, "tx", producer, &at("t"), 1, "late").expect_err("fenced");
    assert!(late.is_fenced(), "{late}");
    let late = end(&*log, "tx", producer, TransactionEnd::Commit).expect_err("aborted");
    assert!(matches!(late, Error::Abortable { .. }), "{late}");
    let next = end(&*log, "tx", producer, TransactionEnd::Abort).expect("agreed");
    append_in(&*log, "tx", next, &at("t"), 0, "goes on").expect("written");
}

/// The topic is deleted under an open transaction: that must not keep the rest from being decided.
#[test]
fn a_transaction_outlives_a_topic_that_it_wrote_to() {
    for how in [TransactionEnd::Commit, TransactionEnd::Abort] {
        for again in [false, true] {
            let disk = SimDisk::new(1);
            let log = open(&disk, Level::Disk, 1).expect("opens");
            create(&*log, "kept", 1, 1 << 20).expect("created");
            create(&*log, "gone", 1, 1 << 20).expect("created");
            let producer = init(&*log, "tx");
            append_in(&*log, "tx", producer, &at("kept"), 0, "one").expect("written");
            append_in(&*log, "tx", producer, &at("gone"), 0, "one").expect("written");
            now(log.delete_topic("gone")).expect("deleted");
            if again {
                create(&*log, "gone", 1, 1 << 20).expect("created again");
            }
            let next = end(&*log, "tx", producer, how).expect("decided");
            append_in(&*log, "tx", next, &at("kept"), 0, "two").expect("the next one begins");
            let next = end(&*log, "tx", next, TransactionEnd::Commit).expect("decided");
            now(log.init_producer(Some("tx"), Duration::from_secs(1))).expect("finished");
            let wanted: &[&str] =
                if how == TransactionEnd::Commit { &["one", "two"] } else { &["two"] };
            assert_eq!(committed(&*log, "kept"), wanted);
            assert_decided(&*log, "kept", "decided");
            if again {
                assert_eq!(committed(&*log, "gone"), Vec::<String>::new());
                assert_decided(&*log, "gone", "new");
            }
            assert!(next.epoch > producer.epoch);
        }
    }
}

/// The client's own way: commit fails over nothing, the producer goes on.
#[test]
fn a_producer_goes_on_after_a_topic_of_its_transaction_was_deleted() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "kept", 1, 1 << 20).expect("created");
    create(&*log, "gone", 1, 1 << 20).expect("created");
    now(async {
        let config = ProducerConfig::default();
        let mut producer = TransactionalProducer::open(log.clone(), "tx", config).await?;
        producer.begin().await?;
        producer.send("kept", Record::value("one")).await?;
        producer.send("gone", Record::value("one")).await?;
        log.delete_topic("gone").await?;
        let refused = producer.commit().await.expect_err("a record has nowhere to go");
        assert!(matches!(refused, Error::Unknown { .. }), "{refused}");
        producer.abort().await?;
        producer.begin().await?;
        producer.send("kept", Record::value("two")).await?;
        producer.commit().await
    })
    .expect("goes on");
    now(log.tick()).expect("tick");
    assert_eq!(committed(&*log, "kept"), ["two"]);
    assert_decided(&*log, "kept", "decided");
}

/// Records of a transaction must not come behind its marker: nobody would ever end them. Positions
/// are checked as records are, though the coordinator writes them.
#[test]
fn a_partition_takes_no_transactional_batch_behind_the_marker_that_ended_it() {
    let disk = SimDisk::new(1);
    let dir = std::path::Path::new("/t-0");
    disk.create_dir(dir).expect("created");
    let opening = Opening {
        at: at("t"),
        dir: dir.to_owned(),
        config: TopicConfig::default(),
        clean: false,
        page_cache_bytes: None,
        recovery_bytes: 64 << 20,
        gaps: false,
        epoch_max: 1 << 20,
    };
    let (log, _) =
        PartitionLog::open(&thalweg_core::disk::handles::Handles::new(disk, 8), &opening)
            .expect("opens");
    let mut partition = Partition::new(log, Uuid([1; 16]), Level::Os, 0);
    let producer = ProducerIdentity { id: 7, epoch: 3 };
    let positions = batch_of(producer, -1, true, &["a position"]);
    let header = BatchHeader::parse(&positions).expect("a header");
    partition.append(&header, &positions, Origin::Client).expect("its transaction is open");
    let marker = ProducerIdentity { id: 7, epoch: 4 };
    partition.append_marker(Marker::Abort, marker, 0, NOW).expect("ended");
    let late = partition.append(&header, &positions, Origin::Client).expect_err("fenced");
    assert!(late.is_fenced(), "{late}");
    assert!(partition.open_transactions().is_empty());
}

/// What is written and awaited by nobody becomes durable, and so visible, by the passing of time.
#[test]
fn what_nobody_waits_for_becomes_visible_by_the_next_tick() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    now(log.append(&at("t"), batch(&["one"]), None, Ack::Written)).expect("written");
    assert_eq!(committed(&*log, "t"), Vec::<String>::new(), "not durable yet");
    now(log.tick()).expect("tick");
    assert_eq!(committed(&*log, "t"), ["one"]);
}

/// Ten transactions from epoch 32760 on: the epochs of a producer id end with 32766, the next id
/// begins at 0, and nothing of it is seen from outside, whatever ends the transactions and wherever
/// the log is opened again.
#[test]
fn ten_transactions_across_the_last_epoch_of_a_producer_id() {
    for reopened in [None, Some(Crash::Process), Some(Crash::Power)] {
        for aborts in [false, true] {
            let mut disk = SimDisk::new(1);
            let mut log = open(&disk, Level::Disk, 1).expect("opens");
            create(&*log, "t", 1, 400).expect("created");
            create(&*log, "u", 1, 400).expect("created");
            let first = init(&*log, "tx");
            log.close().expect("closes");
            drop(log);
            age_producer(&disk, 32_759);
            log = open(&disk, Level::Disk, 2).expect("opens");
            let mut producer = init(&*log, "tx");
            assert_eq!((producer.id, producer.epoch), (first.id, 32_760));
            let mut wanted = Vec::new();
            let mut seen = vec![producer];
            for n in 0..10 {
                let value = format!("value {n}");
                append_in(&*log, "tx", producer, &at("t"), 0, &value).expect("written");
                append_in(&*log, "tx", producer, &at("u"), 0, &value).expect("written");
                append_in(&*log, "tx", producer, &at("t"), 1, &value).expect("written");
                let commits = !aborts || n % 2 == 0;
                let how = if commits { TransactionEnd::Commit } else { TransactionEnd::Abort };
                let stale = producer;
                producer = end(&*log, "tx", producer, how).expect("ended");
                assert_eq!(end(&*log, "tx", stale, how).expect("again"), producer, "repeated: {n}");
                let late = append_in(&*log, "tx", stale, &at("t"), 2, "late").expect_err("late");
                assert!(late.is_fenced(), "{late}");
                if commits {
                    wanted.push(value);
                }
                if let Some(crash) = reopened.filter(|_| n % 3 == 1) {
                    drop(log);
                    (disk, log) = reopen(&disk, crash, Level::Disk);
                    producer = init(&*log, "tx");
                }
                assert!(!seen.contains(&producer), "{producer:?} was given out before");
                seen.push(producer);
            }
            assert!(seen.iter().all(|p| (0..=32_766).contains(&p.epoch)), "{seen:?}");
            assert_ne!(producer.id, first.id, "a new producer id");
            init(&*log, "tx");
            assert_eq!(committed(&*log, "u"), wanted);
            let twice: Vec<String> = wanted.iter().flat_map(|v| [v.clone(), v.clone()]).collect();
            assert_eq!(committed(&*log, "t"), twice);
            assert_decided(&*log, "t", "all ended");
            log.check_coordinators().expect("equal");
        }
    }
}

/// The epoch runs out on the ways that no client asks for: a time that is up, a successor, an open.
#[test]
fn the_last_epoch_is_fenced_whoever_ends_the_transaction() {
    for way in ["time", "successor", "open"] {
        let disk = SimDisk::new(1);
        let clock = Clock::fixed(NOW);
        let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        let first = init(&*log, "tx");
        log.close().expect("closes");
        drop(log);
        age_producer(&disk, 32_765);
        let log = open_at(&disk, config(Level::Disk), clock.clone(), 2).expect("opens");
        let producer = init(&*log, "tx");
        assert_eq!((producer.id, producer.epoch), (first.id, 32_766));
        append_in(&*log, "tx", producer, &at("t"), 0, "hidden").expect("written");
        let log = match way {
            "time" => {
                clock.advance(61_000);
                now(log.tick()).expect("tick");
                log
            }
            "successor" => log,
            _ => {
                drop(log);
                reopen(&disk, Crash::Power, Level::Disk).1
            }
        };
        let next = init(&*log, "tx");
        assert_ne!(next.id, first.id, "{way}");
        assert!(next.epoch >= 0 && next.epoch < 3, "{way}: {next:?}");
        let late = append_in(&*log, "tx", producer, &at("t"), 1, "late").expect_err("fenced");
        assert!(late.is_fenced(), "{way}: {late}");
        let late = end(&*log, "tx", producer, TransactionEnd::Commit).expect_err("fenced");
        assert!(!late.is_retriable(), "{way}: {late}");
        append_in(&*log, "tx", next, &at("t"), 0, "seen").expect("written");
        end(&*log, "tx", next, TransactionEnd::Commit).expect("committed");
        init(&*log, "tx");
        assert_eq!(committed(&*log, "t"), ["seen"], "{way}");
        assert_decided(&*log, "t", way);
    }
}

/// Sets the epoch in the last record of `__transaction_state`, as that many transactions would have,
/// in a folder that was closed.
fn age_producer(disk: &SimDisk, epoch: i16) {
    // int16 version, int64 producer id, int16 producer epoch.
    rewrite_state(disk, |value| value[10..12].copy_from_slice(&epoch.to_be_bytes()));
}

/// Writes the last record of `__transaction_state` once more, changed, in a folder that was closed.
fn rewrite_state(disk: &SimDisk, change: impl Fn(&mut [u8])) {
    let path = segment("__transaction_state", 0, "log");
    let bytes = bytes_of(disk, &path);
    let last = thalweg_core::batch::batches(&bytes).last().expect("records").expect("whole");
    let mut scratch = thalweg_core::batch::Scratch::default();
    let record =
        last.records(&mut scratch).expect("readable").last().expect("a record").expect("readable");
    let key = record.key.expect("a key").to_vec();
    let mut value = record.value.expect("a value").to_vec();
    change(&mut value);
    append_by_hand(disk, &path, &key, &value);
    // It was not there at the clean stop.
    disk.remove(&std::path::Path::new(DIR).join("log/.kafka_cleanshutdown")).expect("removed");
}

//! Compaction: of each key the last record stays, at its offset, whatever happens meanwhile. A plain
//! model of a compacted topic says what has to be there and what may be.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use thalweg_core::batch::{BatchBuilder, Scratch, Visible};
use thalweg_core::client::log::*;
use thalweg_core::config::{Cleanup, Compression, LogConfig};
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::engine::clock::Clock;
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::{Error, Result};

const DAY: u64 = 24 * 3_600_000;

/// A record as a reader sees it: offset, key, value.
type Seen = (i64, String, Option<String>);

fn settings() -> TopicConfig {
    TopicConfig {
        cleanup: Cleanup::Compact,
        segment_bytes: 400,
        index_interval_bytes: 150,
        min_cleanable_dirty_permille: 0,
        file_delete_delay_ms: 0,
        ..TopicConfig::default()
    }
}

fn compacted(log: &dyn Log, name: &str, config: TopicConfig) {
    let topic = NewTopic { name: name.to_owned(), partitions: 1, config };
    match now(log.create_topic(&topic)) {
        Ok(_) | Err(Error::TopicExists { .. }) => {}
        Err(e) => panic!("{e}"),
    }
}

fn config_with(map_bytes: usize) -> LogConfig {
    LogConfig { compaction_map_bytes: map_bytes, ..config(Level::Disk) }
}

fn batch_of_keys(
    producer: ProducerIdentity,
    sequence: i32,
    transactional: bool,
    records: &[(&str, Option<&str>)],
) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(Compression::None, 1024);
    for (key, value) in records {
        let value = value.map(str::as_bytes);
        builder.push(NOW, Some(key.as_bytes()), value, &[]).expect("small");
    }
    builder.finish(producer, sequence, transactional).expect("no codec")
}

fn put(log: &dyn Log, records: &[(&str, Option<&str>)]) -> Result<Appended> {
    let bytes = batch_of_keys(ProducerIdentity::NONE, -1, false, records);
    now(log.append(&at("t"), bytes, None, Ack::Level))
}

/// What a reader of committed records sees from an offset on; each step must lead on.
fn read_from(log: &dyn Log, mut offset: i64) -> Vec<Seen> {
    let options = FetchOptions {
        isolation: Isolation::ReadCommitted,
        max_wait: std::time::Duration::ZERO,
        max_bytes: 0,
    };
    let (mut found, mut scratch) = (Vec::new(), Scratch::default());
    loop {
        let ask = FetchFrom { at: at("t"), offset, max_bytes: 300 };
        let fetched = now(log.fetch(&[ask], options)).unwrap_or_else(|e| panic!("{offset}: {e}"));
        let one = &fetched[0];
        if one.batches.is_empty() {
            return found;
        }
        for batch in Visible::new(&one.batches, &one.aborted, offset) {
            let batch = batch.expect("whole");
            for record in batch.records(&mut scratch).expect("whole").starting_at(offset) {
                let record = record.expect("whole");
                let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
                let key = record.key.map(text).unwrap_or_default();
                found.push((record.offset, key, record.value.map(text)));
            }
        }
        assert!(one.next_offset > offset);
        offset = one.next_offset;
    }
}

fn read(log: &dyn Log) -> Vec<Seen> {
    read_from(log, now(log.offsets(&at("t"))).expect("there").start)
}

/// Keeps of committed records those that nothing later below `bound` makes superfluous.
fn last_of_each(all: &[Seen], bound: i64) -> Vec<Seen> {
    let later =
        |one: &Seen| all.iter().any(|other| other.0 > one.0 && other.0 < bound && other.1 == one.1);
    all.iter().filter(|one| one.0 >= bound || !later(one)).cloned().collect()
}

fn active_base(disk: &SimDisk) -> i64 {
    bases(disk, &folder("t")).pop().expect("a segment")
}

#[test]
fn of_each_key_the_last_record_stays_at_its_offset() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    compacted(&*log, "t", settings());
    let mut all = Vec::new();
    for n in 0..60 {
        let (key, value) = (format!("k{}", n % 7), format!("v{n}"));
        put(&*log, &[(&key, Some(&value))]).expect("acknowledged");
        all.push((n, key, Some(value)));
    }
    let segments = bases(&disk, &folder("t")).len();
    assert_eq!(read(&*log), all);
    let done = now(log.maintain()).expect("runs");
    assert!(done.groups > 0 && done.freed_bytes > 1000, "{done:?}");
    let wanted = last_of_each(&all, active_base(&disk));
    assert_eq!(read(&*log), wanted);
    assert_eq!(bases(&disk, &folder("t")).len(), segments, "they were full");
    assert_eq!(names(&disk, &folder("t"), ".swap"), [""; 0]);
    assert_eq!(names(&disk, &folder("t"), ".cleaned"), [""; 0]);
    // From any offset, those of records that are gone as well.
    for offset in 0..60 {
        let from: Vec<_> = wanted.iter().filter(|r| r.0 >= offset).cloned().collect();
        assert_eq!(read_from(&*log, offset), from, "{offset}");
    }
    assert_eq!(now(log.maintain()).expect("runs").groups, 0, "nothing is left to do");
    for n in 60..80 {
        let (key, value) = (format!("k{}", n % 7), format!("v{n}"));
        put(&*log, &[(&key, Some(&value))]).expect("acknowledged");
        all.push((n, key, Some(value)));
    }
    let full = bases(&disk, &folder("t")).len();
    now(log.maintain()).expect("runs");
    assert!(bases(&disk, &folder("t")).len() < full - 5, "neighbours became one");
    let wanted = last_of_each(&all, active_base(&disk));
    let log = reopen_cleanly(&disk, log, Level::Disk);
    assert_eq!(read(&*log), wanted);
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    assert_eq!(read(&*log), wanted);
    put(&*log, &[("k0", Some("more"))]).expect("goes on");
    assert_eq!(read(&*log).last().map(|r| r.0), Some(80), "offsets go on");
}

/// The hint is lost, or says nothing of the last segments: everything is read again, and where the
/// sidecar of a segment vouches for it, a missing offset is none.
#[test]
fn a_compacted_folder_is_recovered_without_its_hint_epochs_and_snapshots() {
    let disk = SimDisk::new(2);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    compacted(&*log, "t", settings());
    for n in 0..60 {
        put(&*log, &[(&format!("k{}", n % 7), Some(&format!("v{n}")))]).expect("acknowledged");
    }
    now(log.maintain()).expect("runs");
    let wanted = read(&*log);
    drop(log);
    disk.crash(Crash::Power);
    let disk = disk.restart();
    for lost in ["flushed-offset", "leader-epoch-checkpoint"] {
        disk.remove(&folder("t").join(lost)).expect("there");
    }
    for name in names(&disk, &folder("t"), ".snapshot") {
        disk.remove(&folder("t").join(name)).expect("there");
    }
    let log = open(&disk, Level::Disk, 3).expect("opens");
    assert_eq!(log.report().damaged, []);
    assert_eq!(read(&*log), wanted);
    // And once more: what recovery wrote again still says what compaction did.
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    assert_eq!(read(&*log), wanted);
}

/// Where no sidecar says that compaction was there, a missing batch is damage as ever.
#[test]
fn a_missing_batch_is_damage_where_nothing_was_compacted() {
    let disk = SimDisk::new(3);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    compacted(&*log, "t", settings());
    for n in 0..30 {
        put(&*log, &[(&format!("k{n}"), Some("value"))]).expect("acknowledged");
    }
    now(log.tick()).expect("tick");
    log.close().expect("closes");
    drop(log);
    // All keys differ: the sealed segments are marked clean, and nothing is missing in them.
    let first = segment("t", 0, "log");
    let bytes = bytes_of(&disk, &first);
    let one = bytes.len() / 5;
    overwrite(&disk, &first, &[&bytes[..one], &bytes[2 * one..]].concat());
    let log = open(&disk, Level::Disk, 2).expect("opens");
    let told = values(&*log, &at("t"), Isolation::ReadCommitted).expect_err("told");
    assert!(told.to_string().contains("must follow"), "{told}");
}

#[test]
fn deletions_stay_for_slow_readers_and_then_go() {
    let disk = SimDisk::new(4);
    let clock = Clock::fixed(NOW);
    let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
    compacted(&*log, "t", settings());
    let fill = |from: i64| {
        for n in from..from + 12 {
            put(&*log, &[(&format!("other {n}"), Some("value"))]).expect("acknowledged");
        }
    };
    let deleted =
        |log: &dyn Log| -> Vec<Seen> { read(log).into_iter().filter(|r| r.1 == "gone").collect() };
    let floor = |log: &dyn Log| now(log.offsets(&at("t"))).expect("there").deletions_below;
    put(&*log, &[("gone", Some("value")), ("stays", Some("value"))]).expect("acknowledged");
    put(&*log, &[("gone", None)]).expect("acknowledged");
    fill(0);
    now(log.maintain()).expect("runs");
    let tombstone = vec![(2, "gone".to_owned(), None)];
    assert_eq!(deleted(&*log), tombstone, "its value went, it stays");
    // The day counts from the first compaction that met it, not from the deletion.
    for (later, left) in [(DAY - 1, true), (1, false)] {
        clock.advance(later.cast_signed());
        fill(later.cast_signed());
        now(log.maintain()).expect("runs");
        let wanted = if left { tombstone.clone() } else { Vec::new() };
        assert_eq!(deleted(&*log), wanted);
        assert_eq!(floor(&*log), if left { 0 } else { 3 });
    }
    assert!(read(&*log).iter().any(|r| r.1 == "stays"));
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    assert_eq!(floor(&*log), 3, "state that is older than the deletion has to know");
}

#[test]
fn aborted_records_go_at_once_and_markers_when_nothing_is_left_of_their_transaction() {
    let disk = SimDisk::new(5);
    let clock = Clock::fixed(NOW);
    // Only when it is asked to.
    let config = LogConfig { compaction_rate: 0, ..config(Level::Disk) };
    let log = open_at(&disk, config, clock.clone(), 1).expect("opens");
    compacted(&*log, "t", settings());
    let fill = |tag: &str| {
        for n in 0..12 {
            put(&*log, &[(&format!("{tag} {n}"), Some("value"))]).expect("acknowledged");
        }
    };
    let write = |end_with, key: &str| {
        let producer = init(&*log, "tx");
        let bytes = batch_of_keys(producer, 0, true, &[(key, Some("in a transaction"))]);
        now(log.append(&at("t"), bytes, Some("tx"), Ack::Written)).expect("written");
        end(&*log, "tx", producer, end_with).expect("ended");
    };
    let markers = |disk: &SimDisk| {
        let mut found = 0;
        for base in bases(disk, &folder("t")) {
            let bytes = bytes_of(disk, &segment("t", base, "log"));
            for batch in thalweg_core::batch::batches(&bytes) {
                let header = batch.expect("whole").header;
                found += usize::from(header.is_control() && header.record_count > 0);
            }
        }
        found
    };
    let values = |log: &dyn Log| -> BTreeMap<String, Option<String>> {
        read(log).into_iter().map(|(_, key, value)| (key, value)).collect()
    };
    write(TransactionEnd::Abort, "a");
    write(TransactionEnd::Commit, "b");
    write(TransactionEnd::Commit, "c");
    write(TransactionEnd::Abort, "b");
    write(TransactionEnd::Commit, "d");
    // The producer's last batch is kept, without its record.
    write(TransactionEnd::Commit, "c");
    put(&*log, &[("c", Some("later"))]).expect("acknowledged");
    // All of them are complete.
    now(log.tick()).expect("tick");
    fill("x");
    let before = bytes_of(&disk, &segment("t", 0, "log"));
    now(log.maintain()).expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(text(&before).matches("in a transaction").count() >= 2);
    let left = values(&*log);
    assert_eq!(left.get("a"), None);
    assert_eq!(
        left["b"].as_deref(),
        Some("in a transaction"),
        "an abort deletes nothing before it"
    );
    assert_eq!(left["c"].as_deref(), Some("later"));
    assert_eq!(left["d"].as_deref(), Some("in a transaction"));
    assert_eq!(markers(&disk), 6, "markers stay for slow readers");
    clock.advance(DAY.cast_signed() + 1);
    fill("y");
    now(log.maintain()).expect("runs");
    assert_eq!(values(&*log)["b"].as_deref(), Some("in a transaction"));
    assert_eq!(markers(&disk), 2, "those of b and d: of the others no record is left");
    let (disk, log) = reopen(&disk, Crash::Power, Level::Disk);
    assert_decided(&*log, "t", "nothing opens again");
    assert_eq!(values(&*log)["b"].as_deref(), Some("in a transaction"));
    // Nor when all is read again: the last batch of a producer, kept without its records, is no data.
    drop(log);
    disk.crash(Crash::Power);
    let disk = disk.restart();
    for name in names(&disk, &folder("t"), ".snapshot") {
        disk.remove(&folder("t").join(name)).expect("there");
    }
    disk.remove(&folder("t").join("flushed-offset")).expect("there");
    let log = open(&disk, Level::Disk, 9).expect("opens");
    let report = log.report();
    let ended = (report.aborted, report.finished, report.revoked);
    assert_eq!((report.damaged.len(), ended), (0, (0, 0, 0)));
    assert_decided(&*log, "t", "nothing opens again");
    assert_eq!(values(&*log)["b"].as_deref(), Some("in a transaction"));
}

/// What a transaction under way wrote, and all behind it, is not touched.
#[test]
fn an_open_transaction_holds_compaction_up() {
    let disk = SimDisk::new(6);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    compacted(&*log, "t", settings());
    let producer = init(&*log, "tx");
    let bytes = batch_of_keys(producer, 0, true, &[("k", Some("open"))]);
    now(log.append(&at("t"), bytes, Some("tx"), Ack::Written)).expect("written");
    for n in 0..40 {
        put(&*log, &[("k", Some(&format!("v{n}")))]).expect("acknowledged");
    }
    assert_eq!(now(log.maintain()).expect("runs").groups, 0);
    end(&*log, "tx", producer, TransactionEnd::Commit).expect("ended");
    assert!(now(log.maintain()).expect("runs").groups > 0);
    let last = read(&*log).pop().expect("one");
    assert_eq!((last.0, last.2.as_deref()), (40, Some("v39")));
}

/// A retry is recognised by the sequence of the producer's last batch, of which no record may be left;
/// also when the snapshots are lost and all is read again.
#[test]
fn a_retry_is_recognised_though_its_records_were_compacted_away() {
    let disk = SimDisk::new(7);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    compacted(&*log, "t", settings());
    let producer = now(log.init_producer(None, std::time::Duration::from_secs(60))).expect("an id");
    let send = |log: &dyn Log, sequence| {
        let value = format!("v{sequence}");
        let bytes = batch_of_keys(producer, sequence, false, &[("k", Some(&value))]);
        now(log.append(&at("t"), bytes, None, Ack::Level))
    };
    for sequence in 0..3 {
        send(&*log, sequence).expect("acknowledged");
    }
    for n in 0..20 {
        put(&*log, &[("k", Some(&format!("other {n}")))]).expect("acknowledged");
    }
    now(log.maintain()).expect("runs");
    assert!(read(&*log).iter().all(|r| r.0 > 2), "its records are gone");
    drop(log);
    disk.crash(Crash::Power);
    let disk = disk.restart();
    disk.remove(&folder("t").join("flushed-offset")).expect("there");
    for name in names(&disk, &folder("t"), ".snapshot") {
        disk.remove(&folder("t").join(name)).expect("there");
    }
    let log = open(&disk, Level::Disk, 3).expect("opens");
    let again = send(&*log, 2).expect("recognised");
    assert_eq!(again.base_offset, 2, "stored before, there");
    assert_eq!(send(&*log, 3).expect("the next one").base_offset, 23);
    send(&*log, 9).expect_err("one was lost on the way");
}

#[test]
fn when_it_is_time_is_what_the_settings_say() {
    let hour = 3_600_000_u64;
    // Age of the records, settings -> compacted.
    let cases: [(u64, TopicConfig, bool); 7] = [
        (0, TopicConfig { min_cleanable_dirty_permille: 500, ..settings() }, true),
        (0, TopicConfig { min_cleanable_dirty_permille: 1000, ..settings() }, false),
        (0, TopicConfig { min_compaction_lag_ms: hour, ..settings() }, false),
        (hour, TopicConfig { min_compaction_lag_ms: hour, ..settings() }, true),
        (
            0,
            TopicConfig {
                min_cleanable_dirty_permille: 1000,
                max_compaction_lag_ms: Some(hour),
                ..settings()
            },
            false,
        ),
        (
            hour + 1,
            TopicConfig {
                min_cleanable_dirty_permille: 1000,
                max_compaction_lag_ms: Some(hour),
                ..settings()
            },
            true,
        ),
        (hour, TopicConfig { cleanup: Cleanup::Delete, ..settings() }, false),
    ];
    for (age, topic, wanted) in cases {
        let disk = SimDisk::new(8);
        let clock = Clock::fixed(NOW);
        let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
        let what = format!("{topic:?} after {age}");
        compacted(&*log, "t", topic);
        for n in 0..30 {
            put(&*log, &[("k", Some(&format!("v{n}")))]).expect("acknowledged");
        }
        clock.advance(age.cast_signed());
        now(log.maintain()).expect("runs");
        assert_eq!(read(&*log).len() < 30, wanted, "{what}");
    }
}

/// More keys than memory: several rounds, to the same end.
#[test]
fn few_keys_at_a_time_come_to_the_same() {
    let disk = SimDisk::new(9);
    // The smallest table takes 192 keys.
    let log = open_at(&disk, config_with(1), Clock::fixed(NOW), 1).expect("opens");
    compacted(&*log, "t", TopicConfig { segment_bytes: 20_000, ..settings() });
    let mut all = Vec::new();
    for n in 0..1500_i64 {
        let (key, value) = (format!("k{}", n * 7 % 611), format!("v{n}"));
        put(&*log, &[(&key, Some(&value))]).expect("acknowledged");
        all.push((n, key, Some(value)));
    }
    now(log.maintain()).expect("runs");
    assert_eq!(read(&*log), last_of_each(&all, active_base(&disk)));
}

/// A compaction in small steps, between appends, retention and reads: nothing is seen that is not so.
#[test]
fn readers_and_writers_go_on_while_it_works() {
    let disk = SimDisk::new(10);
    let config = LogConfig { compaction_rate: 500, ..config(Level::Disk) };
    let log = open_at(&disk, config, Clock::fixed(NOW), 1).expect("opens");
    compacted(&*log, "t", settings());
    let mut all = Vec::new();
    let mut shrank = 0;
    for n in 0..300_i64 {
        let (key, value) = (format!("k{}", n % 5), format!("v{n}"));
        put(&*log, &[(&key, Some(&value))]).expect("acknowledged");
        all.push((n, key, Some(value)));
        now(log.tick()).expect("tick");
        let seen = read(&*log);
        shrank += usize::from(seen.len() < all.len());
        assert!(seen.iter().all(|r| all.contains(r)), "nothing else is seen");
        let last = last_of_each(&all, i64::MAX);
        assert!(last.iter().all(|r| seen.contains(r)), "the last ones are, at {n}");
    }
    assert!(shrank > 200, "it was at work all the time: {shrank}");
    let left = read(&*log).len();
    assert!(left < 60, "and kept up: {left} of 300");
}

/// The power goes, or the process dies, at every operation of a compaction, and again in the recovery.
#[test]
fn a_crash_at_any_operation_of_a_compaction_costs_no_record() {
    // What a dead process leaves is the same for every seed.
    crash_everywhere(400, &[(Crash::Power, 0), (Crash::Power, 1), (Crash::Process, 0)]);
}

/// As before, where the recovery point went through the segments in steps: a torn slot of the hint must
/// not bring back one that lies inside of what was compacted.
#[test]
fn no_recovery_begins_inside_of_what_was_compacted() {
    crash_everywhere(1500, &[(Crash::Power, 0), (Crash::Power, 1)]);
}

fn crash_everywhere(segment_bytes: u32, runs: &[(Crash, u64)]) {
    let open = |disk: &SimDisk, seed| {
        // Only when it is asked to.
        let config = LogConfig { compaction_rate: 0, ..config(Level::Disk) };
        open_at(disk, config, Clock::fixed(NOW), seed)
    };
    let prepare = |disk: &SimDisk| {
        let log = open(disk, 1).expect("opens");
        compacted(&*log, "t", TopicConfig { segment_bytes, ..settings() });
        let many = segment_bytes / 16;
        for n in 0..many {
            put(&*log, &[(&format!("k{}", n % 5), Some(&format!("v{n}")))]).expect("stored");
            if n % 4 == 0 {
                // The recovery point and the hint follow.
                now(log.tick()).expect("noted");
            }
        }
        let producer = init(&*log, "tx");
        let bytes = batch_of_keys(producer, 0, true, &[("k1", Some("aborted"))]);
        now(log.append(&at("t"), bytes, Some("tx"), Ack::Written)).expect("written");
        end(&*log, "tx", producer, TransactionEnd::Abort).expect("ended");
        for n in many..many + 10 {
            put(&*log, &[(&format!("k{}", n % 5), Some(&format!("v{n}")))]).expect("stored");
        }
        log
    };
    let (all, operations) = {
        let disk = SimDisk::new(0);
        let log = prepare(&disk);
        let (all, from) = (read(&*log), disk.operations());
        now(log.maintain()).expect("runs");
        assert!(read(&*log).len() < all.len() / 2);
        (all, disk.operations() - from)
    };
    let last = last_of_each(&all, i64::MAX);
    let (mut both, mut died) = ([0, 0], 0);
    for &(crash, seed) in runs {
        for after in 1..=operations {
            let what = format!("seed {seed} {crash:?} after {after} of {operations}");
            let disk = SimDisk::new(seed);
            let log = prepare(&disk);
            disk.crash_at(disk.operations() + after, crash);
            let _ = now(log.maintain());
            died += u64::from(disk.down());
            drop(log);
            disk.crash(crash);
            let mut disk = disk.restart();
            // And once more, inside the recovery or behind it.
            disk.crash_at(disk.operations() + after % 37 + 1, crash);
            let log = loop {
                let opened = open(&disk, 2);
                if let Ok(log) = &opened
                    && !disk.down()
                {
                    assert_eq!(log.report().damaged, [], "{what}");
                    let seen = read(&**log);
                    let other = seen.iter().find(|r| !all.contains(r));
                    assert_eq!(other, None, "{what}: nothing else: {seen:?}");
                    assert!(last.iter().all(|r| seen.contains(r)), "{what}: {seen:?}");
                    both[usize::from(seen.len() < all.len())] += 1;
                    if now(log.maintain()).is_ok() && !disk.down() {
                        break Arc::clone(log);
                    }
                }
                let why = opened.as_ref().err().map(ToString::to_string);
                assert!(disk.down(), "{what}: {why:?}");
                drop(opened);
                disk = disk.restart();
            };
            let done = read(&*log);
            assert!(done.len() < all.len() / 2, "{what}: it is taken up again");
            assert!(last.iter().all(|r| done.contains(r)), "{what}: {done:?}");
            for left in [".swap", ".cleaned"] {
                assert_eq!(names(&disk, &folder("t"), left), [""; 0], "{what}");
            }
            // All of that may have needed fewer operations than the second crash waits for.
            if let Err(e) = put(&*log, &[("k0", Some("more"))]) {
                assert!(disk.down(), "{what}: {e}");
            }
            let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
            let seen = read(&*log);
            assert!(last.iter().all(|r| r.1 == "k0" || seen.contains(r)), "{what}: {seen:?}");
            assert_eq!(log.report().damaged, [], "{what}");
        }
    }
    assert!(both.iter().all(|&count| count > 20), "before and after the swap: {both:?}");
    let all = operations * runs.len() as u64;
    assert!(died > all / 2, "the crash came in time: {died} of {all}");
}

/// A full disk or a failing one holds compaction up, and nothing else.
#[test]
fn where_there_is_no_room_compaction_waits() {
    let disk = SimDisk::new(11);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    compacted(&*log, "t", settings());
    for n in 0..60 {
        put(&*log, &[(&format!("k{}", n % 7), Some(&format!("v{n}")))]).expect("acknowledged");
    }
    let all = read(&*log);
    let whole = all.len();
    disk.set_capacity(0);
    for _ in 0..3 {
        // It has no room to note what is durable, either.
        let full = now(log.tick()).expect_err("no room");
        assert!(matches!(full, Error::Full { .. }), "{full}");
        now(log.maintain()).expect_err("no room");
    }
    assert_eq!(read(&*log), all);
    disk.set_capacity(1 << 40);
    put(&*log, &[("k0", Some("more"))]).expect("goes on");
    now(log.maintain()).expect("runs");
    assert!(read(&*log).len() < whole / 2);
}

/// What is done to the topic.
#[derive(Clone, Debug)]
enum Op {
    Put(Vec<(u8, bool)>),
    /// In a transaction of one of two producers; committed or not.
    Transaction(u8, Vec<(u8, bool)>, bool),
    Later(u32),
    Tick,
    Maintain,
    CloseAndOpen,
    Crash(bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let records = || proptest::collection::vec((0..6_u8, proptest::bool::weighted(0.8)), 1..4);
    let op = prop_oneof![
        6 => records().prop_map(Op::Put),
        3 => (0..2_u8, records(), any::<bool>()).prop_map(|(p, r, c)| Op::Transaction(p, r, c)),
        1 => (1..100_u32).prop_map(Op::Later),
        3 => Just(Op::Tick),
        1 => Just(Op::Maintain),
        1 => Just(Op::CloseAndOpen),
        1 => any::<bool>().prop_map(Op::Crash),
    ];
    proptest::collection::vec(op, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Every record that is read was committed, there; the last one of each key is there, unless it is
    /// a deletion whose time has come; the end stays.
    #[test]
    fn any_history_of_a_compacted_topic_reads_as_its_model(ops in ops(), seed in 0..1000_u64) {
        let topic = TopicConfig { delete_retention_ms: 50, ..settings() };
        let mut disk = SimDisk::new(seed);
        let clock = Clock::fixed(NOW);
        let mut opened = 0;
        let mut open = |disk: &SimDisk| {
            opened += 1;
            let config = LogConfig { compaction_rate: 2000, ..config_with(6000) };
            open_at(disk, config, clock.clone(), seed + opened).expect("opens")
        };
        let mut log = open(&disk);
        compacted(&*log, "t", topic);
        let mut all: Vec<Seen> = Vec::new();
        for (written, op) in ops.into_iter().enumerate() {
            let name = |written: usize, (key, value): &(u8, bool)| {
                (format!("k{key}"), value.then(|| format!("v{written}")))
            };
            match op {
                Op::Put(records) => {
                    let named: Vec<_> = records.iter().map(|r| name(written, r)).collect();
                    let parts: Vec<_> =
                        named.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
                    let stored = put(&*log, &parts).expect("acknowledged");
                    for (at, (key, value)) in named.into_iter().enumerate() {
                        all.push((stored.base_offset + at as i64, key, value));
                    }
                }
                Op::Transaction(who, records, commit) => {
                    let id = format!("tx{who}");
                    let named: Vec<_> = records.iter().map(|r| name(written, r)).collect();
                    let parts: Vec<_> =
                        named.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
                    let producer = init(&*log, &id);
                    let bytes = batch_of_keys(producer, 0, true, &parts);
                    let stored = now(log.append(&at("t"), bytes, Some(&id), Ack::Written));
                    let stored = stored.expect("written");
                    let how = if commit { TransactionEnd::Commit } else { TransactionEnd::Abort };
                    end(&*log, &id, producer, how).expect("ended");
                    if commit {
                        for (at, (key, value)) in named.into_iter().enumerate() {
                            all.push((stored.base_offset + at as i64, key, value));
                        }
                    }
                }
                Op::Later(time) => clock.advance(i64::from(time)),
                Op::Tick => now(log.tick()).expect("tick"),
                Op::Maintain => drop(now(log.maintain()).expect("runs")),
                Op::CloseAndOpen => {
                    log.close().expect("closes");
                    drop(log);
                    log = open(&disk);
                }
                Op::Crash(power) => {
                    drop(log);
                    disk.crash(if power { Crash::Power } else { Crash::Process });
                    disk = disk.restart();
                    log = open(&disk);
                }
            }
            let seen = read(&*log);
            for record in &seen {
                prop_assert!(all.contains(record), "{record:?} was never committed there");
            }
            let offsets = now(log.offsets(&at("t"))).expect("there");
            if offsets.last_stable < offsets.end {
                // Its marker follows the answer.
                continue;
            }
            for record in last_of_each(&all, i64::MAX) {
                let may_go = record.2.is_none();
                prop_assert!(may_go || seen.contains(&record), "{record:?} is gone");
            }
            // What came before a deletion never comes back.
            for record in &seen {
                let later = all.iter().find(|o| o.0 > record.0 && o.1 == record.1);
                let gone = later.is_some_and(|l| !seen.iter().any(|s| s.1 == l.1 && s.0 >= l.0));
                prop_assert!(!gone, "{record:?} is the last one seen, and {later:?} came later");
            }
        }
    }
}

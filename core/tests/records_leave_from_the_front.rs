//! Retention and `delete_records`: what goes is gone for good, nothing else goes, whatever crashes.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use common::*;
use proptest::prelude::*;
use thalweg_core::Error;
use thalweg_core::batch::{BatchBuilder, crc32c};
use thalweg_core::client::log::*;
use thalweg_core::config::Compression;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Call, Crash, Failure, SimDisk};
use thalweg_core::engine::clock::Clock;
use thalweg_core::ids::ProducerIdentity;

fn with(name: &str, value: &str) -> BTreeMap<String, Option<String>> {
    BTreeMap::from([(name.to_owned(), Some(value.to_owned()))])
}

/// Appends a batch of one record with this time.
fn append_timed(log: &dyn Log, topic: &str, time: i64, value: &str) {
    let mut builder = BatchBuilder::new(Compression::None, 256);
    builder.push(time, None, Some(value.as_bytes()), &[]).expect("room");
    let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("a batch");
    now(log.append(&at(topic), bytes, None, Ack::Level)).expect("appended");
}

fn start_of(log: &dyn Log, topic: &str) -> i64 {
    now(log.offsets(&at(topic))).expect("there").start
}

/// Twelve records in segments of three.
fn twelve(disk: &SimDisk, level: Level) -> SimEngine {
    let log = open(disk, level, 1).expect("opens");
    create(&*log, "t", 1, 250).expect("created");
    for n in 0..12 {
        append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
    }
    assert_eq!(bases(disk, &folder("t")), [0, 3, 6, 9]);
    log
}

#[test]
fn deleted_records_are_gone_and_whole_segments_with_them() {
    let disk = SimDisk::new(1);
    let log = twelve(&disk, Level::Disk);
    assert_eq!(now(log.delete_records(&at("t"), 7)).expect("deleted"), 7);
    assert_eq!(committed(&*log, "t")[0], "value 7");
    assert_eq!(bases(&disk, &folder("t")), [6, 9]);
    let kept = names(&disk, &folder("t"), ".deleted");
    assert!(kept.iter().any(|n| n == "00000000000000000003.log.deleted"), "{kept:?}");

    // Lower than it is: nothing. Out of range: told.
    assert_eq!(now(log.delete_records(&at("t"), 2)).expect("nothing"), 7);
    for offset in [-1, 13] {
        let e = now(log.delete_records(&at("t"), offset)).expect_err("out of range");
        assert!(matches!(e, Error::OffsetOutOfRange { start: 7, end: 12, .. }), "{e}");
    }
    let e = records_from(&*log, &at("t"), Isolation::ReadCommitted, 6, 700).expect_err("gone");
    assert!(matches!(e, Error::OffsetOutOfRange { start: 7, end: 12, .. }), "{e}");

    let log = reopen_cleanly(&disk, log, Level::Disk);
    assert_eq!(committed(&*log, "t").len(), 5);
    assert_eq!(names(&disk, &folder("t"), ".deleted"), [""; 0], "opening removes what was left");
    append(&*log, &at("t"), "more").expect("goes on");
    assert_eq!(committed(&*log, "t").len(), 6);
}

#[test]
fn everything_may_be_deleted_and_offsets_go_on() {
    for crash in [Crash::Process, Crash::Power] {
        let disk = SimDisk::new(2);
        let log = twelve(&disk, Level::Disk);
        assert_eq!(now(log.delete_records(&at("t"), 12)).expect("deleted"), 12);
        now(log.tick()).expect("tick");
        assert_eq!(committed(&*log, "t"), [""; 0]);
        let (disk, log) = reopen(&disk, crash, Level::Disk);
        assert_eq!(committed(&*log, "t"), [""; 0], "{crash:?}");
        assert_eq!(append(&*log, &at("t"), "next").expect("appended").base_offset, 12);
        let log = reopen_cleanly(&disk, log, Level::Disk);
        assert_eq!(committed(&*log, "t"), ["next"], "{crash:?}");
    }
}

/// Everything is deleted, and the hint was not written since: its recovery point lies below the only
/// segment that is left. What is appended to that one and answered was taken for a log that was never
/// synced, and removed.
#[test]
fn what_follows_a_deletion_of_everything_survives_a_crash() {
    let crashes =
        [(Level::Disk, Crash::Power), (Level::Disk, Crash::Process), (Level::Os, Crash::Process)];
    for (level, crash) in crashes {
        let disk = SimDisk::new(16);
        let log = twelve(&disk, level);
        assert_eq!(now(log.delete_records(&at("t"), 12)).expect("deleted"), 12);
        assert_eq!(append(&*log, &at("t"), "next").expect("appended").base_offset, 12);
        let (disk, log) = reopen(&disk, crash, level);
        assert_eq!(log.report().damaged, [], "{level:?} {crash:?}");
        assert_eq!(committed(&*log, "t"), ["next"], "{level:?} {crash:?}");
        append(&*log, &at("t"), "last").expect("appended");
        let (_, log) = reopen(&disk, crash, level);
        assert_eq!(committed(&*log, "t"), ["next", "last"], "{level:?} {crash:?}");
    }
}

/// Also where nothing was ever synced, and at the level that promises nothing of the records themselves:
/// the file that says what was deleted has a name that survives.
#[test]
fn a_deletion_survives_the_power_before_anything_was_synced() {
    for seed in 0..24 {
        let disk = SimDisk::new(seed);
        let log = open(&disk, Level::Os, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        for n in 0..5 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
        }
        assert_eq!(now(log.delete_records(&at("t"), 3)).expect("deleted"), 3);
        let (_, log) = reopen(&disk, Crash::Power, Level::Os);
        assert_eq!(log.report().damaged, [], "seed {seed}");
        assert_eq!(start_of(&*log, "t"), 3, "seed {seed}");
    }
}

/// A kill cuts a deletion short, and the next run finds it in the page cache: what that run shows its
/// readers stands, also when the power goes then.
#[test]
fn a_deletion_that_recovery_found_survives_the_power() {
    let mut found = 0;
    for seed in 0..6 {
        for after in 1..20 {
            let disk = SimDisk::new(seed);
            disk.set_early_write_back(0);
            let log = twelve(&disk, Level::Disk);
            now(log.tick()).expect("tick");
            disk.crash_at(disk.operations() + after, Crash::Process);
            let answered = now(log.delete_records(&at("t"), 7)).is_ok();
            if !disk.down() {
                break;
            }
            let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
            let start = start_of(&*log, "t");
            assert!(start == 7 || (start == 0 && !answered), "seed {seed}, after {after}: {start}");
            found += u32::from(start == 7 && !answered);
            let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
            assert_eq!(log.report().damaged, [], "seed {seed}, after {after}");
            assert_eq!(start_of(&*log, "t"), start, "seed {seed}, after {after}");
        }
    }
    assert!(found > 0, "some deletions are found, and were not answered");
}

/// What was synced was deleted, and rots; what is left of the log lies behind it in the same file, or in
/// the next one. It is damage, and not a reason to begin again.
#[test]
fn rot_in_deleted_records_takes_none_that_are_left() {
    // The last: from the second batch on a segment is gone, and another one follows.
    for (segment_bytes, batches, to, base, rotten) in
        [(1 << 20, 12, 4, 0, 1), (250, 3, 7, 6, 0), (250, 3, 8, 6, 3)]
    {
        let disk = SimDisk::new(1);
        disk.set_early_write_back(0);
        let log = open(&disk, Level::Os, 1).expect("opens");
        create(&*log, "t", 1, segment_bytes).expect("created");
        let log = reopen_cleanly(&disk, log, Level::Os);
        for n in 0..12 {
            append(&*log, &at("t"), &format!("value {n:02}")).expect("written");
        }
        now(log.delete_records(&at("t"), to)).expect("deleted");
        drop(log);
        note_durable_end(&disk, to);
        let file = segment("t", base, "log");
        let size = bytes_of(&disk, &file).len() as u64 / batches;
        match rotten {
            3 => overwrite(&disk, &file, &bytes_of(&disk, &file)[..size as usize]),
            _ => disk.flip_bit(&file, rotten * size + 70, 0).expect("flipped"),
        }
        let before = bytes_of(&disk, &file);
        let (disk, log) = reopen(&disk, Crash::Process, Level::Os);
        assert_eq!(log.report().damaged.len(), 1, "{segment_bytes}");
        assert_eq!(bytes_of(&disk, &file), before, "nothing was touched");
    }
}

/// Says in the hint, by hand, that what lies below `to` was synced, and that recovery begins in front.
fn note_durable_end(disk: &SimDisk, to: i64) {
    let path = folder("t").join("flushed-offset");
    let mut bytes = bytes_of(disk, &path);
    for slot in bytes.chunks_mut(512).filter(|slot| slot.starts_with(b"TWFO\0\x02")) {
        slot[16..24].fill(0);
        slot[24..32].copy_from_slice(&to.to_be_bytes());
        slot[40..56].fill(0);
        let sum = crc32c(&slot[..56]);
        slot[56..60].copy_from_slice(&sum.to_be_bytes());
    }
    overwrite(disk, &path, &bytes);
}

/// Everything was deleted, and the power goes: names come and go in any order, so that of the files any
/// may be there. A model's life had the oldest one back alone, and was told of damage behind it.
#[test]
fn what_comes_back_of_deleted_records_is_no_damage() {
    for (back, torn) in [(0, 0), (3, 0), (9, 0), (9, 20)] {
        let disk = SimDisk::new(1);
        let log = twelve(&disk, Level::Disk);
        now(log.tick()).expect("the hint knows of all of them");
        let old = bytes_of(&disk, &segment("t", back, "log"));
        now(log.delete_records(&at("t"), 12)).expect("deleted");
        drop(log);
        for name in names(&disk, &folder("t"), "") {
            if !["flushed-offset", "partition.metadata"].contains(&name.as_str()) {
                disk.remove(&folder("t").join(name)).expect("removed");
            }
        }
        overwrite(&disk, &segment("t", back, "log"), &old[..old.len() - torn]);
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(log.report().damaged, [], "{back}");
        assert_eq!(committed(&*log, "t"), [""; 0]);
        let stored = append(&*log, &at("t"), "more").expect("goes on");
        assert_eq!((start_of(&*log, "t"), stored.base_offset), (12, 12));
    }
}

#[test]
fn files_stay_as_long_as_the_topic_says() {
    let disk = SimDisk::new(3);
    let clock = Clock::fixed(NOW);
    let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
    create(&*log, "t", 1, 250).expect("created");
    for n in 0..12 {
        append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
    }
    now(log.delete_records(&at("t"), 7)).expect("deleted");
    clock.advance(NOW + 59_999 - clock.now());
    now(log.tick()).expect("tick");
    assert!(!names(&disk, &folder("t"), ".deleted").is_empty());
    clock.advance(NOW + 60_000 - clock.now());
    now(log.tick()).expect("tick");
    assert_eq!(names(&disk, &folder("t"), ".deleted"), [""; 0]);
}

#[test]
fn records_of_an_open_transaction_cannot_be_deleted() {
    let disk = SimDisk::new(4);
    let log = twelve(&disk, Level::Disk);
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "open").expect("written");
    now(log.tick()).expect("tick");
    let e = now(log.delete_records(&at("t"), 13)).expect_err("undecided").to_string();
    assert!(e.contains("from offset 12 on") && e.contains("not decided"), "{e}");
    assert_eq!(now(log.delete_records(&at("t"), 12)).expect("decided"), 12);
    end(&*log, "tx", producer, TransactionEnd::Commit).expect("committed");
    now(log.tick()).expect("the markers");
    assert_eq!(committed(&*log, "t"), ["open"]);
    let e = now(log.delete_records(&at("__consumer_offsets"), 0)).expect_err("internal");
    assert!(e.to_string().contains("internal"), "{e}");
}

/// The power goes, or the process dies, at every operation of a deletion, and again in the recovery:
/// once the deletion was answered no record comes back, and no other record ever goes.
#[test]
fn a_deletion_that_was_answered_stands_whatever_crashes() {
    let before = {
        let disk = SimDisk::new(5);
        let log = twelve(&disk, Level::Disk);
        now(log.tick()).expect("tick");
        disk.operations()
    };
    let mut answered_runs = 0;
    for seed in 5..9 {
        for crash in [Crash::Power, Crash::Process] {
            for after in 1..40 {
                let disk = SimDisk::new(seed);
                let log = twelve(&disk, Level::Disk);
                now(log.tick()).expect("tick");
                let from = disk.operations();
                assert!(from.abs_diff(before) < 50, "the same run: {from} and {before}");
                disk.crash_at(from + after, crash);
                let answered = now(log.delete_records(&at("t"), 7)).is_ok() && !disk.down();
                answered_runs += u64::from(answered);
                drop(log);
                disk.crash(crash);
                let disk = disk.restart();
                // And once more, inside the recovery or behind it.
                disk.crash_at(disk.operations() + after / 2 + 1, crash);
                let log = open(&disk, Level::Disk, 2).unwrap_or_else(|e| {
                    assert!(disk.down(), "{e}");
                    let mut disk = disk.restart();
                    while let Err(e) = open(&disk, Level::Disk, 3) {
                        assert!(disk.down(), "{e}");
                        disk = disk.restart();
                    }
                    open(&disk, Level::Disk, 4).expect("opens")
                });
                assert_eq!(log.report().damaged, [], "seed {seed} {crash:?} after {after}");
                let start = start_of(&*log, "t");
                let wanted: Vec<_> = (start..12).map(|n| format!("value {n}")).collect();
                assert_eq!(committed(&*log, "t"), wanted, "seed {seed} {crash:?} after {after}");
                assert!(start == 7 || (start == 0 && !answered), "{start}, {answered}");
            }
        }
    }
    assert!(answered_runs > 20, "both sides of the answer are tried: {answered_runs}");
}

/// The hint is written in two slots. A deletion is in both when it is answered, so that a slot that is
/// torn by a later write brings nothing back.
#[test]
fn a_torn_slot_of_the_hint_brings_no_record_back() {
    for slot in [0, 1] {
        let disk = SimDisk::new(14);
        let log = twelve(&disk, Level::Disk);
        now(log.delete_records(&at("t"), 7)).expect("deleted");
        drop(log);
        disk.flip_bit(&folder("t").join("flushed-offset"), slot * 512 + 20, 0).expect("flipped");
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(log.report().damaged, [], "slot {slot}");
        assert_eq!(start_of(&*log, "t"), 7, "slot {slot}");
        assert_eq!(committed(&*log, "t").len(), 5, "slot {slot}");
    }
}

/// Nobody is shown a log start that is not durable: a deletion that is refused has hidden nothing, and
/// does not come about later.
#[test]
fn a_deletion_that_finds_no_room_changes_nothing() {
    for nth in [0, 1] {
        let disk = SimDisk::new(15);
        let log = twelve(&disk, Level::Disk);
        let met = AtomicU32::new(0);
        disk.fail_on(Call::Write, Failure::NoSpace, 1, move |path| {
            path == folder("t").join("flushed-offset") && met.fetch_add(1, Relaxed) == nth
        });
        let e = now(log.delete_records(&at("t"), 7)).expect_err("no room");
        assert!(matches!(e, Error::Full { .. }), "{e}");
        assert_eq!(start_of(&*log, "t"), 0);
        assert_eq!(committed(&*log, "t").len(), 12);
        // The hint goes on to be written, without the deletion.
        append(&*log, &at("t"), "more").expect("appended");
        now(log.tick()).expect("tick");
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(start_of(&*log, "t"), 0);
        assert_eq!(committed(&*log, "t").len(), 13);
    }
}

#[test]
fn retention_by_size_keeps_at_least_so_much() {
    let disk = SimDisk::new(6);
    let log = twelve(&disk, Level::Disk);
    let size = |disk: &SimDisk| -> usize {
        let bases = bases(disk, &folder("t"));
        bases.iter().map(|b| bytes_of(disk, &segment("t", *b, "log")).len()).sum()
    };
    let all = size(&disk);
    let keep = all / 2;
    now(log.alter_topic("t", &with("retention.bytes", &keep.to_string()))).expect("altered");
    now(log.tick()).expect("tick");
    let left = size(&disk);
    assert!(left >= keep && left < all, "{left} of {all}, to keep {keep}");
    assert_eq!(start_of(&*log, "t"), bases(&disk, &folder("t"))[0]);
    // And the setting is still there after the next start.
    let log = reopen_cleanly(&disk, log, Level::Disk);
    let info = now(log.topic("t")).expect("there");
    assert_eq!(info.config.retention_bytes, Some(keep as u64));
}

#[test]
fn retention_by_time_takes_whole_segments_and_the_newest_too() {
    let disk = SimDisk::new(7);
    let clock = Clock::fixed(NOW);
    let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
    create(&*log, "t", 1, 250).expect("created");
    now(log.alter_topic("t", &with("retention.ms", "1000"))).expect("altered");
    for n in 0..9 {
        append_timed(&*log, "t", NOW + 100 * n, &format!("value {n}"));
    }
    let all = bases(&disk, &folder("t"));
    for (time, left) in [
        (NOW + 1000, 9),
        // The first segment's greatest time is NOW + 100 * (second base - 1).
        (NOW + 1000 + 100 * (all[1] - 1), 9),
        (NOW + 1001 + 100 * (all[1] - 1), 9 - all[1]),
        (NOW + 1800, 9 - all.last().copied().expect("some")),
        (NOW + 1801, 0),
    ] {
        clock.advance(time - clock.now());
        now(log.tick()).expect("tick");
        assert_eq!(committed(&*log, "t").len() as i64, left, "{}", time - NOW);
    }
    append_timed(&*log, "t", NOW + 2000, "next");
    assert_eq!(committed(&*log, "t"), ["next"]);
    // A clock that goes back deletes nothing.
    clock.advance(NOW - clock.now());
    now(log.tick()).expect("tick");
    assert_eq!(committed(&*log, "t"), ["next"]);
}

/// Records that no time was given never grow old, and a compacted topic has no retention.
#[test]
fn what_has_no_age_stays() {
    let disk = SimDisk::new(8);
    let clock = Clock::fixed(NOW);
    let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
    create(&*log, "t", 1, 250).expect("created");
    now(log.alter_topic("t", &with("retention.ms", "1"))).expect("altered");
    append_timed(&*log, "t", -1, "no time");
    now(log.create_topic(&NewTopic {
        name: "c".to_owned(),
        partitions: 1,
        config: TopicConfig {
            cleanup: Cleanup::Compact,
            retention_ms: Some(1),
            ..TopicConfig::default()
        },
    }))
    .expect("created");
    let mut builder = BatchBuilder::new(Compression::None, 256);
    builder.push(NOW, Some(b"k"), Some(b"kept"), &[]).expect("room");
    let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("a batch");
    now(log.append(&at("c"), bytes, None, Ack::Level)).expect("appended");
    clock.advance(NOW + 1_000_000 - clock.now());
    now(log.tick()).expect("tick");
    assert_eq!((committed(&*log, "t").len(), committed(&*log, "c").len()), (1, 1));
}

/// Deleting the flushed-offset file asks for everything to be read again. It used to be taken for a
/// folder that was never synced: all segments behind a lost first one were removed.
#[test]
fn without_its_hint_a_folder_keeps_what_is_there() {
    for clean in [true, false] {
        let disk = SimDisk::new(9);
        let log = twelve(&disk, Level::Disk);
        now(log.delete_records(&at("t"), 7)).expect("deleted");
        if clean {
            log.close().expect("closes");
        }
        drop(log);
        disk.remove(&folder("t").join("flushed-offset")).expect("there");
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        let left = committed(&*log, "t");
        // Where the log began within a segment is forgotten with the file; nothing else is.
        assert_eq!(left.last().map(String::as_str), Some("value 11"), "clean {clean}");
        assert_eq!(left.len(), 6, "clean {clean}: from the first segment on");
    }
}

#[test]
fn a_segment_is_sealed_when_it_spans_too_much_time() {
    let disk = SimDisk::new(10);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    now(log.alter_topic("t", &with("segment.ms", "1000"))).expect("altered");
    for time in [0, 500, 1000, 1001, 1900, 2002, 5] {
        append_timed(&*log, "t", NOW + time, "x");
    }
    assert_eq!(bases(&disk, &folder("t")), [0, 3, 5], "1001 and 2002 are too late for theirs");
    let log = reopen_cleanly(&disk, log, Level::Disk);
    append_timed(&*log, "t", NOW + 3003, "x");
    assert_eq!(bases(&disk, &folder("t")), [0, 3, 5, 7], "the first time is known again");
}

#[test]
fn flush_messages_syncs_at_level_os() {
    let disk = SimDisk::new(11);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    now(log.alter_topic("t", &with("flush.messages", "4"))).expect("altered");
    for n in 0..7 {
        append(&*log, &at("t"), &format!("value {n}")).expect("appended");
    }
    now(log.tick()).expect("the hint");
    let (_, log) = reopen(&disk, Crash::Power, Level::Os);
    let found = committed(&*log, "t").len();
    assert!((4..=7).contains(&found), "{found} of 7 after a power loss");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// Any times, any batches, any bounds: an offset is found by time as a scan of all records finds it,
    /// in the process that wrote them and in the next one.
    #[test]
    fn times_are_found_as_a_scan_finds_them(
        times in prop::collection::vec(prop::collection::vec(0i64..40, 1..5), 1..40),
        deleted in 0i64..30,
        clean: bool,
    ) {
        let disk = SimDisk::new(12);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 400).expect("created");
        for batch in &times {
            let mut builder = BatchBuilder::new(Compression::None, 256);
            for time in batch {
                builder.push(*time, None, Some(b"a value"), &[]).expect("room");
            }
            let bytes = builder.finish(ProducerIdentity::NONE, -1, false).expect("a batch");
            now(log.append(&at("t"), bytes, None, Ack::Level)).expect("appended");
        }
        let all: Vec<i64> = times.into_iter().flatten().collect();
        let start = deleted.min(all.len() as i64);
        now(log.delete_records(&at("t"), start)).expect("deleted");
        let check = |log: &dyn Log| {
            let ask = |which| {
                let found = now(log.list_offset(&at("t"), which, Isolation::ReadCommitted));
                found.expect("looked up").map(|found| (found.offset, found.timestamp))
            };
            let timed = || (start..).zip(&all[start as usize..]).map(|(o, t)| (o, *t));
            for time in -1..42 {
                let wanted = timed().find(|(_, t)| *t >= time);
                prop_assert_eq!(ask(OffsetSpec::AtOrAfter(time)), wanted, "at or after {}", time);
            }
            let greatest = timed().map(|(_, t)| t).max();
            let wanted = timed().find(|(_, t)| Some(*t) == greatest);
            prop_assert_eq!(ask(OffsetSpec::MaxTimestamp), wanted);
            prop_assert_eq!(ask(OffsetSpec::Earliest), Some((start, -1)));
            prop_assert_eq!(ask(OffsetSpec::Latest), Some((all.len() as i64, -1)));
            Ok(())
        };
        check(&*log)?;
        let log = if clean {
            reopen_cleanly(&disk, log, Level::Disk)
        } else {
            reopen(&disk, Crash::Power, Level::Disk).1
        };
        check(&*log)?;
    }
}

/// What the index says is not believed: each entry is compared with its batch.
#[test]
fn a_wrong_time_index_only_costs_a_scan() {
    for (which, damage) in [(0, 3usize), (0, 11), (1, 3), (1, 11)] {
        let disk = SimDisk::new(13);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 800).expect("created");
        for n in 0..30 {
            append_timed(&*log, "t", NOW + n, "a value");
        }
        log.close().expect("closes");
        drop(log);
        let base = bases(&disk, &folder("t"))[which];
        let path = segment("t", base, "timeindex");
        let mut bytes = bytes_of(&disk, &path);
        assert!(bytes.len() >= 24, "some entries: {}", bytes.len());
        for entry in bytes.chunks_exact_mut(12) {
            entry[damage] ^= 0x11;
        }
        overwrite(&disk, &path, &bytes);
        let log = open(&disk.restart(), Level::Disk, 2).expect("opens");
        for n in 0..30 {
            let found = now(log.list_offset(
                &at("t"),
                OffsetSpec::AtOrAfter(NOW + n),
                Isolation::ReadCommitted,
            ))
            .expect("looked up");
            assert_eq!(found.map(|f| (f.offset, f.timestamp)), Some((n, NOW + n)));
        }
    }
}

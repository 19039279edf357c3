//! Rot and a torn tail look alike; the flushed-offset hint tells them apart. What is damaged is named
//! with its file, its place and what to do; nothing of it is touched, and the rest goes on.

mod common;

use std::path::Path;

use common::*;
use thalweg_core::Error;
use thalweg_core::batch::crc32c;
use thalweg_core::client::consumer::{Consumer, ConsumerConfig};
use thalweg_core::client::log::*;
use thalweg_core::config::LogConfig;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::engine::clock::Clock;

/// How the folder of topic `t` was left: eight records of one batch each, in three segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    /// The hint covers all of it.
    Noted,
    /// The hint covers nothing: it was never noted.
    NotNoted,
    /// A clean stop.
    Clean,
}

/// The batch at that place says that it reaches a thousand offsets further than it does, and its sum
/// agrees.
fn lengthened(bytes: &[u8], place: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let batch = &mut bytes[place];
    batch[23..27].copy_from_slice(&1000_i32.to_be_bytes());
    let sum = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// What is done to it.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A bit of the last batch of the last segment.
    FlipTail,
    /// A bit of the first batch of the last segment.
    FlipMiddle,
    /// The last batch's last byte.
    CutByte,
    /// The last batch.
    CutBatch,
    /// The last batch is zeros: a device that lost what it said it had.
    ZeroTail,
    /// The last batch reaches a thousand offsets further than it did, and its sum knows.
    LongTail,
    /// The last segment.
    RemoveLast,
    /// All segments.
    RemoveAll,
    /// Nothing, but half a batch follows, as a write that a crash cut short leaves it.
    Tear,
}

/// What opening makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// Opened, with so many records left.
    Records(usize),
    /// Set aside, naming this place.
    Damaged,
    /// Opened: a clean stop is believed, and so much is not read. Readers are told, at this place.
    Told,
}

#[test]
fn below_the_hint_it_is_damage_and_above_it_a_torn_tail() {
    use Harm::*;
    use Left::*;
    use Outcome::*;
    let cases = [
        (Noted, FlipTail, Damaged),
        (Noted, FlipMiddle, Damaged),
        (Noted, CutByte, Damaged),
        (Noted, CutBatch, Damaged),
        (Noted, RemoveLast, Damaged),
        (Noted, RemoveAll, Damaged),
        (Noted, Tear, Records(8)),
        (NotNoted, FlipTail, Records(7)),
        (NotNoted, FlipMiddle, Records(6)),
        (NotNoted, CutByte, Records(7)),
        (NotNoted, CutBatch, Records(7)),
        (NotNoted, RemoveLast, Records(6)),
        (NotNoted, Tear, Records(8)),
        (Clean, FlipTail, Told),
        (Clean, FlipMiddle, Told),
        (Clean, CutByte, Damaged),
        (Clean, CutBatch, Damaged),
        (Clean, RemoveLast, Damaged),
        (Clean, RemoveAll, Damaged),
        (Clean, Tear, Records(8)),
        (Noted, ZeroTail, Damaged),
        (NotNoted, ZeroTail, Records(7)),
        // Its header is looked at, before anything is written behind it.
        (Clean, ZeroTail, Damaged),
        (Noted, LongTail, Records(8)),
        (Clean, LongTail, Records(8)),
    ];
    for (left, harm, wanted) in cases {
        let what = format!("{left:?} {harm:?}");
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 250).expect("created");
        create(&*log, "u", 1, 250).expect("created");
        for n in 0..8 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
        }
        append(&*log, &at("u"), "other").expect("acknowledged");
        match left {
            Noted => now(log.tick()).expect("tick"),
            NotNoted => {}
            Clean => log.close().expect("closes"),
        }
        drop(log);
        let all = bases(&disk, &folder("t"));
        assert_eq!(all, [0, 3, 6], "three records fit a segment");
        let last = segment("t", 6, "log");
        let bytes = bytes_of(&disk, &last);
        let half = bytes.len() / 2;
        match harm {
            FlipTail => disk.flip_bit(&last, half as u64 + 50, 3).expect("flipped"),
            FlipMiddle => disk.flip_bit(&last, 50, 3).expect("flipped"),
            CutByte => overwrite(&disk, &last, &bytes[..bytes.len() - 1]),
            CutBatch => overwrite(&disk, &last, &bytes[..half]),
            ZeroTail => overwrite(&disk, &last, &[&bytes[..half], &vec![0; half]].concat()),
            LongTail => overwrite(&disk, &last, &lengthened(&bytes, half..bytes.len())),
            RemoveLast => disk.remove(&last).expect("removed"),
            RemoveAll => {
                all.iter().for_each(|b| disk.remove(&segment("t", *b, "log")).expect("removed"));
            }
            Tear => overwrite(&disk, &last, &[&bytes[..], &bytes[..70]].concat()),
        }
        let logs_before = |disk: &SimDisk| {
            let bases = bases(disk, &folder("t"));
            bases.iter().map(|b| bytes_of(disk, &segment("t", *b, "log"))).collect::<Vec<_>>()
        };
        let before = logs_before(&disk);
        let disk = disk.restart();
        let log = open(&disk, Level::Disk, 2).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(committed(&*log, "u"), ["other"], "{what}: the others go on");
        append(&*log, &at("u"), "more").unwrap_or_else(|e| panic!("{what}: {e}"));
        match wanted {
            Records(count) => {
                assert_eq!(log.report().damaged, [], "{what}");
                assert_eq!(committed(&*log, "t").len(), count, "{what}");
                append(&*log, &at("t"), "goes on").unwrap_or_else(|e| panic!("{what}: {e}"));
                let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
                assert_eq!(committed(&*log, "t").len(), count + 1, "{what}");
            }
            Told => {
                assert_eq!(log.report().damaged, [], "{what}");
                let told = values(&*log, &at("t"), Isolation::ReadCommitted).expect_err(&what);
                assert!(told.to_string().contains("CRC"), "{what}: {told}");
                assert_eq!(logs_before(&disk), before, "{what}: nothing was touched");
            }
            Damaged => {
                assert_eq!(log.report().damaged.len(), 1, "{what}");
                let error = append(&*log, &at("t"), "x").expect_err("set aside");
                let text = error.to_string();
                let Error::Damaged { path, position, what: why } = error else {
                    panic!("{what}: {text}")
                };
                assert!(why.contains("restore"), "{what}: {text}");
                match harm {
                    CutByte if left == Clean => {
                        assert_eq!((path, position), (last, bytes.len() as u64 - 1), "{what}")
                    }
                    CutBatch | ZeroTail if left == Clean => {
                        assert_eq!((path, position), (last, half as u64), "{what}")
                    }
                    FlipTail | CutByte | ZeroTail => {
                        assert_eq!((path, position), (last, half as u64), "{what}")
                    }
                    FlipMiddle => assert_eq!((path, position), (last, 0), "{what}"),
                    _ => assert_eq!(path, folder("t"), "{what}"),
                }
                assert_eq!(logs_before(&disk), before, "{what}: nothing was touched");
                // And again: it stays what it is, until somebody restores it.
                let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
                assert_eq!(log.report().damaged.len(), 1, "{what}");
            }
        }
    }
}

/// The hint has two slots, written in turn. A write that the power cut short costs one; then the
/// older bound holds. Without both, everything is read and a bad batch is a torn tail.
#[test]
fn a_torn_hint_is_an_older_hint() {
    for lost in [&[0][..], &[1], &[0, 1]] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        let mut ends = Vec::new();
        for n in 0..3 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
            now(log.tick()).expect("tick");
            ends.push(bytes_of(&disk, &segment("t", 0, "log")).len());
        }
        drop(log);
        // Turns 1, 2, 3: slot 1 holds the third bound, slot 0 the second.
        let path = folder("t").join("flushed-offset");
        for slot in lost {
            disk.flip_bit(&path, slot * 512 + 20, 0).expect("flipped");
        }
        // The third record is bad.
        disk.flip_bit(&segment("t", 0, "log"), ends[1] as u64 + 40, 0).expect("flipped");
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        let damaged = log.report().damaged.len();
        match lost {
            // The newest bound is there, and says that it was synced.
            [0] => assert_eq!(damaged, 1),
            _ => {
                assert_eq!(damaged, 0, "{lost:?}");
                assert_eq!(committed(&*log, "t"), ["value 0", "value 1"]);
            }
        }
    }
    // The bound never says more than was synced: what nobody waited for is not covered.
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    append(&*log, &at("t"), "written").expect("acknowledged");
    now(log.tick()).expect("tick");
    drop(log);
    disk.drop_unsynced(&segment("t", 0, "log")).expect("there");
    let (_, log) = reopen(&disk, Crash::Process, Level::Os);
    assert_eq!(log.report().damaged, []);
}

/// A coordinator, or the metadata, is nothing to go on without.
#[test]
fn a_damaged_coordinator_refuses_to_open() {
    for topic in ["__thalweg_metadata", "__consumer_offsets", "__transaction_state"] {
        for clean in [false, true] {
            let disk = SimDisk::new(1);
            let log = open(&disk, Level::Disk, 1).expect("opens");
            create(&*log, "t", 1, 1 << 20).expect("created");
            let producer = init(&*log, "tx");
            append_in(&*log, "tx", producer, &at("t"), 0, "one").expect("written");
            end(&*log, "tx", producer, TransactionEnd::Commit).expect("committed");
            now(log.join_group("g")).expect("joined");
            now(log.tick()).expect("tick");
            if clean {
                log.close().expect("closes");
            }
            drop(log);
            let path = segment(topic, 0, "log");
            disk.flip_bit(&path, 65, 1).expect("flipped");
            let disk = disk.restart();
            for _ in 0..2 {
                match open(&disk, Level::Disk, 2) {
                    Err(Error::Damaged { path: named, position, what }) => {
                        assert_eq!((named, position), (path.clone(), 0), "{what}");
                        assert!(what.contains("restore"), "{what}");
                    }
                    other => panic!("{topic}: {:?}", other.map(|log| log.report().clone())),
                }
            }
        }
    }
}

/// Records below the recovery point are not read at open. A hole there is told to whoever reads, and
/// never passed over in silence.
#[test]
fn a_hole_in_old_segments_is_told_to_readers() {
    // "torn" and "flipped length" were answered with nothing and no error, for ever: fuzzing found it.
    for harm in
        ["removed", "cut", "torn", "flipped header", "flipped length", "flipped record", "longer"]
    {
        for clean in [false, true] {
            let disk = SimDisk::new(1);
            let log = open(&disk, Level::Disk, 1).expect("opens");
            create(&*log, "t", 1, 250).expect("created");
            for n in 0..12 {
                append(&*log, &at("t"), &format!("value {n:02}")).expect("acknowledged");
            }
            now(log.tick()).expect("tick");
            if clean {
                log.close().expect("closes");
            }
            drop(log);
            let old = segment("t", 3, "log");
            let bytes = bytes_of(&disk, &old);
            let (first, size) = (3, bytes.len() / 3);
            match harm {
                "removed" => disk.remove(&old).expect("removed"),
                "cut" => overwrite(&disk, &old, &bytes[..size]),
                "torn" => overwrite(&disk, &old, &bytes[..size + size / 2]),
                "flipped length" => disk.flip_bit(&old, size as u64 + 9, 0).expect("flipped"),
                "flipped header" => disk.flip_bit(&old, size as u64 + 16, 0).expect("flipped"),
                "longer" => overwrite(&disk, &old, &lengthened(&bytes, size..2 * size)),
                _ => disk.flip_bit(&old, size as u64 + 66, 0).expect("flipped"),
            }
            let disk = disk.restart();
            let log = open(&disk, Level::Disk, 2).expect("opens");
            assert_eq!(log.report().damaged, [], "{harm}: not read yet");
            let mut consumer = Consumer::open(log.clone(), ConsumerConfig::default());
            now(consumer.assign(&[at("t")])).expect("assigned");
            let mut seen = 0;
            let error = loop {
                match now(consumer.poll(std::time::Duration::ZERO)) {
                    Ok(records) => {
                        assert!(!records.is_empty(), "{harm}: an answer without records or error");
                        seen += records.len();
                    }
                    Err(e) => break e,
                }
            };
            // All of those before it, in whatever fetch they came.
            assert_eq!(seen, if harm == "removed" { 3 } else { 4 }, "{harm}");
            assert!(matches!(error, Error::Damaged { .. }), "{harm}: {error}");
            assert!(error.to_string().contains("t-0"), "{harm}: {error}");
            // Behind the hole the records are there for whoever goes on there.
            consumer.seek(&at("t"), first + 3).expect("assigned");
            let records = now(consumer.poll(std::time::Duration::ZERO)).expect("polled");
            assert_eq!(records[0].offset, 6, "{harm}");
        }
    }
}

/// One partition cannot be read; a consumer of several is told, and gets the records of the others,
/// each once and none left out.
#[test]
fn a_damaged_partition_does_not_take_records_of_another_along() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    for topic in ["bad", "good"] {
        create(&*log, topic, 1, 250).expect("created");
        for n in 0..12 {
            append(&*log, &at(topic), &format!("value {n:02}")).expect("acknowledged");
        }
    }
    log.close().expect("closes");
    drop(log);
    disk.flip_bit(&segment("bad", 3, "log"), 70, 0).expect("flipped");
    let log = open(&disk, Level::Disk, 2).expect("opens");
    let config = ConsumerConfig { fetch_bytes: 100, ..ConsumerConfig::default() };
    let mut consumer = Consumer::open(log, config);
    now(consumer.assign(&[at("bad"), at("good")])).expect("assigned");
    let (mut good, mut bad, mut told) = (Vec::new(), Vec::new(), 0);
    for _ in 0..60 {
        match now(consumer.poll(std::time::Duration::ZERO)) {
            Ok(records) => {
                for record in records {
                    let offsets = if &*record.at.topic == "good" { &mut good } else { &mut bad };
                    offsets.push(record.offset);
                }
            }
            Err(e) => {
                assert!(e.to_string().contains("bad-0"), "{e}");
                told += 1;
            }
        }
    }
    assert_eq!(good, (0..12).collect::<Vec<_>>());
    assert_eq!(bad, [0, 1, 2]);
    assert!(told > 5, "{told}");
}

/// Names that only look like those of a segment were taken for one, and refused the whole log because
/// no file of the right name was there. Fuzzing found it, and that a `partition.metadata` too long to
/// be one was an error of the disk and not of the file.
#[test]
fn a_strange_file_in_one_partition_does_not_keep_the_log_from_opening() {
    for clean in [false, true] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 250).expect("created");
        create(&*log, "u", 1, 250).expect("created");
        for n in 0..4 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
        }
        append(&*log, &at("u"), "other").expect("acknowledged");
        if clean {
            log.close().expect("closes");
        }
        drop(log);
        let strange = ["5.log", "-1.snapshot", "+0000000000000000003.index", "1.txnindex", "x.tmp"];
        for name in strange {
            overwrite(&disk, &folder("t").join(name), b"not ours");
        }
        disk.create_dir(&folder("t").join("copies")).expect("created");
        let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(log.report().damaged, []);
        assert_eq!(committed(&*log, "t").len(), 4);
        for name in strange {
            assert_eq!(bytes_of(&disk, &folder("t").join(name)), b"not ours", "{name}");
        }
        drop(log);
        overwrite(&disk, &folder("t").join("partition.metadata"), &[b'x'; 5000]);
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(log.report().damaged.len(), 1);
        assert_eq!(committed(&*log, "u"), ["other"]);
    }
}

/// The next leader epoch, and the next turn of the hint, were counted on from whatever was stored:
/// past the largest number. Fuzzing found both.
#[test]
fn the_largest_numbers_in_side_files_are_not_counted_on_from() {
    // Found by fuzzing, the second and the third: the whole log was refused, at once or by the next open.
    for harm in ["epoch", "epoch -1", "epoch -2", "epoch above a torn tail", "turn"] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        create(&*log, "u", 1, 1 << 20).expect("created");
        append(&*log, &at("t"), "value").expect("acknowledged");
        append(&*log, &at("u"), "other").expect("acknowledged");
        now(log.tick()).expect("tick");
        drop(log);
        let batches = segment("t", 0, "log");
        match harm {
            "epoch" | "epoch -1" | "epoch -2" | "epoch above a torn tail" => {
                let mut bytes = bytes_of(&disk, &batches);
                let epoch = i32::MAX
                    - i32::from(harm.ends_with("-1"))
                    - 2 * i32::from(harm.ends_with("-2"));
                bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
                if harm.ends_with("tail") {
                    bytes.extend_from_within(..70);
                }
                overwrite(&disk, &batches, &bytes);
            }
            _ => {
                let path = folder("t").join("flushed-offset");
                let mut bytes = bytes_of(&disk, &path);
                for slot in bytes.chunks_mut(512).filter(|slot| slot.starts_with(b"TWFO")) {
                    slot[8..16].fill(0xff);
                    let summed = if slot[5] == 1 { 32 } else { 48 };
                    let sum = crc32c(&slot[..summed]);
                    slot[summed..summed + 4].copy_from_slice(&sum.to_be_bytes());
                }
                overwrite(&disk, &path, &bytes);
            }
        }
        let before = bytes_of(&disk, &batches);
        let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(committed(&*log, "u"), ["other"], "{harm}");
        if harm == "turn" {
            assert_eq!(committed(&*log, "t"), ["value"]);
            append(&*log, &at("t"), "more").expect("acknowledged");
        } else {
            // Found by fuzzing: the tail was cut before the folder was refused.
            assert_eq!(bytes_of(&disk, &batches), before, "{harm}: nothing was touched");
            assert_eq!(log.report().damaged.len(), 1, "{harm}: {:?}", log.report());
        }
        log.close().expect("closes");
    }
}

/// Before anything is read: whose layout is it?
#[test]
fn a_layout_of_a_newer_program_is_refused() {
    let format = Path::new(DIR).join("format");
    let cases: [(&[u8], &str); 3] =
        [(b"4\n", "layout 4"), (b"x", "no layout number"), (b"", "no layout number")];
    for (content, wanted) in cases {
        let disk = SimDisk::new(1);
        drop(open(&disk, Level::Disk, 1).expect("opens"));
        overwrite(&disk, &format, content);
        let disk = disk.restart();
        let error = open(&disk, Level::Disk, 2).err().expect("refused");
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(error.to_string().contains("/data/format"), "{error}");
        overwrite(&disk, &format, b"2\n");
        open(&disk, Level::Disk, 3).expect("nothing was touched");
    }
    let disk = SimDisk::new(1);
    drop(open(&disk, Level::Disk, 1).expect("opens"));
    disk.remove(&format).expect("removed");
    let error = open(&disk.restart(), Level::Disk, 2).err().expect("refused");
    assert!(error.to_string().contains("missing"), "{error}");
}

/// A topic whose folder is damaged can be deleted, and does not keep the log from opening afterwards.
#[test]
fn a_damaged_topic_can_be_deleted() {
    for harm in ["partition.metadata", "00000000000000000000.log"] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        append(&*log, &at("t"), "value").expect("acknowledged");
        now(log.tick()).expect("tick");
        drop(log);
        disk.flip_bit(&folder("t").join(harm), 30, 2).expect("flipped");
        let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(log.report().damaged.len(), 1, "{harm}");
        now(log.delete_topic("t")).expect("deleted");
        let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
        assert_eq!(log.report().damaged, [], "{harm}");
        assert!(matches!(now(log.topic("t")), Err(Error::Unknown { .. })));
    }
}

/// The folder is full but for what coordinators need: data is refused with nothing changed, positions
/// and commits still find room, and data is taken again as soon as there is some.
#[test]
fn a_nearly_full_disk_refuses_data_until_there_is_room() {
    let disk = SimDisk::new(1);
    let settings =
        LogConfig { level: Level::Disk, min_free_bytes: 24 << 20, ..LogConfig::default() };
    let log = open_at(&disk, settings, Clock::fixed(NOW), 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "one").expect("written");
    let big = "x".repeat(1_000_000);
    disk.set_capacity(60 << 20);
    let mut stored = 1;
    let full = loop {
        match append(&*log, &at("t"), &big) {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
        // The space is looked at every 16 MiB; a refused write looks at once.
        assert!(stored < 100, "never refused");
    };
    assert!(matches!(full, Error::Full { .. }), "{full}");
    for _ in 0..3 {
        append(&*log, &at("t"), "small").expect_err("still full");
    }
    end(&*log, "tx", producer, TransactionEnd::Commit).expect("coordinators find room");
    disk.set_capacity(1 << 30);
    append(&*log, &at("t"), "after").expect("there is room");
    now(log.tick()).expect("tick");
    assert_eq!(committed(&*log, "t").len(), stored + 1);
}

/// The disk fills up within a batch, within a roll, within a side file, at every write that there is:
/// each is refused with nothing changed, and the same batch is stored once when there is room.
#[test]
fn a_full_disk_at_any_write_changes_nothing_and_heals() {
    let writes = {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 330).expect("created");
        let before = disk.operations();
        (0..9).for_each(|n| drop(append(&*log, &at("t"), &format!("value {n}"))));
        disk.operations() - before
    };
    for failure in
        [thalweg_core::disk::sim::Failure::NoSpace, thalweg_core::disk::sim::Failure::NoHandles]
    {
        let mut refused = 0;
        for point in 1..=writes {
            let disk = SimDisk::new(1);
            let log = open(&disk, Level::Disk, 1).expect("opens");
            create(&*log, "t", 1, 330).expect("created");
            disk.fail_at(disk.operations() + point, failure);
            let mut stopped = false;
            for n in 0..9 {
                let value = format!("value {n}");
                for attempt in 0..3 {
                    match append(&*log, &at("t"), &value) {
                        Ok(_) => break,
                        Err(Error::Full { .. }) => {
                            refused += 1;
                            let wanted: Vec<_> = (0..n).map(|n| format!("value {n}")).collect();
                            assert_eq!(committed(&*log, "t"), wanted, "{point}: nothing changed");
                            assert_eq!(attempt, 0, "{point}: it heals");
                        }
                        // A sync that fails, for whatever reason, is never tried again.
                        Err(Error::Stopped { .. }) => {
                            stopped = true;
                            break;
                        }
                        Err(e) => panic!("{point}: {e}"),
                    }
                }
            }
            let count = if stopped { 0 } else { 9 };
            let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
            let found = committed(&*log, "t");
            assert!(found.len() >= count, "{point}: {found:?}");
            let wanted: Vec<_> = (0..found.len()).map(|n| format!("value {n}")).collect();
            assert_eq!(found, wanted, "{point}: each once, in order");
        }
        assert!(refused > 10, "{failure:?}: {refused}");
    }
}

/// Any other failure of a write leaves open what is in the files: everything is refused from then on,
/// also by a clean stop, until recovery has looked.
#[test]
fn a_failed_write_stops_the_log_until_recovery_looked() {
    let total = {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 330).expect("created");
        let before = disk.operations();
        (0..9).for_each(|n| drop(append(&*log, &at("t"), &format!("value {n}"))));
        disk.operations() - before
    };
    for point in 1..=total {
        let disk = SimDisk::new(point);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 330).expect("created");
        disk.fail_at(disk.operations() + point, thalweg_core::disk::sim::Failure::Io);
        let mut acknowledged = 0;
        for n in 0..9 {
            match append(&*log, &at("t"), &format!("value {n}")) {
                Ok(_) => acknowledged = n + 1,
                Err(e) => {
                    assert!(matches!(e, Error::Stopped { .. }), "{point}: {e}");
                    append(&*log, &at("t"), "more").expect_err("stopped");
                    break;
                }
            }
        }
        assert!(acknowledged < 9, "{point}: the failure was met");
        assert!(log.close().is_err(), "{point}: not a clean stop");
        drop(log);
        let log = open(&disk, Level::Disk, 2).expect("opens");
        assert!(!log.report().clean, "{point}");
        let found = committed(&*log, "t");
        assert!(found.len() >= acknowledged, "{point}: {found:?}");
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(committed(&*log, "t"), found, "{point}: what was shown stays");
    }
}

/// Yesterday's hint ends after the durable end, and its recovery point is the base of a segment.
#[test]
fn a_folder_of_layout_1_is_read_and_becomes_one_of_todays() {
    for clean in [true, false] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 250).expect("created");
        for n in 0..8 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
        }
        now(log.tick()).expect("tick");
        if clean {
            log.close().expect("closes");
        }
        drop(log);
        let base = bases(&disk, &folder("t")).pop().expect("a segment");
        let mut slot = b"TWFO\0\x01\0\0".to_vec();
        for word in [1u64, base as u64, 8] {
            slot.extend(word.to_be_bytes());
        }
        slot.extend(crc32c(&slot).to_be_bytes());
        let hint = folder("t").join("flushed-offset");
        disk.remove(&hint).expect("there");
        overwrite(&disk, &hint, &slot);
        let format = Path::new(DIR).join("format");
        overwrite(&disk, &format, b"1\n");
        let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(log.report().damaged, [], "clean {clean}");
        assert_eq!(committed(&*log, "t").len(), 8, "clean {clean}");
        assert_eq!(bytes_of(&disk, &format), b"3\n");
        append(&*log, &at("t"), "more").expect("goes on");
        let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
        assert_eq!(committed(&*log, "t").len(), 9, "clean {clean}");
    }
}

/// A process that ran out of handles refuses what needs one, and goes on when there are some again.
#[test]
fn without_handles_an_append_is_refused_and_the_next_one_goes_on() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 250).expect("created");
    let mut stored = 0;
    for n in 0..9 {
        append(&*log, &at("t"), &format!("value {n}")).expect("appended");
        stored += 1;
        // The next segment cannot be begun.
        disk.set_handles_max(1);
        if append(&*log, &at("t"), "between").is_ok() {
            stored += 1;
        }
        disk.set_handles_max(usize::MAX);
    }
    assert!(stored < 18, "some were refused");
    assert_eq!(committed(&*log, "t").len(), stored);
    log.close().expect("closes");
    drop(log);
    let log = open(&disk.restart(), Level::Os, 2).expect("opens");
    assert_eq!(committed(&*log, "t").len(), stored);
}

/// The epochs below the recovery point are read from the batches when their file is lost. That the same
/// segment ends in a torn batch is no damage.
#[test]
fn a_torn_tail_is_cut_also_where_the_epochs_are_lost() {
    let disk = SimDisk::new(3);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    for n in 0..12 {
        append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
    }
    now(log.tick()).expect("the hint");
    drop(log);
    let path = segment("t", 0, "log");
    let mut bytes = bytes_of(&disk, &path);
    bytes.extend([0; 78]);
    overwrite(&disk, &path, &bytes);
    overwrite(&disk, &folder("t").join("leader-epoch-checkpoint"), &[0; 8]);
    let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert_eq!(log.report().damaged, []);
    assert_eq!(committed(&*log, "t").len(), 12);
    assert_eq!(log.report().cut_bytes, 78);
}

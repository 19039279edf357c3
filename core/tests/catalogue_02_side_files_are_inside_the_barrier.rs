//! Crash catalogue 2: the recovery point passes a segment only after its side files and its folder
//! are durable; everything above it is rebuilt, never believed.

mod common;

use std::path::Path;
use std::time::Duration;

use common::*;
use thalweg_core::Result;
use thalweg_core::batch::batches;
use thalweg_core::client::log::*;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Call, Crash, Failure, SimDisk};
use thalweg_core::ids::{Offset, ProducerIdentity};

/// Commits and aborts over tiny segments, so that aborts come just before, on and after rolls.
/// Returns what readers of committed records must see.
fn history(engine: &SimEngine, rounds: usize) -> Result<Vec<String>> {
    let log: &dyn Log = &**engine;
    create(log, "t", 1, 330)?;
    let timeout = Duration::from_secs(60);
    let mut one = now(log.init_producer(Some("one"), timeout))?;
    let mut two = now(log.init_producer(Some("two"), timeout))?;
    let mut wanted = Vec::new();
    for n in 0..rounds {
        let (first, second) = (format!("one {n:03}"), format!("two {n:03}"));
        append_in(log, "one", one, &at("t"), 0, &first)?;
        append_in(log, "two", two, &at("t"), 0, &second)?;
        if n % 3 != 0 {
            append_in(log, "one", one, &at("t"), 1, &format!("{first} more"))?;
        }
        let commits = n % 4 == 1;
        let how = if commits { TransactionEnd::Commit } else { TransactionEnd::Abort };
        one = end(log, "one", one, how)?;
        two = end(log, "two", two, TransactionEnd::Commit)?;
        if commits {
            wanted.push(first.clone());
        }
        wanted.push(second);
        if commits && n % 3 != 0 {
            wanted.push(format!("{first} more"));
        }
        if n % 5 == 4 {
            now(engine.tick())?;
        }
    }
    Ok(wanted)
}

/// How a file is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    /// What was not synced of its bytes.
    Bytes,
    /// And its name, if that was not synced.
    Name,
    /// All of it, and the hint: nothing says that anything was ever synced.
    Everything,
}

/// Each file of the folder alone is lost, at the level that syncs least. A lost segment may take
/// committed records along; a lost side file takes nothing.
#[test]
fn any_side_file_may_be_lost_alone() {
    let count = {
        let disk = SimDisk::new(5);
        let log = open(&disk, Level::Os, 1).expect("opens");
        history(&log, 14).expect("runs");
        names(&disk, &folder("t"), "").len()
    };
    assert!(count > 30, "many small files: {count}");
    for which in 0..count {
        for loss in [Loss::Bytes, Loss::Name, Loss::Everything] {
            let disk = SimDisk::new(5);
            disk.set_early_write_back(0);
            let log = open(&disk, Level::Os, 1).expect("opens");
            let wanted = history(&log, 14).expect("runs");
            now(log.tick()).expect("tick");
            let name = names(&disk, &folder("t"), "").remove(which);
            let path = folder("t").join(&name);
            if loss == Loss::Everything && name != "partition.metadata" {
                drop(log);
                disk.remove(&path).expect("there");
                // It may be the one that is lost.
                _ = disk.remove(&folder("t").join("flushed-offset"));
            } else {
                disk.drop_unsynced(&path).expect("there");
                if loss == Loss::Name {
                    disk.revert_unsynced_name(&path).expect("there");
                }
            }
            let name = format!("{name} {loss:?}");
            let (disk, log) = reopen(&disk, Crash::Process, Level::Os);
            let found = committed(&*log, "t");
            if name.contains(".log") {
                // A lost marker aborts its transaction at level `os`: what is left is in order.
                let mut left = wanted.iter();
                assert!(found.iter().all(|value| left.any(|w| w == value)), "{name}: {found:?}");
            } else {
                assert_eq!(found, wanted, "{name}");
            }
            assert_decided(&*log, "t", &name);
            // And what was rebuilt is right in its files, too.
            let log = reopen_cleanly(&disk, log, Level::Os);
            assert_eq!(committed(&*log, "t"), found, "{name}, after a clean stop");
        }
    }
}

/// The recovery point moved within the only segment. The files that it rests on are believed when their
/// sums agree; where one does not, the whole segment is read instead, and nothing is shown that was
/// aborted.
#[test]
fn a_recovery_point_within_a_segment_is_believed_with_its_sums_only() {
    let write = || {
        let disk = SimDisk::new(9);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        let producer = init(&*log, "tx");
        append_in(&*log, "tx", producer, &at("t"), 0, "aborted").expect("written");
        end(&*log, "tx", producer, TransactionEnd::Abort).expect("aborted");
        for n in 0..12 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
        }
        now(log.tick()).expect("the hint");
        append(&*log, &at("t"), "value 12").expect("acknowledged");
        drop(log);
        disk
    };
    let wanted: Vec<String> = (0..13).map(|n| format!("value {n}")).collect();
    let disk = write();
    let names = names(&disk, &folder("t"), "");
    let sides: Vec<&String> =
        names.iter().filter(|n| n.starts_with("0000") && !n.ends_with(".log")).collect();
    assert!(sides.iter().any(|n| n.ends_with(".txnindex")), "{sides:?}");
    assert!(sides.iter().any(|n| n.ends_with(".sidecar")), "{sides:?}");
    for name in sides {
        for harm in 0..3 {
            let disk = write();
            let path = folder("t").join(name);
            let bytes = bytes_of(&disk, &path);
            match harm {
                0 => disk.remove(&path).expect("removed"),
                1 => overwrite(&disk, &path, &[]),
                _ => overwrite(&disk, &path, &bytes[..bytes.len() / 2]),
            }
            let what = format!("{name}, {harm}");
            let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
            assert_eq!(log.report().damaged, [], "{what}");
            assert_eq!(committed(&*log, "t"), wanted, "{what}");
            let log = reopen_cleanly(&disk, log, Level::Disk);
            assert_eq!(committed(&*log, "t"), wanted, "{what}, after a clean stop");
        }
    }
}

/// An abort and the roll behind it, with a power loss at every operation: aborted records are never
/// shown, whichever of `.log`, `.txnindex`, `.snapshot` and the folder's names reached the medium.
#[test]
fn aborted_records_stay_hidden_when_the_power_goes_around_a_roll() {
    for seed in 0..6 {
        let whole = SimDisk::new(seed);
        let log = open(&whole, Level::Disk, 1).expect("opens");
        history(&log, 9).expect("runs");
        for point in (1 + seed..whole.operations()).step_by(7) {
            let disk = SimDisk::new(seed);
            disk.crash_at(point, Crash::Power);
            if let Ok(log) = open(&disk, Level::Disk, 1) {
                // The run ends where the power does.
                history(&log, 9).expect_err("the power goes");
            }
            let disk = disk.restart();
            for clean in [false, true] {
                let log = open(&disk, Level::Disk, 2).expect("opens");
                create(&*log, "t", 1, 330).expect("created");
                for value in committed(&*log, "t") {
                    let (who, n) = value.split_once(' ').expect("two words");
                    let n: usize = n[..3].parse().expect("a number");
                    assert!(who == "two" || n % 4 == 1, "seed {seed} point {point}: {value}");
                }
                assert_decided(&*log, "t", &format!("seed {seed} point {point}"));
                if clean {
                    log.close().expect("closes");
                }
                drop(log);
            }
        }
    }
}

/// A power loss took a segment, but not its aborted index; the log grew again to the same place, and
/// a segment began there in which nothing was aborted. The index of the lost one must not hide what
/// this one holds.
#[test]
fn the_aborted_index_of_a_lost_segment_hides_nothing_of_the_one_that_follows() {
    let disk = SimDisk::new(8);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 330).expect("created");
    let log = reopen_cleanly(&disk, log, Level::Os);
    let fill = |log: &dyn Log, producer: ProducerIdentity| {
        (0..4).for_each(|n| {
            append_in(log, "tx", producer, &at("t"), n, &format!("value {n}")).expect("written");
        });
    };
    let producer = init(&*log, "tx");
    fill(&*log, producer);
    // The marker does not fit: a segment begins with it, and its aborted index.
    end(&*log, "tx", producer, TransactionEnd::Abort).expect("ended");
    init(&*log, "tx");
    let base = *bases(&disk, &folder("t")).last().expect("segments");
    let stray = segment("t", base, "txnindex");
    assert!(disk.stat(&stray).is_ok() && base > 0);
    let first = bases(&disk, &folder("t"))[0];
    disk.drop_unsynced(&segment("t", first, "log")).expect("there");
    disk.revert_unsynced_name(&segment("t", base, "log")).expect("there");

    let (disk, log) = reopen(&disk, Crash::Process, Level::Os);
    assert_eq!(now(log.offsets(&at("t"))).expect("there").end, 0, "all of it was lost");
    let mut producer = init(&*log, "tx");
    fill(&*log, producer);
    producer = end(&*log, "tx", producer, TransactionEnd::Commit).expect("ended");
    assert_eq!(*bases(&disk, &folder("t")).last().expect("segments"), base, "the same place");
    fill(&*log, producer);
    end(&*log, "tx", producer, TransactionEnd::Commit).expect("ended");
    let before = committed(&*log, "t");
    assert_eq!(before.len(), 8);
    let log = reopen_cleanly(&disk, log, Level::Os);
    assert_eq!(committed(&*log, "t"), before);
}

/// The disk is full just when an abort's marker is to be written, but not when its entry in the
/// aborted index is. The next try enters it again; twice the same entry is a file that nobody reads.
#[test]
fn an_abort_that_did_not_fit_is_entered_once() {
    let disk = SimDisk::new(4);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 330).expect("created");
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "hidden").expect("written");
    let is_log =
        |path: &Path| path.starts_with(folder("t")) && path.extension().is_some_and(|e| e == "log");
    disk.fail_on(Call::Write, Failure::NoSpace, 2, is_log);
    let full = end(&*log, "tx", producer, TransactionEnd::Abort).expect_err("no room");
    assert!(full.is_retriable(), "{full}");
    let full = end(&*log, "tx", producer, TransactionEnd::Abort).expect_err("no room yet");
    assert!(full.is_retriable(), "{full}");
    end(&*log, "tx", producer, TransactionEnd::Abort).expect("there is room again");
    let index = names(&disk, &folder("t"), ".txnindex");
    assert_eq!(bytes_of(&disk, &folder("t").join(&index[0])).len(), 34, "one entry");
    for n in 0..12 {
        append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
    }
    assert_eq!(committed(&*log, "t").len(), 12);
    let log = reopen_cleanly(&disk, log, Level::Disk);
    assert!(log.report().damaged.is_empty(), "{:?}", log.report().damaged);
    assert_eq!(committed(&*log, "t").len(), 12);
}

/// A snapshot is only a beginning when it lies where a segment begins: one that a clean stop left in
/// the middle of a segment must not be read on from the *next* one, when that one's own is lost.
#[test]
fn a_snapshot_in_the_middle_of_a_segment_is_no_place_to_begin() {
    let disk = SimDisk::new(4);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 330).expect("created");
    append(&*log, &at("t"), "first").expect("acknowledged");
    let log = reopen_cleanly(&disk, log, Level::Disk);
    // Behind the snapshot of the stop, in the same segment, a transaction begins; it stays open over
    // two rolls.
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "open").expect("written");
    for n in 0..9 {
        append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
    }
    now(log.tick()).expect("tick");
    let all = bases(&disk, &folder("t"));
    assert!(all.len() >= 3, "{all:?}");
    drop(log);
    for base in &all[1..] {
        overwrite(&disk, &segment("t", *base, "snapshot"), b"torn");
    }
    let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert_eq!(log.report().aborted, 1);
    assert_eq!(committed(&*log, "t").len(), 10, "the open transaction was aborted");
    assert_decided(&*log, "t", "the abort was written");
    // Its range lies over all of these segments.
    let log = reopen_cleanly(&disk, log, Level::Disk);
    assert_eq!(committed(&*log, "t").len(), 10);
}

/// Where the epochs below the recovery point are written down, and nowhere else: not touched in place.
#[test]
fn the_epochs_of_old_records_outlive_every_power_loss() {
    for seed in 0..4 {
        let mut disk = SimDisk::new(seed);
        let mut known: Vec<(Offset, i32)> = Vec::new();
        for life in 0..5 {
            let log = open(&disk, Level::Disk, life).expect("opens");
            create(&*log, "t", 1, 330).expect("created");
            for n in 0..9 {
                let stored = append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
                let epoch = now(log.offsets(&at("t"))).expect("there").last_epoch;
                known.push((stored.base_offset, epoch));
            }
            now(log.tick()).expect("tick");
            drop(log);
            // Some of the next life, cut at a moment of its own: rolls write the epochs.
            disk.crash(Crash::Power);
            disk = disk.restart();
            let point = disk.operations() + 9 + (seed * 31 + life * 17) % 60;
            disk.crash_at(point, Crash::Power);
            if let Ok(log) = open(&disk, Level::Disk, life + 50) {
                for n in 0..9 {
                    let Ok(stored) = append(&*log, &at("t"), &format!("other {n}")) else { break };
                    let epoch = now(log.offsets(&at("t"))).expect("there").last_epoch;
                    known.push((stored.base_offset, epoch));
                }
            }
            disk = disk.restart();
        }
        let rebuilt = |disk: &SimDisk| {
            let log = open(disk, Level::Disk, 90).expect("opens");
            let id = now(log.topic("t")).expect("there").id;
            for (offset, epoch) in &known {
                now(log.check_position(&at("t"), id, *epoch, offset + 1))
                    .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                now(log.check_position(&at("t"), id, epoch + 1, offset + 1))
                    .expect_err("another epoch's position");
            }
            drop(log);
        };
        rebuilt(&disk);
        // The file is a help: without it, or with rubbish in it, the batches tell.
        overwrite(&disk, &folder("t").join("leader-epoch-checkpoint"), b"0\n1\nx y\n");
        rebuilt(&disk);
        disk.remove(&folder("t").join("leader-epoch-checkpoint")).expect("removed");
        rebuilt(&disk);
    }
}

/// A torn tail may hold a segment whose elder is gone: a gap is the end.
#[test]
fn above_the_recovery_point_a_gap_is_the_torn_tail() {
    let disk = SimDisk::new(2);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 330).expect("created");
    let mut end = 0;
    while bases(&disk, &folder("t")).len() < 4 {
        end = append(&*log, &at("t"), "value").expect("acknowledged").next_offset;
    }
    // No hint was noted: everything lies above the recovery point.
    let all = bases(&disk, &folder("t"));
    disk.remove(&segment("t", all[2], "log")).expect("removed");
    let (disk, log) = reopen(&disk, Crash::Process, Level::Os);
    let offsets = now(log.offsets(&at("t"))).expect("there");
    assert_eq!(offsets.end, all[2], "of {end}, the contiguous part is left");
    assert_eq!(bases(&disk, &folder("t")), &all[..2], "what lay behind the gap is gone");
    append(&*log, &at("t"), "goes on").expect("acknowledged");
    let (_, log) = reopen(&disk, Crash::Power, Level::Os);
    let bytes = now(log.fetch(
        &[FetchFrom { at: at("t"), offset: 0, max_bytes: 1 << 20 }],
        FetchOptions {
            isolation: Isolation::ReadUncommitted,
            max_wait: Duration::ZERO,
            max_bytes: 0,
        },
    ))
    .expect("read")
    .remove(0)
    .batches;
    let offsets: Vec<Offset> =
        batches(&bytes).map(|b| b.expect("whole").header.base_offset).collect();
    assert!(offsets.iter().copied().eq(0..offsets.len() as Offset), "contiguous: {offsets:?}");
}

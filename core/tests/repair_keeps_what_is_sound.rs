//! A repaired folder: what `verify` named is gone, every sound record is where it was, no offset is given
//! out twice, and a crash at any step is repaired by the next call.

mod common;

use std::path::Path;

use common::*;
use thalweg_core::client::log::*;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Crash, Rng, SimDisk};
use thalweg_core::repair::Repair;
use thalweg_core::verify::{Severity, verify};

fn written() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 3000).expect("created");
    for round in 0..14 {
        append(&*log, &at("t"), &format!("value {round} {}", "x".repeat(300))).expect("stored");
        for how in [TransactionEnd::Abort, TransactionEnd::Commit] {
            let producer = init(&*log, "tx");
            append_in(&*log, "tx", producer, &at("t"), 0, &format!("{how:?} {round}"))
                .expect("stored");
            end(&*log, "tx", producer, how).expect("ended");
        }
    }
    log.close().expect("closes");
    disk.restart()
}

fn repair(disk: &SimDisk, aside: &str) -> thalweg_core::Result<thalweg_core::repair::Repaired> {
    Repair::open(disk.clone(), Path::new(DIR), &mut |_| {})?.run(Path::new(aside), NOW)
}

fn is_well(disk: &SimDisk) -> bool {
    let report = verify(disk, Path::new(DIR), &mut |_| {}).expect("it is a log");
    let bad = report.findings.iter().filter(|f| f.severity > Severity::Note);
    bad.inspect(|f| eprintln!("{f:?}")).count() == 0
}

fn all(disk: &SimDisk) -> (Vec<(i64, String)>, i64) {
    let log = open(disk, Level::Disk, 5).expect("opens after a repair");
    let records = records_from(&*log, &at("t"), Isolation::ReadUncommitted, 0, 700).expect("read");
    let end = now(log.offsets(&at("t"))).expect("there").end;
    log.close().expect("closes");
    (records, end)
}

#[test]
fn any_turned_bit_is_repaired_and_costs_one_batch_at_most() {
    let (before, end) = all(&written());
    let dir = folder("t");
    let whole = written();
    let mut rng = Rng::new(3);
    let mut lost = 0;
    for name in names(&whole, &dir, "") {
        let path = dir.join(&name);
        let len = bytes_of(&whole, &path).len() as u64;
        let count = if name.ends_with(".log") { 25 } else { 6 };
        for _ in 0..count.min(len) {
            let disk = written();
            let (byte, bit) = (rng.below(len), rng.below(8) as u8);
            disk.flip_bit(&path, byte, bit).expect("it is there");
            repair(&disk, "/data.repair-1").unwrap_or_else(|e| panic!("{name} {byte}: {e}"));
            let report = verify(&disk, Path::new(DIR), &mut |_| {}).expect("it is a log");
            assert!(is_well(&disk), "{name} byte {byte} bit {bit}: {:#?}", report.findings);
            let (after, after_end) = all(&disk);
            assert!(after_end >= end, "{name} byte {byte} bit {bit}: offsets fall");
            let gone = before.iter().filter(|record| !after.contains(record)).count();
            assert!(gone <= 1, "{name} byte {byte} bit {bit}: {gone} records are gone");
            let fresh = after.iter().filter(|record| !before.contains(record)).count();
            assert_eq!(fresh, 0, "{name} byte {byte} bit {bit}: records that nobody wrote");
            lost += gone;
            assert!(is_well(&disk), "{name} byte {byte} bit {bit}: after an open");
        }
    }
    assert!(lost > 5, "{lost}");
}

/// The batch that is damaged is the marker of a transaction that was committed, and told to be. What it
/// decided for the records before it once went with it: the next open aborted them.
#[test]
fn a_commit_whose_marker_is_damaged_stays_a_commit() {
    for end_of_it in [TransactionEnd::Commit, TransactionEnd::Abort] {
        let disk = SimDisk::new(1);
        disk.set_early_write_back(0);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        let producer = init(&*log, "tx");
        append_in(&*log, "tx", producer, &at("t"), 0, "told to be there").expect("stored");
        end(&*log, "tx", producer, end_of_it).expect("ended");
        append(&*log, &at("t"), "behind it").expect("stored");
        log.close().expect("closes");
        // The coordinator notes that all markers are written.
        open(&disk, Level::Disk, 2).expect("opens").close().expect("closes");
        let disk = disk.restart();
        // They would remember that nothing is open.
        for name in names(&disk, &folder("t"), "snapshot") {
            disk.remove(&folder("t").join(name)).expect("there");
        }
        disk.sync_dir(&folder("t")).expect("synced");
        let path = segment("t", 0, "log");
        let bytes = bytes_of(&disk, &path);
        let first = thalweg_core::batch::batches(&bytes).next().expect("one").expect("sound");
        disk.flip_bit(&path, first.bytes.len() as u64 + 70, 0).expect("there");
        let done = repair(&disk, "/data.repair-1").expect("repaired");
        let lost: Vec<i64> = done.lost.iter().flat_map(|(_, lost)| lost.clone()).collect();
        assert_eq!(lost, [1], "the marker");
        let log = open(&disk, Level::Disk, 5).expect("opens after a repair");
        let seen = records_from(&*log, &at("t"), Isolation::ReadCommitted, 0, 700).expect("read");
        let seen: Vec<&str> = seen.iter().map(|(_, value)| &**value).collect();
        match end_of_it {
            TransactionEnd::Commit => assert_eq!(seen, ["told to be there", "behind it"]),
            TransactionEnd::Abort => assert_eq!(seen, ["behind it"]),
        }
        // The id goes on as ever.
        let producer = init(&*log, "tx");
        append_in(&*log, "tx", producer, &at("t"), 0, "another").expect("stored");
        end(&*log, "tx", producer, TransactionEnd::Commit).expect("ended");
        log.close().expect("closes");
        assert!(is_well(&disk));
    }
}

#[test]
fn a_crash_at_any_step_is_repaired_by_the_next_call() {
    let damage = || {
        let disk = written();
        let all = bases(&disk, &folder("t"));
        disk.flip_bit(&segment("t", all[1], "log"), 100, 3).expect("there");
        disk.remove(&segment("t", all[3], "log")).expect("there");
        disk.flip_bit(&segment("t", all[0], "index"), 1, 3).expect("there");
        disk.sync_dir(&folder("t")).expect("synced");
        disk
    };
    let disk = damage();
    let before = disk.operations();
    repair(&disk, "/data.repair-1").expect("repaired");
    let steps = disk.operations() - before;
    let wanted = all(&disk);
    assert!(steps > 30, "{steps}");
    for step in (0..steps).step_by(3) {
        for crash in [Crash::Process, Crash::Power] {
            let disk = damage();
            disk.crash_at(disk.operations() + 1 + step, crash);
            let _ = repair(&disk, "/data.repair-1");
            if !disk.down() {
                disk.crash(crash);
            }
            let disk = disk.restart();
            repair(&disk, "/data.repair-2").unwrap_or_else(|e| panic!("step {step}: {e}"));
            assert!(is_well(&disk), "step {step}");
            let found = all(&disk);
            assert_eq!(found.0, wanted.0, "step {step}, {crash:?}");
            // A marker that was appended may be appended again.
            assert!(found.1 >= wanted.1, "step {step}, {crash:?}: offsets fall");
        }
    }
}

/// A cut of the end is whole or did not happen, whatever the crash; the folder is never damaged by it.
#[test]
fn a_cut_that_a_crash_interrupts_leaves_the_log_or_the_front_of_it() {
    let (before, _) = all(&written());
    let to = bases(&written(), &folder("t"))[2] - 3;
    let cut = |disk: &SimDisk| -> thalweg_core::Result<i64> {
        let log = open(disk, Level::Disk, 5)?;
        let done = now(log.truncate(&at("t"), to, Path::new("/data.repair-1")))?;
        log.close()?;
        Ok(done.to)
    };
    let disk = written();
    let opened = disk.operations();
    let end = cut(&disk).expect("cut");
    let steps = disk.operations() - opened;
    assert!(is_well(&disk));
    let (after, _) = all(&disk);
    assert!(before.starts_with(&after) && after.len() < before.len());
    assert!(after.iter().all(|(offset, _)| *offset < end));
    for step in (0..steps).step_by(5) {
        for crash in [Crash::Process, Crash::Power] {
            let disk = written();
            disk.crash_at(disk.operations() + 1 + step, crash);
            let _ = cut(&disk);
            if !disk.down() {
                disk.crash(crash);
            }
            let disk = disk.restart();
            assert!(is_well(&disk), "step {step}, {crash:?}");
            let (found, _) = all(&disk);
            assert!(before.starts_with(&found), "step {step}, {crash:?}");
            assert!(found.len() >= after.len(), "step {step}, {crash:?}: less than was asked for");
        }
    }
}

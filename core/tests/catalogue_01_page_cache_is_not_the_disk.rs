//! Crash catalogue 1: what a killed process left in the page cache, and what a failed sync left
//! there, is not on the disk. Recovery makes it so, or forgets it, before it decides anything.

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use common::*;
use thalweg_core::Error;
use thalweg_core::client::log::*;
use thalweg_core::disk::sim::{Call, Crash, Failure, SimDisk};

/// Kill, recovery, some more transactions, and a power loss at every operation from the kill on: what
/// the second run acknowledged, and what it told readers, is there in the third.
#[test]
fn a_kill_then_a_power_loss_while_the_next_run_works_keeps_both_runs_acknowledgements() {
    for seed in 0..12 {
        let whole = SimDisk::new(seed);
        transfers(&whole, Level::Disk, seed, 5).expect("runs");
        let first = 1 + (seed * 7919 + 60) % whole.operations();
        let run = |second: Option<u64>| {
            let disk = SimDisk::new(seed);
            disk.crash_at(first, Crash::Process);
            let one = transfers(&disk, Level::Disk, seed, 5).unwrap_or(0);
            let disk = disk.restart();
            let before = disk.operations();
            if let Some(second) = second {
                disk.crash_at(before + second, Crash::Power);
            }
            let two = transfers(&disk, Level::Disk, seed + 1, 3).unwrap_or(0);
            (disk.operations() - before, disk, one.max(two))
        };
        let (steps, ..) = run(None);
        for second in (1 + seed % 3..=steps).step_by(3) {
            let (_, disk, acknowledged) = run(Some(second));
            let what = format!("seed {seed}: killed at {first}, power lost {second} later");
            check(&disk.restart(), Level::Disk, acknowledged, &what);
        }
    }
}

/// Every fdatasync fails once with EIO: Linux then holds the pages for clean, and the medium has what
/// it has. The run stops; the next one on the same machine must not believe the cache, so that a power
/// loss later takes nothing that it acknowledged or showed.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_not_believed_by_the_next_run() {
    let mut stopped = 0;
    for seed in 0..8 {
        for nth in 1.. {
            let disk = SimDisk::new(seed);
            let count = Arc::new(AtomicU64::new(0));
            let met = Arc::clone(&count);
            disk.fail_on(Call::SyncData, Failure::Io, 1, move |_| {
                met.fetch_add(1, Relaxed) + 1 == nth
            });
            let acknowledged = transfers(&disk, Level::Disk, seed, 5).unwrap_or(0);
            if count.load(Relaxed) < nth {
                break;
            }
            stopped += usize::from(acknowledged < 5);
            let what = format!("seed {seed}: EIO at fdatasync {nth}");
            disk.heal();
            let disk = disk.restart();
            let shown = check(&disk, Level::Disk, acknowledged, &what);
            disk.crash(Crash::Power);
            check(&disk.restart(), Level::Disk, shown, &format!("{what}, then a power loss"));
        }
    }
    assert!(stopped > 50, "the failures were met: {stopped}");
}

/// Any other operation that fails stops the run, or changes nothing. (What a failed sync of a *folder*
/// leaves behind no call repairs: file systems go read-only then. So no power loss follows here.)
#[test]
fn an_operation_that_fails_loses_nothing_and_leaves_nothing_half_done() {
    for seed in 0..6 {
        let whole = SimDisk::new(seed);
        transfers(&whole, Level::Disk, seed, 5).expect("runs");
        for point in (1 + seed..whole.operations()).step_by(4) {
            let disk = SimDisk::new(seed);
            disk.fail_at(point, Failure::Io);
            let acknowledged = transfers(&disk, Level::Disk, seed, 5).unwrap_or(0);
            disk.heal();
            check(
                &disk.restart(),
                Level::Disk,
                acknowledged,
                &format!("seed {seed}: EIO at {point}"),
            );
        }
    }
}

/// A log that acknowledged "kept" and then met a sync that failed, with what the writer of "lost" was told.
fn a_sync_failed(seed: u64) -> (SimDisk, SimEngine, Error) {
    let disk = SimDisk::new(seed);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    append(&*log, &at("t"), "kept").expect("acknowledged");
    let of_topic = |path: &std::path::Path| path.starts_with(folder("t"));
    disk.fail_on(Call::SyncData, Failure::Io, 1, of_topic);
    let refused = append(&*log, &at("t"), "lost").expect_err("not acknowledged");
    (disk, log, refused)
}

/// The same, told in steps: the sync of a batch fails, the writer is told, the next run finds the
/// batch in the cache and not on the medium.
#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_recovery_looked_at_the_medium() {
    let (disk, log, refused) = a_sync_failed(3);
    assert!(matches!(refused, Error::Stopped { .. }), "{refused}");
    // Nothing is tried again: the second sync would succeed and lie.
    let again = append(&*log, &at("t"), "later").expect_err("stopped");
    assert!(again.to_string().contains("reopened"), "{again}");
    let tick = now(log.tick()).expect_err("stopped");
    assert!(matches!(tick, Error::Stopped { .. }), "{tick}");
    assert!(log.close().is_err(), "a stopped log is not marked as cleanly stopped");

    drop(log);
    let log = open(&disk, Level::Disk, 2).expect("opens");
    assert!(!log.report().clean);
    let shown = committed(&*log, "t");
    append(&*log, &at("t"), "after").expect("acknowledged");
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    let mut wanted = shown;
    wanted.push("after".to_owned());
    assert_eq!(committed(&*log, "t"), wanted);
    assert_eq!(wanted[0], "kept");
}

/// And nothing is shown that a power loss takes back, be it at once: an append would have dirtied the page
/// again, and so have written what the failed sync did not.
#[test]
fn what_is_shown_after_a_failed_sync_stays() {
    let mut differs = 0;
    for seed in 0..16 {
        let (disk, log, _) = a_sync_failed(seed);
        drop(log);
        let log = open(&disk, Level::Disk, 2).expect("opens");
        let shown = committed(&*log, "t");
        let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
        assert_eq!(committed(&*log, "t"), shown, "seed {seed}");
        assert_eq!(shown[0], "kept");
        differs += usize::from(shown.len() == 1);
    }
    assert!((1..16).contains(&differs), "the medium held it or not: {differs}");
}

/// What recovery read is on the medium when it returns: a power loss right after it changes nothing.
#[test]
fn what_recovery_found_in_the_cache_is_durable_when_it_returns() {
    // Many segments, or the first one, whose name nobody but recovery has a reason to sync.
    for (seed, segment_bytes) in (0..40).map(|seed| (seed, [400, 1 << 20][seed as usize % 2])) {
        let disk = SimDisk::new(seed);
        disk.set_early_write_back(0);
        let log = open(&disk, Level::Os, 1).expect("opens");
        create(&*log, "t", 1, segment_bytes).expect("created");
        for n in 0..12 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
        }
        let (disk, log) = reopen(&disk, Crash::Process, Level::Os);
        assert_eq!(committed(&*log, "t").len(), 12);
        let (_, log) = reopen(&disk, Crash::Power, Level::Os);
        assert_eq!(committed(&*log, "t").len(), 12, "seed {seed}");
    }
}

/// What recovery cut does not come back: a record behind the cut may be whole, and what is decided from
/// now on rests on its not being there.
#[test]
fn what_recovery_cut_is_gone_for_good_when_it_returns() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 1 << 20).expect("created");
        for n in 0..9 {
            append(&*log, &at("t"), &format!("value {n}")).expect("acknowledged");
        }
        drop(log);
        // The hint was not noted yet, so a bad batch is a torn tail. Those behind it are whole.
        let path = segment("t", 0, "log");
        let each = bytes_of(&disk, &path).len() as u64 / 9;
        disk.flip_bit(&path, 3 * each + 70, 1).expect("there");
        let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(log.report().cut_bytes, 6 * each);
        disk.crash(Crash::Power);
        let disk = disk.restart();
        assert_eq!(bytes_of(&disk, &path).len() as u64, 3 * each, "seed {seed}");
        drop(log);
    }
}

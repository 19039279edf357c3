//! Whatever dies, and whenever: in the end the finished files hold every committed record once.
//!
//! The file sink runs on a simulated disk, under a log that commits offsets and tokens atomically. The
//! disk dies, by kill or by power loss, at every operation of claim, open, write, prepare and commit;
//! then again while that is repaired. Power losses keep any subset of what was not synced, the two
//! names of a file independently.

mod common;

use std::collections::BTreeMap;

use common::files::{GROUP, finals, lines_in_order, run, temporaries};
use common::{FakeLog, When};
use thalweg_core::disk::sim::{Call, Crash, Failure, SimDisk};

const PARTS: [(&str, u32); 3] = [("events", 0), ("events", 1), ("counts", 0)];

/// Three partitions; one of them gets its records late, in one batch.
fn log() -> FakeLog {
    let log = FakeLog::new();
    log.create("events", 2);
    log.create("counts", 1);
    for batch in 0..6 {
        for (topic, partition) in &PARTS[..2] {
            let values: Vec<String> =
                (0..4).map(|i| format!("{topic} {partition} {:02}", batch * 4 + i)).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            log.produce(topic, *partition, &values);
        }
    }
    log.produce("counts", 0, &["one", "two", "three"]);
    log
}

/// What readers of OUT may see at any moment; `whole` when everything must be there.
fn check(disk: &SimDisk, log: &FakeLog, seen: &mut BTreeMap<String, String>, whole: bool) {
    let files = finals(disk);
    for (topic, partition) in PARTS {
        let lines = lines_in_order(&files, topic, topic, partition);
        let expected = log.values(topic, partition);
        let committed =
            log.committed(GROUP, topic, partition).map_or(0, |commit| commit.offset) as usize;
        assert!(lines.len() <= committed, "{topic}-{partition}: only committed lines are seen");
        assert_eq!(lines, expected[..lines.len()], "{topic}-{partition}: each line once, in order");
        if whole {
            assert_eq!(lines.len(), expected.len(), "{topic}-{partition}: no line is missing");
        }
    }
    for (name, text) in &files {
        assert_eq!(
            seen.entry(name.clone()).or_insert_with(|| text.clone()),
            text,
            "{name} changed"
        );
    }
    if whole {
        assert!(seen.keys().eq(files.keys()), "no file that was seen has vanished");
    }
}

/// At the end of a run everything is there and nothing is left over. Then the power goes: everything
/// is still there. (Names of temporaries whose removal no sync has reached may come back; the next
/// open removes them.)
fn check_end(disk: &SimDisk, log: &FakeLog, seen: &mut BTreeMap<String, String>) {
    check(disk, log, seen, true);
    assert_eq!(temporaries(disk), Vec::<String>::new(), "nothing is left over");
    assert!(log.is_settled(), "no transaction is open");
    disk.crash(Crash::Power);
    check(&disk.restart(), log, seen, true);
}

/// Runs until the disk dies or the run is done; then the program, or the machine, starts again.
fn run_until_death(disk: &mut SimDisk, log: &FakeLog, nonce: u64) {
    let door = disk.clone();
    log.live_while(move || !door.down());
    let result = run(disk, log, nonce);
    if !disk.down() {
        result.expect("nothing failed");
        disk.crash(Crash::Process);
    }
    *disk = disk.restart();
    log.restart();
}

fn operations() -> u64 {
    let disk = SimDisk::new(0);
    run(&disk, &log(), 1).expect("nothing fails");
    disk.operations()
}

/// One life: a death at `first`, another `second` operations into the repair, then a whole run, and
/// at the end the power goes once more.
fn one_life(seed: u64, first: u64, second: Option<u64>, crash: Crash) {
    let mut disk = SimDisk::new(seed);
    let log = log();
    let mut seen = BTreeMap::new();
    disk.crash_at(first, crash);
    run_until_death(&mut disk, &log, 1);
    check(&disk, &log, &mut seen, false);
    if let Some(second) = second {
        // A kill before a power loss: what recovery reads may be in the cache only.
        let crash = if seed.is_multiple_of(2) { crash } else { Crash::Power };
        disk.crash_at(disk.operations() + second, crash);
        run_until_death(&mut disk, &log, 2);
        check(&disk, &log, &mut seen, false);
    }
    disk.heal();
    run(&disk, &log, 3).expect("nothing fails any more");
    check_end(&disk, &log, &mut seen);
}

#[test]
fn a_death_at_any_operation_neither_loses_nor_doubles_a_line() {
    let operations = operations();
    assert!(operations > 60, "several rolls: {operations} operations");
    for seed in 0..6 {
        for crash in [Crash::Process, Crash::Power] {
            for first in 1..=operations + 1 {
                one_life(seed, first, None, crash);
            }
        }
    }
}

#[test]
fn a_second_death_while_the_first_is_repaired_changes_nothing() {
    let operations = operations();
    for seed in 0..4 {
        for crash in [Crash::Process, Crash::Power] {
            for first in 1..=operations {
                one_life(seed, first, Some(1 + (first * 7 + seed) % 24), crash);
            }
        }
    }
}

#[test]
fn a_death_at_any_call_of_the_log_neither_loses_nor_doubles_a_line() {
    let calls = {
        let log = log();
        run(&SimDisk::new(0), &log, 1).expect("nothing fails");
        log.calls()
    };
    for when in [When::Before, When::After] {
        for power in [false, true] {
            for call in 1..=calls {
                let mut disk = SimDisk::new(call);
                let log = log();
                let mut seen = BTreeMap::new();
                log.crash_at(call, when);
                _ = run(&disk, &log, 1);
                assert!(log.is_dead(), "call {call} of {calls} was reached");
                disk.crash(if power { Crash::Power } else { Crash::Process });
                disk = disk.restart();
                log.restart();
                check(&disk, &log, &mut seen, false);
                run(&disk, &log, 2).expect("nothing fails any more");
                check_end(&disk, &log, &mut seen);
            }
        }
    }
}

/// EIO at every operation: a failed sync leaves names and bytes that no later sync brings to the
/// medium, though it succeeds. The program is started again until it gets through; then the power
/// goes.
#[test]
fn a_failed_operation_is_never_taken_for_durable() {
    for seed in 0..6 {
        for failed in 1..=operations() {
            let mut disk = SimDisk::new(seed);
            let log = log();
            let mut seen = BTreeMap::new();
            disk.fail_at(failed, Failure::Io);
            let mut nonce = 1;
            while run(&disk, &log, nonce).is_err() {
                nonce += 1;
                assert!(nonce < 4, "one failure stops at most two runs");
                check(&disk, &log, &mut seen, false);
                disk = disk.restart();
                log.restart();
            }
            check_end(&disk, &log, &mut seen);
        }
    }
}

/// ENOSPC at every operation heals within the run, except where OUT is first made.
#[test]
fn a_full_disk_heals_by_itself() {
    for failed in 1..=operations() {
        let mut disk = SimDisk::new(failed);
        let log = log();
        let mut seen = BTreeMap::new();
        disk.fail_at(failed, Failure::NoSpace);
        if run(&disk, &log, 1).is_err() {
            disk = disk.restart();
            log.restart();
            run(&disk, &log, 2).expect("there is room again");
        }
        check_end(&disk, &log, &mut seen);
    }
}

/// Without hard links a rename that never replaces is used. Its two names are the file system's own
/// promise, so only kills are tried here.
#[test]
fn without_hard_links_kills_neither_lose_nor_double_a_line() {
    for first in 1..=operations() {
        let mut disk = SimDisk::new(first);
        disk.set_hard_links(false);
        let log = log();
        let mut seen = BTreeMap::new();
        disk.crash_at(first, Crash::Process);
        run_until_death(&mut disk, &log, 1);
        disk.heal();
        check(&disk, &log, &mut seen, false);
        run(&disk, &log, 2).expect("nothing fails any more");
        check_end(&disk, &log, &mut seen);
    }
}

/// Chance failures of every kind of call, for a long time.
#[test]
fn bad_weather_delays_but_neither_loses_nor_doubles() {
    let calls = [Call::Open, Call::Write, Call::SyncData, Call::SyncDir, Call::Link, Call::Remove];
    for seed in 0..40 {
        let mut disk = SimDisk::new(seed);
        let log = log();
        let mut seen = BTreeMap::new();
        for nonce in 1..6 {
            disk.set_short_io(3);
            for call in calls {
                disk.fail_by_chance(call, Failure::Io, 25);
                disk.fail_by_chance(call, Failure::NoSpace, 25);
            }
            _ = run(&disk, &log, nonce);
            disk.crash(if seed % 3 == 0 { Crash::Power } else { Crash::Process });
            disk = disk.restart();
            disk.heal();
            log.restart();
            check(&disk, &log, &mut seen, false);
        }
        run(&disk, &log, 9).expect("the weather is fine");
        check_end(&disk, &log, &mut seen);
    }
}

#[test]
fn a_seed_replays_bit_for_bit() {
    let trace = || {
        let disk = SimDisk::new(7);
        let log = log();
        disk.crash_at(41, Crash::Power);
        _ = run(&disk, &log, 1);
        let disk = disk.restart();
        log.restart();
        run(&disk, &log, 2).expect("nothing fails any more");
        disk.trace_hash()
    };
    assert_eq!(trace(), trace());
}

//! `LogConfig::page_cache_bytes`: durable records behind the newest ones leave the system's page cache,
//! and are still read.

mod common;

use std::collections::BTreeSet;

use common::*;
use thalweg_core::client::log::*;
use thalweg_core::config::LogConfig;
use thalweg_core::disk::sim::{Call, Crash, Failure, SimDisk};
use thalweg_core::engine::clock::Clock;

const KEEP: u64 = 8192;

/// The bounds below which pages of `file` were dropped, of the last 200 operations.
fn drops(disk: &SimDisk, file: &str) -> Vec<u64> {
    let trace = disk.trace();
    let drops = trace.iter().filter(|line| line.contains("drop_cache") && line.contains(file));
    let bound = |line: &String| {
        let (_, bound) = line.split_once("@0+").expect("a drop names its bound");
        bound.split(':').next().expect("a number").parse().expect("a number")
    };
    drops.map(bound).collect()
}

fn append_a_kilobyte(log: &dyn Log, n: usize) {
    append(log, &at("t"), &format!("{n:0>1000}")).expect("appended");
}

fn open_keeping(disk: &SimDisk, keep: Option<u64>, level: Level) -> SimEngine {
    let config = LogConfig { page_cache_bytes: keep, ..config(level) };
    open_at(disk, config, Clock::fixed(NOW), 1).expect("opens")
}

#[test]
fn between_once_and_twice_the_newest_bytes_stay_and_everything_is_read() {
    let disk = SimDisk::new(1);
    let log = open_keeping(&disk, Some(KEEP), Level::Disk);
    create(&*log, "t", 1, 1 << 20).expect("created");
    let mut all = BTreeSet::new();
    for n in 0..100 {
        append_a_kilobyte(&*log, n);
        let size = bytes_of(&disk, &segment("t", 0, "log")).len() as u64;
        let dropped = drops(&disk, "t-0/00000000000000000000.log").last().copied();
        all.extend(dropped);
        let dropped = all.last().copied().unwrap_or(0);
        assert!(size - dropped <= 2 * KEEP + 2048, "at {size} bytes {dropped} were dropped");
        assert!(dropped == 0 || size - dropped >= KEEP, "at {size} bytes {dropped} were dropped");
    }
    let times = all.len() as u64;
    assert!((5..=100_000 / KEEP + 2).contains(&times), "{times} drops: neither never nor always");
    assert_eq!(committed(&*log, "t").len(), 100);
}

#[test]
fn sealed_segments_leave_whole() {
    let disk = SimDisk::new(2);
    let log = open_keeping(&disk, Some(KEEP), Level::Disk);
    create(&*log, "t", 1, 4000).expect("created");
    for n in 0..5 {
        append_a_kilobyte(&*log, n);
    }
    let first = drops(&disk, "t-0/00000000000000000000.log");
    assert_eq!(first, [u64::MAX], "once, when it was sealed and synced");
    assert_eq!(committed(&*log, "t").len(), 5);
}

#[test]
fn the_default_leaves_it_to_the_system() {
    let disk = SimDisk::new(3);
    let log = open_keeping(&disk, None, Level::Disk);
    create(&*log, "t", 1, 4000).expect("created");
    for n in 0..40 {
        append_a_kilobyte(&*log, n);
    }
    assert_eq!(drops(&disk, "t-0"), Vec::<u64>::new());
}

/// Pages of a failed sync are clean, and dropping them would show what the medium has: the log is
/// stopped instead.
#[test]
fn nothing_leaves_behind_a_failed_sync() {
    let disk = SimDisk::new(4);
    let log = open_keeping(&disk, Some(1), Level::Disk);
    create(&*log, "t", 1, 1 << 20).expect("created");
    for n in 0..3 {
        append_a_kilobyte(&*log, n);
    }
    let before = drops(&disk, "t-0").len();
    assert!(before > 0);
    disk.fail_on(Call::SyncData, Failure::Io, 1, |path| path.to_string_lossy().contains("/t-0/"));
    append(&*log, &at("t"), "lost").expect_err("the sync failed");
    assert_eq!(drops(&disk, "t-0").len(), before);
    drop(log);
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    let found = committed(&*log, "t");
    assert!(found.len() >= 3, "what was acknowledged is there: {}", found.len());
}

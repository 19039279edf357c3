//! What `verify` says of folders: nothing of those that are as they were written, after whatever stop;
//! and of one with a turned bit, which file, and whether it can be built anew.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use thalweg_core::batch::{HEADER_LEN, batches};
use thalweg_core::client::log::*;
use thalweg_core::disk::sim::{Crash, Rng, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open};
use thalweg_core::verify::{Report, Severity, verify};

fn look(disk: &SimDisk, dir: &Path) -> Report {
    verify(disk, dir, &mut |_| {}).expect("it is a log")
}

/// What is wrong, without notes.
fn faults(report: &Report) -> Vec<String> {
    let bad = report.findings.iter().filter(|f| f.severity > Severity::Note);
    bad.map(|f| format!("{} {}: {}", f.path.display(), f.position, f.what)).collect()
}

fn write(log: &dyn Log, rounds: usize) {
    for round in 0..rounds {
        append(log, &at("t"), &format!("value {round} {}", "x".repeat(300))).expect("acknowledged");
        for how in [TransactionEnd::Abort, TransactionEnd::Commit] {
            let producer = init(log, "tx");
            append_in(log, "tx", producer, &at("t"), 0, &"y".repeat(200)).expect("written");
            end(log, "tx", producer, how).expect("ended");
        }
    }
}

/// A log of several segments and two leader epochs, stopped cleanly.
fn written(segment_bytes: u32, rounds: usize) -> SimDisk {
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, segment_bytes).expect("created");
    write(&*log, rounds);
    // Killed: the next open takes another epoch.
    drop(log);
    let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
    write(&*log, rounds / 2);
    let member = now(log.join_group("g")).expect("joined");
    let commit = OffsetCommit { at: at("t"), offset: 3, leader_epoch: 0, metadata: String::new() };
    now(log.commit_offsets(&member, &[commit])).expect("stored");
    log.close().expect("closes");
    disk.restart()
}

#[test]
fn a_log_as_it_was_written_is_well_and_nothing_of_it_is_touched() {
    let disk = written(3000, 12);
    let door = disk.door_outside();
    let before = disk.operations();
    let report = look(&door, Path::new(DIR));
    assert_eq!(report.findings, [], "{:#?}", faults(&report));
    assert!(report.totals.partitions == 4 && report.totals.records > 50, "{:?}", report.totals);
    assert_eq!(disk.operations(), before, "a look changes nothing");
    for dir in [PathBuf::from(DIR).join("log"), folder("t")] {
        assert_eq!(faults(&look(&door, &dir)), Vec::<String>::new());
    }
}

/// Whatever a kill or a power loss leaves is a log that the next open tidies up: no fault.
#[test]
fn a_torn_tail_is_no_fault_and_after_the_next_open_nothing_is_left_of_it() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 2000).expect("created");
        disk.crash_at(disk.operations() + 40 + 7 * seed, Crash::Power);
        for n in 0..60 {
            if append(&*log, &at("t"), &format!("value {n} {}", "x".repeat(100))).is_err() {
                break;
            }
            let _ = now(log.tick());
        }
        drop(log);
        if !disk.down() {
            disk.crash(Crash::Power);
        }
        let disk = disk.restart();
        let report = look(&disk, Path::new(DIR));
        assert_eq!(faults(&report), Vec::<String>::new(), "seed {seed}");
        let log = open(&disk, Level::Disk, 2).expect("opens");
        log.close().expect("closes");
        let report = look(&disk, Path::new(DIR));
        assert_eq!(report.findings, [], "seed {seed}");
    }
}

/// Every bit of some batches' headers, and random ones of every file of a partition.
#[test]
fn a_turned_bit_is_named_with_its_file() {
    let disk = written(24 << 10, 60);
    let mut rng = Rng::new(7);
    let dir = folder("t");
    let mut looked_at = 0;
    let end = look(&disk, &dir).ends[0].1;
    let placed = |at: i64| at == end || bases(&disk, &dir).contains(&at);
    for name in names(&disk, &dir, "") {
        // Of recovery points that were passed: nobody reads them any more.
        let passed = [".snapshot", ".sidecar"].iter().filter_map(|end| name.strip_suffix(end));
        if passed.filter_map(|at| at.parse().ok()).any(|at| !placed(at)) {
            continue;
        }
        let path = dir.join(&name);
        let bytes = bytes_of(&disk, &path);
        let mut bits: Vec<u64> = (0..bytes.len() as u64 * 8).collect();
        let most = if name.ends_with(".log") { 60 } else { 150 };
        if bits.len() > most {
            bits = (0..most).map(|_| rng.below(bytes.len() as u64 * 8)).collect();
        }
        if name.ends_with("00000.log") {
            let mut starts = vec![0];
            for batch in batches(&bytes) {
                let batch = batch.expect("as it was written");
                starts.push(starts[starts.len() - 1] + batch.bytes.len());
            }
            starts.pop();
            for start in [starts[0], starts[starts.len() / 2], starts[starts.len() - 1]] {
                bits.extend((0..HEADER_LEN as u64 * 8).map(|bit| start as u64 * 8 + bit));
            }
        }
        for bit in bits {
            let (byte, bit) = (bit / 8, (bit % 8) as u8);
            // Behind each slot's fields.
            if name == "flushed-offset" && byte % 512 >= 60 {
                continue;
            }
            disk.flip_bit(&path, byte, bit).expect("it is there");
            let report = look(&disk, &dir);
            disk.flip_bit(&path, byte, bit).expect("it is there");
            let wanted = match name.ends_with(".log") {
                true => Severity::Damaged,
                false => Severity::Rebuildable,
            };
            let named = report.findings.iter().any(|f| f.path == path && f.severity == wanted);
            // A digit of another id is a legal id: only the metadata knows better.
            let id = name == "partition.metadata" && byte >= 21;
            assert!(named || id, "{name} byte {byte} bit {bit}: {:#?}", report.findings);
            looked_at += 1;
        }
    }
    assert!(looked_at > 2000, "{looked_at}");
    assert_eq!(faults(&look(&disk, &dir)), Vec::<String>::new(), "all bits are turned back");
}

#[test]
fn a_turned_bit_of_a_topic_id_is_told_from_another_topics_folder() {
    let disk = written(3000, 8);
    let path = folder("t").join("partition.metadata");
    let whole = bytes_of(&disk, &path);
    for byte in 21..whole.len() as u64 {
        disk.flip_bit(&path, byte, 0).expect("it is there");
        let report = look(&disk, Path::new(DIR));
        let found: Vec<_> = report.findings.iter().filter(|f| f.path == path).collect();
        // The last digit carries two bits of sixteen.
        if byte + 1 < whole.len() as u64 {
            assert_eq!(found.len(), 1, "byte {byte}: {:#?}", report.findings);
            assert_eq!(found[0].severity, Severity::Rebuildable, "byte {byte}");
        }
        disk.flip_bit(&path, byte, 0).expect("it is there");
    }
    let other =
        bytes_of(&disk, &Path::new(DIR).join("log/__consumer_offsets-0/partition.metadata"));
    overwrite(&disk, &path, &other);
    let report = look(&disk, Path::new(DIR));
    assert!(report.findings.iter().any(|f| f.path == path && f.severity == Severity::Damaged));
}

/// Records that are gone are counted, one by one, whatever took them.
#[test]
fn lost_records_are_told_by_their_offsets() {
    let whole = written(3000, 12);
    let dir = folder("t");
    let all = bases(&whole, &dir);
    assert!(all.len() > 4, "{all:?}");
    let lost = |disk: &SimDisk| -> Vec<(i64, i64)> {
        let report = look(disk, Path::new(DIR));
        assert_eq!(report.worst(), Some(Severity::Damaged), "{:#?}", report.findings);
        let lost = report.findings.iter().filter_map(|f| f.lost.clone());
        lost.map(|lost| (lost.start, lost.end)).collect()
    };
    let end = look(&whole, &dir).ends[0].1;

    let disk = written(3000, 12);
    disk.remove(&segment("t", all[2], "log")).expect("removed");
    assert_eq!(lost(&disk), [(all[2], all[3])]);

    let disk = written(3000, 12);
    disk.remove(&segment("t", all[0], "log")).expect("removed");
    assert_eq!(lost(&disk), [(0, all[1])]);

    let disk = written(3000, 12);
    let last = all[all.len() - 1];
    disk.remove(&segment("t", last, "log")).expect("removed");
    assert_eq!(lost(&disk), [(last, end)]);

    // A sealed segment that ends early.
    let disk = written(3000, 12);
    let path = segment("t", all[1], "log");
    let bytes = bytes_of(&disk, &path);
    let file = disk.open(&path, Open::Write).expect("opens");
    file.set_len(bytes.len() as u64 - 5).expect("cut");
    let told = lost(&disk);
    assert!(told.len() == 1 && told[0].1 == all[2] && told[0].0 > all[1], "{told:?}");
}

#[test]
fn folders_that_are_no_log_or_a_newer_one_are_refused() {
    let disk = written(3000, 4);
    disk.create_dir(Path::new("/empty")).expect("made");
    for dir in ["/nowhere", "/empty", "/data/format"] {
        assert!(verify(&disk, Path::new(dir), &mut |_| {}).is_err(), "{dir}");
    }
    overwrite(&disk, Path::new("/data/format"), b"99\n");
    let e = verify(&disk, Path::new(DIR), &mut |_| {}).expect_err("it is newer");
    assert!(e.to_string().contains("layout 99"), "{e}");
    overwrite(&disk, Path::new("/data/format"), b"soup");
    assert_eq!(look(&disk, Path::new(DIR)).worst(), Some(Severity::Rebuildable));
}

//! The embedded engine on a simulated disk: what was acknowledged is there after a crash at any I/O
//! point, and nothing else is.

mod common;

use common::*;
use thalweg_core::Result;
use thalweg_core::client::log::*;
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::record::Record;

#[test]
fn a_batch_is_read_back_after_a_clean_and_after_an_unclean_stop() {
    for clean in [true, false] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 512).expect("created");
        for n in 0..20 {
            let text = format!("value {n}");
            now(log.append(&at("t"), batch(&[&text, "x"]), None, Ack::Level)).expect("appended");
        }
        if clean {
            log.close().expect("closed");
        }
        drop(log);
        let disk = if clean {
            disk
        } else {
            disk.crash(Crash::Power);
            disk.restart()
        };
        let log = open(&disk, Level::Disk, 2).expect("opens again");
        assert_eq!(log.report().clean, clean);
        let found = values(&*log, &at("t"), Isolation::ReadCommitted).expect("read");
        assert_eq!(found.len(), 40);
        assert_eq!(found[38], "value 19");
        log.check_coordinators().expect("equal");
    }
}

#[test]
fn a_committed_transaction_is_seen_and_an_aborted_one_is_not() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "a", 1, 1 << 20).expect("created");
    create(&*log, "b", 1, 1 << 20).expect("created");
    now(async {
        let mut producer =
            TransactionalProducer::open(log.clone(), "tx", ProducerConfig::default()).await?;
        for (n, commit) in [(0, true), (1, false), (2, true)] {
            producer.begin().await?;
            producer.send("a", Record::value(format!("a{n}"))).await?;
            producer.send("b", Record::value(format!("b{n}"))).await?;
            if commit {
                producer.commit().await?
            } else {
                producer.flush().await?;
                producer.abort().await?
            }
            log.check_coordinators()?;
        }
        Result::<()>::Ok(())
    })
    .expect("transactions");
    now(log.tick()).expect("tick");
    // In line nobody completes the last transaction until somebody asks.
    let again = now(TransactionalProducer::open(log.clone(), "tx", ProducerConfig::default()));
    assert!(again.is_ok());
    assert_eq!(values(&*log, &at("a"), Isolation::ReadCommitted).expect("read"), ["a0", "a2"]);
    assert_eq!(values(&*log, &at("b"), Isolation::ReadCommitted).expect("read"), ["b0", "b2"]);
    let all = values(&*log, &at("b"), Isolation::ReadUncommitted).expect("read");
    assert_eq!(all, ["b0", "b1", "b2"]);
}

#[test]
fn a_crash_at_any_point_leaves_whole_transactions() {
    for (level, crash) in
        [(Level::Disk, Crash::Power), (Level::Os, Crash::Process), (Level::Disk, Crash::Process)]
    {
        for seed in 0..4 {
            let whole = SimDisk::new(seed);
            transfers(&whole, level, seed, 7).expect("runs");
            let points = whole.operations();
            for point in (1..points).step_by(1 + seed as usize % 3) {
                let disk = SimDisk::new(seed);
                disk.crash_at(point, crash);
                let acknowledged = transfers(&disk, level, seed, 7).unwrap_or(0);
                assert!(disk.down());
                let what = format!("{level:?} {crash:?} seed {seed} point {point}");
                check(&disk.restart(), level, acknowledged, &what);
            }
        }
    }
}

#[test]
fn a_second_crash_inside_recovery_changes_nothing() {
    for seed in 0..12 {
        let whole = SimDisk::new(seed);
        transfers(&whole, Level::Disk, seed, 7).expect("runs");
        let points = whole.operations();
        let first = 1 + (seed * 7919) % points;
        for (one, two) in [(Crash::Process, Crash::Power), (Crash::Power, Crash::Power)] {
            let run = |limit: Option<u64>| {
                let disk = SimDisk::new(seed);
                disk.crash_at(first, one);
                let acknowledged = transfers(&disk, Level::Disk, seed, 7).unwrap_or(0);
                let disk = disk.restart();
                let before = disk.operations();
                if let Some(limit) = limit {
                    disk.crash_at(before + limit, two);
                }
                let opened = open(&disk, Level::Disk, 5).is_ok();
                (disk.operations() - before, disk, acknowledged, opened)
            };
            let (steps, ..) = run(None);
            for step in 1..=steps {
                let (_, disk, acknowledged, _) = run(Some(step));
                let what =
                    format!("seed {seed} {one:?} at {first}, then {two:?} {step} into recovery");
                check(&disk.restart(), Level::Disk, acknowledged, &what);
            }
        }
    }
}

/// As Kafka leaves one: it warns of a missing index, and takes the whole folder offline for a bad
/// checkpoint.
#[test]
fn an_empty_partition_has_kafkas_files_after_a_clean_stop() {
    let mut disk = SimDisk::new(1);
    let mut log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    for torn in [false, true] {
        log = reopen_cleanly(&disk, log, Level::Disk);
        for suffix in ["log", "index", "timeindex"] {
            assert_eq!(bytes_of(&disk, &segment("t", 0, suffix)), b"", "{suffix}");
        }
        let epochs = folder("t").join("leader-epoch-checkpoint");
        assert_eq!(bytes_of(&disk, &epochs), b"0\n1\n0 0\n");
        if !torn {
            overwrite(&disk, &epochs, &[0; 8]);
            (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
        }
    }
    append(&*log, &at("t"), "first").expect("acknowledged");
    let log = reopen_cleanly(&disk, log, Level::Disk);
    assert_eq!(committed(&*log, "t"), ["first"]);
}

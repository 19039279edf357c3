//! Crash catalogue 3: data, positions and decision are synced at the same time, so recovery compares
//! what a Prepare names with what is there; and the order of markers, Complete and the next
//! transaction.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use common::*;
use thalweg_core::batch::stamp;
use thalweg_core::client::log::*;
use thalweg_core::disk::sim::{Call, Crash, Failure, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open};
use thalweg_core::ids::ProducerIdentity;
use thalweg_core::{Error, Result};

/// One committed transaction over two topics and, where `member` is given, a position.
fn transfer(log: &dyn Log, producer: ProducerIdentity, value: &str) -> Result<ProducerIdentity> {
    append_in(log, "tx", producer, &at("a"), 0, value)?;
    append_in(log, "tx", producer, &at("b"), 0, value)?;
    let commit =
        OffsetCommit { at: at("a"), offset: 0, leader_epoch: -1, metadata: value.to_owned() };
    let nobody = Membership::simple("g");
    now(log.commit_offsets_in("tx", producer, &nobody, &[commit]))?;
    end(log, "tx", producer, TransactionEnd::Commit)
}

fn both(log: &dyn Log) -> (Vec<String>, Vec<String>, Option<String>) {
    let stored = now(log.committed_offsets("g", &[at("a")])).expect("nothing pends");
    let stored = stored.into_iter().next().flatten().map(|commit| commit.metadata);
    (committed(log, "a"), committed(log, "b"), stored)
}

fn opened(disk: &SimDisk, level: Level) -> SimEngine {
    let log = open(disk, level, 1).expect("opens");
    create(&*log, "a", 1, 1 << 20).expect("created");
    create(&*log, "b", 1, 1 << 20).expect("created");
    log
}

/// The power goes at every write and sync of a commit, in whatever order the devices answered: the
/// transaction is there in all of its places or in none, and when it was acknowledged, in all. Among
/// the runs are such where the decision survived and its data did not: those are revoked.
#[test]
fn a_power_loss_in_a_commit_leaves_all_of_it_or_nothing() {
    let (mut revoked, mut finished, mut aborted) = (0, 0, 0);
    for seed in 0..60 {
        let run = |cut: Option<u64>| {
            let disk = SimDisk::new(seed);
            let log = opened(&disk, Level::Disk);
            let producer = init(&*log, "tx");
            let producer = transfer(&*log, producer, "one").expect("acknowledged");
            let before = disk.operations();
            if let Some(cut) = cut {
                disk.crash_at(before + cut, Crash::Power);
            }
            let second = transfer(&*log, producer, "two").is_ok();
            (disk.operations() - before, disk, second)
        };
        let (steps, ..) = run(None);
        for cut in 1..=steps {
            let (_, disk, acknowledged) = run(Some(cut));
            let disk = disk.restart();
            let log = open(&disk, Level::Disk, 2).expect("opens");
            let what = format!("seed {seed}, power lost {cut} into the second");
            let (a, b, stored) = both(&*log);
            assert_eq!(a, b, "{what}");
            assert_eq!(a.last().cloned(), stored, "{what}");
            let wanted = if acknowledged || a.len() == 2 { 2 } else { 1 };
            assert_eq!(a, &["one", "two"][..wanted], "{what}");
            assert_decided(&*log, "a", &what);
            assert_decided(&*log, "b", &what);
            revoked += log.report().revoked;
            finished += log.report().finished;
            aborted += log.report().aborted;
        }
    }
    assert!(revoked > 5 && finished > 5 && aborted > 5, "{revoked} {finished} {aborted}");
}

/// The data of a decided transaction is lost alone. Nobody was told: it is aborted, in the partition
/// that kept its part too, and stays so after the next power loss.
#[test]
fn a_decision_over_lost_data_is_revoked_everywhere_and_durably() {
    let disk = SimDisk::new(7);
    disk.set_early_write_back(0);
    let log = opened(&disk, Level::Disk);
    let producer = init(&*log, "tx");
    let producer = transfer(&*log, producer, "one").expect("acknowledged");
    // The sync of topic b fails after all others were synced: the caller knows nothing.
    let in_b = |path: &Path| path.starts_with(folder("b"));
    disk.fail_on(Call::SyncData, Failure::Io, 1, in_b);
    let failed = transfer(&*log, producer, "two").expect_err("not acknowledged");
    assert!(matches!(failed, Error::Stopped { .. }), "{failed}");
    let failed = end(&*log, "tx", producer, TransactionEnd::Abort).expect_err("no way to abort");
    assert!(matches!(failed, Error::Stopped { .. }), "a failed sync is never an abort: {failed}");
    // Whatever of the rest was not synced in that order is, by the system.
    for name in ["__transaction_state", "__consumer_offsets", "a"] {
        let file = disk.open(&segment(name, 0, "log"), Open::Read).expect("there");
        file.sync_data().expect("synced");
    }
    drop(log);
    disk.drop_unsynced(&segment("b", 0, "log")).expect("there");
    let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
    if log.report().revoked == 1 {
        assert_eq!(both(&*log), (vec!["one".into()], vec!["one".into()], Some("one".into())));
    } else {
        // The failed sync brought the page to the medium after all: then the commit stands.
        assert_eq!(log.report().finished, 1);
    }
    let before = both(&*log);
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    assert_eq!(both(&*log), before);
}

/// Below the hint the same mismatch is damage: those bytes were synced once, and whoever committed
/// them was told.
#[test]
fn a_decision_over_other_data_below_the_hint_is_damage() {
    let disk = SimDisk::new(7);
    disk.set_early_write_back(0);
    let log = opened(&disk, Level::Disk);
    let producer = init(&*log, "tx");
    let stored = append_in(&*log, "tx", producer, &at("a"), 0, "one").expect("written");
    end(&*log, "tx", producer, TransactionEnd::Commit).expect("acknowledged");
    // The hint covers the data; the marker, which is not synced, is lost with the power.
    drop(log);
    disk.drop_unsynced(&segment("a", 0, "log")).expect("there");
    let path = segment("a", 0, "log");
    let mut bytes = bytes_of(&disk, &path);
    let mut other = batch_of(producer, 0, true, &["two"]).to_vec();
    let epoch = i32::from_be_bytes(bytes[12..16].try_into().expect("four bytes"));
    stamp(other.first_chunk_mut().expect("a header"), stored.base_offset, epoch);
    assert_eq!(bytes.len(), other.len());
    bytes = other;
    overwrite(&disk, &path, &bytes);

    let disk_again = disk.restart();
    let log = open(&disk_again, Level::Disk, 2).expect("above the hint nobody knows better");
    assert_eq!(log.report().revoked, 1);
    drop(log);

    // The same again, with the hint noted.
    let disk = SimDisk::new(7);
    disk.set_early_write_back(0);
    let log = opened(&disk, Level::Disk);
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("a"), 0, "one").expect("written");
    end(&*log, "tx", producer, TransactionEnd::Commit).expect("acknowledged");
    let hint = bytes_of(&disk, &folder("a").join("flushed-offset"));
    assert!(hint.is_empty(), "not noted yet");
    note_hint(&disk, "a", 1);
    drop(log);
    disk.drop_unsynced(&path).expect("there");
    overwrite(&disk, &path, &bytes);
    let disk = disk.restart();
    match open(&disk, Level::Disk, 2) {
        Err(Error::Damaged { path, what, .. }) => {
            assert!(path.ends_with("a-0"), "{}", path.display());
            assert!(what.contains("offset 0") && what.contains("copy"), "{what}");
        }
        other => panic!("{:?}", other.map(|log| log.report().clone())),
    }
}

/// Writes the flushed-offset hint of a topic, as its next tick would.
fn note_hint(disk: &SimDisk, topic: &str, durable_end: i64) {
    let mut slot = Vec::new();
    slot.extend_from_slice(b"TWFO\0\x01\0\0");
    slot.extend_from_slice(&1u64.to_be_bytes());
    slot.extend_from_slice(&0i64.to_be_bytes());
    slot.extend_from_slice(&durable_end.to_be_bytes());
    slot.extend_from_slice(&thalweg_core::batch::crc32c(&slot).to_be_bytes());
    let mut file = vec![0; 512];
    file.extend_from_slice(&slot);
    overwrite(disk, &folder(topic).join("flushed-offset"), &file);
}

/// One partition holds the COMMIT marker, so somebody may have read what it commits: the decision
/// stands, also where the rest of the evidence does not look like it any more.
#[test]
fn where_a_marker_is_durable_the_decision_stands() {
    let disk = SimDisk::new(9);
    disk.set_early_write_back(0);
    let log = opened(&disk, Level::Disk);
    let producer = init(&*log, "tx");
    transfer(&*log, producer, "one").expect("acknowledged");
    // The markers are written; the one in topic a becomes durable with another record there.
    append(&*log, &at("a"), "behind").expect("acknowledged");
    drop(log);
    for name in ["b", "__consumer_offsets"] {
        disk.drop_unsynced(&segment(name, 0, "log")).expect("there");
    }
    // Topic b lost its data too, though that was synced: only the hint would know.
    overwrite(&disk, &segment("b", 0, "log"), b"");
    let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert_eq!((log.report().finished, log.report().revoked), (1, 0));
    assert_eq!(both(&*log), (vec!["one".into(), "behind".into()], vec![], Some("one".into())));
    assert_decided(&*log, "b", "it got its marker");
    drop(disk);
}

/// What was committed was read and deleted, and with it every file that knew its producer, before the
/// decision was complete. Only what is decided is deleted: that is evidence enough.
#[test]
fn where_the_records_were_deleted_the_decision_stands() {
    let disk = SimDisk::new(9);
    disk.set_early_write_back(0);
    let log = opened(&disk, Level::Disk);
    let producer = init(&*log, "tx");
    transfer(&*log, producer, "one").expect("acknowledged");
    append(&*log, &at("a"), "behind").expect("acknowledged, and the marker with it");
    now(log.delete_records(&at("a"), 3)).expect("deleted");
    drop(log);
    for name in names(&disk, &folder("a"), "") {
        if name.starts_with('0') {
            disk.remove(&folder("a").join(name)).expect("removed");
        }
    }
    for name in ["b", "__consumer_offsets"] {
        disk.drop_unsynced(&segment(name, 0, "log")).expect("there");
    }
    let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert_eq!((log.report().finished, log.report().revoked), (1, 0));
    assert_eq!(both(&*log), (vec![], vec!["one".into()], Some("one".into())));
    assert_decided(&*log, "a", "its marker is written again");
}

/// A device that refuses to read says nothing of what is on it: no decision rests on that.
#[test]
fn a_read_error_while_opening_revokes_nothing() {
    let mut refused = 0;
    for nth in 1.. {
        let disk = SimDisk::new(5);
        disk.set_early_write_back(0);
        let log = opened(&disk, Level::Disk);
        let producer = init(&*log, "tx");
        transfer(&*log, producer, "one").expect("acknowledged");
        drop(log);
        // Its markers are lost, so that what it names has to be looked for.
        for name in ["a", "b", "__consumer_offsets"] {
            disk.drop_unsynced(&segment(name, 0, "log")).expect("there");
        }
        disk.crash(Crash::Process);
        let disk = disk.restart();
        let count = Arc::new(AtomicU64::new(0));
        let met = Arc::clone(&count);
        disk.fail_on(Call::Read, Failure::Io, 1, move |_| met.fetch_add(1, Relaxed) + 1 == nth);
        match open(&disk, Level::Disk, 2) {
            Ok(log) => {
                assert_eq!((log.report().finished, log.report().revoked), (1, 0), "read {nth}");
            }
            Err(e) => {
                assert!(matches!(e, Error::Io { .. }), "read {nth}: {e}");
                refused += 1;
            }
        }
        let ended = count.load(Relaxed) < nth;
        disk.heal();
        let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
        assert_eq!(
            both(&*log),
            (vec!["one".into()], vec!["one".into()], Some("one".into())),
            "read {nth}"
        );
        if ended {
            break;
        }
    }
    assert!(refused > 5, "{refused}");
}

/// At level `os` an acknowledgement never promised more than a process crash: the decision stands.
#[test]
fn at_level_os_a_decision_stands_whatever_the_power_took() {
    let mut without = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let log = opened(&disk, Level::Os);
        let producer = init(&*log, "tx");
        transfer(&*log, producer, "one").expect("acknowledged");
        let (_, log) = reopen(&disk, Crash::Power, Level::Os);
        assert_eq!(log.report().revoked, 0, "seed {seed}");
        create(&*log, "a", 1, 1 << 20).expect("created");
        create(&*log, "b", 1, 1 << 20).expect("created");
        without += usize::from(committed(&*log, "a").is_empty());
        assert_decided(&*log, "a", "every transaction was ended");
        assert_decided(&*log, "b", "every transaction was ended");
        log.check_coordinators().expect("equal");
    }
    assert!(without > 0, "the power took something");
}

/// At level `os` the power takes a commit's records in one partition, and the marker before them: what is
/// open there is the transaction before, which was aborted. The decision that stands is not its own.
#[test]
fn a_decision_ends_nothing_but_what_it_decided() {
    // With the records of the second gone everywhere, and with some that are there.
    for elsewhere in [false, true] {
        let disk = SimDisk::new(3);
        disk.set_early_write_back(0);
        let log = opened(&disk, Level::Os);
        let producer = init(&*log, "tx");
        append_in(&*log, "tx", producer, &at("a"), 0, "taken back").expect("written");
        let file = disk.open(&segment("a", 0, "log"), Open::Read).expect("there");
        file.sync_data().expect("the system wrote it back");
        let producer = end(&*log, "tx", producer, TransactionEnd::Abort).expect("aborted");
        append_in(&*log, "tx", producer, &at("a"), 0, "given").expect("written");
        if elsewhere {
            append_in(&*log, "tx", producer, &at("b"), 0, "given").expect("written");
        }
        end(&*log, "tx", producer, TransactionEnd::Commit).expect("committed");
        drop(log);
        disk.drop_unsynced(&segment("a", 0, "log")).expect("there");
        let (_, log) = reopen(&disk, Crash::Process, Level::Os);
        assert_eq!((log.report().finished, log.report().revoked), (1, 0));
        let all = values(&*log, &at("a"), Isolation::ReadUncommitted).expect("read");
        assert_eq!(all, ["taken back"]);
        assert_eq!(committed(&*log, "a"), [""; 0]);
        assert_eq!(committed(&*log, "b"), &["given"][..usize::from(elsewhere)]);
        assert_decided(&*log, "a", "its marker is an abort");
        log.check_coordinators().expect("equal");
    }
}

/// A commit is acknowledged before its markers are durable, and its markers are written before the
/// next transaction's first record; so a reader sees it at once, and a kill in between costs nothing.
#[test]
fn markers_come_after_the_acknowledgement_and_before_the_next_record() {
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let log = opened(&disk, Level::Disk);
    let producer = init(&*log, "tx");
    let producer = transfer(&*log, producer, "one").expect("acknowledged");
    let offsets = now(log.offsets(&at("a"))).expect("there");
    assert_eq!(offsets.end, 2, "record and marker are written");
    assert_eq!(offsets.high_watermark, 1, "the marker is not synced yet");
    // In line the next user of the id is who completes it.
    append_in(&*log, "tx", producer, &at("a"), 0, "two").expect("written");
    let offsets = now(log.offsets(&at("a"))).expect("there");
    assert_eq!((offsets.high_watermark, offsets.last_stable), (2, 2));
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    assert_eq!(committed(&*log, "a"), ["one"]);
    assert_eq!(log.report().aborted, 1);
}

/// Decided, acknowledged to nobody because the disk filled up under the markers: the caller's next
/// try finishes it, and so does the passing of time.
#[test]
fn a_commit_whose_markers_did_not_fit_is_finished_by_the_next_try_or_by_the_next_tick() {
    for by_tick in [false, true] {
        let disk = SimDisk::new(1);
        let log = opened(&disk, Level::Disk);
        let producer = init(&*log, "tx");
        append_in(&*log, "tx", producer, &at("a"), 0, "one").expect("written");
        append_in(&*log, "tx", producer, &at("b"), 0, "one").expect("written");
        disk.fail_on(Call::Write, Failure::NoSpace, 1, |path| path == segment("b", 0, "log"));
        let full = end(&*log, "tx", producer, TransactionEnd::Commit).expect_err("no room");
        assert!(full.is_retriable(), "{full}");
        assert_eq!(committed(&*log, "b"), Vec::<String>::new());
        if by_tick {
            now(log.tick()).expect("tick");
            assert_eq!(committed(&*log, "b"), ["one"], "nobody has to ask");
        }
        let next = end(&*log, "tx", producer, TransactionEnd::Commit).expect("finished");
        assert_eq!((next.id, next.epoch), (producer.id, producer.epoch + 1));
        let wrong = end(&*log, "tx", producer, TransactionEnd::Abort).expect_err("it committed");
        assert!(matches!(wrong, Error::Invalid { .. }), "{wrong}");
        assert_eq!(committed(&*log, "a"), ["one"]);
        assert_eq!(committed(&*log, "b"), ["one"]);
        append_in(&*log, "tx", next, &at("a"), 0, "two").expect("the next one begins");
    }
}

/// Two topics are in the transaction, one is deleted and made again before the power goes: that the
/// new one lacks the records is no reason to revoke what was acknowledged.
#[test]
fn deleting_a_topic_does_not_revoke_a_commit_that_it_was_part_of() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        disk.set_early_write_back(0);
        let log = opened(&disk, Level::Disk);
        let producer = init(&*log, "tx");
        transfer(&*log, producer, "one").expect("acknowledged");
        now(log.delete_topic("b")).expect("deleted");
        create(&*log, "b", 1, 1 << 20).expect("created again");
        let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
        assert_eq!(log.report().revoked, 0, "seed {seed}");
        assert_eq!(both(&*log), (vec!["one".into()], vec![], Some("one".into())), "seed {seed}");
    }
}

//! Crash catalogue 13: a topic is one durable record; its folders follow from it, whatever a crash
//! interrupted, and none of its records outlives it.

mod common;

use std::path::Path;

use common::*;
use thalweg_core::client::log::*;
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Call, Crash, Failure, SimDisk};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::open_simulated;
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::ids::TopicPartition;
use thalweg_core::{Error, Result};

const PARTITIONS: u32 = 3;

fn fill(log: &dyn Log, topic: &str, what: &str) -> Result<()> {
    for partition in 0..PARTITIONS {
        for n in 0..7 {
            append(log, &TopicPartition::new(topic, partition), &format!("{what} {n}"))?;
        }
    }
    Ok(())
}

/// The topic is there with all of its partitions and takes records, or is not there at all.
fn is_whole(log: &dyn Log, topic: &str, what: &str) -> bool {
    match now(log.topic(topic)) {
        Ok(info) => {
            assert_eq!(info.partitions, PARTITIONS, "{what}");
            fill(log, topic, "later").unwrap_or_else(|e| panic!("{what}: {e}"));
            true
        }
        Err(Error::Unknown { .. }) => {
            for partition in 0..PARTITIONS {
                let refused = append(log, &TopicPartition::new(topic, partition), "x");
                assert!(matches!(refused, Err(Error::Unknown { .. })), "{what}");
            }
            false
        }
        Err(e) => panic!("{what}: {e}"),
    }
}

#[test]
fn a_crash_at_any_step_of_creating_a_topic_leaves_all_of_it_or_nothing() {
    let mut outcomes = [0, 0];
    for crash in [Crash::Power, Crash::Process] {
        for seed in 0..8 {
            let run = |cut: Option<u64>| {
                let disk = SimDisk::new(seed);
                let log = open(&disk, Level::Disk, 1).expect("opens");
                let before = disk.operations();
                if let Some(cut) = cut {
                    disk.crash_at(before + cut, crash);
                }
                let created = create(&*log, "t", PARTITIONS, 400).is_ok();
                (disk.operations() - before, disk, created)
            };
            let (steps, ..) = run(None);
            for cut in 1..=steps {
                let (_, disk, created) = run(Some(cut));
                let what = format!("{crash:?} seed {seed}, {cut} into creating");
                let disk = disk.restart();
                let log = open(&disk, Level::Disk, 2).unwrap_or_else(|e| panic!("{what}: {e}"));
                let there = is_whole(&*log, "t", &what);
                assert!(there || !created, "{what}: it was acknowledged");
                assert_eq!(log.report().strangers, Vec::<std::path::PathBuf>::new(), "{what}");
                outcomes[usize::from(there)] += 1;
                create(&*log, "t", PARTITIONS, 400).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(is_whole(&*log, "t", &what));
            }
        }
    }
    assert!(outcomes.iter().all(|n| *n > 20), "{outcomes:?}");
}

/// The very first open is killed at any step; the next run finds its folders in the cache, goes on
/// and acknowledges. Then the power goes. Once, the next run took the folders for durable, and all of
/// it was gone.
#[test]
fn a_kill_in_the_first_open_and_a_power_loss_in_the_second_run_lose_nothing() {
    for seed in 0..10 {
        let run = |cut: Option<u64>| {
            let disk = SimDisk::new(seed);
            if let Some(cut) = cut {
                disk.crash_at(cut, Crash::Process);
            }
            let opened = open(&disk, Level::Disk, 1).is_ok();
            (disk.operations(), disk, opened)
        };
        let (steps, ..) = run(None);
        for cut in 1..=steps {
            let (_, disk, opened) = run(Some(cut));
            assert!(!opened);
            let disk = disk.restart();
            let log = open(&disk, Level::Disk, 2).expect("opens");
            create(&*log, "t", 1, 400).expect("created");
            append(&*log, &at("t"), "value").expect("acknowledged");
            let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
            assert_eq!(committed(&*log, "t"), ["value"], "seed {seed}, killed at {cut}");
        }
    }
}

/// A data folder below folders that are not there either.
#[test]
fn the_way_to_the_data_folder_is_made_and_durable() {
    for cut in 0..40 {
        let disk = SimDisk::new(cut);
        if cut > 0 {
            disk.crash_at(cut, Crash::Process);
        }
        let opened = |disk: &SimDisk| {
            let (clock, entropy) = (Clock::fixed(NOW), Entropy::seeded(1));
            let dir = Path::new("/some/where/deep/data");
            open_simulated(disk, dir, config(Level::Disk), Runtime::Inline, clock, entropy)
        };
        let _ = opened(&disk);
        disk.heal();
        let disk = disk.restart();
        let log = opened(&disk).expect("opens");
        create(&*log, "t", 1, 400).expect("created");
        append(&*log, &at("t"), "value").expect("acknowledged");
        drop(log);
        disk.crash(Crash::Power);
        let log = opened(&disk.restart()).expect("opens");
        assert_eq!(committed(&*log, "t"), ["value"], "killed at {cut}");
    }
}

/// A disk that cannot be looked at is an error, not a missing folder.
#[test]
fn a_folder_that_cannot_be_looked_at_is_told() {
    let disk = SimDisk::new(1);
    drop(open(&disk, Level::Disk, 1).expect("opens"));
    let disk = disk.restart();
    disk.fail_on(Call::Stat, Failure::Io, 1, |path| path.starts_with(DIR));
    let told = open(&disk, Level::Disk, 2).err().expect("told");
    assert!(matches!(&told, Error::Io { path, .. } if path.starts_with(DIR)), "{told}");
    disk.crash(Crash::Process);
    assert!(open(&disk, Level::Disk, 3).is_err(), "the machine is down");
}

/// Deleting, and making the topic again: after a crash anywhere in between the old records are all
/// there or gone for good. Once they came back: the power took the file that says whose the folder
/// is, and left the records, and the next topic of that name moved in.
#[test]
fn a_crash_at_any_step_of_deleting_a_topic_never_brings_its_records_back() {
    let mut outcomes = [0, 0];
    for crash in [Crash::Power, Crash::Process] {
        for seed in 0..12 {
            let run = |cut: Option<u64>| {
                let disk = SimDisk::new(seed);
                let log = open(&disk, Level::Disk, 1).expect("opens");
                create(&*log, "t", PARTITIONS, 400).expect("created");
                fill(&*log, "t", "old").expect("acknowledged");
                let before = disk.operations();
                if let Some(cut) = cut {
                    disk.crash_at(before + cut, crash);
                }
                let deleted = now(log.delete_topic("t")).is_ok();
                let again = deleted && create(&*log, "t", PARTITIONS, 400).is_ok();
                (disk.operations() - before, disk, deleted, again)
            };
            let (steps, ..) = run(None);
            for cut in 1..=steps {
                let (_, disk, deleted, again) = run(Some(cut));
                let what = format!("{crash:?} seed {seed}, {cut} into deleting");
                let disk = disk.restart();
                let log = open(&disk, Level::Disk, 2).unwrap_or_else(|e| panic!("{what}: {e}"));
                let found = match now(log.topic("t")) {
                    Ok(_) => committed(&*log, "t").len(),
                    Err(_) => 0,
                };
                assert!(found == 0 || (found == 7 && !deleted), "{what}: {found}");
                let there = is_whole(&*log, "t", &what);
                assert!(there || !again, "{what}: it was acknowledged");
                assert_eq!(log.report().strangers, Vec::<std::path::PathBuf>::new(), "{what}");
                outcomes[usize::from(found > 0)] += 1;
                if !there {
                    create(&*log, "t", PARTITIONS, 400).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(committed(&*log, "t"), Vec::<String>::new(), "{what}: old records");
                    assert!(is_whole(&*log, "t", &what));
                }
            }
        }
    }
    assert!(outcomes.iter().all(|n| *n > 10), "{outcomes:?}");
}

/// Positions of a deleted topic never meet the records of the next one, also when the crash comes
/// between the two.
#[test]
fn no_position_of_a_deleted_topic_meets_the_records_of_the_next() {
    for seed in 0..6 {
        let run = |cut: Option<u64>| {
            let disk = SimDisk::new(seed);
            let log = open(&disk, Level::Disk, 1).expect("opens");
            create(&*log, "t", PARTITIONS, 400).expect("created");
            fill(&*log, "t", "old").expect("acknowledged");
            let commit =
                OffsetCommit { at: at("t"), offset: 5, leader_epoch: -1, metadata: String::new() };
            now(log.commit_offsets(&Membership::simple("g"), &[commit])).expect("stored");
            let before = disk.operations();
            if let Some(cut) = cut {
                disk.crash_at(before + cut, Crash::Power);
            }
            let _ = now(log.delete_topic("t"));
            (disk.operations() - before, disk)
        };
        let (steps, _) = run(None);
        for cut in 1..=steps {
            let disk = run(Some(cut)).1.restart();
            let log = open(&disk, Level::Disk, 2).expect("opens");
            if now(log.topic("t")).is_ok() {
                continue;
            }
            create(&*log, "t", PARTITIONS, 400).expect("created");
            let stored = now(log.committed_offsets("g", &[at("t")])).expect("there");
            assert_eq!(stored, [None], "seed {seed} cut {cut}");
        }
    }
}

/// The record is written, the folders do not fit: when there is room, creating it again completes it.
#[test]
fn a_topic_whose_folders_did_not_fit_is_completed_when_there_is_room() {
    for call in [Call::CreateDir, Call::Write, Call::Open] {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        let second = |path: &Path| path.to_string_lossy().contains("/t-1");
        disk.fail_on(call, Failure::NoSpace, 1, second);
        let full = create(&*log, "t", PARTITIONS, 400).expect_err("no room");
        assert!(full.is_retriable(), "{full}");
        create(&*log, "t", PARTITIONS, 400).expect("completed");
        assert!(is_whole(&*log, "t", "completed"));
        let again =
            NewTopic { name: "t".to_owned(), partitions: 1, config: TopicConfig::default() };
        let taken = now(log.create_topic(&again)).expect_err("it exists");
        assert!(matches!(taken, Error::TopicExists { .. }), "{taken}");
    }
}

/// The record is written, then something fails: deleting it again completes it, and frees the name.
#[test]
fn a_deletion_that_failed_half_way_is_completed_by_the_next_try() {
    for (call, failure) in
        [(Call::Remove, Failure::Io), (Call::RemoveDir, Failure::Io), (Call::SyncDir, Failure::Io)]
    {
        let disk = SimDisk::new(1);
        let log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", PARTITIONS, 400).expect("created");
        fill(&*log, "t", "old").expect("acknowledged");
        disk.fail_on(call, failure, 1, |path| path.to_string_lossy().contains("/t-1"));
        now(log.delete_topic("t")).expect_err("a broken disk");
        let new = NewTopic { name: "t".to_owned(), partitions: 1, config: TopicConfig::default() };
        let busy = now(log.create_topic(&new)).expect_err("the name is taken");
        assert!(matches!(busy, Error::Retry { .. }), "{busy}");
        now(log.delete_topic("t")).expect("completed");
        let unknown = now(log.delete_topic("t")).expect_err("gone");
        assert!(matches!(unknown, Error::Unknown { .. }), "{unknown}");
        create(&*log, "t", PARTITIONS, 400).expect("created again");
        assert_eq!(committed(&*log, "t"), Vec::<String>::new());
        assert!(is_whole(&*log, "t", "created again"));
    }
}

/// The topic of topics is no topic that anybody creates: once, the attempt left a record after which
/// the folder could not be opened any more.
#[test]
fn names_of_internal_topics_are_taken() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    for name in ["__thalweg_metadata", "__consumer_offsets", "__transaction_state"] {
        let new = NewTopic { name: name.to_owned(), partitions: 1, config: TopicConfig::default() };
        let taken = now(log.create_topic(&new)).expect_err("taken");
        assert!(matches!(taken, Error::TopicExists { .. }), "{taken}");
        assert!(now(log.delete_topic(name)).is_err());
        let refused = append(&*log, &at(name), "x").expect_err("internal");
        assert!(refused.to_string().contains("internal"), "{refused}");
    }
    let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
    create(&*log, "t", 1, 400).expect("goes on");
}

/// A folder is removed because a record says so, and only when it says itself whose it is.
#[test]
fn a_folder_that_belongs_to_nobody_is_left_alone() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 400).expect("created");
    append(&*log, &at("t"), "value").expect("acknowledged");
    log.close().expect("closes");
    drop(log);
    // Somebody's copy, and a folder of another log.
    let id = bytes_of(&disk, &folder("t").join("partition.metadata"));
    disk.create_dir(&folder("copy")).expect("made");
    overwrite(&disk, &folder("copy").join("partition.metadata"), &id);
    overwrite(&disk, &segment("copy", 0, "log"), &bytes_of(&disk, &segment("t", 0, "log")));
    let log = open(&disk, Level::Disk, 2).expect("opens");
    assert_eq!(log.report().strangers, [folder("copy")]);
    let refused = create(&*log, "copy", 1, 400).expect_err("not ours to use");
    assert!(refused.to_string().contains("move it away"), "{refused}");
    now(log.delete_topic("t")).expect("deleted");
    assert!(disk.stat(&folder("t")).is_err());
    assert!(disk.stat(&segment("copy", 0, "log")).is_ok());
    let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert!(disk.stat(&segment("copy", 0, "log")).is_ok());
    // The topic's record is there: it waits for its folder, and the others go on.
    assert_eq!(log.report().damaged.len(), 1, "{:?}", log.report().damaged);
    create(&*log, "other", 1, 400).expect("goes on");
}

/// Somebody put a folder of another topic where that of a deleted one should be.
#[test]
fn deleting_a_topic_removes_no_folder_that_carries_another_id() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    for topic in ["t", "other"] {
        create(&*log, topic, 1, 400).expect("created");
        append(&*log, &at(topic), topic).expect("acknowledged");
    }
    log.close().expect("closes");
    drop(log);
    let id = bytes_of(&disk, &folder("other").join("partition.metadata"));
    overwrite(&disk, &folder("t").join("partition.metadata"), &id);
    let log = open(&disk, Level::Disk, 2).expect("opens");
    assert_eq!(log.report().damaged.len(), 1, "{:?}", log.report().damaged);
    now(log.delete_topic("t")).expect("deleted");
    assert!(disk.stat(&segment("t", 0, "log")).is_ok());
    let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert!(disk.stat(&segment("t", 0, "log")).is_ok());
    assert_eq!(committed(&*log, "other"), ["other"]);
}

/// Records in a folder that does not say of which topic are not taken over by a new one.
#[test]
fn records_without_an_id_are_not_taken_over() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 400).expect("created");
    create(&*log, "u", 1, 400).expect("created");
    append(&*log, &at("t"), "value").expect("acknowledged");
    drop(log);
    disk.remove(&folder("t").join("partition.metadata")).expect("removed");
    let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
    let refused = append(&*log, &at("t"), "value").expect_err("set aside");
    let text = refused.to_string();
    assert!(text.contains("partition.metadata") && text.contains("restore"), "{text}");
    append(&*log, &at("u"), "value").expect("the others go on");
    now(log.delete_topic("t")).expect("deleted");
    drop(log);
    let (_, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert_eq!(log.report().strangers, [folder("t")], "nobody knows whose it is: it stays");
}

/// Without its metadata a folder of topics is not an empty log.
#[test]
fn a_log_that_lost_its_metadata_is_not_begun_anew() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 400).expect("created");
    append(&*log, &at("t"), "value").expect("acknowledged");
    log.close().expect("closes");
    drop(log);
    let metadata = folder("__thalweg_metadata");
    for name in names(&disk, &metadata, "") {
        disk.remove(&metadata.join(name)).expect("removed");
    }
    for _ in 0..2 {
        match open(&disk, Level::Disk, 2) {
            Err(Error::Damaged { path, what, .. }) => {
                assert_eq!(path, metadata);
                assert!(what.contains("restore"), "{what}");
            }
            other => panic!("{:?}", other.map(|log| log.report().clone())),
        }
    }
}

/// However long the log was open: a partition that nobody wrote to has what Kafka has beside an empty
/// segment, and no snapshot of producers that there never were.
#[test]
fn a_partition_without_records_has_kafkas_files_after_a_clean_stop() {
    let disk = SimDisk::new(1);
    let clock = Clock::fixed(NOW);
    let log = open_at(&disk, config(Level::Disk), clock.clone(), 1).expect("opens");
    create(&*log, "t", 1, 400).expect("created");
    for _ in 0..3 {
        clock.advance(3_600_000);
        now(log.tick()).expect("ticks");
    }
    log.close().expect("closes");
    let found = names(&disk, &folder("t"), "");
    for wanted in ["00000000000000000000.index", "00000000000000000000.timeindex"] {
        assert!(found.iter().any(|name| name == wanted), "{found:?}");
    }
    assert!(!found.iter().any(|name| name.ends_with(".snapshot")), "{found:?}");
}

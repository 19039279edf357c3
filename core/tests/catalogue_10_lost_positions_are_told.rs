//! Crash catalogue 10: a position carries the leader epoch of the record before it, every unclean
//! open takes an epoch that was never given out, and so a position in records that are gone is told
//! from one that still stands.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use thalweg_core::Error;
use thalweg_core::client::consumer::{Consumer, ConsumerConfig};
use thalweg_core::client::log::*;
use thalweg_core::disk::sim::{Crash, SimDisk};

fn epoch_of_last(log: &dyn Log) -> i32 {
    now(log.offsets(&at("t"))).expect("there").last_epoch
}

fn position(log: &dyn Log, epoch: i32, offset: i64) -> Result<(), Error> {
    let id = now(log.topic("t")).expect("there").id;
    now(log.check_position(&at("t"), id, epoch, offset))
}

/// A power loss at level `os` takes records; the log grows again past where it was. The position
/// behind the lost ones is recognised, before and after it lies inside the log again.
#[test]
fn a_position_in_lost_records_is_told_also_when_the_log_has_grown_past_it() {
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    append(&*log, &at("t"), "kept").expect("acknowledged");
    let log = reopen_cleanly(&disk, log, Level::Os);
    append(&*log, &at("t"), "lost").expect("acknowledged");
    let epoch = epoch_of_last(&*log);
    position(&*log, epoch, 2).expect("it stands");
    drop(log);
    disk.drop_unsynced(&segment("t", 0, "log")).expect("there");
    let (_, log) = reopen(&disk, Crash::Power, Level::Os);
    assert_eq!(committed(&*log, "t"), ["kept"]);
    position(&*log, epoch, 1).expect("it stands");
    let short = position(&*log, epoch, 2).expect_err("beyond the end");
    for value in ["other", "more"] {
        append(&*log, &at("t"), value).expect("acknowledged");
    }
    let inside = position(&*log, epoch, 2).expect_err("another record is there now");
    for error in [short, inside] {
        let text = error.to_string();
        assert!(matches!(error, Error::PositionLost { .. }), "{text}");
        assert!(text.contains("power loss at level os") && text.contains("reset"), "{text}");
    }
    position(&*log, epoch_of_last(&*log), 3).expect("it stands");
    position(&*log, -1, 2).expect("without an epoch nobody can tell");
}

/// The epoch of an open whose every record is lost is not given out again: the next open's records
/// could not be told from them.
#[test]
fn no_epoch_is_given_out_twice_whatever_the_power_takes() {
    for seed in 0..30 {
        let mut disk = SimDisk::new(seed);
        let mut seen: BTreeSet<i32> = BTreeSet::new();
        for life in 0..6 {
            let log = open(&disk, Level::Os, life).expect("opens");
            create(&*log, "t", 1, 400).expect("created");
            append(&*log, &at("t"), "value").expect("acknowledged");
            let epoch = epoch_of_last(&*log);
            assert!(seen.insert(epoch), "seed {seed}: epoch {epoch} of {seen:?} again");
            assert_eq!(seen.last(), Some(&epoch), "it rises");
            // Some lives are cut within their opening.
            let crash = if life % 2 == 0 { Crash::Power } else { Crash::Process };
            disk.crash(crash);
            disk = disk.restart();
            disk.crash_at(disk.operations() + 1 + (seed * 13 + life * 7) % 25, Crash::Power);
            if let Ok(log) = open(&disk, Level::Os, life + 100)
                && append(&*log, &at("t"), "cut").is_ok()
                && let Ok(offsets) = now(log.offsets(&at("t")))
            {
                let epoch = offsets.last_epoch;
                assert!(seen.insert(epoch), "seed {seed}: epoch {epoch} of {seen:?} again");
            }
            disk.heal();
            disk = disk.restart();
        }
    }
}

/// A clean stop loses nothing, so positions and epoch go on.
#[test]
fn a_clean_stop_takes_no_new_epoch() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Os, 1).expect("opens");
    create(&*log, "t", 1, 400).expect("created");
    append(&*log, &at("t"), "value").expect("acknowledged");
    let epoch = epoch_of_last(&*log);
    let log = reopen_cleanly(&disk, log, Level::Os);
    append(&*log, &at("t"), "value").expect("acknowledged");
    assert_eq!(epoch_of_last(&*log), epoch);
}

/// A topic of the same name is another topic.
#[test]
fn a_position_in_a_topic_that_was_made_again_is_told() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 400).expect("created");
    append(&*log, &at("t"), "value").expect("acknowledged");
    let old = now(log.topic("t")).expect("there").id;
    now(log.delete_topic("t")).expect("deleted");
    create(&*log, "t", 1, 400).expect("created");
    append(&*log, &at("t"), "value").expect("acknowledged");
    let lost = now(log.check_position(&at("t"), old, 0, 1)).expect_err("another topic");
    assert!(lost.to_string().contains("created again"), "{lost}");
}

/// The run is killed inside a transaction; the next open aborts it with a marker of its own epoch. A
/// reader that passes the marker sees no record of that epoch. Its position must stand all the same:
/// once it did not, and an application that had lost nothing refused to start.
#[test]
fn a_position_behind_a_marker_of_a_later_epoch_stands() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    append(&*log, &at("t"), "seen").expect("acknowledged");
    let producer = init(&*log, "tx");
    append_in(&*log, "tx", producer, &at("t"), 0, "hidden").expect("written");
    let (disk, log) = reopen(&disk, Crash::Process, Level::Disk);
    assert_eq!(log.report().aborted, 1);

    let config = ConsumerConfig { group: Some("g".to_owned()), ..ConsumerConfig::default() };
    let mut consumer = Consumer::open(log.clone(), config.clone());
    now(consumer.assign(&[at("t")])).expect("assigned");
    let records = now(consumer.poll(Duration::ZERO)).expect("polled");
    assert_eq!(records.len(), 1);
    assert_eq!(consumer.position(&at("t")), Some(3), "past the record, the hidden one, the marker");
    now(consumer.commit()).expect("stored");
    for _ in 0..2 {
        let mut again = Consumer::open(log.clone(), config.clone());
        now(again.assign(&[at("t")])).expect("the position stands");
        assert_eq!(now(again.poll(Duration::ZERO)).expect("polled"), []);
        now(again.commit()).expect("stored");
    }
    drop((log, consumer));
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    let mut again = Consumer::open(log.clone(), config);
    now(again.assign(&[at("t")])).expect("the position stands");
    append(&*log, &at("t"), "new").expect("acknowledged");
    assert_eq!(now(again.poll(Duration::ZERO)).expect("polled").len(), 1);
}

/// A consumer whose group's position lies in lost records is told, and is not led past what was
/// written there since.
#[test]
fn a_consumer_is_told_rather_than_led_past_new_records() {
    let disk = SimDisk::new(5);
    disk.set_early_write_back(0);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    let level = Some(Level::Os);
    let config = TopicConfig { level, ..TopicConfig::default() };
    now(log.create_topic(&NewTopic { name: "t".to_owned(), partitions: 1, config })).expect("new");
    for n in 0..4 {
        append(&*log, &at("t"), &format!("lost {n}")).expect("acknowledged");
    }
    let group = ConsumerConfig { group: Some("g".to_owned()), ..ConsumerConfig::default() };
    let mut consumer = Consumer::open(log.clone(), group.clone());
    now(consumer.assign(&[at("t")])).expect("assigned");
    assert_eq!(now(consumer.poll(Duration::ZERO)).expect("polled").len(), 4);
    now(consumer.commit()).expect("durable: positions are at level disk");
    drop((consumer, log));
    disk.drop_unsynced(&segment("t", 0, "log")).expect("there");
    let (_, log) = reopen(&disk, Crash::Power, Level::Disk);
    for n in 0..6 {
        append(&*log, &at("t"), &format!("new {n}")).expect("acknowledged");
    }
    let mut consumer = Consumer::open(log, group);
    let told = now(consumer.assign(&[at("t")])).expect_err("its records are gone");
    assert!(matches!(told, Error::PositionLost { offset: 4, .. }), "{told}");
}

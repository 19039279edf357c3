//! Idempotent producers through the engine (PID-01 to PID-06, PID-10 to PID-12 of Kafka's behaviour):
//! a retried batch is stored once and answered with where it was stored; what is neither the next
//! batch nor a known one is refused.

mod common;

use std::time::Duration;

use common::*;
use thalweg_core::Error;
use thalweg_core::client::log::*;
use thalweg_core::config::LogConfig;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::engine::clock::Clock;
use thalweg_core::ids::ProducerIdentity;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// One append of producer 9: epoch, first sequence, number of records.
type Try = (i16, i32, usize);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// Stored at this offset.
    At(i64),
    /// Was stored at this offset before.
    Again(i64),
    /// Another sequence must follow.
    OutOfOrder,
    /// A newer epoch is current.
    Fenced,
}

fn answer(log: &dyn Log, (epoch, sequence, count): Try) -> Answer {
    let producer = ProducerIdentity { id: 9, epoch };
    let values: Vec<String> = (0..count).map(|n| format!("{epoch}/{sequence}+{n}")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let bytes = batch_of(producer, sequence, false, &values);
    match now(log.append(&at("t"), bytes, None, Ack::Level)) {
        Ok(Appended { base_offset, duplicate: true, next_offset }) => {
            assert_eq!(next_offset - base_offset, count as i64);
            Answer::Again(base_offset)
        }
        Ok(Appended { base_offset, .. }) => Answer::At(base_offset),
        Err(Error::Fenced { .. }) => Answer::Fenced,
        Err(Error::Invalid { what }) if what.contains("sequence") => Answer::OutOfOrder,
        Err(e) => panic!("{e}"),
    }
}

/// Each case is a history of one producer in a new topic.
#[test]
fn sequences_and_epochs_are_checked_as_kafka_does() {
    use Answer::*;
    let cases: &[(&str, &[(Try, Answer)])] = &[
        ("PID-01: the last batch again", &[((0, 0, 3), At(0)), ((0, 0, 3), Again(0))]),
        (
            "PID-01: any of the last five again, and only whole",
            &[
                ((0, 0, 1), At(0)),
                ((0, 1, 2), At(1)),
                ((0, 3, 1), At(3)),
                ((0, 4, 1), At(4)),
                ((0, 5, 1), At(5)),
                ((0, 0, 1), Again(0)),
                ((0, 1, 2), Again(1)),
                ((0, 5, 1), Again(5)),
                ((0, 1, 1), OutOfOrder),
                ((0, 2, 1), OutOfOrder),
                ((0, 6, 1), At(6)),
            ],
        ),
        (
            "PID-02: older than the last five, and gaps",
            &[
                ((0, 0, 1), At(0)),
                ((0, 1, 1), At(1)),
                ((0, 2, 1), At(2)),
                ((0, 3, 1), At(3)),
                ((0, 4, 1), At(4)),
                ((0, 5, 1), At(5)),
                ((0, 0, 1), OutOfOrder),
                ((0, 7, 1), OutOfOrder),
                ((0, 6, 1), At(6)),
            ],
        ),
        (
            "PID-03: sequences go from 2147483647 to 0, also within a batch",
            &[
                ((0, i32::MAX - 1, 1), At(0)),
                ((0, i32::MAX, 3), At(1)),
                ((0, i32::MAX, 3), Again(1)),
                ((0, 1, 1), OutOfOrder),
                ((0, 2, 1), At(4)),
            ],
        ),
        ("PID-03: at the very edge", &[((0, i32::MAX, 1), At(0)), ((0, 0, 1), At(1))]),
        (
            "PID-04: a new epoch starts at 0",
            &[((0, 0, 2), At(0)), ((1, 2, 1), OutOfOrder), ((1, 0, 1), At(2)), ((1, 1, 1), At(3))],
        ),
        (
            "PID-05: of an unknown producer any sequence is taken",
            &[((3, 77, 1), At(0)), ((3, 78, 1), At(1))],
        ),
        (
            "PID-06: a lower epoch is fenced",
            &[((5, 0, 1), At(0)), ((4, 1, 1), Fenced), ((5, 1, 1), At(1))],
        ),
        (
            "PID-10: a new epoch forgets the old one's batches",
            &[((0, 0, 1), At(0)), ((1, 0, 1), At(1)), ((1, 0, 1), Again(1)), ((0, 0, 1), Fenced)],
        ),
    ];
    for (story, steps) in cases {
        for reopened in [None, Some(Crash::Process), Some(Crash::Power)] {
            let disk = SimDisk::new(1);
            let mut log = open(&disk, Level::Disk, 1).expect("opens");
            create(&*log, "t", 1, 200).expect("created");
            let mut disk = disk;
            for (n, (step, wanted)) in steps.iter().enumerate() {
                // PID-12: of what is read again only the last batch is known for certain; what the
                // scan read again above the snapshot is known too, so the answers stay the same here
                // as long as the producer is not older than the recovery point.
                if let Some(crash) = reopened.filter(|_| n == steps.len() - 1) {
                    drop(log);
                    (disk, log) = reopen(&disk, crash, Level::Disk);
                }
                assert_eq!(answer(&*log, *step), *wanted, "{story}: step {n}, {reopened:?}");
            }
        }
    }
}

/// PID-12: after a clean stop the snapshot knows the last batch only. That one is still recognised;
/// older ones are refused rather than stored twice.
#[test]
fn after_a_clean_stop_the_last_batch_is_recognised_and_older_ones_refused() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 200).expect("created");
    for n in 0..6 {
        assert_eq!(answer(&*log, (0, n, 1)), Answer::At(i64::from(n)));
    }
    now(log.tick()).expect("tick");
    let log = reopen_cleanly(&disk, log, Level::Disk);
    assert_eq!(answer(&*log, (0, 5, 1)), Answer::Again(5));
    assert_eq!(answer(&*log, (0, 1, 1)), Answer::OutOfOrder);
    assert_eq!(answer(&*log, (0, 6, 1)), Answer::At(6));
    assert_eq!(committed(&*log, "t").len(), 7);
}

/// PID-10: a sequence used again after an abort is a new batch, never answered with the aborted one's
/// offset.
#[test]
fn a_sequence_used_again_after_an_abort_is_a_new_batch() {
    for reopened in [false, true] {
        let disk = SimDisk::new(1);
        let mut log = open(&disk, Level::Disk, 1).expect("opens");
        create(&*log, "t", 1, 200).expect("created");
        let first = init(&*log, "tx");
        append_in(&*log, "tx", first, &at("t"), 0, "aborted").expect("written");
        let mut second = end(&*log, "tx", first, TransactionEnd::Abort).expect("aborted");
        if reopened {
            log = reopen_cleanly(&disk, log, Level::Disk);
            second = init(&*log, "tx");
        }
        let stored = append_in(&*log, "tx", second, &at("t"), 0, "kept").expect("written");
        assert!(!stored.duplicate);
        assert_eq!(stored.base_offset, 2);
        let again = append_in(&*log, "tx", second, &at("t"), 0, "kept").expect("written");
        assert!(again.duplicate && again.base_offset == 2);
        end(&*log, "tx", second, TransactionEnd::Commit).expect("committed");
        init(&*log, "tx");
        assert_eq!(committed(&*log, "t"), ["kept"]);
    }
}

/// PID-09: a partition forgets a producer that wrote nothing for a day, and takes what it sends next;
/// what it sends again then is a new batch. One with an open transaction is never forgotten.
#[test]
fn a_producer_that_was_idle_for_a_day_is_forgotten() {
    use Answer::*;
    const LOOK: i64 = 864_000;
    let disk = SimDisk::new(1);
    let clock = Clock::fixed(NOW);
    let short = LogConfig { producer_expiration: Duration::from_secs(60), ..config(Level::Disk) };
    let refused = open_at(&disk, short, clock.clone(), 1).err();
    assert!(matches!(refused, Some(Error::Invalid { .. })), "a retry may take longer: {refused:?}");
    let config = LogConfig { transaction_timeout_max: 24 * DAY, ..config(Level::Disk) };
    let log = open_at(&disk, config, clock.clone(), 1).expect("opens");
    create(&*log, "t", 1, 1 << 20).expect("created");
    let open = now(log.init_producer(Some("tx"), 24 * DAY)).expect("an id");
    append_in(&*log, "tx", open, &at("t"), 0, "open").expect("written");
    // A hundred looks make a day.
    let wait = |looks: i64| {
        for _ in 0..looks {
            clock.advance(LOOK);
            now(log.tick()).expect("ticks");
        }
    };
    wait(1);
    assert_eq!(answer(&*log, (0, 0, 1)), At(1));
    // Not idle: it is counted from its last batch.
    wait(95);
    assert_eq!(answer(&*log, (0, 1, 1)), At(2));
    wait(95);
    assert_eq!(answer(&*log, (0, 1, 1)), Again(2));
    // A clock that is set, however far, forgets nobody.
    for jump in [2000 * LOOK, -4000 * LOOK] {
        clock.advance(jump);
        now(log.tick()).expect("ticks");
        now(log.tick()).expect("ticks");
    }
    assert_eq!(answer(&*log, (0, 1, 1)), Again(2));
    assert_eq!(answer(&*log, (0, 7, 1)), OutOfOrder);
    wait(10);
    assert_eq!(answer(&*log, (0, 7, 1)), At(3));
    assert_eq!(answer(&*log, (0, 1, 1)), OutOfOrder);
    wait(110);
    let again = append_in(&*log, "tx", open, &at("t"), 0, "open").expect("known");
    assert!(again.duplicate, "its transaction is open");
    end(&*log, "tx", open, TransactionEnd::Commit).expect("committed");
    wait(110);
    // Nor does the next life find it in a snapshot.
    let log = reopen_cleanly(&disk, log, Level::Disk);
    assert_eq!(answer(&*log, (0, 1, 1)), At(5));
}

/// PID-11: an abort ends the transaction of its own epoch. One that comes late, from a producer that
/// was replaced, ends nothing.
#[test]
fn a_late_end_of_an_earlier_transaction_touches_nothing() {
    let disk = SimDisk::new(1);
    let log = open(&disk, Level::Disk, 1).expect("opens");
    create(&*log, "t", 1, 200).expect("created");
    let first = init(&*log, "tx");
    append_in(&*log, "tx", first, &at("t"), 0, "one").expect("written");
    let second = end(&*log, "tx", first, TransactionEnd::Commit).expect("committed");
    append_in(&*log, "tx", second, &at("t"), 0, "two").expect("written");
    // The commit's answer was lost; it comes again while the next transaction is open.
    for how in [TransactionEnd::Commit, TransactionEnd::Abort] {
        let late = end(&*log, "tx", first, how).expect_err("late");
        assert!(late.is_fenced(), "{late}");
    }
    let third = end(&*log, "tx", second, TransactionEnd::Commit).expect("committed");
    // A successor takes over; whatever the old one sends is refused.
    let successor = init(&*log, "tx");
    assert!(successor.epoch > third.epoch);
    let zombie = append_in(&*log, "tx", third, &at("t"), 0, "zombie").expect_err("fenced");
    assert!(zombie.is_fenced(), "{zombie}");
    let nobody = Membership::simple("g");
    let commit = OffsetCommit { at: at("t"), offset: 1, leader_epoch: -1, metadata: String::new() };
    let zombie = now(log.commit_offsets_in("tx", third, &nobody, &[commit])).expect_err("fenced");
    assert!(zombie.is_fenced(), "{zombie}");
    let zombie = end(&*log, "tx", third, TransactionEnd::Abort).expect_err("fenced");
    assert!(zombie.is_fenced(), "{zombie}");
    assert_eq!(committed(&*log, "t"), ["one", "two"]);
}

/// A producer without a transactional id gets an id that nobody had, however often the log is opened.
#[test]
fn a_producer_id_is_never_given_out_twice() {
    let mut disk = SimDisk::new(1);
    let mut seen = std::collections::BTreeSet::new();
    for life in 0..8 {
        let level = if life % 2 == 0 { Level::Os } else { Level::Disk };
        let log = open(&disk, level, life).expect("opens");
        for n in 0..3 {
            let id = format!("tx {life} {n}");
            let ids = [
                now(log.init_producer(None, Duration::from_secs(1))).expect("an id"),
                now(log.init_producer(Some(&id), Duration::from_secs(1))).expect("an id"),
            ];
            assert!(ids.iter().all(|p| p.epoch == 0 && seen.insert(p.id)), "{ids:?} of {seen:?}");
        }
        disk.crash(Crash::Power);
        disk = disk.restart();
    }
}

//! The sink runner: offsets and tokens are committed together, and what was committed is finished.

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{FakeLog, When};
use futures::executor::block_on;
use parking_lot::Mutex;
use thalweg_connectors::error::{Error, Result};
use thalweg_connectors::run::Step;
use thalweg_connectors::run::sink::{SinkConfig, SinkRunner};
use thalweg_connectors::sink::{Prepared, Resume, Sink, Token, visible_records};
use thalweg_core::Error as LogError;
use thalweg_core::batch::Scratch;
use thalweg_core::client::log::{Fetched, Log, OffsetCommit};
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::ids::{Offset, TopicPartition};

const GROUP: &str = "connect-memory";

/// What a store outside of the program holds: lines prepared, by token, and lines visible.
#[derive(Default)]
struct Store {
    prepared: Vec<(String, Vec<String>)>,
    visible: Vec<String>,
    opened: Vec<Vec<(TopicPartition, Resume)>>,
    /// Errors of `write` behind its first record, of `prepare`, of `commit` before its effect.
    write: Vec<Error>,
    prepare: Vec<Error>,
    commit: Vec<Error>,
    due: usize,
}

type Shared = Arc<Mutex<Store>>;

/// A two-phase sink of one partition.
struct Memory {
    store: Shared,
    at: TopicPartition,
    start: Offset,
    next: Offset,
    lines: Vec<String>,
}

impl Memory {
    fn new(store: &Shared) -> Self {
        let at = TopicPartition::new("in", 0);
        Self { store: Arc::clone(store), at, start: 0, next: 0, lines: Vec::new() }
    }

    fn finish(&self, token: &str) {
        let mut store = self.store.lock();
        let Some(i) = store.prepared.iter().position(|(name, _)| name == token) else { return };
        let (_, lines) = store.prepared.remove(i);
        store.visible.extend(lines);
    }
}

#[async_trait]
impl Sink for Memory {
    async fn open(&mut self, parts: &[(TopicPartition, Resume)]) -> Result<()> {
        self.store.lock().opened.push(parts.to_vec());
        self.lines.clear();
        for (_, resume) in parts {
            self.start = resume.offset();
            self.next = resume.offset();
            if let Resume::At(_, Some(token)) = resume {
                self.finish(&token.0);
            }
        }
        self.store.lock().prepared.clear();
        Ok(())
    }

    async fn write(&mut self, batch: &Fetched) -> Result<()> {
        let mut scratch = Scratch::default();
        let Self { store, next, lines, .. } = self;
        visible_records(batch, *next, &mut scratch, |record| {
            let value = record.value.unwrap_or_default();
            lines.push(String::from_utf8_lossy(value).into_owned());
            *next = record.offset + 1;
            store.lock().write.pop().map_or(Ok(()), Err)
        })?;
        self.next = self.next.max(batch.next_offset);
        Ok(())
    }

    fn due(&mut self, _now_ms: i64) -> bool {
        self.lines.len() >= self.store.lock().due.max(1)
    }

    async fn prepare(&mut self) -> Result<Prepared> {
        if let Some(error) = self.store.lock().prepare.pop() {
            return Err(error);
        }
        if self.next == self.start {
            return Ok(Prepared::default());
        }
        let token = (!self.lines.is_empty()).then(|| {
            let token = format!("from {}", self.start);
            self.store.lock().prepared.push((token.clone(), self.lines.clone()));
            Token(token)
        });
        Ok(Prepared { parts: vec![(self.at.clone(), self.next, token)] })
    }

    async fn commit(&mut self, prepared: &Prepared) -> Result<()> {
        if let Some(error) = self.store.lock().commit.pop() {
            return Err(error);
        }
        for (_, offset, token) in &prepared.parts {
            if let Some(token) = token {
                self.finish(&token.0);
            }
            self.start = *offset;
            self.lines.clear();
        }
        Ok(())
    }
}

fn open(log: &FakeLog, store: &Shared) -> Result<SinkRunner<Memory>> {
    let config = SinkConfig { partition_bytes: 100, ..SinkConfig::new("memory", ["in"]) };
    block_on(SinkRunner::open(log.door(), config, Memory::new(store)))
}

fn log() -> FakeLog {
    let log = FakeLog::new();
    log.create("in", 1);
    for batch in ["ab", "cd", "ef", "gh"] {
        log.produce("in", 0, &[&batch[..1], &batch[1..]]);
    }
    log
}

fn run(log: &FakeLog, store: &Shared) -> Result<()> {
    block_on(open(log, store)?.finish())
}

fn check_whole(log: &FakeLog, store: &Shared) {
    assert_eq!(store.lock().visible, log.values("in", 0));
    assert!(store.lock().prepared.is_empty(), "no token is left");
    assert!(log.is_settled());
}

#[test]
fn a_death_at_any_call_of_the_log_neither_loses_nor_doubles_a_record() {
    let calls = {
        let (log, store) = (log(), Shared::default());
        run(&log, &store).expect("nothing fails");
        check_whole(&log, &store);
        log.calls()
    };
    assert!(calls > 15, "several commits: {calls} calls");
    for when in [When::Before, When::After] {
        for first in 1..=calls {
            for second in [None, Some(3), Some(7)] {
                let (log, store) = (log(), Shared::default());
                log.crash_at(first, when);
                run(&log, &store).expect_err("it died");
                log.restart();
                if let Some(second) = second {
                    log.crash_at(log.calls() + second, when);
                    _ = run(&log, &store);
                    log.restart();
                }
                run(&log, &store).expect("nothing fails any more");
                check_whole(&log, &store);
            }
        }
    }
}

#[test]
fn errors_are_healed_each_in_its_way() {
    let retry = || Error::Retry { what: "busy".to_owned() };
    let restart = || Error::Restart { what: "lost".to_owned() };
    type Arm = fn(&mut Store, Error);
    let places: [(&str, Arm); 3] = [
        ("write", |store, e| store.write.push(e)),
        ("prepare", |store, e| store.prepare.push(e)),
        ("commit", |store, e| store.commit.push(e)),
    ];
    for (place, arm) in places {
        for (error, restarts) in [(retry(), 0), (restart(), 1)] {
            let (log, store) = (log(), Shared::default());
            arm(&mut store.lock(), error);
            let mut runner = open(&log, &store).expect("opened");
            block_on(runner.finish()).expect("healed");
            check_whole(&log, &store);
            assert_eq!(runner.stats().restarts, restarts, "{place}");
        }
    }
}

#[test]
fn a_failure_without_an_end_does_not_outlive_the_word_to_stop() {
    // The word comes before a step, or in a pause; either way it is heard once and for good.
    for polls in 0..8 {
        let (log, store) = (log(), Shared::default());
        let busy = (0..200).map(|_| Error::Retry { what: "no room".to_owned() });
        store.lock().write.extend(busy);
        let mut runner = open(&log, &store).expect("opened");
        let stop = async {
            for _ in 0..polls {
                futures::pending!();
            }
        };
        let is_whole = block_on(runner.finish_until(stop)).expect("nothing is broken");
        assert!(!is_whole, "{polls}");
        store.lock().write.clear();
        drop(runner);
        block_on(open(&log, &store).expect("opened").finish()).expect("there is room again");
        check_whole(&log, &store);
    }
}

#[test]
fn refusals_of_the_log_are_healed_each_in_its_way() {
    for call in ["fetch", "commit_offsets_in", "end_transaction"] {
        for (error, restarts) in [
            (LogError::Retry { what: "busy".to_owned() }, 0),
            (
                LogError::Full {
                    path: "/data".into(),
                    source: std::io::ErrorKind::StorageFull.into(),
                },
                0,
            ),
            (LogError::Abortable { what: "refused".to_owned() }, 1),
        ] {
            let (log, store) = (log(), Shared::default());
            let mut runner = open(&log, &store).expect("opened");
            log.refuse(call, error);
            block_on(runner.finish()).expect("healed");
            check_whole(&log, &store);
            assert_eq!(runner.stats().restarts, restarts, "{call}");
        }
    }
}

#[test]
fn a_runner_that_was_replaced_stops_and_shows_nothing() {
    let (log, store) = (log(), Shared::default());
    let mut old = open(&log, &store).expect("opened");
    store.lock().due = usize::MAX;
    assert_eq!(block_on(old.step()).expect("read"), Step::Worked);
    store.lock().due = 0;
    let other_store = Shared::default();
    let mut new = open(&log, &other_store).expect("takes over");
    let stopped = block_on(old.finish()).expect_err("fenced");
    assert!(stopped.to_string().contains("another run has taken its place"), "{stopped}");
    assert!(store.lock().visible.is_empty());
    block_on(new.finish()).expect("goes on");
    check_whole(&log, &other_store);
}

#[test]
fn an_unknown_outcome_stops_the_runner() {
    let (log, store) = (log(), Shared::default());
    let mut runner = open(&log, &store).expect("opened");
    log.refuse("end_transaction", LogError::Stopped { why: "sync failed".to_owned() });
    let stopped = block_on(runner.finish()).expect_err("stopped").to_string();
    assert!(stopped.contains("not known") && stopped.contains("sync failed"), "{stopped}");
    assert_eq!(block_on(runner.step()).expect_err("for good").to_string(), stopped);
}

#[test]
fn aborted_records_and_markers_are_skipped_and_the_position_passes_them() {
    let log = FakeLog::new();
    log.create("in", 1);
    let mut producer =
        block_on(TransactionalProducer::open(log.door(), "writer", ProducerConfig::default()))
            .expect("opened");
    let slot = producer.slot(&TopicPartition::new("in", 0));
    for (value, commit) in [("a", true), ("no", false), ("b", true), ("no", false)] {
        block_on(async {
            producer.begin().await?;
            producer.push(slot, 0, None, Some(value.as_bytes()), &[])?;
            producer.flush().await?;
            match commit {
                true => producer.commit().await,
                false => producer.abort().await,
            }
        })
        .expect("written");
    }
    let store = Shared::default();
    let mut runner = open(&log, &store).expect("opened");
    block_on(runner.finish()).expect("read");
    assert_eq!(store.lock().visible, ["a", "b"]);
    assert_eq!(log.committed(GROUP, "in", 0).expect("committed").offset, 8);
    assert_eq!(block_on(runner.lag()).expect("known"), 0);
}

#[test]
fn nothing_new_commits_nothing() {
    let (log, store) = (log(), Shared::default());
    run(&log, &store).expect("read");
    let mut runner = open(&log, &store).expect("opened");
    block_on(runner.finish()).expect("nothing to read");
    block_on(runner.roll()).expect("nothing to commit");
    assert_eq!(runner.stats().commits, 0);
}

#[test]
fn a_sink_is_told_whether_it_begins_or_goes_on() {
    let (log, store) = (log(), Shared::default());
    run(&log, &store).expect("read");
    run(&log, &store).expect("nothing to read");
    let at = TopicPartition::new("in", 0);
    let opened = store.lock().opened.clone();
    assert_eq!(opened[0], [(at, Resume::First(0))]);
    let (_, last) = &opened[1][0];
    assert!(matches!(last, Resume::At(8, Some(_))), "{last:?}");
}

#[test]
fn finishing_waits_for_transactions_that_are_being_decided() {
    let (log, store) = (log(), Shared::default());
    log.delay_markers(30);
    let mut producer =
        block_on(TransactionalProducer::open(log.door(), "writer", ProducerConfig::default()))
            .expect("opened");
    let slot = producer.slot(&TopicPartition::new("in", 0));
    block_on(async {
        producer.begin().await?;
        producer.push(slot, 0, None, Some(b"late"), &[])?;
        producer.commit().await
    })
    .expect("decided, its markers are to come");
    run(&log, &store).expect("read");
    assert_eq!(store.lock().visible.last().expect("read"), "late");
    check_whole(&log, &store);
}

#[test]
fn finishing_does_not_wait_for_ever_for_a_transaction_that_nobody_decides() {
    let (log, store) = (log(), Shared::default());
    let mut producer =
        block_on(TransactionalProducer::open(log.door(), "writer", ProducerConfig::default()))
            .expect("opened");
    let slot = producer.slot(&TopicPartition::new("in", 0));
    block_on(async {
        producer.begin().await?;
        producer.push(slot, 0, None, Some(b"late"), &[])?;
        producer.flush().await
    })
    .expect("open");
    let mut runner = open(&log, &store).expect("opened");
    let waited = block_on(runner.finish()).expect_err("told");
    assert!(matches!(&waited, Error::Retry { .. }), "{waited}");
    assert!(waited.to_string().contains("in-0 from offset 8 on"), "{waited}");
    block_on(producer.commit()).expect("decided");
    block_on(runner.finish()).expect("called again");
    check_whole(&log, &store);
}

#[test]
fn a_position_in_records_that_are_gone_is_told() {
    let (log, store) = (log(), Shared::default());
    run(&log, &store).expect("read");
    log.lose_tail("in", 0, 4);
    let lost = open(&log, &store).err().expect("told");
    assert!(matches!(lost, Error::Log(LogError::PositionLost { offset: 8, .. })), "{lost}");

    // The log grows again past the position, under another leader epoch.
    log.restart();
    log.produce("in", 0, &["x", "y", "z", "0", "1", "2"]);
    let lost = open(&log, &store).err().expect("told");
    assert!(matches!(lost, Error::Log(LogError::PositionLost { .. })), "{lost}");
}

#[test]
fn a_topic_that_was_created_again_is_told() {
    let (log, store) = (log(), Shared::default());
    run(&log, &store).expect("read");
    block_on(log.delete_topic("in")).expect("deleted");
    log.create("in", 1);
    log.produce("in", 0, &["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let lost = open(&log, &store).err().expect("told");
    assert!(matches!(lost, Error::Log(LogError::PositionLost { .. })), "{lost}");
}

#[test]
fn positions_that_somebody_else_has_stored_are_not_taken() {
    let (log, store) = (log(), Shared::default());
    let member = block_on(log.join_group(GROUP)).expect("joined");
    let commit = OffsetCommit {
        at: TopicPartition::new("in", 0),
        offset: 3,
        leader_epoch: 0,
        metadata: "mine".to_owned(),
    };
    block_on(log.commit_offsets(&member, &[commit])).expect("stored");
    let refused = open(&log, &store).err().expect("told").to_string();
    for part in [GROUP, "in-0", "\"mine\"", "another name"] {
        assert!(refused.contains(part), "{refused:?} names {part}");
    }
}

#[test]
fn a_damaged_batch_is_told_and_never_copied_on() {
    let (log, store) = (log(), Shared::default());
    log.damage("in", 0);
    let stopped = run(&log, &store).expect_err("told").to_string();
    assert!(stopped.contains("in-0, batch at offset 6"), "{stopped}");
    assert_eq!(store.lock().visible, ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn a_missing_topic_is_told() {
    let refused = open(&FakeLog::new(), &Shared::default()).err().expect("told");
    assert!(matches!(refused, Error::Log(LogError::Unknown { .. })), "{refused}");
}

#[test]
fn stopping_commits_what_is_written() {
    let (log, store) = (log(), Shared::default());
    store.lock().due = usize::MAX;
    let mut runner = open(&log, &store).expect("opened");
    while block_on(runner.step()).expect("read") == Step::Worked {}
    assert!(store.lock().visible.is_empty(), "not due");
    block_on(runner.run(async {})).expect("stopped at once");
    check_whole(&log, &store);

    // A stop while nothing can be committed gives up, and loses nothing.
    log.produce("in", 0, &["i"]);
    let mut runner = open(&log, &store).expect("opened");
    while block_on(runner.step()).expect("read") == Step::Worked {}
    for _ in 0..100 {
        log.refuse("commit_offsets_in", LogError::Retry { what: "busy".to_owned() });
    }
    block_on(runner.run(async {})).expect("gives up");
    drop(runner);
    log.restart();
    run(&log, &store).expect("read");
    check_whole(&log, &store);
}

#[test]
fn a_running_sink_takes_what_comes_until_it_is_stopped() {
    let (log, store) = (log(), Shared::default());
    let mut runner = open(&log, &store).expect("opened");
    let (producer, mut polls) = (log.clone(), 0);
    let stop = futures::future::poll_fn(move |_| {
        polls += 1;
        match polls {
            3 => producer.produce("in", 0, &["new"]),
            60 => return std::task::Poll::Ready(()),
            _ => {}
        }
        std::task::Poll::Pending
    });
    block_on(runner.run(stop)).expect("stopped");
    assert_eq!(store.lock().visible.last().expect("read"), "new");
    check_whole(&log, &store);
}

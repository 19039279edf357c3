//! The source runner: lines and the positions that cover them are committed together or not at all.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::{FakeLog, When};
use futures::executor::block_on;
use parking_lot::Mutex;
use thalweg_connectors::error::{Error, Result};
use thalweg_connectors::position::{load, positions_topic};
use thalweg_connectors::run::Step;
use thalweg_connectors::run::source::{Pace, SourceConfig, SourceRunner};
use thalweg_connectors::run::topic::Partitions;
use thalweg_connectors::source::{Outbox, Polled, Position, Positions, Source, Split};
use thalweg_core::Error as LogError;
use thalweg_core::client::log::{Log, OffsetCommit};
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::ids::TopicPartition;

/// Files of lines, and what the source was told.
#[derive(Default)]
struct Inputs {
    splits: BTreeMap<&'static str, Vec<String>>,
    told: Vec<Positions>,
    opened: Vec<Positions>,
    polls: u64,
    endless: bool,
    /// Errors of `before_commit`, of `poll` behind its records, of the opening.
    before_commit: Vec<Error>,
    poll: Vec<Error>,
    open: Vec<Error>,
    forget_marks: bool,
    retire: Option<&'static str>,
}

type Shared = Arc<Mutex<Inputs>>;

/// Reads three lines of one split a poll; split number = partition number.
struct Lines {
    inputs: Shared,
    next: BTreeMap<&'static str, usize>,
    turn: usize,
}

fn position(lines: usize) -> Position {
    Position(Bytes::copy_from_slice(&(lines as u64).to_be_bytes()))
}

fn number(positions: &Positions, name: &str) -> usize {
    let Some(Some(position)) = positions.get(&Split(name.into())) else { return 0 };
    u64::from_be_bytes(position.0[..].try_into().expect("eight bytes")) as usize
}

#[async_trait]
impl Source for Lines {
    async fn open(&mut self, stored: &Positions) -> Result<()> {
        let mut inputs = self.inputs.lock();
        if let Some(error) = inputs.open.pop() {
            return Err(error);
        }
        inputs.opened.push(stored.clone());
        self.next = inputs.splits.keys().map(|name| (*name, number(stored, name))).collect();
        self.turn = 0;
        Ok(())
    }

    async fn poll(&mut self, out: &mut (dyn Outbox + Send)) -> Result<Polled> {
        let mut inputs = self.inputs.lock();
        inputs.polls += 1;
        let names: Vec<_> = inputs.splits.keys().copied().collect();
        for _ in 0..names.len() {
            let partition = self.turn % names.len();
            let name = names[partition];
            self.turn += 1;
            let next = self.next.get_mut(name).expect("opened with it");
            let lines = &inputs.splits[name];
            let upto = lines.len().min(*next + 3);
            if *next == upto {
                continue;
            }
            for line in &lines[*next..upto] {
                let partition = partition as u32 % out.partitions();
                out.record(partition, 0, Some(name.as_bytes()), Some(line.as_bytes()), &[])?;
            }
            if let Some(error) = inputs.poll.pop() {
                return Err(error);
            }
            *next = upto;
            if !inputs.forget_marks {
                out.mark(&Split(name.into()), Some(position(upto)));
            }
            return Ok(Polled::More);
        }
        if let Some(name) = inputs.retire.take() {
            out.mark(&Split(name.into()), None);
        }
        match inputs.endless {
            true => Ok(Polled::Idle(Duration::from_millis(100))),
            false => Ok(Polled::End),
        }
    }

    async fn before_commit(&mut self) -> Result<()> {
        self.inputs.lock().before_commit.pop().map_or(Ok(()), Err)
    }

    async fn committed(&mut self, upto: &Positions) -> Result<()> {
        self.inputs.lock().told.push(upto.clone());
        Ok(())
    }

    fn lag_bytes(&self) -> u64 {
        self.inputs
            .lock()
            .splits
            .iter()
            .map(|(name, lines)| lines.len() - self.next[name])
            .sum::<usize>() as u64
    }
}

fn inputs() -> Shared {
    let lines = |name: &str, count: usize| (0..count).map(|i| format!("{name}{i:02}")).collect();
    let splits = BTreeMap::from([("a", lines("a", 8)), ("b", lines("b", 4))]);
    Arc::new(Mutex::new(Inputs { splits, ..Inputs::default() }))
}

fn config() -> SourceConfig {
    SourceConfig {
        partitions: Partitions::AsCreated(2),
        batch_bytes: 15, // Five lines: two polls a commit.
        ..SourceConfig::new("lines", "lines")
    }
}

type Runner = SourceRunner<Lines>;

fn open_with(log: &FakeLog, inputs: &Shared, config: SourceConfig) -> Result<Runner> {
    let source = Lines { inputs: Arc::clone(inputs), next: BTreeMap::new(), turn: 0 };
    block_on(SourceRunner::open(log.door(), config, source))
}

fn open(log: &FakeLog, inputs: &Shared) -> Result<Runner> {
    open_with(log, inputs, config())
}

/// Steps until the source is at its end or has nothing more for now.
fn drain(runner: &mut Runner) -> Result<()> {
    loop {
        match block_on(runner.step())? {
            Step::End => return Ok(()),
            Step::Idle(time) if time == Duration::from_millis(100) => return Ok(()),
            Step::Worked | Step::Idle(_) => {}
        }
    }
}

/// Every line is there once, in order, and the positions cover exactly them.
fn check_whole(log: &FakeLog, inputs: &Shared) {
    let positions = block_on(load(&*log.door(), "lines")).expect("readable");
    for (partition, (name, lines)) in inputs.lock().splits.iter().enumerate() {
        assert_eq!(&log.values("lines", partition as u32), lines, "split {name}");
        assert_eq!(number(&positions, name), lines.len(), "position of {name}");
    }
    assert!(log.is_settled());
}

#[test]
fn a_bounded_source_is_read_committed_and_ended() {
    let (log, inputs) = (FakeLog::new(), inputs());
    let mut runner = open(&log, &inputs).expect("opened");
    assert_eq!(runner.stats().lag_bytes, 12);
    drain(&mut runner).expect("read");
    check_whole(&log, &inputs);
    let stats = runner.stats();
    assert_eq!((stats.records, stats.bytes, stats.lag_bytes), (12, 12 * 4, 0));
    assert!(stats.commits >= 2 && stats.aborts == 0, "{stats:?}");
    assert_eq!(block_on(runner.step()).expect("still"), Step::End);
    // First the stored positions, none; at last everything.
    let told = inputs.lock().told.clone();
    assert!(told[0].is_empty());
    assert_eq!(number(told.last().expect("told"), "a"), 8);
}

#[test]
fn a_death_at_any_call_of_the_log_neither_loses_nor_doubles_a_line() {
    let calls = {
        let (log, inputs) = (FakeLog::new(), inputs());
        drain(&mut open(&log, &inputs).expect("opened")).expect("read");
        log.calls()
    };
    assert!(calls > 15, "several commits: {calls} calls");
    for when in [When::Before, When::After] {
        for first in 1..=calls {
            for second in [None, Some(2), Some(6), Some(11)] {
                let (log, inputs) = (FakeLog::new(), inputs());
                log.crash_at(first, when);
                let died = open(&log, &inputs).and_then(|mut runner| drain(&mut runner));
                died.expect_err("it died");
                log.restart();
                if let Some(second) = second {
                    log.crash_at(log.calls() + second, when);
                    _ = open(&log, &inputs).and_then(|mut runner| drain(&mut runner));
                    log.restart();
                }
                drain(&mut open(&log, &inputs).expect("opened")).expect("read");
                check_whole(&log, &inputs);
            }
        }
    }
}

#[test]
fn a_refused_append_aborts_and_reads_again_from_the_last_commit() {
    for call in ["append", "end_transaction"] {
        let (log, inputs) = (FakeLog::new(), inputs());
        let mut runner = open(&log, &inputs).expect("opened");
        log.refuse(call, LogError::Abortable { what: "a test".to_owned() });
        drain(&mut runner).expect("healed");
        check_whole(&log, &inputs);
        assert_eq!(runner.stats().aborts, 1, "{call}");
        assert_eq!(inputs.lock().opened.len(), 2, "the source was opened again");
        assert_eq!(runner.stats().records, 12, "only committed records count");
    }
}

#[test]
fn an_error_before_the_commit_aborts_it() {
    let (log, inputs) = (FakeLog::new(), inputs());
    inputs.lock().before_commit.push(Error::Restart { what: "the file changed".to_owned() });
    let mut runner = open(&log, &inputs).expect("opened");
    drain(&mut runner).expect("healed");
    check_whole(&log, &inputs);
    assert_eq!(runner.stats().aborts, 1);
}

#[test]
fn an_error_behind_unmarked_records_never_sends_them_twice() {
    for error in
        [Error::Retry { what: "busy".to_owned() }, Error::Restart { what: "changed".to_owned() }]
    {
        let (log, inputs) = (FakeLog::new(), inputs());
        inputs.lock().poll.push(error);
        drain(&mut open(&log, &inputs).expect("opened")).expect("healed");
        check_whole(&log, &inputs);
    }
}

#[test]
fn records_behind_the_last_mark_are_never_sent() {
    let (log, inputs) = (FakeLog::new(), inputs());
    inputs.lock().forget_marks = true;
    let mut runner = open(&log, &inputs).expect("opened");
    let stopped = drain(&mut runner).expect_err("a connector's fault").to_string();
    assert!(stopped.contains("3 records behind its last mark"), "{stopped}");
    log.restart();
    assert!(log.values("lines", 0).is_empty());
}

#[test]
fn a_runner_that_was_replaced_stops() {
    let (log, inputs) = (FakeLog::new(), inputs());
    let mut old = open(&log, &inputs).expect("opened");
    assert_eq!(block_on(old.step()).expect("told"), Step::Worked);
    assert_eq!(block_on(old.step()).expect("read"), Step::Worked);
    let mut new = open(&log, &inputs).expect("takes over");
    let stopped = drain(&mut old).expect_err("fenced");
    assert!(matches!(stopped, Error::Fatal { .. }), "{stopped}");
    assert!(stopped.to_string().contains("another run has taken its place"), "{stopped}");
    drain(&mut new).expect("read");
    check_whole(&log, &inputs);
}

#[test]
fn an_unknown_outcome_stops_and_says_that_the_next_start_knows() {
    let (log, inputs) = (FakeLog::new(), inputs());
    let mut runner = open(&log, &inputs).expect("opened");
    log.refuse("end_transaction", LogError::Stopped { why: "sync failed".to_owned() });
    let stopped = drain(&mut runner).expect_err("stopped").to_string();
    assert!(stopped.contains("not known") && stopped.contains("sync failed"), "{stopped}");
    assert_eq!(block_on(runner.step()).expect_err("for good").to_string(), stopped);
}

#[test]
fn without_room_the_source_is_not_polled_and_nothing_is_aborted() {
    // Short lines wait for the commit; long ones fill batches, which leave while the source is read.
    for padding in [0, 100_000] {
        check_without_room(padding);
    }
}

fn check_without_room(padding: usize) {
    let (log, inputs) = (FakeLog::new(), inputs());
    for line in inputs.lock().splits.values_mut().flatten() {
        line.push_str(&" ".repeat(padding));
    }
    let config = SourceConfig { batch_bytes: 15.max(padding as u64 * 5), ..config() };
    let mut runner = open_with(&log, &inputs, config).expect("opened");
    for call in ["append", "append", "append", "end_transaction", "end_transaction"] {
        let source = std::io::ErrorKind::StorageFull.into();
        log.refuse(call, LogError::Full { path: "/data".into(), source });
    }
    let mut polls_when_idle = Vec::new();
    let mut pauses = Vec::new();
    loop {
        match block_on(runner.step()).expect("waits") {
            Step::Worked => {}
            Step::Idle(time) => {
                polls_when_idle.push(inputs.lock().polls);
                pauses.push(time);
            }
            Step::End => break,
        }
    }
    assert_eq!(pauses.len(), 5);
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(polls_when_idle[0], polls_when_idle[2], "no poll while there is no room");
    assert_eq!(polls_when_idle[3], polls_when_idle[4], "no poll while the end is refused");
    assert_eq!((runner.stats().aborts, inputs.lock().opened.len()), (0, 1));
    check_whole(&log, &inputs);
}

#[test]
fn a_transaction_that_cannot_be_written_is_given_up_before_the_log_would_fence_it() {
    let (log, inputs) = (FakeLog::new(), inputs());
    let mut runner = open(&log, &inputs).expect("opened");
    for _ in 0..12 {
        let source = std::io::ErrorKind::StorageFull.into();
        log.refuse("append", LogError::Full { path: "/data".into(), source });
    }
    loop {
        match block_on(runner.step()).expect("waits") {
            Step::Worked => {}
            Step::Idle(time) => block_on(log.sleep(time.max(Duration::from_secs(4)))),
            Step::End => break,
        }
    }
    assert!(runner.stats().aborts >= 1);
    check_whole(&log, &inputs);
}

#[test]
fn an_idle_source_is_committed_at_once_and_a_busy_one_by_size_and_by_time() {
    let (log, inputs) = (FakeLog::new(), inputs());
    inputs.lock().endless = true;
    let mut runner = open_with(&log, &inputs, SourceConfig { batch_bytes: 1 << 20, ..config() })
        .expect("opened");
    for _ in 0..3 {
        block_on(runner.step()).expect("told, read, read");
    }
    assert_eq!(runner.stats().commits, 0, "neither old nor large");
    log.advance(Duration::from_millis(250));
    for _ in 0..4 {
        block_on(runner.step()).expect("read, cover, flush, end");
    }
    assert_eq!(runner.stats().commits, 1, "old enough");
    drain(&mut runner).expect("read");
    let commits = runner.stats().commits;
    check_whole(&log, &inputs);

    inputs.lock().splits.get_mut("a").expect("there").push("a08".to_owned());
    drain(&mut runner).expect("read");
    assert_eq!(runner.stats().commits, commits + 1, "idle behind one line");
    drain(&mut runner).expect("nothing");
    assert_eq!(runner.stats().commits, commits + 1, "nothing to commit");
    check_whole(&log, &inputs);
}

/// The readers' positions are what holds a source back, not what is in the topic: an aborted transaction
/// and the markers, which no position ever covers, do not count, or it would wait for ever.
#[test]
fn a_source_with_a_pace_waits_for_its_readers_and_for_nothing_else() {
    let (log, inputs) = (FakeLog::new(), inputs());
    let lines = (0..40).map(|n| format!("a{n:02}")).collect();
    inputs.lock().splits.insert("a", lines);
    let pace = Some(Pace { group: "readers".to_owned(), records: 10 });
    let mut runner = open_with(&log, &inputs, SourceConfig { pace, ..config() }).expect("opened");
    inputs.lock().before_commit.push(Error::Restart { what: "again".to_owned() });

    let door = log.door();
    let readers = block_on(door.join_group("readers")).expect("joined");
    let read = |partition: u32, offset| {
        let at = TopicPartition::new("lines", partition);
        let commit = OffsetCommit { at, offset, leader_epoch: 0, metadata: String::new() };
        block_on(door.commit_offsets(&readers, &[commit])).expect("committed");
    };
    // As far as the runner goes without a reader's help.
    let sent = |runner: &mut Runner| {
        for _ in 0..100 {
            if block_on(runner.step()).expect("a step") == Step::End {
                break;
            }
        }
        runner.stats().records
    };
    // 6, 4 and 6 lines: with ten it is not too far yet, and a transaction is never cut short.
    assert_eq!(sent(&mut runner), 16);
    assert_eq!(runner.stats().aborts, 1);
    let (a, b) = (log.values("lines", 0).len(), log.values("lines", 1).len());
    assert_eq!((a, b), (12, 4));
    // One past the last visible record of each partition, wherever markers and aborted ones are.
    let last = |partition| {
        let at = TopicPartition::new("lines", partition);
        block_on(door.offsets(&at)).expect("there").end - 1
    };
    read(1, last(1));
    assert_eq!(sent(&mut runner), 16, "one of two partitions is read");
    read(0, last(0));
    assert_eq!(sent(&mut runner), 28);
    read(0, last(0) - 6);
    assert_eq!(sent(&mut runner), 28 + 6, "the last of them is not read yet");
    read(0, last(0));
    assert_eq!(sent(&mut runner), 44);
    check_whole(&log, &inputs);
}

#[test]
fn a_clock_that_is_set_back_does_not_hold_a_commit_back() {
    let (log, inputs) = (FakeLog::new(), inputs());
    let mut runner = open_with(&log, &inputs, SourceConfig { batch_bytes: 1 << 20, ..config() })
        .expect("opened");
    for _ in 0..2 {
        block_on(runner.step()).expect("told, read");
    }
    log.set_back(Duration::from_secs(3600));
    for _ in 0..4 {
        block_on(runner.step()).expect("read, cover, flush, end");
    }
    assert_eq!(runner.stats().commits, 1);
}

#[test]
fn stopping_commits_what_is_open() {
    let (log, inputs) = (FakeLog::new(), inputs());
    inputs.lock().endless = true;
    let mut runner = open_with(&log, &inputs, SourceConfig { batch_bytes: 1 << 20, ..config() })
        .expect("opened");
    for _ in 0..3 {
        block_on(runner.step()).expect("told, read, read");
    }
    block_on(runner.run(async {})).expect("stopped at once");
    assert_eq!(log.values("lines", 0).len() + log.values("lines", 1).len(), 6);
    assert!(log.is_settled());
    // A stop while nothing can be written gives up, and loses nothing.
    let mut runner = open(&log, &inputs).expect("opened");
    for _ in 0..2 {
        block_on(runner.step()).expect("told, read");
    }
    for _ in 0..100 {
        log.refuse("append", LogError::Retry { what: "busy".to_owned() });
    }
    block_on(runner.run(async {})).expect("gives up");
    log.restart();
    inputs.lock().endless = false;
    drain(&mut open(&log, &inputs).expect("opened")).expect("read");
    check_whole(&log, &inputs);
}

#[test]
fn run_ends_with_the_source() {
    let (log, inputs) = (FakeLog::new(), inputs());
    let mut runner = open(&log, &inputs).expect("opened");
    block_on(runner.run(std::future::pending())).expect("read");
    check_whole(&log, &inputs);
}

#[test]
fn a_retired_split_is_forgotten() {
    let (log, inputs) = (FakeLog::new(), inputs());
    inputs.lock().retire = Some("b");
    drain(&mut open(&log, &inputs).expect("opened")).expect("read");
    let positions = block_on(load(&*log.door(), "lines")).expect("readable");
    assert_eq!(positions.keys().map(|split| &*split.0).collect::<Vec<_>>(), ["a"]);
    let values = log.values(&positions_topic("lines"), 0);
    assert!(values.contains(&"(null)".to_owned()), "a tombstone: {values:?}");
}

#[test]
fn after_a_restart_the_source_hears_its_stored_positions_again() {
    let (log, inputs) = (FakeLog::new(), inputs());
    drain(&mut open(&log, &inputs).expect("opened")).expect("read");
    inputs.lock().told.clear();
    drain(&mut open(&log, &inputs).expect("opened")).expect("nothing");
    let told = inputs.lock().told.clone();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((number(&told[0], "a"), number(&told[0], "b")), (8, 4));
}

/// Positions behind the last stable offset: markers come late, or somebody else's transaction is
/// open in front of them.
#[test]
fn positions_are_read_to_the_high_watermark_and_not_only_to_the_last_stable_offset() {
    let (log, inputs) = (FakeLog::new(), inputs());
    log.delay_markers(6);
    drain(&mut open(&log, &inputs).expect("opened")).expect("read");
    log.delay_markers(0);

    let topic = positions_topic("lines");
    let mut other =
        block_on(TransactionalProducer::open(log.door(), "other", ProducerConfig::default()))
            .expect("opened");
    let slot = other.slot(&TopicPartition::new(topic, 0));
    block_on(async {
        other.begin().await?;
        // A position of another connector would be refused; an aborted one is never seen.
        other.push(slot, 0, Some(b"x"), Some(b"y"), &[])?;
        other.flush().await
    })
    .expect("open");
    inputs.lock().splits.get_mut("a").expect("there").push("a08".to_owned());
    // The new runner waits, step by step; it must not start from what it can read now.
    let opened = inputs.lock().opened.len();
    let mut runner = open(&log, &inputs).expect("opened");
    for _ in 0..5 {
        assert!(matches!(block_on(runner.step()).expect("waits"), Step::Idle(_)));
    }
    assert_eq!(inputs.lock().opened.len(), opened, "not opened yet");
    block_on(other.abort()).expect("aborted");
    drain(&mut runner).expect("read");
    check_whole(&log, &inputs);
}

#[test]
fn a_topic_with_another_number_of_partitions_is_refused_with_what_to_do() {
    let (log, inputs) = (FakeLog::new(), inputs());
    log.create("lines", 3);
    let exactly = |n| SourceConfig { partitions: Partitions::Exactly(n), ..config() };
    let refused = open_with(&log, &inputs, exactly(2)).err().expect("refused");
    assert!(matches!(refused, Error::Log(LogError::Invalid { .. })), "{refused}");
    let refused = refused.to_string();
    for part in ["\"lines\"", "3 partitions", "2 were asked for", "leave the number out"] {
        assert!(refused.contains(part), "{refused:?} names {part}");
    }
    open_with(&log, &inputs, exactly(3)).expect("as it is");
    open_with(&log, &inputs, config()).expect("as created");
}

#[test]
fn a_source_that_cannot_be_opened_is_told_at_once_and_a_busy_one_is_waited_for() {
    let (log, inputs) = (FakeLog::new(), inputs());
    inputs.lock().open.push(Error::Fatal { what: "no such folder".to_owned() });
    let refused = open(&log, &inputs).err().expect("refused").to_string();
    assert_eq!(refused, "no such folder");
    inputs.lock().open.push(Error::Retry { what: "busy".to_owned() });
    drain(&mut open(&log, &inputs).expect("waits")).expect("read");
    check_whole(&log, &inputs);
}

#[test]
fn a_source_that_fails_for_ever_is_stopped() {
    let (log, inputs) = (FakeLog::new(), inputs());
    for _ in 0..100 {
        inputs.lock().before_commit.push(Error::Restart { what: "broken".to_owned() });
    }
    let stopped = drain(&mut open(&log, &inputs).expect("opened")).expect_err("stopped");
    assert!(stopped.to_string().contains("again and again, and stops: broken"), "{stopped}");
}

#[test]
fn foreign_records_among_the_positions_are_told() {
    let (log, inputs) = (FakeLog::new(), inputs());
    log.create(&positions_topic("lines"), 1);
    log.produce(&positions_topic("lines"), 0, &["no position"]);
    let refused = open(&log, &inputs).err().expect("refused").to_string();
    assert!(refused.contains("__connect_positions.lines-0, offset 0"), "{refused}");
}

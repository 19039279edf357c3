//! Windows: what they hold, when they close, what is late, and that nothing of it depends on batches,
//! commits, aborts or crashes.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use thalweg_core::client::partitioner::partition_of;
use thalweg_core::record::RecordRef;
use thalweg_streams::driver::TestDriver;
use thalweg_streams::{
    Builder, EventTime, OnClose, Result, Store, Topic, Topology, Tumbling, Watermark, Windowed,
};

const IN: Topic<u8, i64> = Topic::new("in");
const COUNTS: Topic<Windowed<u8>, u64> = Topic::new("counts");
const LATE: Topic<u8, i64> = Topic::new("late");
const WINDOWS: Store<Windowed<u8>, u64> = Store::new("windows");

/// Counts records by key in windows of 10 ms, with this grace.
fn counting(grace: u64) -> Result<Topology> {
    Topology::build("test", |b: &Builder| {
        b.stream(&IN)
            .window(Tumbling::of(Duration::from_millis(10)).grace(Duration::from_millis(grace)))
            .count(&WINDOWS)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })
}

/// As `counting`, of records that say themselves whether they have a time: a negative value means no.
/// What they are appended at is their timestamp.
fn parsing() -> Result<Topology> {
    Topology::build("test", |b: &Builder| {
        b.parse(&IN, parse)
            .watermark(Watermark::Standing)
            .repartition(&PARSED)
            .window(Tumbling::of(Duration::from_millis(10)).no_grace())
            .count(&WINDOWS)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })
}

const PARSED: Topic<u8, i64> = Topic::internal("parsed");

fn parse(record: &RecordRef<'_>) -> Option<(u8, i64, EventTime)> {
    let value = i64::from_le_bytes(record.value?.try_into().ok()?);
    let time = if value < 0 { EventTime::Unknown } else { EventTime::At(value) };
    Some((record.key?[0], value, time))
}

/// Results as (start, key, count).
type Results = Vec<(i64, u8, u64)>;

fn results(t: &mut TestDriver) -> Result<Results> {
    let found = t.find(&COUNTS)?;
    for result in &found {
        assert_eq!(result.timestamp, result.key.end - 1, "the last millisecond of the window");
        assert_eq!(result.key.end, result.key.start + 10);
    }
    Ok(found.into_iter().map(|r| (r.key.start, r.key.key, r.value)).collect())
}

#[test]
fn windows_close_when_the_watermark_is_past_their_grace() -> Result<()> {
    // Steps of (key, time) and what is emitted after each.
    type Step = (u8, i64, &'static [(i64, u8, u64)]);
    let steps: [Step; 8] = [
        (2, 1, &[]),
        (1, 9, &[]),
        (1, 2, &[]),
        (1, 14, &[]),
        // The watermark is one short of 10 + 5.
        (3, 11, &[]),
        (1, 15, &[(0, 1, 2), (0, 2, 1)]),
        (1, 44, &[(10, 1, 2), (10, 3, 1)]),
        (1, 45, &[]),
    ];
    let mut t = TestDriver::new(counting(5)?);
    for (key, time, expected) in steps {
        t.pipe(&IN, &key, &0, time)?;
        t.run()?;
        assert_eq!(results(&mut t)?, expected, "after {key} at {time}");
    }
    assert_eq!(t.read(&LATE)?, []);
    Ok(())
}

#[test]
fn several_windows_close_in_the_order_of_end_start_key() -> Result<()> {
    let mut t = TestDriver::new(counting(100)?);
    for (key, time) in [(2, 35), (1, 35), (2, 5), (1, 25), (3, 5), (1, 300)] {
        t.pipe(&IN, &key, &0, time)?;
    }
    t.run()?;
    let expected = [(0, 2, 1), (0, 3, 1), (20, 1, 1), (30, 1, 1), (30, 2, 1)];
    assert_eq!(results(&mut t)?, expected);
    Ok(())
}

#[test]
fn late_records_come_as_they_were_and_say_how_late() -> Result<()> {
    let mut t = TestDriver::new(counting(5)?);
    t.pipe(&IN, &1, &100, 27)?;
    t.pipe(&IN, &1, &101, 12)?; // its window ends at 20, closed up to 22
    t.pipe(&IN, &1, &102, 20)?; // still open
    t.run()?;
    let late = t.find(&LATE)?;
    assert_eq!(late.len(), 1);
    assert_eq!((late[0].key, late[0].value, late[0].timestamp), (1, 101, 12));
    assert_eq!(late[0].headers, [("late.by_ms".to_owned(), b"10".to_vec())]);
    assert_eq!(t.task(0, 0).expect("a task").counters().late, 1);
    Ok(())
}

#[test]
fn the_end_of_input_closes_what_is_open_and_moves_time_no_further() -> Result<()> {
    // (key, time of its own or -1, appended at). Nothing is late in the first round.
    let mut t = TestDriver::new(parsing()?);
    let hour = 3_600_000;
    let appended = 1_000;
    let first = [(1, 5), (1, 15), (2, 12), (3, -1), (4, appended + 50), (5, appended + 2 * hour)];
    for (key, time) in first {
        t.pipe(&IN, &key, &time, appended)?;
    }
    t.end_of_input()?;
    let last = appended + 2 * hour;
    let expected =
        [(0, 1, 1), (10, 1, 1), (10, 2, 1), (1000, 3, 1), (1050, 4, 1), (last / 10 * 10, 5, 1)];
    assert_eq!(results(&mut t)?, expected);
    assert_eq!(t.read(&LATE)?, []);

    // Tomorrow. Closed up to 20: only settled records moved it. What was emitted beyond is closed for
    // its key, one by one.
    let second = [
        (1, 19, "late: its window is closed"),
        (1, 20, "counted"),
        (3, appended + 1, "late: this window of this key was emitted"),
        (6, appended + 1, "counted: another key"),
        (4, appended + 51, "late: emitted although it was ahead of its append"),
        (4, appended + 60, "counted: the next window"),
        (5, last, "late: emitted although it was two hours ahead"),
    ];
    let mut late = Vec::new();
    let mut counted = 0;
    for (key, time, what) in second {
        t.pipe(&IN, &key, &time, appended + 10)?;
        if what.starts_with("late") {
            late.push((key, time));
        } else {
            counted += 1;
        }
    }
    t.end_of_input()?;
    assert_eq!(t.read(&LATE)?, late);
    assert_eq!(results(&mut t)?.iter().map(|r| r.2).sum::<u64>(), counted);
    Ok(())
}

#[test]
fn an_emitted_window_is_remembered_until_time_has_come_that_far() -> Result<()> {
    let mut t = TestDriver::new(parsing()?);
    t.pipe(&IN, &7, &-1, 105)?;
    t.end_of_input()?;
    assert_eq!(results(&mut t)?, [(100, 7, 1)]);
    assert_eq!(t.rows(&RAW_WINDOWS)?.len(), 1, "the row that says so");
    t.pipe(&IN, &8, &200, 300)?;
    t.end_of_input()?;
    assert_eq!(results(&mut t)?, [(200, 8, 1)]);
    assert_eq!(t.rows(&RAW_WINDOWS)?.len(), 0, "time is past it");
    t.pipe(&IN, &7, &-1, 105)?;
    t.end_of_input()?;
    assert_eq!(t.read(&LATE)?, [(7, -1)], "late by time now");
    Ok(())
}

/// The rows as they are stored.
const RAW_WINDOWS: Store<
    Windowed<u8>,
    bytes::Bytes,
    thalweg_streams::codec::Ordered,
    thalweg_streams::codec::Raw,
> = Store::with("windows", thalweg_streams::codec::Ordered, thalweg_streams::codec::Raw);

#[test]
fn another_grace_after_a_restart_reopens_nothing() -> Result<()> {
    let mut t = TestDriver::new(counting(0)?);
    t.pipe(&IN, &1, &0, 5)?;
    t.pipe(&IN, &1, &0, 30)?;
    t.run()?;
    assert_eq!(results(&mut t)?, [(0, 1, 1)]);
    t.restart(counting(1_000)?)?;
    t.pipe(&IN, &1, &1, 6)?;
    t.pipe(&IN, &1, &2, 29)?;
    t.pipe(&IN, &1, &3, 31)?;
    t.end_of_input()?;
    assert_eq!(t.read(&LATE)?, [(1, 1), (1, 2)], "closed up to 30, whatever the grace is now");
    assert_eq!(results(&mut t)?, [(30, 1, 2)]);
    Ok(())
}

/// More may close at once than memory should hold: then it is emitted in parts, each with a commit of its
/// own, before the next record; a crash in between costs nothing.
#[test]
fn what_a_jump_of_time_closes_is_emitted_in_parts() -> Result<()> {
    let all: Results = (0..10).map(|n| (n * 10, 1, 1)).collect();
    for crash_after in [None, Some(0), Some(1), Some(4)] {
        let mut t = TestDriver::new(counting(0)?);
        t.batch(11).close_at_once(2);
        for window in 0..10 {
            t.pipe(&IN, &1, &0, window * 10)?;
        }
        t.pipe(&IN, &2, &0, 1_000)?;
        t.pipe(&IN, &1, &7, 50)?;
        let mut seen = Vec::new();
        for part in 0..5 {
            t.turns()?;
            t.commit()?;
            let now = results(&mut t)?;
            assert_eq!(now.len(), 2, "{crash_after:?}: part {part}");
            seen.extend(now);
            assert_eq!(t.read(&LATE)?, [], "{crash_after:?}: no record comes in between");
            if crash_after == Some(part) {
                t.crash()?;
            }
        }
        t.run()?;
        assert_eq!(t.read(&LATE)?, [(1, 7)], "{crash_after:?}");
        seen.extend(results(&mut t)?);
        assert_eq!(seen, all, "{crash_after:?}");
    }
    Ok(())
}

/// Counts the windows of `counting` in windows of their own, behind a repartition.
fn counting_twice() -> Result<Topology> {
    const MOVED: Topic<u8, i64> = Topic::internal("moved");
    const AGAIN: Store<Windowed<u8>, u64> = Store::new("again");
    Topology::build("test", |b: &Builder| {
        let tens = || Tumbling::of(Duration::from_millis(10)).no_grace();
        b.stream(&IN)
            .window(tens())
            .count(&WINDOWS)
            .emit(OnClose)
            .map(|window, _| (window.key, window.start))
            .repartition(&MOVED)
            .window(tens())
            .count(&AGAIN)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })
}

/// Nobody is told how far time has come while results from before are held back: they would be late.
#[test]
fn no_mark_of_time_overtakes_what_is_still_being_closed() -> Result<()> {
    let mut t = TestDriver::new(counting_twice()?);
    t.close_at_once(1);
    for key in 0..20 {
        t.pipe(&IN, &key, &0, i64::from(key / 10) * 10)?;
    }
    t.pipe(&IN, &0, &0, 100)?;
    t.pipe(&IN, &0, &0, 1_000)?;
    for turn in 0..12 {
        t.turns()?;
        t.commit()?;
        if turn % 3 == 1 {
            t.crash()?;
        }
    }
    t.end_of_input()?;
    assert_eq!(t.read(&LATE)?, []);
    assert_eq!(results(&mut t)?.len(), 22);
    Ok(())
}

/// But that it is not idle any more everybody is told at once: another task's time would close what its
/// results are for.
#[test]
fn a_task_that_is_closing_is_not_idle() -> Result<()> {
    for crash in [false, true] {
        let mut t = TestDriver::with_partitions(counting_twice()?, 2);
        t.close_at_once(1);
        let of = |partition| (0..).find(|key: &u8| partition_of(&[*key], 2) == partition);
        let (ours, theirs) = (of(0).expect("a key"), of(1).expect("a key"));
        t.pipe(&IN, &ours, &0, 0)?;
        t.pipe(&IN, &theirs, &0, 0)?;
        t.idle()?;
        for start in [100, 110, 120, 130, 140, 1_000] {
            t.pipe(&IN, &ours, &0, start)?;
        }
        t.pipe(&IN, &theirs, &0, 2_000)?;
        for turn in 0..6 {
            t.turns()?;
            t.commit()?;
            if crash && turn == 1 {
                t.crash()?;
            }
        }
        t.end_of_input()?;
        assert_eq!(t.read(&LATE)?, [], "crash: {crash}");
        assert_eq!(results(&mut t)?.len(), 9, "crash: {crash}");
    }
    Ok(())
}

/// What the end of input closes may be counted in a table, and that in windows again, all in one task:
/// the changes of the table come when it is flushed, and before the windows behind it end.
#[test]
fn what_is_made_of_closed_windows_comes_before_the_end_of_those_behind() -> Result<()> {
    const PER_WINDOW: Store<Windowed<u8>, u64> = Store::new("per-window");
    const AGAIN: Store<Windowed<Windowed<u8>>, u64> = Store::new("again");
    // (key, time of its own or -1, appended at): two windows with times of their own, three without.
    let all = [(1, 5, 5), (1, 15, 15), (1, -1, 25), (2, -1, 25), (1, -1, 35)];
    for (at_once, records) in [1, 2, 100].into_iter().flat_map(|n| [(n, &all[..2]), (n, &all[..])])
    {
        let mut t = TestDriver::new(Topology::build("test", |b: &Builder| {
            b.parse(&IN, parse)
                .watermark(Watermark::Standing)
                .repartition(&PARSED)
                .window(Tumbling::of(Duration::from_millis(10)).no_grace())
                .count(&WINDOWS)
                .emit(OnClose)
                .count(&PER_WINDOW)
                .to_stream()
                .window(Tumbling::of(Duration::from_millis(1_000)).no_grace())
                .count(&AGAIN)
                .emit(OnClose)
                .map(|window, count| (window.key, count))
                .to(&COUNTS);
            Ok(())
        })?);
        t.close_at_once(at_once);
        for (key, time, appended) in records {
            t.pipe(&IN, key, time, *appended)?;
        }
        t.end_of_input()?;
        let late = t.task(1, 0).expect("a task").counters().late;
        let counted = t.read(&COUNTS)?.len();
        assert_eq!((late, counted), (0, records.len()), "{at_once} at once");
    }
    Ok(())
}

/// What happens to a driver.
#[derive(Clone, Debug)]
enum Step {
    /// A record: key, time of its own (negative: none), how long after that it is appended.
    Record(u8, i64, i64),
    Process,
    Turns,
    Commit,
    Abort,
    Refuse,
    Crash,
    Checkpoint,
    EndOfInput,
    EndOfInputBegins,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3_u8, -20..120_i64, -30..10_i64).prop_map(|(k, t, d)| Step::Record(k, t, d)),
        2 => Just(Step::Process),
        2 => Just(Step::Turns),
        2 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => Just(Step::Refuse),
        1 => Just(Step::Crash),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::EndOfInput),
        1 => Just(Step::EndOfInputBegins),
    ]
}

fn play(t: &mut TestDriver, steps: &[Step]) -> Result<u64> {
    let mut piped = 0;
    for step in steps {
        match *step {
            Step::Record(key, time, delay) => {
                t.pipe(&IN, &key, &time, (time.max(0) + delay).max(0))?;
                piped += 1;
            }
            Step::Process => t.process()?,
            Step::Turns => t.turns()?,
            Step::Commit => drop(t.commit()?),
            Step::Abort => t.abort(),
            Step::Refuse => t.refuse()?,
            Step::Crash => t.crash()?,
            Step::Checkpoint => t.checkpoint()?,
            Step::EndOfInput => t.end_of_input()?,
            Step::EndOfInputBegins => t.end_of_input_begins()?,
        }
    }
    t.end_of_input()?;
    Ok(piped)
}

/// Everything that a reader sees, partition by partition, without the times at which marks and
/// changelog records happened to be written.
fn seen(t: &mut TestDriver) -> Result<(Results, Vec<(u8, i64)>)> {
    Ok((results(t)?, t.read(&LATE)?))
}

proptest! {
    /// Counts + late = input, each (window, key) once, whatever happens in between.
    #[test]
    fn nothing_is_lost_or_doubled_by_windows(
        steps in proptest::collection::vec(step(), 0..80),
        partitions in 1_u32..3,
        batch in 1_usize..20,
        at_once in 1_usize..6,
    ) {
        let mut t = TestDriver::with_partitions(parsing()?, partitions);
        let piped = play(t.batch(batch).close_at_once(at_once), &steps)?;
        let (results, late) = seen(&mut t)?;
        let counted: u64 = results.iter().map(|r| r.2).sum();
        prop_assert_eq!(counted + late.len() as u64, piped);
        let mut windows = BTreeMap::new();
        for (start, key, _) in results {
            prop_assert!(windows.insert((start, key), ()).is_none(), "{start} {key} twice");
        }
    }

    /// What is late, and what is in each result, does not depend on batches, commits, aborts and
    /// crashes: one partition, so that the order of the input is given.
    #[test]
    fn every_split_into_batches_gives_the_same_results(
        records in proptest::collection::vec((0..3_u8, 0..200_i64), 1..60),
        grace in 0_u64..30,
        batch in 1_usize..20,
        steps in proptest::collection::vec(step(), 0..20),
        at_once in 1_usize..6,
    ) {
        let mut one = TestDriver::new(counting(grace)?);
        for (key, time) in &records {
            one.pipe(&IN, key, &0, *time)?;
        }
        one.end_of_input()?;

        let mut other = TestDriver::new(counting(grace)?);
        other.batch(batch).close_at_once(at_once);
        // The steps between the records: those that are no records and no end of input.
        let mut between = steps.iter().filter(|s| {
            !matches!(s, Step::Record(..) | Step::EndOfInput | Step::EndOfInputBegins)
        });
        for (key, time) in &records {
            other.pipe(&IN, key, &0, *time)?;
            match between.next() {
                None => {}
                Some(Step::Process) => other.process()?,
                Some(Step::Turns) => other.turns()?,
                Some(Step::Commit) => drop(other.commit()?),
                Some(Step::Abort) => other.abort(),
                Some(Step::Refuse) => other.refuse()?,
                Some(Step::Crash) => other.crash()?,
                Some(_) => other.checkpoint()?,
            }
        }
        other.end_of_input()?;
        prop_assert_eq!(seen(&mut one)?, seen(&mut other)?);
    }

    /// An aborted transaction leaves no trace: the same calls without it write the same bytes.
    #[test]
    fn an_abort_and_a_second_try_write_the_same_bytes(
        records in proptest::collection::vec((0..3_u8, 0..200_i64), 1..60),
        aborts in proptest::collection::vec(0..4_u8, 60),
        commits in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let run = |aborts: &[u8]| -> Result<_> {
            let mut t = TestDriver::with_partitions(parsing()?, 2);
            for (i, (key, time)) in records.iter().enumerate() {
                t.pipe(&IN, key, time, *time)?;
                if aborts[i] > 1 {
                    t.process()?;
                }
                match aborts[i] {
                    2 => t.abort(),
                    3 => t.refuse()?,
                    _ => {}
                }
                if commits[i] {
                    t.process()?;
                    t.commit()?;
                }
            }
            t.end_of_input()?;
            Ok(t.everything())
        };
        prop_assert_eq!(run(&[0; 60])?, run(&aborts)?);
    }
}

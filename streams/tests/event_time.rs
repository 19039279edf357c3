//! Event time: what moves it, what does not, and that it is durable.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use thalweg_core::batch::{BatchBuilder, BatchRef, Scratch};
use thalweg_core::config::Compression;
use thalweg_core::ids::{ProducerIdentity, Uuid};
use thalweg_core::record::WATERMARK_HEADER;
use thalweg_streams::driver::TestDriver;
use thalweg_streams::state::backend::StateStore;
use thalweg_streams::state::memory::MemoryStore;
use thalweg_streams::{
    Builder, Commit, Consumed, Emit, EventTime, OnClose, OnFuture, Outgoing, Result, Store, Task,
    Topic, Topology, Tumbling, Watermark, WhenIdle, Windowed,
};

const IN: Topic<u8, i64> = Topic::new("in");
const MOVED: Topic<u8, i64> = Topic::internal("moved");
const OUT: Topic<u8, i64> = Topic::new("out");
const COUNTS: Topic<Windowed<u8>, u64> = Topic::new("counts");
const LATE: Topic<u8, i64> = Topic::new("late");
const WINDOWS: Store<Windowed<u8>, u64> = Store::new("windows");

const HOUR: i64 = 3_600_000;

/// The value of a record is its time, and a negative one is none.
fn time_of(_: &u8, value: &i64) -> EventTime {
    if *value < 0 { EventTime::Unknown } else { EventTime::At(*value) }
}

/// Windows of 10 ms over `IN`.
fn windows(watermark: Watermark) -> Result<Topology> {
    Topology::build("test", |b: &Builder| {
        let (all, windowed) =
            b.stream(&IN).timestamp(time_of).watermark(watermark).map_values(|_, v| v).tee();
        all.to(&OUT);
        windowed
            .window(Tumbling::of(Duration::from_millis(10)).no_grace())
            .count(&WINDOWS)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })
}

/// The same behind a repartition topic that only even keys pass.
fn hop(when_idle: WhenIdle) -> Result<Topology> {
    Topology::build("test", |b: &Builder| {
        b.when_idle(when_idle);
        b.stream(&IN)
            .timestamp(time_of)
            .filter(|key, _| key % 2 == 0)
            .select_key(|key, _| *key)
            .repartition(&MOVED)
            .window(Tumbling::of(Duration::from_millis(10)).no_grace())
            .count(&WINDOWS)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })
}

fn starts(t: &mut TestDriver) -> Result<Vec<i64>> {
    Ok(t.read(&COUNTS)?.into_iter().map(|(windowed, _)| windowed.start).collect())
}

#[test]
fn the_watermark_follows_as_the_strategy_says() -> Result<()> {
    // Records of these times, appended at 1000; the watermark after each.
    type Case = (Watermark, &'static [(i64, Option<i64>)]);
    let ms = Duration::from_millis;
    let cases: [Case; 4] = [
        (Watermark::Ascending, &[(50, Some(50)), (40, Some(50)), (-1, Some(50)), (70, Some(70))]),
        (Watermark::Bounded(ms(15)), &[(50, Some(35)), (20, Some(35)), (70, Some(55))]),
        (Watermark::Standing, &[(50, None), (70, None)]),
        (Watermark::AfterBacklog(ms(5)), &[(50, Some(45)), (70, Some(65))]),
    ];
    for (strategy, steps) in cases {
        let mut t = TestDriver::new(windows(strategy)?);
        for &(time, expected) in steps {
            t.pipe(&IN, &0, &time, 1000)?;
            t.process()?;
            assert_eq!(t.task(0, 0).expect("a task").watermark(), expected, "{strategy:?} {time}");
        }
    }
    Ok(())
}

#[test]
fn punctuated_records_say_how_far_time_has_come() -> Result<()> {
    let mut t = TestDriver::new(Topology::build("test", |b| {
        b.stream(&IN)
            .timestamp(time_of)
            .punctuated(|key, value| (*key == 0).then_some(*value))
            .window(Tumbling::of(Duration::from_millis(10)).no_grace())
            .count(&WINDOWS)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })?);
    for (key, time) in [(1, 5), (1, 500), (0, 10), (1, 7)] {
        t.pipe(&IN, &key, &time, 1000)?;
    }
    t.run()?;
    assert_eq!(starts(&mut t)?, [0]);
    assert_eq!(t.read(&LATE)?, [(1, 7)]);
    Ok(())
}

#[test]
fn a_record_a_year_ahead_changes_no_other_records_fate() -> Result<()> {
    let year = 365 * 24 * HOUR;
    let others = [(1, 5), (1, 12), (2, 31), (1, 8), (2, 45)];
    let run = |with: Option<i64>| -> Result<_> {
        let mut t = TestDriver::new(windows(Watermark::Ascending)?);
        for (i, (key, time)) in others.into_iter().enumerate() {
            if i == 2
                && let Some(ahead) = with
            {
                t.pipe(&IN, &9, &ahead, 1000)?;
            }
            t.pipe(&IN, &key, &time, 1000)?;
        }
        t.end_of_input()?;
        let seen = t.read(&OUT)?.contains(&(9, with.unwrap_or(0)));
        assert_eq!(seen, with.is_some(), "it reaches what does not depend on time");
        let counts: Vec<_> = t.read(&COUNTS)?.into_iter().filter(|(w, _)| w.key != 9).collect();
        Ok((counts, t.read(&LATE)?, t.task(0, 0).expect("a task").watermark()))
    };
    let without = run(None)?;
    assert_eq!(without, run(Some(1000 + year))?);
    assert_eq!(without, run(Some(1001 + HOUR))?, "just too far ahead");
    assert_ne!(without, run(Some(1000 + HOUR))?, "an hour ahead is taken");
    Ok(())
}

#[test]
fn a_producer_whose_clock_is_ahead_cannot_vouch_for_its_records() -> Result<()> {
    // Without a time in the value, the timestamp is all there is: the transaction's clock judges.
    let mut t = TestDriver::new(Topology::build("test", |b| {
        b.stream(&IN).max_ahead(Duration::from_millis(100)).on_future(OnFuture::Clamp).to(&OUT);
        Ok(())
    })?);
    t.clock(1_000);
    for time in [900, 1_100, 1_101, 950] {
        t.pipe(&IN, &0, &0, time)?;
    }
    t.run()?;
    let times: Vec<_> = t.find(&OUT)?.into_iter().map(|found| found.timestamp).collect();
    assert_eq!(times, [900, 1_100, 1_000, 950], "1101 was clamped to the clock");
    assert_eq!(t.task(0, 0).expect("a task").watermark(), Some(1_100));
    Ok(())
}

#[test]
fn records_without_a_time_count_for_their_append_and_move_nothing() -> Result<()> {
    let mut t = TestDriver::new(windows(Watermark::Ascending)?);
    t.pipe(&IN, &1, &-1, 1234)?;
    t.pipe(&IN, &1, &25, 1234)?;
    t.pipe(&IN, &1, &-1, 1235)?;
    t.run()?;
    assert_eq!(t.task(0, 0).expect("a task").watermark(), Some(25));
    t.end_of_input()?;
    assert_eq!(starts(&mut t)?, [20, 1230]);
    assert_eq!(t.read(&LATE)?, []);
    Ok(())
}

#[test]
fn times_before_1970_are_times() -> Result<()> {
    let mut t = TestDriver::new(Topology::build("test", |b| {
        b.stream(&IN)
            .timestamp(|_, value| *value)
            .select_key(|key, _| *key)
            .repartition(&MOVED)
            .window(Tumbling::of(Duration::from_millis(10)).no_grace())
            .count(&WINDOWS)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })?);
    for time in [-995, -1, -15, 3] {
        t.pipe(&IN, &1, &time, 1000)?;
    }
    t.end_of_input()?;
    // -15 came in time: marks of time follow the records of a commit.
    assert_eq!(starts(&mut t)?, [-1000, -20, -10, 0]);
    Ok(())
}

#[test]
fn file_b_is_not_late_behind_file_a_in_a_backlog() -> Result<()> {
    let mut t = TestDriver::new(windows(Watermark::AfterBacklog(Duration::ZERO))?);
    t.pipe_backlog("in", true)?;
    for time in [100, 200, 300, 50, 60, 250] {
        t.pipe(&IN, &1, &time, 1000)?;
        t.run()?;
    }
    assert_eq!(t.task(0, 0).expect("a task").watermark(), None, "time stands");
    t.crash()?;
    t.pipe(&IN, &1, &70, 1000)?;
    t.run()?;
    assert_eq!((t.read(&LATE)?, starts(&mut t)?), (vec![], vec![]), "after a crash too");
    t.pipe_backlog("in", false)?;
    t.run()?;
    assert_eq!(t.task(0, 0).expect("a task").watermark(), Some(300));
    assert_eq!(starts(&mut t)?, [50, 60, 70, 100, 200, 250]);
    t.pipe(&IN, &1, &299, 1000)?;
    t.pipe(&IN, &1, &310, 1000)?;
    t.run()?;
    assert_eq!(t.read(&LATE)?, [(1, 299)], "from now on order means something");
    assert_eq!(starts(&mut t)?, [300]);
    // The next start reads what was written meanwhile, file by file.
    t.crash()?;
    t.pipe_backlog("in", true)?;
    for time in [900, 320] {
        t.pipe(&IN, &1, &time, 1000)?;
    }
    t.run()?;
    assert_eq!((t.read(&LATE)?, starts(&mut t)?), (vec![], vec![]));
    Ok(())
}

/// A source that is slow in its backlog leaves its partition at the end again and again.
#[test]
fn the_clock_moves_nothing_in_a_backlog() -> Result<()> {
    let policy = WhenIdle::AdvanceWithClock { lag: Duration::from_secs(5) };
    let mut t = TestDriver::new(Topology::build("test", |b| {
        b.when_idle(policy);
        b.stream(&IN)
            .timestamp(time_of)
            .watermark(Watermark::AfterBacklog(Duration::ZERO))
            .window(Tumbling::of(Duration::from_millis(10)).no_grace())
            .count(&WINDOWS)
            .late(|late| late.to(&LATE))
            .emit(OnClose)
            .to(&COUNTS);
        Ok(())
    })?);
    t.clock(1_000_000).pipe_backlog("in", true)?;
    for time in [900_000, 100_000] {
        t.pipe(&IN, &1, &time, 1_000_000)?;
        t.tick(30_000)?;
        assert_eq!(t.task(0, 0).expect("a task").watermark(), None, "time stands");
    }
    t.pipe_backlog("in", false)?;
    t.run()?;
    assert_eq!((t.read(&LATE)?, starts(&mut t)?), (vec![], vec![100_000]));
    t.tick(10_000)?;
    assert_eq!(starts(&mut t)?, [900_000], "now the clock may");
    Ok(())
}

#[test]
fn time_passes_a_filter_that_drops_everything() -> Result<()> {
    let mut t = TestDriver::new(hop(WhenIdle::Hold)?);
    t.pipe(&IN, &0, &5, 1000)?;
    t.run()?;
    assert!(starts(&mut t)?.is_empty());
    t.pipe(&IN, &1, &77, 1000)?; // dropped before the repartition
    t.process()?;
    t.refuse()?; // the mark of the first try is gone with its transaction
    t.run()?;
    assert_eq!(starts(&mut t)?, [0]);
    assert_eq!(t.task(1, 0).expect("a task").watermark(), Some(77));
    Ok(())
}

#[test]
fn time_behind_a_repartition_is_that_of_the_slowest_task_before_it() -> Result<()> {
    let mut t = TestDriver::with_partitions(hop(WhenIdle::Hold)?, 2);
    let raw = |t: &mut TestDriver, partition: u32, key: u8, time: i64| {
        t.pipe_raw("in", partition, Some(&[key]), Some(&time.to_le_bytes()), &[], 1000)
    };
    let downstream = |t: &TestDriver| {
        let watermarks = [0, 1].map(|p| t.task(1, p).expect("a task").watermark());
        assert_eq!(
            watermarks[0], watermarks[1],
            "every task hears of time, with records or without"
        );
        watermarks[0]
    };
    raw(&mut t, 0, 0, 100)?;
    t.run()?;
    assert_eq!(downstream(&t), None, "partition 1 was not heard of: time is held");
    raw(&mut t, 1, 0, 30)?;
    t.run()?;
    assert_eq!(downstream(&t), Some(30));
    raw(&mut t, 1, 0, 60)?;
    t.crash()?;
    t.run()?;
    assert_eq!(downstream(&t), Some(60), "what was heard before a crash is known after it");
    t.idle()?;
    assert_eq!(downstream(&t), Some(60), "with all idle, time stands");
    raw(&mut t, 0, 0, 200)?;
    t.run()?;
    assert_eq!(downstream(&t), Some(200), "partition 1 is idle: it holds nobody up");
    raw(&mut t, 1, 0, 90)?;
    t.run()?;
    assert_eq!(downstream(&t), Some(200), "and when it is back, time does not go back");
    assert_eq!(t.read(&LATE)?, [(0, 90)]);
    Ok(())
}

/// A task that takes over alone knows what its predecessor had heard, although no task before it says
/// it again.
#[test]
fn what_was_heard_of_time_goes_with_the_meta_record() -> Result<()> {
    struct Nowhere;
    impl Emit for Nowhere {
        fn emit(&mut self, _: Outgoing<'_>) -> Result<()> {
            Ok(())
        }
    }
    // subtopology, partition, watermark, idle: as `__tw.wm` has it.
    let mark = |partition: u32, watermark: i64, idle: u8| {
        let parts = [&0_u32.to_be_bytes()[..], &partition.to_be_bytes(), &watermark.to_be_bytes()];
        let mut builder = BatchBuilder::new(Compression::None, 128);
        let value = [&parts.concat()[..], &[idle]].concat();
        let headers = [(WATERMARK_HEADER.as_bytes(), Some(&value[..]))];
        builder.push(0, None, None, &headers).expect("a small record");
        builder.finish(ProducerIdentity::NONE, -1, false).map_err(thalweg_streams::Error::from)
    };
    let topology = hop(WhenIdle::Hold)?;
    let task = || -> Result<Task> {
        Ok(topology.task(1, 0, &|_| 3, MemoryStore::default().open("task")?))
    };
    let hear = |task: &mut Task, batch: Bytes| -> Result<Option<i64>> {
        let mut scratch = Scratch::default();
        let batch = BatchRef::parse(&batch).expect("a batch");
        let mut records = batch.records(&mut scratch).expect("its records").map_while(|r| r.ok());
        task.process(0, &mut records, 1000, &mut Nowhere)?;
        Ok(task.watermark())
    };

    let mut first = task()?;
    assert_eq!(hear(&mut first, mark(0, 100, 0)?)?, None);
    assert_eq!(hear(&mut first, mark(1, 70, 1)?)?, None, "partition 2 was not heard of");
    assert_eq!(hear(&mut first, mark(2, 80, 0)?)?, Some(80), "partition 1 is idle");
    let consumed = [Consumed { topic_id: Uuid([2; 16]), leader_epoch: 0, next_offset: 3 }];
    let commit = Commit { log_id: Uuid([1; 16]), txn_seq: 1, consumed: &consumed };
    let meta = first.flush(&commit, &mut Nowhere)?;

    let mut second = task()?;
    second.restore(&meta)?;
    assert_eq!(second.watermark(), Some(80));
    assert_eq!(hear(&mut second, mark(2, 90, 0)?)?, Some(90));
    assert_eq!(hear(&mut second, mark(2, 200, 0)?)?, Some(100), "partition 0 stands at 100");
    Ok(())
}

#[test]
fn a_partition_without_times_holds_nobody_up() -> Result<()> {
    let mut t = TestDriver::with_partitions(hop(WhenIdle::Hold)?, 2);
    let raw = |t: &mut TestDriver, partition: u32, time: i64| {
        t.pipe_raw("in", partition, Some(&[0]), Some(&time.to_le_bytes()), &[], 1000)
    };
    raw(&mut t, 1, -1)?;
    raw(&mut t, 0, 100)?;
    t.run()?;
    assert_eq!(t.task(1, 0).expect("a task").watermark(), Some(100));
    Ok(())
}

#[test]
fn an_empty_partition_counts_as_idle_once_its_end_was_seen() -> Result<()> {
    let mut t = TestDriver::with_partitions(hop(WhenIdle::Hold)?, 2);
    t.pipe_raw("in", 0, Some(&[0]), Some(&50_i64.to_le_bytes()), &[], 1000)?;
    t.run()?;
    assert_eq!(t.task(1, 0).expect("a task").watermark(), None);
    t.idle()?;
    assert_eq!(t.task(1, 0).expect("a task").watermark(), Some(50));
    Ok(())
}

#[test]
fn the_last_window_closes_by_the_clock_or_never() -> Result<()> {
    let lag = Duration::from_secs(5);
    let cases = [(WhenIdle::Hold, vec![]), (WhenIdle::AdvanceWithClock { lag }, vec![1_000_000])];
    for (policy, after) in cases {
        let mut t = TestDriver::new(hop(policy)?);
        t.clock(1_000_000).pipe(&IN, &0, &1_000_000, 1_000_000)?;
        t.tick(5_005)?;
        assert!(starts(&mut t)?.is_empty(), "{policy:?}");
        t.tick(10)?;
        assert_eq!(starts(&mut t)?, after, "{policy:?}");
    }
    Ok(())
}

#[test]
fn a_clock_that_jumps_takes_time_no_further_than_a_step() -> Result<()> {
    let lag = Duration::from_secs(5);
    let mut t = TestDriver::new(hop(WhenIdle::AdvanceWithClock { lag })?);
    t.clock(1_000_000).pipe(&IN, &0, &1_000_000, 1_000_000)?;
    t.tick(6_000)?;
    assert_eq!(t.task(1, 0).expect("a task").watermark(), Some(1_001_000));
    t.tick(24 * HOUR)?;
    assert_eq!(t.task(1, 0).expect("a task").watermark(), Some(1_061_000));
    t.crash()?;
    assert_eq!(t.task(1, 0).expect("a task").watermark(), Some(1_061_000), "durable");
    Ok(())
}

proptest! {
    /// Over commits, aborts and crashes the watermark of every task only rises, seen at commits.
    #[test]
    fn the_watermark_never_goes_back(
        records in proptest::collection::vec((any::<u8>(), -5..200_i64, 0..6_u8), 1..50),
    ) {
        let mut t = TestDriver::with_partitions(hop(WhenIdle::Hold)?, 2);
        let mut before = [None; 4];
        for (key, time, then) in records {
            t.pipe(&IN, &key, &time, 1000)?;
            match then {
                0 => t.process()?,
                1 => { t.process()?; t.abort(); }
                2 => t.crash()?,
                3 => t.idle()?,
                _ => t.run()?,
            }
            if then >= 2 {
                let now = [(0, 0), (0, 1), (1, 0), (1, 1)]
                    .map(|(part, partition)| t.task(part, partition).expect("a task").watermark());
                for (before, now) in before.iter().zip(now) {
                    prop_assert!(*before <= now, "{before:?} then {now:?}");
                }
                before = now;
            }
        }
    }
}

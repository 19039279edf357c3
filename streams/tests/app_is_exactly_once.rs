//! A whole application on the embedded engine and a simulated disk: whatever crashes where, the
//! results are those of one run that saw each record once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::batch::{BatchBuilder, Scratch, Visible};
use thalweg_core::client::log::*;
use thalweg_core::config::{Compression, LogConfig};
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_simulated};
use thalweg_core::ids::{ProducerIdentity, TopicPartition};
use thalweg_streams::codec::Codec;
use thalweg_streams::state::backend::StateStore;
use thalweg_streams::state::memory::MemoryStore;
use thalweg_streams::{
    App, Builder, OnClose, Result, Step, Store, Topic, Tumbling, WhenIdle, Windowed,
};

const WORDS: Topic<u32, String> = Topic::new("words");
const BY_WORD: Topic<String, u32> = Topic::internal("by-word");
const TOTALS: Topic<String, u64> = Topic::new("totals");
const MINUTES: Topic<Windowed<String>, u64> = Topic::new("minutes");
const TOTAL: Store<String, u64> = Store::new("total");
const MINUTE: Store<Windowed<String>, u64> = Store::new("minute");

fn pipeline(b: &Builder) -> Result<()> {
    let (totals, minutes) = b.stream(&WORDS).map(|n, word| (word, n)).repartition(&BY_WORD).tee();
    totals.count(&TOTAL).to(&TOTALS);
    minutes
        .window(Tumbling::of(Duration::from_secs(60)).no_grace())
        .count(&MINUTE)
        .emit(OnClose)
        .to(&MINUTES);
    Ok(())
}

fn now<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

fn open(disk: &SimDisk, level: Level, seed: u64) -> thalweg_core::Result<Arc<Engine<SimDisk>>> {
    let config = LogConfig { level, min_free_bytes: 0, ..LogConfig::default() };
    let clock = Clock::fixed(1_790_000_000_000);
    let entropy = Entropy::seeded(seed);
    open_simulated(disk, Path::new("/data"), config, Runtime::Inline, clock, entropy)
}

/// Words with times a second apart, over two partitions, in batches of five.
fn input(log: &dyn Log, count: u32) -> thalweg_core::Result<()> {
    let config = TopicConfig { segment_bytes: 2_000, ..TopicConfig::default() };
    let new = NewTopic { name: "words".to_owned(), partitions: 2, config };
    now(log.create_topic(&new))?;
    append_words(log, 0..count)
}

fn append_words(log: &dyn Log, numbers: std::ops::Range<u32>) -> thalweg_core::Result<()> {
    for part in 0..2 {
        let mut builder = BatchBuilder::new(Compression::None, 256);
        for n in numbers.clone().filter(|n| n % 2 == part) {
            let (mut key, mut value) = (Vec::new(), Vec::new());
            thalweg_streams::codec::Bincode.encode(&n, &mut key).expect("a number");
            let word = ["log", "stream", "table", "log"][n as usize % 4].to_owned();
            thalweg_streams::codec::Bincode.encode(&word, &mut value).expect("a word");
            builder.push(i64::from(n) * 1_000, Some(&key), Some(&value), &[]).expect("small");
            if builder.count() == 5 {
                let batch = builder.finish(ProducerIdentity::NONE, -1, false)?;
                now(log.append(&TopicPartition::new("words", part), batch, None, Ack::Level))?;
            }
        }
        if !builder.is_empty() {
            let batch = builder.finish(ProducerIdentity::NONE, -1, false)?;
            now(log.append(&TopicPartition::new("words", part), batch, None, Ack::Level))?;
        }
    }
    Ok(())
}

fn read<K, V>(log: &dyn Log, topic: &Topic<K, V>) -> Vec<(K, V)>
where
    thalweg_streams::codec::Bincode: Codec<K> + Codec<V>,
{
    let mut all = Vec::new();
    let Ok(info) = now(log.topic(topic.name())) else { return all };
    for partition in 0..info.partitions {
        let at = TopicPartition::new(topic.name(), partition);
        let mut offset = 0;
        loop {
            let from = FetchFrom { at: at.clone(), offset, max_bytes: 1 << 20 };
            let options = FetchOptions {
                isolation: Isolation::ReadCommitted,
                max_wait: Duration::ZERO,
                max_bytes: 0,
            };
            let fetched = now(log.fetch(&[from], options)).expect("readable");
            if fetched[0].batches.is_empty() {
                break;
            }
            let mut scratch = Scratch::default();
            for batch in Visible::new(&fetched[0].batches, &fetched[0].aborted, offset) {
                for record in batch.expect("whole").records(&mut scratch).expect("plain") {
                    let record = record.expect("whole");
                    let codec = thalweg_streams::codec::Bincode;
                    let key = codec.decode(record.key.expect("keyed")).expect("ours");
                    let value = codec.decode(record.value.expect("no delete")).expect("ours");
                    all.push((key, value));
                }
            }
            offset = fetched[0].next_offset;
        }
    }
    all
}

const COUNT: u32 = 90;

/// A machine whose log holds the input.
fn machine(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let log = open(&disk, Level::Disk, seed).expect("opens");
    input(log.as_ref(), COUNT).expect("appended");
    log.close().expect("closed");
    disk
}

/// One life: opens what is there, steps to the end of the input, saves, stops.
fn life(disk: &SimDisk, store: &Arc<MemoryStore>, level: Level, seed: u64) -> Result<bool> {
    let log = open(disk, level, seed)?;
    let app = App::new("words", pipeline)?
        .state_store(store.clone() as Arc<dyn StateStore>)
        .threads(2)
        .fetch_bytes(200)
        .commit_bytes(100)
        .close_at_once(1)
        .checkpoint(Duration::ZERO, 1)
        .commit_every(Duration::ZERO);
    now(async {
        let mut app = app.open(log.clone()).await?;
        let loaded = app.report().checkpoints_loaded > 0;
        assert!(app.report().rebuilt.is_empty(), "{:?}", app.report());
        app.end_of_input().await?;
        app.stop().await?;
        log.close()?;
        Ok(loaded)
    })
}

fn check(log: &dyn Log, what: &str) {
    let mut totals = BTreeMap::new();
    for (word, total) in read(log, &TOTALS) {
        let before = totals.insert(word, total);
        assert!(before.is_none_or(|b| b < total), "{what}: a total only rises");
    }
    let wanted = [("log", 2), ("stream", 1), ("table", 1)].map(|(word, each)| {
        (
            word.to_owned(),
            (0..COUNT)
                .filter(|n| match each {
                    2 => n % 4 == 0 || n % 4 == 3,
                    _ => n % 4 == u32::from(word == "table") + 1,
                })
                .count() as u64,
        )
    });
    assert_eq!(totals.into_iter().collect::<Vec<_>>(), wanted, "{what}");
    let mut minutes: Vec<_> = read(log, &MINUTES);
    minutes.sort();
    let windows: Vec<_> = minutes.iter().map(|(window, _)| window.clone()).collect();
    let mut once = windows.clone();
    once.dedup();
    assert_eq!(windows, once, "{what}: each window once");
    let counted: u64 = minutes.iter().map(|(_, count)| count).sum();
    assert!(counted <= u64::from(COUNT), "{what}: no record twice");
    for part in 0..now(log.topic("totals")).expect("made").partitions {
        let at = TopicPartition::new("totals", part);
        let offsets = now(log.offsets(&at)).expect("there");
        assert_eq!(offsets.last_stable, offsets.high_watermark, "{what}");
    }
}

#[test]
fn a_run_without_crashes_counts_each_record_once() {
    let disk = machine(1);
    let store = Arc::new(MemoryStore::default());
    life(&disk, &store, Level::Disk, 1).expect("runs");
    let log = open(&disk, Level::Disk, 2).expect("opens");
    check(log.as_ref(), "no crash");
    drop(log);
    assert!(life(&disk, &store, Level::Disk, 3).expect("runs again"), "a checkpoint was loaded");
    let log = open(&disk, Level::Disk, 4).expect("opens");
    check(log.as_ref(), "second run");
}

#[test]
fn a_crash_at_any_point_changes_no_result() {
    let lives =
        [(Level::Disk, Crash::Power), (Level::Disk, Crash::Process), (Level::Os, Crash::Process)];
    for (number, (level, crash)) in lives.into_iter().enumerate() {
        let seed = number as u64 + 5;
        let whole = machine(seed);
        let before = whole.operations();
        life(&whole, &Arc::new(MemoryStore::default()), level, seed).expect("runs");
        let points = whole.operations() - before;
        for point in (1..points).step_by(13) {
            let disk = machine(seed);
            let store = Arc::new(MemoryStore::default());
            disk.crash_at(before + point, crash);
            let died = life(&disk, &store, level, seed);
            let what = format!("{level:?} {crash:?} seed {seed} point {point}");
            assert!(died.is_err() || disk.down(), "{what}");
            let disk = disk.restart();
            life(&disk, &store, level, seed + 100).unwrap_or_else(|e| panic!("{what}: {e}"));
            let log = open(&disk, level, 9).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(log.as_ref(), &what);
        }
    }
}

/// A log that holds the input, and its clock.
fn with_clock() -> (Arc<Engine<SimDisk>>, Clock) {
    let config = LogConfig { level: Level::Os, min_free_bytes: 0, ..LogConfig::default() };
    let clock = Clock::fixed(1_790_000_000_000);
    let (disk, runtime, entropy) = (machine(1), Runtime::Inline, Entropy::seeded(1));
    let log = open_simulated(&disk, Path::new("/data"), config, runtime, clock.clone(), entropy);
    (log.expect("opens"), clock)
}

/// An input that was idle leaves a transaction open with nothing in it. What comes then and does not stop
/// coming is committed when its time has come, as ever: it once waited until 8 MiB were there.
#[test]
fn a_stream_that_goes_on_after_a_pause_is_committed_in_time() {
    let (log, clock) = with_clock();
    let app = App::new("words", pipeline)
        .expect("a pipeline")
        .state_store(Arc::new(MemoryStore::default()))
        .threads(1)
        .fetch_bytes(1) // One batch.
        .commit_every(Duration::from_millis(50));
    let mut app = now(app.open(log.clone())).expect("opened");
    for _ in 0..3 {
        while now(app.step(0)).expect("a step") == Step::Worked {}
        clock.advance(1_500);
    }
    assert_eq!(now(app.step(0)).expect("a step"), Step::Idle);

    let words = [0, 1].map(|part| TopicPartition::new("words", part));
    let committed = || -> i64 {
        let stored = now(log.committed_offsets("words", &words)).expect("there");
        stored.iter().flatten().map(|stored| stored.offset).sum()
    };
    let before = committed();
    append_words(log.as_ref(), 0..COUNT).expect("appended");
    let mut steps = 0;
    while committed() == before {
        assert_eq!(now(app.step(0)).expect("a step"), Step::Worked);
        clock.advance(20);
        steps += 1;
        assert!(steps <= 5, "100 ms have passed, and there is more to read");
    }
}

/// Where the clock moves the time of idle inputs, each move is a commit: one a second, not one a step.
#[test]
fn an_idle_application_commits_once_a_second() {
    let (log, clock) = with_clock();
    let by_the_clock = |b: &Builder| {
        b.when_idle(WhenIdle::AdvanceWithClock { lag: Duration::from_secs(5) });
        pipeline(b)
    };
    let app = App::new("words", by_the_clock)
        .expect("a pipeline")
        .state_store(Arc::new(MemoryStore::default()))
        .threads(1);
    let mut app = now(app.open(log)).expect("opened");
    while now(app.step(0)).expect("a step") == Step::Worked {}
    clock.advance(1_500);
    while now(app.step(0)).expect("a step") == Step::Worked {}
    let mut worked = 0;
    for _ in 0..1_000 {
        clock.advance(10);
        worked += i32::from(now(app.step(0)).expect("a step") == Step::Worked);
    }
    // The tasks of words, and those of the repartition topic, which read the others' marks.
    assert!((10..=40).contains(&worked), "{worked} of 1,000 steps in 10 s committed");
}

const FEW: Topic<u32, String> = Topic::new("few");
const COPIES: Topic<u32, String> = Topic::new("copies");

/// A thread reads so much at a time, of all its inputs together. What the application itself made comes
/// first, so that it does not pile up; of the others each has its turn, however much the first have. Five
/// inputs and five turns from one batch of words to the next: when every turn counted, it was the first
/// partition of words that came up each time.
#[test]
fn what_was_made_is_read_first_and_no_input_starves() {
    let disk = machine(1);
    let log = open(&disk, Level::Os, 1).expect("opens");
    let config = TopicConfig::default();
    let few = NewTopic { name: FEW.name().to_owned(), partitions: 3, config };
    now(log.create_topic(&few)).expect("created");
    let mut builder = BatchBuilder::new(Compression::None, 256);
    let codec = thalweg_streams::codec::Bincode;
    let (mut key, mut value) = (Vec::new(), Vec::new());
    codec.encode(&1u32, &mut key).expect("a number");
    codec.encode(&"one".to_owned(), &mut value).expect("text");
    builder.push(0, Some(&key), Some(&value), &[]).expect("small");
    let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("a batch");
    now(log.append(&TopicPartition::new("few", 2), batch, None, Ack::Level)).expect("appended");

    let both = |b: &Builder| {
        pipeline(b)?;
        b.stream(&FEW).to(&COPIES);
        Ok(())
    };
    let app = App::new("words", both)
        .expect("a pipeline")
        .state_store(Arc::new(MemoryStore::default()))
        .threads(1)
        .fetch_bytes(1) // One batch.
        .commit_every(Duration::ZERO);
    let mut app = now(app.open(log.clone())).expect("opened");
    let by_word = [0, 1].map(|n| TopicPartition::new(BY_WORD.name(), n));
    let (mut copied, mut most) = (None, 0);
    for step in 0.. {
        if now(app.step(0)).expect("a step") == Step::Idle {
            break;
        }
        if copied.is_none() && !read(log.as_ref(), &COPIES).is_empty() {
            copied = Some(step);
        }
        let stored = now(log.committed_offsets("words", &by_word)).expect("there");
        for (at, stored) in by_word.iter().zip(stored) {
            let end = now(log.offsets(at)).expect("there").end;
            most = most.max(end - stored.map_or(0, |stored| stored.offset));
        }
    }
    now(app.end_of_input()).expect("at its end");
    now(app.stop()).expect("stopped");
    assert!(copied.is_some_and(|step| step < 12), "{copied:?}");
    // Of two batches, markers included; where they come last it is all of them.
    assert!(most <= 20, "{most} records wait that the application made");
    check(log.as_ref(), "in turn");
}

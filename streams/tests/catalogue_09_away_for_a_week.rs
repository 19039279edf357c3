//! Crash catalogue 9, and what of 10 is an application's: positions do not expire, and where they are
//! lost, or stand for other records, the application says so instead of starting over or jumping on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thalweg_core::batch::{BatchBuilder, Scratch, Visible};
use thalweg_core::client::log::*;
use thalweg_core::config::{Compression, LogConfig};
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_simulated};
use thalweg_core::ids::{ProducerIdentity, TopicPartition};
use thalweg_streams::state::backend::StateStore;
use thalweg_streams::state::memory::MemoryStore;
use thalweg_streams::{App, Builder, Error, OnClose, Result, Store, Topic, Tumbling, Windowed};

const IN: Topic<u8, i64> = Topic::new("in");
const MOVED: Topic<u8, i64> = Topic::internal("moved");
const MOVED_ELSEWHERE: Topic<u8, i64> = Topic::internal("moved-elsewhere");
const OUT: Topic<u8, i64> = Topic::new("out");
const COUNTS: Topic<Windowed<u8>, u64> = Topic::new("counts");
const WINDOWS: Store<Windowed<u8>, u64> = Store::new("windows");

const NOW: i64 = 1_790_000_000_000;
const DAY: i64 = 24 * 3_600_000;

/// Writes a topic between two subtopologies.
fn moving(b: &Builder) -> Result<()> {
    b.stream(&IN).repartition(&MOVED).to(&OUT);
    Ok(())
}

/// The same with topics of its own.
fn moving_elsewhere(b: &Builder) -> Result<()> {
    b.stream(&IN).repartition(&MOVED_ELSEWHERE).to(&OUT);
    Ok(())
}

/// Writes a changelog, which is named after the application.
fn counting(b: &Builder) -> Result<()> {
    b.stream(&IN)
        .window(Tumbling::of(Duration::from_millis(10)).no_grace())
        .count(&WINDOWS)
        .emit(OnClose)
        .to(&COUNTS);
    Ok(())
}

type Pipeline = fn(&Builder) -> Result<()>;

/// Pipelines, what each of them writes for itself, and the topic of its results.
const PIPELINES: [(Pipeline, &str, &str); 2] =
    [(moving, "moved", "out"), (counting, "changelog", "counts")];

fn now<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

type SimEngine = Arc<Engine<SimDisk>>;

fn open(disk: &SimDisk, time: i64, seed: u64) -> SimEngine {
    let config = LogConfig { level: Level::Os, min_free_bytes: 0, ..LogConfig::default() };
    let (clock, entropy) = (Clock::fixed(time), Entropy::seeded(seed));
    open_simulated(disk, Path::new("/data"), config, Runtime::Inline, clock, entropy)
        .expect("opens")
}

/// Ten records, 5 ms apart, from this time on.
fn input(log: &dyn Log, from: i64) {
    let new = NewTopic { name: "in".to_owned(), partitions: 1, config: TopicConfig::default() };
    match now(log.create_topic(&new)) {
        Ok(_) | Err(thalweg_core::Error::TopicExists { .. }) => {}
        Err(e) => panic!("{e}"),
    }
    let mut builder = BatchBuilder::new(Compression::None, 1024);
    for n in 0..10 {
        let value = i64::to_le_bytes(n);
        builder.push(from + 5 * n, Some(&[1]), Some(&value), &[]).expect("small");
    }
    let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("no codec");
    now(log.append(&TopicPartition::new("in", 0), batch, None, Ack::Level)).expect("appended");
}

/// Runs an application to the end of its input.
fn run(log: &SimEngine, id: &str, pipeline: Pipeline) -> Result<()> {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let app = App::new(id, pipeline)?.state_store(store).threads(1).commit_every(Duration::ZERO);
    now(async {
        let mut app = app.open(log.clone()).await?;
        app.end_of_input().await?;
        app.stop().await
    })
}

/// How many records a topic shows to readers of committed ones.
fn shown(log: &dyn Log, topic: &str) -> usize {
    let Ok(info) = now(log.topic(topic)) else { return 0 };
    let options = FetchOptions {
        isolation: Isolation::ReadCommitted,
        max_wait: Duration::ZERO,
        max_bytes: 0,
    };
    let (mut scratch, mut count) = (Scratch::default(), 0);
    for partition in 0..info.partitions {
        let at = TopicPartition::new(topic, partition);
        let from = FetchFrom { at, offset: 0, max_bytes: 1 << 20 };
        let fetched = now(log.fetch(&[from], options)).expect("readable").remove(0);
        for batch in Visible::new(&fetched.batches, &fetched.aborted, 0) {
            count += batch.expect("whole").records(&mut scratch).expect("plain").count();
        }
    }
    count
}

/// Kills the program; of one topic only what was synced is left.
fn lose(disk: &SimDisk, topic: &str) -> SimDisk {
    let log = Path::new("/data/log");
    let folder = log.join(format!("{topic}-0"));
    for entry in disk.list(&folder).expect("a topic's folder") {
        if Path::new(&entry.name).extension().is_some_and(|e| e == "log") {
            disk.drop_unsynced(&folder.join(&entry.name)).expect("there");
        }
    }
    disk.crash(Crash::Process);
    disk.restart()
}

/// A log whose coordinators are durable, without any position in them.
fn machine() -> (SimDisk, SimEngine) {
    let disk = SimDisk::new(1);
    disk.set_early_write_back(0);
    let log = open(&disk, NOW, 1);
    input(&*log, 0);
    log.close().expect("closes");
    drop(log);
    let log = open(&disk, NOW, 2);
    (disk, log)
}

#[test]
fn an_application_that_was_away_goes_on_where_it_was() -> Result<()> {
    for (pipeline, _, results) in PIPELINES {
        for (days, clean) in [(8, true), (8, false), (60, true), (60, false)] {
            let (disk, log) = machine();
            run(&log, "app", pipeline)?;
            let before = shown(&*log, results);
            assert!(before > 0, "{results}");
            let disk = match clean {
                true => {
                    log.close()?;
                    drop(log);
                    disk
                }
                false => {
                    drop(log);
                    disk.crash(Crash::Process);
                    disk.restart()
                }
            };
            let log = open(&disk, NOW + days * DAY, 3);
            now(log.tick())?;
            run(&log, "app", pipeline)?;
            assert_eq!(shown(&*log, results), before, "{results}: nothing again, {days} days on");
            input(&*log, 1000);
            run(&log, "app", pipeline)?;
            assert_eq!(shown(&*log, results), 2 * before, "{results}: only what is new");
        }
    }
    Ok(())
}

/// The positions are gone, what they led to is not: to start over would write all of it once more.
#[test]
fn without_positions_beside_its_own_output_an_application_is_refused_with_two_ways_out()
-> Result<()> {
    for ((pipeline, writes, results), elsewhere) in
        PIPELINES.into_iter().zip([moving_elsewhere as Pipeline, counting])
    {
        let (disk, log) = machine();
        run(&log, "app", pipeline)?;
        let before = shown(&*log, results);
        let mut at = vec![TopicPartition::new("in", 0)];
        if results == "out" {
            at.push(TopicPartition::new("moved", 0));
        }
        let stored: Vec<_> =
            now(log.committed_offsets("app", &at))?.into_iter().flatten().collect();
        assert_eq!(stored.len(), at.len());
        drop(log);
        let disk = lose(&disk, "__consumer_offsets");
        let log = open(&disk, NOW, 3);
        assert!(now(log.committed_offsets("app", &at))?.iter().all(Option::is_none));

        let refused = run(&log, "app", pipeline).expect_err("refused");
        assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
        let refused = refused.to_string();
        for part in ["\"app\"", "\"in\"", writes, "restore", "another application id"] {
            assert!(refused.contains(part), "{refused:?} names {part}");
        }
        assert_eq!(shown(&*log, results), before, "nothing was written");

        // The second way out, and then the first.
        run(&log, "other", elsewhere)?;
        assert_eq!(shown(&*log, results), 2 * before, "another application begins");
        let member = now(log.join_group("app"))?;
        now(log.commit_offsets(&member, &stored))?;
        run(&log, "app", pipeline)?;
        assert_eq!(shown(&*log, results), 2 * before, "it goes on where it was");
    }
    Ok(())
}

/// Output that was never committed is none: whoever died in the first transaction begins again.
#[test]
fn without_positions_beside_aborted_output_an_application_begins() -> Result<()> {
    let mut died = 0;
    for (pipeline, writes, results) in PIPELINES {
        let wanted = {
            let (_, log) = machine();
            run(&log, "app", pipeline)?;
            shown(&*log, results)
        };
        for point in 1.. {
            let (disk, log) = machine();
            disk.crash_at(disk.operations() + point, Crash::Process);
            let ended = run(&log, "app", pipeline).is_ok();
            drop(log);
            if ended && !disk.down() {
                break;
            }
            let disk = disk.restart();
            let log = open(&disk, NOW, 3);
            let own = now(log.topics())?.into_iter().filter(|info| info.name.contains(writes));
            let own: Vec<_> = own.map(|info| TopicPartition::new(info.name, 0)).collect();
            let written = own.iter().any(|at| now(log.offsets(at)).is_ok_and(|o| o.end > 0));
            let position = now(log.committed_offsets("app", &[TopicPartition::new("in", 0)]))?;
            died += usize::from(written && position == [None]);
            run(&log, "app", pipeline).unwrap_or_else(|e| panic!("{results}, {point}: {e}"));
            assert_eq!(shown(&*log, results), wanted, "{results}, killed at {point}");
        }
    }
    assert!(died > 0, "some died with output and without a position");
    Ok(())
}

/// At level `os` a power loss took input that was read, and positions were kept. New input grows over
/// the same offsets: it is not what the position stands for.
#[test]
fn an_application_whose_input_was_lost_is_told_also_when_it_has_grown_again() -> Result<()> {
    for (pipeline, _, results) in PIPELINES {
        let (disk, log) = machine();
        input(&*log, 1000);
        run(&log, "app", pipeline)?;
        let before = shown(&*log, results);
        drop(log);
        let disk = lose(&disk, "in");
        let log = open(&disk, NOW, 3);
        for grown in [false, true] {
            if grown {
                input(&*log, 2000);
            }
            let lost = run(&log, "app", pipeline).expect_err("told");
            assert!(
                matches!(
                    &lost,
                    Error::Log(thalweg_core::Error::PositionLost { at, offset: 20, .. })
                        if *at == TopicPartition::new("in", 0)
                ),
                "grown: {grown}: {lost}"
            );
            assert!(lost.to_string().contains("level os"), "{lost}");
        }
        assert_eq!(shown(&*log, results), before, "nothing was written");
    }
    Ok(())
}

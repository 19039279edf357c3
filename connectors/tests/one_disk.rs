//! Source runner, log, sink runner and file sink on one simulated disk: it dies at any operation, and
//! in the end the finished files hold every line once.
//!
//! The log is the real one, run in line. The input is a counter that never dies, or tailed files on
//! the same disk: what is tried here is that positions, records, offsets, tokens and files agree.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use thalweg_connectors::error::{Error, Result};
use thalweg_connectors::file::{FileSource, FileSourceConfig};
use thalweg_connectors::files::{FileSink, FileSinkConfig};

use thalweg_connectors::run::Step;
use thalweg_connectors::run::sink::{SinkConfig, SinkRunner};
use thalweg_connectors::run::source::{SourceConfig, SourceRunner};
use thalweg_connectors::run::topic::Partitions;
use thalweg_connectors::source::{Outbox, Polled, Position, Positions, Source, Split};
use thalweg_core::client::log::{Level, Log, TopicConfig};
use thalweg_core::client::transaction::{ProducerConfig, TransactionalProducer};
use thalweg_core::config::LogConfig;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::open_simulated;
use thalweg_core::engine::runtime::Runtime;

const LINES: usize = 24;

/// Counts from 0 to `LINES`, three lines a poll.
struct Counter {
    next: usize,
    /// Fails once at this line.
    broken_at: usize,
}

impl Counter {
    fn new() -> Self {
        Self { next: 0, broken_at: usize::MAX }
    }
}

#[async_trait]
impl Source for Counter {
    async fn open(&mut self, stored: &Positions) -> Result<()> {
        let stored = stored.values().flatten().next();
        self.next = stored.map_or(0, |position| {
            u64::from_be_bytes(position.0[..].try_into().expect("eight bytes")) as usize
        });
        Ok(())
    }

    async fn poll(&mut self, out: &mut (dyn Outbox + Send)) -> Result<Polled> {
        if self.next >= self.broken_at {
            self.broken_at = usize::MAX;
            return Err(Error::Restart { what: "broken once".to_owned() });
        }
        let upto = LINES.min(self.next + 3);
        for line in self.next..upto {
            out.record(line as u32 % 2, 0, None, Some(format!("line {line:02}").as_bytes()), &[])?;
        }
        self.next = upto;
        let position = Position(Bytes::copy_from_slice(&(upto as u64).to_be_bytes()));
        out.mark(&Split("counter".into()), Some(position));
        Ok(if upto == LINES { Polled::End } else { Polled::More })
    }

    async fn before_commit(&mut self) -> Result<()> {
        Ok(())
    }

    async fn committed(&mut self, _upto: &Positions) -> Result<()> {
        Ok(())
    }

    fn lag_bytes(&self) -> u64 {
        0
    }
}

fn open_log(disk: &SimDisk, level: Level, seed: u64) -> Result<Arc<dyn Log>> {
    let config = LogConfig { level, min_free_bytes: 0, ..LogConfig::default() };
    let (clock, entropy) = (Clock::fixed(1_790_000_000_000), Entropy::seeded(seed));
    Ok(open_simulated(disk, Path::new("/data"), config, Runtime::Inline, clock, entropy)?)
}

fn source_config() -> SourceConfig {
    SourceConfig {
        partitions: Partitions::Exactly(2),
        topic_config: TopicConfig { segment_bytes: 700, ..TopicConfig::default() },
        batch_bytes: 40,
        ..SourceConfig::new("counter", "lines")
    }
}

/// A whole run from open to end. The source and the sink take turns, as the seed says.
fn run(disk: &SimDisk, level: Level, seed: u64) -> Result<()> {
    run_with(disk, &open_log(disk, level, seed)?, Counter::new(), seed)
}

fn run_with(disk: &SimDisk, log: &Arc<dyn Log>, source: impl Source, seed: u64) -> Result<()> {
    let mut source = block_on(SourceRunner::open(log.clone(), source_config(), source))?;
    let files = FileSinkConfig {
        roll_bytes: 40,
        buffer_bytes: 16,
        ..FileSinkConfig::new("/out", [("lines", "lines")])
    };
    let sink = FileSink::claim(disk.clone(), files, log.id(), seed)?;
    let sink_config = SinkConfig { partition_bytes: 100, ..SinkConfig::new("files", ["lines"]) };
    let mut sink = block_on(SinkRunner::open(log.clone(), sink_config, sink))?;
    let mut turn = seed;
    loop {
        let step = block_on(source.step())?;
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        for _ in 0..(turn >> 62) {
            block_on(sink.step())?;
        }
        if step == Step::End {
            break;
        }
    }
    // In line nobody but the next user of the id makes the last markers durable.
    let id = "connect-source/counter";
    drop(block_on(TransactionalProducer::open(log.clone(), id, ProducerConfig::default()))?);
    block_on(sink.finish())
}

/// The lines of the finished files, in the order of the files, by partition.
fn lines(disk: &SimDisk) -> [Vec<String>; 2] {
    let folder = PathBuf::from("/out/lines");
    let mut lines = [Vec::new(), Vec::new()];
    for entry in disk.list(&folder).unwrap_or_default() {
        let name = entry.name.to_str().expect("our names are text");
        assert!(name.ends_with(".ndjson"), "{name}");
        let bytes = read_file(disk, &folder.join(name), 1 << 20).expect("readable");
        let text = String::from_utf8(bytes).expect("lines of text");
        let partition = usize::from(name.starts_with("lines-1-"));
        lines[partition].extend(text.lines().map(str::to_owned));
    }
    lines
}

fn check(disk: &SimDisk, whole: bool, what: &str) {
    for (partition, lines) in lines(disk).into_iter().enumerate() {
        let expected: Vec<String> =
            (partition..LINES).step_by(2).map(|line| format!("line {line:02}")).collect();
        assert_eq!(lines, expected[..lines.len()], "{what}: each line once, in order");
        assert!(!whole || lines.len() == expected.len(), "{what}: no line is missing");
    }
}

/// Dies at `first`, perhaps again while that is repaired, and then runs to its end.
fn one_life(seed: u64, level: Level, crash: Crash, first: u64, second: Option<u64>) {
    let what = format!("seed {seed}, {level:?}, {crash:?} at {first}, then {second:?}");
    let mut disk = SimDisk::new(seed);
    for (life, after) in [Some(first), second].into_iter().flatten().enumerate() {
        disk.crash_at(disk.operations() + after, crash);
        let result = run(&disk, level, seed + life as u64 + 1);
        assert!(disk.down() || result.is_ok(), "{what}: {:?}", result.err());
        disk.crash(Crash::Process);
        disk = disk.restart();
        disk.heal();
        check(&disk, false, &what);
    }
    let result = run(&disk, level, seed + 9);
    assert!(result.is_ok(), "{what}: {:?}\n{}", result.err(), disk.trace().join("\n"));
    check(&disk, true, &what);
    assert_eq!(disk.list(Path::new("/out/.tmp")).expect("there").len(), 0, "{what}: no left-overs");
    if level == Level::Disk {
        disk.crash(Crash::Power);
        check(&disk.restart(), true, &what);
    }
}

fn operations(level: Level) -> u64 {
    let disk = SimDisk::new(0);
    run(&disk, level, 1).expect("nothing fails");
    check(&disk, true, "without a crash");
    let operations = disk.operations();
    assert!(operations > 200, "several commits and rolls: {operations} operations");
    operations
}

#[test]
fn at_level_disk_a_power_loss_at_any_point_neither_loses_nor_doubles_a_line() {
    let operations = operations(Level::Disk);
    for seed in 0..4 {
        for first in (1 + seed..=operations).step_by(4) {
            one_life(seed * 100, Level::Disk, Crash::Power, first, None);
        }
    }
}

#[test]
fn at_both_levels_a_kill_at_any_point_neither_loses_nor_doubles_a_line() {
    for level in [Level::Disk, Level::Os] {
        let operations = operations(level);
        for seed in 0..3 {
            for first in (1 + seed..=operations).step_by(3) {
                one_life(seed * 100, level, Crash::Process, first, None);
            }
        }
    }
}

#[test]
fn a_second_death_in_recovery_changes_nothing() {
    let operations = operations(Level::Disk);
    for seed in 0..2 {
        for first in (3 + seed..=operations).step_by(5) {
            let second = Some(1 + (first * 13 + seed) % 160);
            one_life(seed * 100, Level::Disk, Crash::Power, first, second);
        }
    }
}

/// A source that starts over right behind a commit of its own, in a log where nobody else works: it
/// must see that commit, or it would read its lines again.
#[test]
fn a_source_that_starts_over_sees_its_own_last_commit() {
    for broken in [1, 6, 9, 12, LINES] {
        let disk = SimDisk::new(1);
        let log = open_log(&disk, Level::Disk, 1).expect("a new log");
        let counter = Counter { broken_at: broken, ..Counter::new() };
        let mut source =
            block_on(SourceRunner::open(log, source_config(), counter)).expect("opened");
        let ended = (0..200).any(|_| block_on(source.step()).expect("healed") == Step::End);
        assert!(ended, "broken at {broken}: it does not wait for ever");
        assert_eq!(source.stats().records as usize, LINES, "broken at {broken}");
        drop(source);
        run(&disk.restart(), Level::Disk, 2).expect("nothing more to read");
        check(&disk.restart(), true, "after starting over");
    }
}

/// Two tailed files that grow between the lives of the program, with `--once` each time.
fn run_tailing(disk: &SimDisk, seed: u64) -> Result<()> {
    let log = open_log(disk, Level::Disk, seed)?;
    let config = FileSourceConfig {
        paths: vec!["/in".into()],
        excluded: vec!["/data".into(), "/out".into()],
        once: true,
        ..FileSourceConfig::default()
    };
    let source = FileSource::new(disk.clone(), config, || 1_790_000_000_000)?;
    run_with(disk, &log, source, seed)
}

/// Appends lines to `/in/a` and `/in/b` as their writers do, who sync nothing.
fn write_lines(disk: &SimDisk, lines: std::ops::Range<usize>) {
    let door = disk.door_outside();
    _ = door.create_dir(Path::new("/in"));
    for (name, parity) in [("/in/a", 0), ("/in/b", 1)] {
        let file = door.open(Path::new(name), Open::Create).expect("there, or created");
        let text: String = lines
            .clone()
            .filter(|line| line % 2 == parity)
            .map(|line| format!("line {line:02}\n"))
            .collect();
        let end = file.len().expect("known");
        write_all_at(&file, text.as_bytes(), end).expect("room");
    }
}

#[test]
fn tailed_lines_are_in_the_finished_files_once_after_a_kill_at_any_point() {
    let whole = |disk: &SimDisk| {
        let mut found = lines(disk).concat();
        found.sort();
        found
    };
    let expected: Vec<String> = (0..LINES).map(|line| format!("line {line:02}")).collect();
    let operations = {
        let disk = SimDisk::new(0);
        write_lines(&disk, 0..LINES / 2);
        run_tailing(&disk, 1).expect("nothing fails");
        write_lines(&disk, LINES / 2..LINES);
        run_tailing(&disk.restart(), 2).expect("nothing fails");
        assert_eq!(whole(&disk.restart()), expected);
        disk.operations()
    };
    for seed in 0..3 {
        for first in (1 + seed..=operations).step_by(4) {
            let what = format!("seed {seed}, killed at {first}");
            let disk = SimDisk::new(seed);
            write_lines(&disk, 0..LINES / 2);
            disk.crash_at(first, Crash::Process);
            let result = run_tailing(&disk, seed * 10 + 1);
            assert!(disk.down() || result.is_ok(), "{what}: {:?}", result.err());
            let disk = disk.restart();
            write_lines(&disk, LINES / 2..LINES);
            let result = run_tailing(&disk, seed * 10 + 2);
            assert!(disk.down() || result.is_ok(), "{what}: {:?}", result.err());
            let disk = disk.restart();
            disk.heal();
            let result = run_tailing(&disk, seed * 10 + 3);
            assert!(result.is_ok(), "{what}: {:?}", result.err());
            assert_eq!(whole(&disk), expected, "{what}");
        }
    }
}

//! A machine with log files, somebody who writes and rotates them, and a runner that commits what
//! the source pushes.
//!
//! Always true here: what counts as delivered is what a transaction committed; records behind the
//! last mark are not sent; a restart begins from the positions of the last commit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use thalweg_connectors::error::{Error, Result};
use thalweg_connectors::file::{FileSource, FileSourceConfig, Notice};
use thalweg_connectors::source::{Outbox, Polled, Position, Positions, Source, Split};
use thalweg_core::disk::Disk;
use thalweg_core::disk::sim::{Crash, SimDisk};
use thalweg_core::ids::Timestamp;

use crate::files::Files;
use crate::racing::{Between, RacingDisk};

pub(crate) const PARTITIONS: u32 = 3;

/// A delivered record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) partition: u32,
    pub(crate) key: String,
    pub(crate) line: String,
    pub(crate) file: String,
    pub(crate) offset: u64,
    pub(crate) mtime: i64,
    pub(crate) cut: Option<u64>,
}

/// What was delivered to one partition, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Delivered {
    Line(Row),
    Marker(u32, String),
}

/// The open transaction.
pub(crate) struct Batch {
    records: Vec<Delivered>,
    /// How many records the last mark covers.
    covered: usize,
    marks: Positions,
    pub(crate) records_max: usize,
}

impl Batch {
    fn new(records_max: usize) -> Self {
        Self { records: Vec::new(), covered: 0, marks: Positions::new(), records_max }
    }
}

impl Outbox for Batch {
    fn partitions(&self) -> u32 {
        PARTITIONS
    }

    fn record(
        &mut self,
        partition: u32,
        _timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<()> {
        let header = |name: &str| {
            headers.iter().find(|(key, _)| *key == name.as_bytes()).and_then(|(_, value)| *value)
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        self.records.push(match header("__tw.backlog") {
            Some(word) => {
                assert!(key.is_none() && value.is_none(), "a marker holds no data");
                Delivered::Marker(partition, text(word))
            }
            None => Delivered::Line(Row {
                partition,
                key: text(key.expect("lines have keys")),
                line: text(value.expect("lines have values")),
                file: text(header("file").expect("lines have files")),
                offset: number(header("offset").expect("lines have offsets")) as u64,
                mtime: number(header("mtime").expect("lines have times")),
                cut: header("cut").map(|bytes| number(bytes) as u64),
            }),
        });
        Ok(())
    }

    fn mark(&mut self, split: &Split, position: Option<Position>) {
        self.covered = self.records.len();
        self.marks.insert(split.clone(), position);
    }

    fn is_full(&self) -> bool {
        self.records.len() >= self.records_max
    }
}

pub(crate) struct World {
    /// The program's door.
    pub(crate) disk: SimDisk,
    /// Everybody else's.
    pub(crate) hand: SimDisk,
    pub(crate) config: FileSourceConfig,
    /// What others do between any two calls of the source.
    pub(crate) between: Between,
    pub(crate) now: Arc<AtomicI64>,
    source: FileSource<RacingDisk>,
    pub(crate) stored: Positions,
    pub(crate) batch: Batch,
    pub(crate) delivered: Vec<Delivered>,
    pub(crate) restarts: u32,
}

impl World {
    /// A machine with a folder `/log`, and a source over `paths`.
    pub(crate) fn new(paths: &[&str]) -> Self {
        Self::with(0, config(paths))
    }

    pub(crate) fn with(seed: u64, config: FileSourceConfig) -> Self {
        let disk = SimDisk::new(seed);
        let hand = disk.door_outside();
        hand.create_dir(Path::new("/log")).expect("new folder");
        hand.sync_dir(Path::new("/")).expect("sync");
        let now = Arc::new(AtomicI64::new(1_000_000));
        disk.set_time(1_000_000);
        let between = Between::default();
        let racing = RacingDisk { disk: disk.clone(), between: between.clone() };
        let source = open_source(racing, &config, &now, &Positions::new());
        Self {
            disk,
            hand,
            config,
            between,
            now,
            source,
            stored: Positions::new(),
            batch: Batch::new(usize::MAX),
            delivered: Vec::new(),
            restarts: 0,
        }
    }

    // Time and the runner.

    pub(crate) fn wait(&mut self, ms: i64) {
        let now = self.now.fetch_add(ms, Ordering::Relaxed) + ms;
        self.disk.set_time(now);
    }

    pub(crate) fn poll(&mut self) -> Result<Polled> {
        block_on(self.source.poll(&mut self.batch))
    }

    /// Commits the open transaction; after an error it starts again from the last commit.
    pub(crate) fn commit(&mut self) -> Result<()> {
        let checked = block_on(self.source.before_commit());
        let max = self.batch.records_max;
        let batch = std::mem::replace(&mut self.batch, Batch::new(max));
        if checked.is_err() {
            self.restarts += 1;
            block_on(self.source.open(&self.stored)).expect("own positions");
            return checked;
        }
        self.delivered.extend(batch.records.into_iter().take(batch.covered));
        for (split, position) in &batch.marks {
            match position {
                Some(_) => self.stored.insert(split.clone(), position.clone()),
                None => self.stored.remove(split),
            };
        }
        block_on(self.source.committed(&batch.marks)).expect("nothing to do");
        Ok(())
    }

    /// Polls and commits until there is nothing for now. A transaction that was refused is tried
    /// again.
    pub(crate) fn catch_up(&mut self) -> Polled {
        for _ in 0..10_000 {
            let polled = self.poll().expect("polls do not fail");
            let idle = !matches!(polled, Polled::More | Polled::Idle(Duration::ZERO));
            if self.batch.is_full() || idle || polled == Polled::Idle(Duration::ZERO) {
                let committed = self.commit();
                if idle && committed.is_ok() {
                    return polled;
                }
            }
        }
        panic!("it never comes to rest: {:?}", self.disk.trace());
    }

    /// Lets the time pass with the source running.
    pub(crate) fn run(&mut self, ms: i64) {
        self.catch_up();
        for _ in 0..ms.div_euclid(250) {
            self.wait(250);
            self.catch_up();
        }
    }

    /// `kill -9` and a new start from the last commit.
    pub(crate) fn kill(&mut self) {
        self.disk = self.disk.restart();
        self.start();
    }

    /// The power goes, and comes again.
    pub(crate) fn lose_power(&mut self) {
        self.disk.crash(Crash::Power);
        self.disk = self.disk.restart();
        self.hand = self.disk.door_outside();
        self.start();
    }

    fn start(&mut self) {
        self.batch = Batch::new(self.batch.records_max);
        let racing = RacingDisk { disk: self.disk.clone(), between: self.between.clone() };
        self.source = open_source(racing, &self.config, &self.now, &self.stored);
    }

    pub(crate) fn source(&mut self) -> &mut FileSource<RacingDisk> {
        &mut self.source
    }

    pub(crate) fn notices(&mut self) -> Vec<Notice> {
        self.source.take_notices()
    }

    /// What was said of `path`, in order.
    pub(crate) fn said_of(&mut self, path: &str) -> Vec<String> {
        let of = |n: Notice| (n.path == Path::new(path)).then_some(n.what);
        self.notices().into_iter().filter_map(of).collect()
    }

    // The files.

    pub(crate) fn files(&self) -> Files {
        Files(self.hand.clone())
    }

    pub(crate) fn append(&self, path: &str, text: impl AsRef<[u8]>) {
        self.files().append(path, text);
    }

    pub(crate) fn truncate(&self, path: &str, len: u64) {
        self.files().truncate(path, len);
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        self.files().rename(from, to);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.files().remove(path);
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        self.files().read(path)
    }

    pub(crate) fn copy(&self, from: &str, to: &str, max: usize) -> usize {
        self.files().copy(from, to, max)
    }

    // What was delivered.

    pub(crate) fn rows(&self) -> Vec<Row> {
        let rows = self.delivered.iter().filter_map(|d| match d {
            Delivered::Line(row) => Some(row.clone()),
            Delivered::Marker(..) => None,
        });
        rows.collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.line).collect()
    }

    /// The lines in the order of their text: for tests in which the order of files does not matter.
    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.sort();
        lines
    }

    /// Within one file: one partition, and every line begins where the one before it ended.
    pub(crate) fn check_files_are_in_order(&self) {
        let mut ends: BTreeMap<String, (u32, u64)> = BTreeMap::new();
        for row in self.rows() {
            let end = row.offset + row.cut.unwrap_or(row.line.len() as u64) + 1;
            if let Some((partition, before)) = ends.insert(row.key.clone(), (row.partition, end)) {
                assert_eq!(partition, row.partition, "one file, one partition: {row:?}");
                assert_eq!(before, row.offset, "no byte between two lines: {row:?}");
            }
        }
    }
}

pub(crate) fn config(paths: &[&str]) -> FileSourceConfig {
    FileSourceConfig { paths: paths.iter().map(Into::into).collect(), ..Default::default() }
}

fn open_source(
    disk: RacingDisk,
    config: &FileSourceConfig,
    now: &Arc<AtomicI64>,
    stored: &Positions,
) -> FileSource<RacingDisk> {
    let now = Arc::clone(now);
    let clock = move || now.load(Ordering::Relaxed);
    let mut source =
        FileSource::new(disk, config.clone(), clock).expect("settings that make sense");
    block_on(source.open(stored)).expect("own positions");
    source
}

/// `count` lines of `width` bytes with `name` and a number, from number `from`.
pub(crate) fn numbered(name: &str, from: usize, count: usize, width: usize) -> String {
    let line = |i: usize| format!("{:.<width$}\n", format!("{name} {i} "), width = width - 1);
    (from..from + count).map(line).collect()
}

/// The error of a refused commit.
pub(crate) fn is_restart(result: &Result<()>) -> bool {
    matches!(result, Err(Error::Restart { .. }))
}

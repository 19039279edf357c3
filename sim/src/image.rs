//! A data folder as bytes, to be laid on a fresh simulated disk again and again, and what a reader
//! of a log on it must see.
//!
//! Always true here: an image follows from how it is made and from nothing else; laid on a disk it is
//! durable; what a reader saw is compared record by record, with offset, time, key, value and headers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::executor::block_on;
use thalweg_core::batch::{BatchBuilder, Scratch, Visible};
use thalweg_core::client::log::{
    Ack, FetchFrom, FetchOptions, Isolation, Log, NewTopic, TopicConfig, TransactionEnd,
};
use thalweg_core::config::{Compression, LogConfig};
use thalweg_core::disk::sim::SimDisk;
use thalweg_core::disk::{Disk, DiskFile, Open, read_file, write_all_at};
use thalweg_core::engine::clock::{Clock, Entropy};
use thalweg_core::engine::runtime::Runtime;
use thalweg_core::engine::{Engine, open_simulated};
use thalweg_core::ids::{Offset, ProducerIdentity, TopicPartition};
use thalweg_core::record::RecordRef;
use thalweg_core::{Error, Result};

/// Where the log lies.
pub(crate) const DIR: &str = "/data";
/// The folder of the partition that is looked at.
pub(crate) const FOLDER: &str = "/data/log/t-0";
const NOW: i64 = 1_790_000_000_000;

/// How the last process stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// Cleanly.
    Clean,
    /// It was killed: some records lie above what the hint says, and a transaction is open.
    Killed,
}

/// The files of a data folder, and what a reader of partition `t-0` sees.
pub(crate) struct Image {
    /// Paths and bytes, in the order of the paths.
    pub(crate) files: Vec<(PathBuf, Vec<u8>)>,
    folders: Vec<PathBuf>,
    /// What is there, be it committed or not.
    pub(crate) all: Vec<Seen>,
    /// What readers of committed records see.
    pub(crate) committed: Vec<Seen>,
    /// Where the log ends.
    pub(crate) end: Offset,
}

/// A record as a reader saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) offset: Offset,
    pub(crate) timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// How reading came to an end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// At the end.
    End,
    /// An error told why.
    Told(Error),
    /// An answer that leads nowhere: a consumer would ask for this offset for ever.
    Stuck(Offset),
}

impl Image {
    /// A few records of every kind, in segments of a few batches.
    pub(crate) fn small(left: Left) -> &'static Self {
        static IMAGES: [OnceLock<Image>; 2] = [OnceLock::new(), OnceLock::new()];
        IMAGES[usize::from(left == Left::Killed)]
            .get_or_init(|| Self::make(left, &Content { segment_bytes: 700, bytes: 2500, fold: 1 }))
    }

    /// A segment of so many bytes with its side files, about 500 batches large and small, and another
    /// segment behind it.
    pub(crate) fn of_bytes(bytes: u32) -> Self {
        let fold = (bytes / 7000) as usize;
        let content = Content { segment_bytes: bytes, bytes: u64::from(bytes) + 4096, fold };
        Self::make(Left::Clean, &content)
    }

    fn make(left: Left, content: &Content) -> Self {
        let disk = SimDisk::new(1);
        disk.set_early_write_back(0);
        content.write(&disk, left).expect("nothing goes wrong on this disk");
        // What a kill leaves is in the cache only; the image is what a reader finds there.
        let disk = disk.restart();
        let (mut files, mut folders) = (Vec::new(), vec![PathBuf::from(DIR)]);
        let mut next = 0;
        while let Some(folder) = folders.get(next).cloned() {
            next += 1;
            for entry in disk.list(&folder).expect("a folder") {
                let path = folder.join(&entry.name);
                match entry.is_dir {
                    true => folders.push(path),
                    false => {
                        let bytes = read_file(&disk, &path, 1 << 30).expect("a file");
                        files.push((path, bytes));
                    }
                }
            }
        }
        let mut image = Self { files, folders, all: Vec::new(), committed: Vec::new(), end: 0 };
        let disk = image.lay(|_| true);
        let log = open(&disk).expect("what was written opens");
        image.end = block_on(log.offsets(&at())).expect("the partition is there").end;
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            let (seen, ending) = read(&log, isolation, 0, Offset::MAX);
            assert!(matches!(ending, Ending::End), "what was written is read: {ending:?}");
            match isolation {
                Isolation::ReadUncommitted => image.all = seen,
                Isolation::ReadCommitted => image.committed = seen,
            }
        }
        image
    }

    /// A disk that holds the image, but for the files that are not `wanted`.
    pub(crate) fn lay(&self, wanted: impl Fn(&Path) -> bool) -> SimDisk {
        let disk = SimDisk::new(1);
        disk.set_early_write_back(0);
        for folder in &self.folders {
            disk.create_dir(folder).expect("a fresh disk");
        }
        for (path, bytes) in self.files.iter().filter(|(path, _)| wanted(path)) {
            put(&disk, path, bytes);
        }
        for folder in self.folders.iter().rev() {
            disk.sync_dir(folder).expect("nothing goes wrong on this disk");
        }
        disk.sync_dir(Path::new("/")).expect("nothing goes wrong on this disk");
        disk
    }

    /// The bytes of the partition's file of this name.
    pub(crate) fn file(&self, name: &str) -> Option<&[u8]> {
        let path = Path::new(FOLDER).join(name);
        self.files.iter().find(|(found, _)| *found == path).map(|(_, bytes)| bytes.as_slice())
    }

    /// The files of the partition, by name.
    pub(crate) fn partition(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().filter_map(|(path, bytes)| {
            let name = path.strip_prefix(FOLDER).ok()?.to_str()?;
            Some((name, bytes.as_slice()))
        })
    }
}

/// Writes a file whole, durably but for its name.
pub(crate) fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, Open::Create).expect("its folder is there");
    file.set_len(0).expect("nothing goes wrong on this disk");
    write_all_at(&file, bytes, 0).expect("nothing goes wrong on this disk");
    file.sync_data().expect("nothing goes wrong on this disk");
}

/// Opens the log in line.
pub(crate) fn open(disk: &SimDisk) -> Result<Arc<Engine<SimDisk>>> {
    let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    let (clock, entropy) = (Clock::fixed(NOW), Entropy::seeded(5));
    open_simulated(disk, Path::new(DIR), config, Runtime::Inline, clock, entropy)
}

/// The partition that is looked at.
pub(crate) fn at() -> TopicPartition {
    TopicPartition::new("t", 0)
}

/// Reads the partition as a consumer does, sums checked, from an offset up to (not including)
/// another.
pub(crate) fn read(
    log: &Engine<SimDisk>,
    isolation: Isolation,
    from: Offset,
    to: Offset,
) -> (Vec<Seen>, Ending) {
    let mut seen = Vec::new();
    let ending = visit(log, isolation, from, to, &mut |record| seen.push(Seen::of(record)));
    (seen, ending)
}

/// As [`read`], and shows each record instead of keeping it.
pub(crate) fn visit(
    log: &Engine<SimDisk>,
    isolation: Isolation,
    from: Offset,
    to: Offset,
    show: &mut dyn FnMut(&RecordRef<'_>),
) -> Ending {
    let mut scratch = Scratch::default();
    let mut offset = from;
    let options = FetchOptions { isolation, max_wait: Duration::ZERO, max_bytes: 0 };
    while offset < to {
        let ask = FetchFrom { at: at(), offset, max_bytes: FETCH_BYTES };
        let mut look = || -> Result<Option<Offset>> {
            let fetched = block_on(log.fetch(std::slice::from_ref(&ask), options))?.remove(0);
            let end = match isolation {
                Isolation::ReadCommitted => fetched.offsets.last_stable,
                Isolation::ReadUncommitted => fetched.offsets.high_watermark,
            };
            for batch in Visible::new(&fetched.batches, &fetched.aborted, offset) {
                let batch = batch.map_err(Error::from)?;
                batch.check_crc().map_err(Error::from)?;
                let records = batch.records(&mut scratch).map_err(Error::from)?;
                for record in records.starting_at(offset) {
                    let record = record.map_err(Error::from)?;
                    if record.offset < to {
                        show(&record);
                    }
                }
            }
            let more = fetched.next_offset < end;
            Ok((more || fetched.next_offset > offset).then_some(fetched.next_offset))
        };
        match look() {
            Err(e) => return Ending::Told(e),
            Ok(None) => break,
            Ok(Some(next)) if next <= offset => return Ending::Stuck(offset),
            Ok(Some(next)) => offset = next,
        }
    }
    Ending::End
}

/// Bytes of one fetch: some batches of the small image, many of the large one.
const FETCH_BYTES: usize = 16 << 10;

impl Seen {
    pub(crate) fn of(record: &RecordRef<'_>) -> Self {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Self {
            offset: record.offset,
            timestamp: record.timestamp,
            key: owned(record.key),
            value: owned(record.value),
            headers: record.headers.iter().map(|(k, v)| (k.to_vec(), owned(v))).collect(),
        }
    }

    /// Whether this is the record.
    pub(crate) fn is(&self, record: &RecordRef<'_>) -> bool {
        let mut headers = self.headers.iter();
        (self.offset, self.timestamp) == (record.offset, record.timestamp)
            && self.key.as_deref() == record.key
            && self.value.as_deref() == record.value
            && record.headers.iter().all(|(key, value)| {
                headers.next().is_some_and(|(k, v)| k == key && v.as_deref() == value)
            })
            && headers.next().is_none()
    }
}

/// What is written into an image.
struct Content {
    segment_bytes: u32,
    /// How many bytes, about.
    bytes: u64,
    /// How many times as many records a batch outside of transactions has.
    fold: usize,
}

impl Content {
    fn write(&self, disk: &SimDisk, left: Left) -> Result<()> {
        let log = open(disk)?;
        let index_interval_bytes = if self.segment_bytes < 4096 { 150 } else { 4096 };
        let config = TopicConfig {
            segment_bytes: self.segment_bytes,
            index_interval_bytes,
            ..TopicConfig::default()
        };
        block_on(log.create_topic(&NewTopic { name: "t".to_owned(), partitions: 1, config }))?;
        let member = block_on(log.join_group("g"))?;
        block_on(log.leave_group(&member))?;
        let mut writer = Writer { log: &log, fold: self.fold, number: 0, written: 0, sequence: 0 };
        while writer.written < self.bytes {
            writer.round()?;
        }
        match left {
            Left::Clean => log.close(),
            Left::Killed => {
                block_on(log.tick())?;
                writer.plain(Compression::None, 1)?;
                writer.transaction(None)?;
                writer.plain(Compression::None, 1)
            }
        }
    }
}

struct Writer<'a> {
    log: &'a Arc<Engine<SimDisk>>,
    fold: usize,
    number: usize,
    written: u64,
    sequence: i32,
}

impl Writer<'_> {
    fn round(&mut self) -> Result<()> {
        self.plain(Compression::None, 3)?;
        self.plain(Compression::Lz4, 4)?;
        self.transaction(Some(TransactionEnd::Abort))?;
        self.trap()?;
        self.transaction(Some(TransactionEnd::Commit))?;
        self.plain(Compression::Zstd, 2)?;
        self.plain(Compression::None, 1)
    }

    fn batch(&mut self, compression: Compression, count: usize, by: ProducerIdentity) -> Bytes {
        let mut builder = BatchBuilder::new(compression, 1024);
        for _ in 0..count {
            self.number += 1;
            let value = format!("value {} {}", self.number, "of a line ".repeat(self.number % 5));
            let key = self.number.to_string();
            let key = (!self.number.is_multiple_of(3)).then_some(key.as_bytes());
            let headers: &[(&[u8], Option<&[u8]>)] =
                if self.number.is_multiple_of(4) { &[(b"unit", Some(b"C"))] } else { &[] };
            let value = (!self.number.is_multiple_of(7)).then_some(value.as_bytes());
            builder.push(NOW + self.number as i64, key, value, headers).expect("it fits");
        }
        let sequence = if by.id < 0 { -1 } else { self.sequence };
        builder.finish(by, sequence, by.id >= 0).expect("there are records")
    }

    fn append(&mut self, batch: Bytes, id: Option<&str>) -> Result<Offset> {
        self.written += batch.len() as u64;
        Ok(block_on(self.log.append(&at(), batch, id, Ack::Level))?.next_offset)
    }

    fn plain(&mut self, compression: Compression, count: usize) -> Result<()> {
        let batch = self.batch(compression, count * self.fold, ProducerIdentity::NONE);
        self.append(batch, None).map(drop)
    }

    fn transaction(&mut self, end: Option<TransactionEnd>) -> Result<()> {
        let producer = block_on(self.log.init_producer(Some("tx"), Duration::from_secs(60)))?;
        self.sequence = 0;
        for _ in 0..2 {
            let batch = self.batch(Compression::None, 1, producer);
            self.append(batch, Some("tx"))?;
            self.sequence += 1;
        }
        match end {
            Some(end) => block_on(self.log.end_transaction("tx", producer, end)).map(drop),
            None => Ok(()),
        }
    }

    /// A record whose value is a batch that would fit here: whoever reads in the middle of a batch
    /// finds it, and its sum is right.
    fn trap(&mut self) -> Result<()> {
        let end = block_on(self.log.offsets(&at()))?.end;
        let inner = self.batch(Compression::None, 1, ProducerIdentity::NONE);
        let mut inner = inner.to_vec();
        let header = inner.first_chunk_mut().expect("a batch is longer than its header");
        thalweg_core::batch::stamp(header, end, 0);
        let mut builder = BatchBuilder::new(Compression::None, 1024);
        builder.push(NOW, None, Some(&inner), &[]).expect("it fits");
        let batch = builder.finish(ProducerIdentity::NONE, -1, false).expect("there is a record");
        self.append(batch, None).map(drop)
    }
}

//! F5 · Verifying a folder: a data folder, a log directory of ours or of Apache Kafka's, or one
//! partition's folder.
//!
//! ```text
//!   DIR/format, DIR/log/    a data folder        meta.properties, topic-0/    Kafka's log directory
//!   NUMBER.log              one partition
//! ```
//!
//! Always true here: nothing is written, created or locked, so that a living log may be looked at; every
//! file is read to its end; what is bad is named with file and byte, and whether it can be built anew.
//! A torn tail behind what was synced is no fault: the next open cuts it.
//!
//! ```
//! use thalweg_core::disk::sim::SimDisk;
//! use thalweg_core::verify::verify;
//!
//! let nothing = verify(&SimDisk::new(1), "/nowhere".as_ref(), &mut |_| {});
//! assert!(nothing.is_err());
//! ```

use std::io;
use std::path::{Path, PathBuf};

use crate::batch::{BatchRef, Marker, Scratch, parse_marker};
use crate::coordinator::Malformed;
use crate::coordinator::group::GroupCoordinator;
use crate::coordinator::metadata::Metadata;
use crate::coordinator::transaction::TransactionCoordinator;
use crate::disk::{Disk, read_file};
use crate::error::{Error, Result};
use crate::ids::{Offset, TopicPartition};
use crate::log::verify::{self as partition, Fix, Known, Sink};
use crate::request::TransactionEnd;

pub use crate::log::verify::{Finding, Severity, Totals};

/// What a folder is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Folder {
    /// A data folder of ours, whose log directory is below it.
    Data {
        /// The log directory.
        log: PathBuf,
    },
    /// A log directory: ours, or Apache Kafka's.
    Log,
    /// One partition's folder.
    Partition,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// What is worth telling, in the order it was met.
    pub findings: Vec<Finding>,
    /// How much was looked at.
    pub totals: Totals,
    /// Where the log of each partition ends, by its folder.
    pub ends: Vec<(PathBuf, Offset)>,
    /// What was known of each partition's folder.
    pub(crate) known: Vec<(PathBuf, Known)>,
}

impl Report {
    /// The worst that was found.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// How many findings are of this kind.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Reads everything in a folder. `progress` is called every few megabytes, and for every partition.
///
/// # Errors
/// `Unsupported` for a folder that holds no log, or one of a newer layout; `Io` when something may not
/// be read.
pub fn verify<D: Disk>(disk: &D, dir: &Path, progress: &mut dyn FnMut(&Totals)) -> Result<Report> {
    let mut look = Look { disk, report: Report::default(), progress };
    match folder(disk, dir)? {
        Folder::Data { log } => {
            look.format(dir)?;
            look.log(&log)?;
        }
        Folder::Log => look.log(dir)?,
        Folder::Partition => {
            let at = name_of(dir);
            let topic = at.as_ref().map_or("", |at| &*at.topic);
            let clean = dir.parent().is_some_and(|log| disk.stat(&log.join(CLEAN_MARKER)).is_ok());
            look.partition(dir, topic, &Known { clean, ..Known::default() })?;
        }
    }
    Ok(look.report)
}

/// What a folder is, by the names in it.
///
/// # Errors
/// `Unsupported` when there is no log in it; `Io`.
pub fn folder<D: Disk>(disk: &D, dir: &Path) -> Result<Folder> {
    let no_log = |what: &str| Error::Unsupported { path: dir.to_owned(), what: what.to_owned() };
    let entries = match disk.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(no_log("there is no such folder, hence no log"));
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(no_log(
                "it is no folder: give a data folder, a log directory, or a partition's folder; `thalweg dump` shows single files",
            ));
        }
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    let has = |name: &str| entries.iter().any(|e| e.name.to_str() == Some(name));
    let metadata = format!("{METADATA_TOPIC}-0");
    if has(FORMAT_FILE) || disk.stat(&dir.join(LOG_DIR).join(&metadata)).is_ok() {
        return Ok(Folder::Data { log: dir.join(LOG_DIR) });
    }
    let segments = |name: &str| {
        name.strip_suffix(".log")
            .is_some_and(|stem| stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit()))
    };
    if entries.iter().any(|e| e.name.to_str().is_some_and(segments)) {
        return Ok(Folder::Partition);
    }
    let partitions = || {
        entries.iter().filter(|e| e.is_dir && name_of(Path::new(&e.name)).is_some()).any(|e| {
            let inside = disk.list(&dir.join(&e.name)).unwrap_or_default();
            inside.iter().any(|file| file.name.to_str().is_some_and(segments))
        })
    };
    if has("meta.properties") || has("recovery-point-offset-checkpoint") || partitions() {
        return Ok(Folder::Log);
    }
    Err(no_log("it holds no log: neither `format`, nor folders of partitions, nor segments"))
}

/// The partition that a folder is named for.
pub fn name_of(dir: &Path) -> Option<TopicPartition> {
    let (topic, number) = dir.file_name()?.to_str()?.rsplit_once('-')?;
    let legal = crate::ids::check_topic_name(topic).is_ok()
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse::<u32>().ok().filter(|n| legal && n.to_string() == number)?;
    Some(TopicPartition::new(topic, number))
}

// As the engine, which lies above, names them.
pub(crate) const METADATA_TOPIC: &str = "__thalweg_metadata";
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";
pub(crate) const FORMAT_FILE: &str = "format";
pub(crate) const LOG_DIR: &str = "log";
pub(crate) const CLEAN_MARKER: &str = ".kafka_cleanshutdown";
/// The highest layout of a data folder that is known.
pub(crate) const FORMAT: u32 = 3;

struct Look<'a, D> {
    disk: &'a D,
    report: Report,
    progress: &'a mut dyn FnMut(&Totals),
}

impl<D: Disk> Look<'_, D> {
    fn find(&mut self, severity: Severity, path: PathBuf, what: impl Into<String>) {
        let what = what.into();
        let (position, lost, fix) = (0, None, Fix::Look);
        self.report.findings.push(Finding { severity, path, position, what, lost, fix });
    }

    fn format(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(FORMAT_FILE);
        let how = "restore it: its content is \"3\"";
        match read_file(self.disk, &path, 64) {
            Ok(bytes) => match String::from_utf8_lossy(&bytes).trim().parse::<u32>() {
                Ok(1..=FORMAT) => {}
                Ok(found) if found > FORMAT => {
                    let what = format!(
                        "the folder has layout {found}, this program reads up to {FORMAT}: use the program that wrote it, or a newer one"
                    );
                    return Err(Error::Unsupported { path, what });
                }
                _ => {
                    let what = format!("no layout number in it: {how}");
                    self.find(Severity::Rebuildable, path, what);
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let what = format!("it is missing, and the folder holds a log: {how}");
                self.find(Severity::Rebuildable, path, what);
            }
            Err(e) => return Err(Error::io("read", &path, e)),
        }
        Ok(())
    }

    /// Looks at one partition.
    fn partition(&mut self, dir: &Path, topic: &str, known: &Known) -> Result<()> {
        let mut reader = Reader::of(topic);
        self.partition_into(dir, known, &mut reader)
    }

    fn partition_into(&mut self, dir: &Path, known: &Known, reader: &mut Reader) -> Result<()> {
        let mut sink = Sink {
            batch: &mut |batch, scratch| reader.take(batch, scratch),
            progress: self.progress,
            totals: &mut self.report.totals,
            findings: &mut self.report.findings,
        };
        let end = partition::partition(self.disk, dir, known, &mut sink)?;
        self.report.ends.push((dir.to_owned(), end));
        self.report.known.push((dir.to_owned(), *known));
        Ok(())
    }

    /// Looks at a log directory.
    fn log(&mut self, dir: &Path) -> Result<()> {
        let entries = self.disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
        let has = |name: &str| entries.iter().any(|e| e.name.to_str() == Some(name));
        let clean = has(CLEAN_MARKER);
        let ours = format!("{METADATA_TOPIC}-0");
        let mut metadata = None;
        if has(&ours) {
            let mut reader = Reader::of(METADATA_TOPIC);
            let known = Known { clean, ..Known::default() };
            self.partition_into(&dir.join(&ours), &known, &mut reader)?;
            if let Reader::Metadata(found) = reader {
                metadata = Some(*found);
            }
        } else if entries.iter().any(|e| e.is_dir) && !has("meta.properties") {
            let is_ours = |e: &&crate::disk::Entry| {
                self.disk.stat(&dir.join(&e.name).join("flushed-offset")).is_ok()
            };
            if let Some(entry) = entries.iter().find(is_ours) {
                let other = entry.name.to_string_lossy().into_owned();
                let what =
                    format!("it is missing, and {other} is a partition of ours: no topic is known");
                self.find(Severity::Damaged, dir.join(&ours), what);
            }
        }
        let points = self.checkpoint(dir, "recovery-point-offset-checkpoint")?;
        let starts = self.checkpoint(dir, "log-start-offset-checkpoint")?;
        self.checkpoint(dir, "replication-offset-checkpoint")?;
        self.checkpoint(dir, "cleaner-offset-checkpoint")?;
        for entry in entries.iter().filter(|e| e.is_dir && e.name.to_str() != Some(&ours)) {
            let path = dir.join(&entry.name);
            let Some(at) = name_of(&path) else {
                self.find(Severity::Note, path, "no folder of a partition: it is left alone");
                continue;
            };
            let topic = metadata.as_ref().map(|metadata| metadata.topic(&at.topic).ok());
            let topic_id = match topic {
                Some(Some(info)) if at.partition < info.partitions => Some(info.id),
                Some(_) => {
                    let leaving = metadata.iter().flat_map(Metadata::deleting);
                    let what = match leaving.into_iter().any(|info| info.name == at.topic) {
                        true => "its topic was deleted: the next open removes it",
                        false => "no topic of this log owns it: it is left alone",
                    };
                    self.find(Severity::Note, path, what);
                    continue;
                }
                None => None,
            };
            let of = |list: &[(TopicPartition, Offset)]| {
                list.iter().find(|(other, _)| *other == at).map(|(_, offset)| *offset)
            };
            let known =
                Known { topic_id, clean, recovery_point: of(&points), log_start: of(&starts) };
            self.partition(&path, &at.topic, &known)?;
        }
        for info in metadata.iter().flat_map(Metadata::topics) {
            for number in 0..info.partitions {
                let folder = format!("{}-{number}", info.name);
                if has(&folder) {
                    continue;
                }
                // A stop that was clean had made them all.
                let (severity, what) = match clean {
                    true => (Severity::Damaged, "the partition's folder is missing"),
                    false => (Severity::Note, "it is not there yet: the next open makes it, empty"),
                };
                self.find(severity, dir.join(folder), what);
            }
        }
        Ok(())
    }

    /// Reads a checkpoint of a log directory of Apache Kafka.
    fn checkpoint(&mut self, dir: &Path, name: &str) -> Result<Vec<(TopicPartition, Offset)>> {
        let path = dir.join(name);
        let bytes = match read_file(self.disk, &path, 64 << 20) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        match decode_checkpoint(&bytes) {
            Some(entries) => Ok(entries),
            None => {
                let what = "it is no list of topic, partition and offset: Apache Kafka refuses the whole directory";
                self.find(Severity::Rebuildable, path, what);
                Ok(Vec::new())
            }
        }
    }
}

/// The entries of a checkpoint file that may not be there, or be none.
pub(crate) fn checkpoint_of<D: Disk>(disk: &D, path: &Path) -> Vec<(TopicPartition, Offset)> {
    let bytes = read_file(disk, path, 64 << 20).ok();
    bytes.and_then(|bytes| decode_checkpoint(&bytes)).unwrap_or_default()
}

/// The entries of a checkpoint file; `None` when it is none.
fn decode_checkpoint(bytes: &[u8]) -> Option<Vec<(TopicPartition, Offset)>> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.is_empty() {
        return Some(Vec::new());
    }
    let mut lines = text.lines();
    if lines.next()?.trim() != "0" {
        return None;
    }
    let count: usize = lines.next()?.trim().parse().ok()?;
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (topic, number, offset) = (words.next()?, words.next()?, words.next()?);
        let at = TopicPartition::new(topic, number.parse().ok()?);
        let offset = offset.parse::<Offset>().ok().filter(|offset| *offset >= 0)?;
        words.next().is_none().then_some((at, offset))
    };
    let entries: Option<Vec<_>> = lines.map(entry).collect();
    entries.filter(|entries| entries.len() == count)
}

/// Who reads the records of an internal topic, so that those that nobody can read are named.
enum Reader {
    Nobody,
    Metadata(Box<Metadata>),
    Groups(Box<GroupCoordinator>),
    Transactions(Box<TransactionCoordinator>),
}

impl Reader {
    fn of(topic: &str) -> Self {
        match topic {
            METADATA_TOPIC => Self::Metadata(Box::default()),
            OFFSETS_TOPIC => Self::Groups(Box::new(GroupCoordinator::new())),
            TRANSACTIONS_TOPIC => {
                Self::Transactions(Box::new(TransactionCoordinator::new(i32::MAX)))
            }
            _ => Self::Nobody,
        }
    }

    fn take(&mut self, batch: &BatchRef<'_>, scratch: &mut Scratch) -> Option<String> {
        if matches!(self, Self::Nobody) {
            return None;
        }
        let header = &batch.header;
        for record in batch.records(scratch).ok()? {
            let record = record.ok()?;
            let (key, value) = (record.key.unwrap_or_default(), record.value);
            if header.is_control() {
                let end = match parse_marker(&record) {
                    Some((Marker::Commit, _)) => TransactionEnd::Commit,
                    Some((Marker::Abort, _)) => TransactionEnd::Abort,
                    None => continue,
                };
                if let Self::Groups(state) = self {
                    state.marker(header.producer.id, end);
                }
                continue;
            }
            let taken: Result<(), Malformed> = match self {
                Self::Nobody => Ok(()),
                Self::Metadata(state) => state.replay(key, value),
                Self::Groups(state) if header.is_transactional() => {
                    state.replay_pending(header.producer.id, key, value)
                }
                Self::Groups(state) => state.replay(key, value),
                Self::Transactions(state) => state.replay(key, value),
            };
            if let Err(e) = taken {
                return Some(format!("the record at offset {}: {e}", record.offset));
            }
        }
        None
    }
}

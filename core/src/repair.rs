//! F5 · Repairing a folder: what [`crate::verify`] names is built anew or set aside, and what is sound
//! stays where it is.
//!
//! ```text
//!   locks    nobody else is in there
//!   verify   what is bad                                        -> the plan, to be agreed to
//!   mend     damaged batches -> batches without records         log/mend.rs
//!   settle   indexes, sidecars, snapshots, epochs, hint         log/settle.rs
//!   DIR.repair-TIME/  has every file that was replaced, as it was
//! ```
//!
//! Always true here: no sound batch is removed, and none changes its offset; offsets whose records are
//! gone are named and are not given out again; a crash at any step leaves a folder that is repaired by
//! calling it again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::batch::{BatchBuilder, Marker, Scratch, batches, control_batch};
use crate::config::{Cleanup, Compression, TopicConfig};
use crate::coordinator::metadata::Metadata;
use crate::coordinator::transaction::{TransactionCoordinator, Undecided};
use crate::disk::{Disk, LockKind, lock_holder, read_file, replace_file};
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, Timestamp};
use crate::log::aside::Aside;
use crate::log::mend::{finish_compaction, mend};
use crate::log::settle::highest_producer_id;
use crate::log::verify::{Finding, Known, Severity, Totals};
use crate::log::{METADATA_FILE, create_folder, topic_id_of};
use crate::request::{NewTopic, TransactionEnd};
use crate::verify::{
    CLEAN_MARKER, FORMAT, FORMAT_FILE, Folder, METADATA_TOPIC, OFFSETS_TOPIC, Report,
    TRANSACTIONS_TOPIC, folder, name_of, verify,
};

/// A folder that is locked and was verified.
pub struct Repair<D: Disk> {
    disk: D,
    dir: PathBuf,
    log: PathBuf,
    report: Report,
    _locks: Vec<D::Lock>,
}

/// What a repair did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Repaired {
    /// Partitions that were mended, by their folders.
    pub partitions: Vec<PathBuf>,
    /// Offsets whose records are gone, by partition's folder.
    pub lost: Vec<(PathBuf, Range<Offset>)>,
    /// Segments that were written anew.
    pub segments: usize,
    /// Where the files that were replaced are kept, if any were.
    pub aside: Option<PathBuf>,
}

impl<D: Disk> Repair<D> {
    /// Takes the folder's locks and verifies it.
    ///
    /// # Errors
    /// `InUse`; as [`verify`]; `Invalid` for a partition's folder, beside which nothing may be kept.
    pub fn open(disk: D, dir: &Path, progress: &mut dyn FnMut(&Totals)) -> Result<Self> {
        let mut locks = Vec::new();
        let log = match folder(&disk, dir)? {
            Folder::Data { log } => {
                locks.push(lock(&disk, dir, &dir.join("lock"), LockKind::Flock)?);
                log
            }
            Folder::Log => dir.to_owned(),
            Folder::Partition => {
                let what = format!(
                    "{} is the folder of one partition: give the data folder or the log directory, beside which can be kept what is replaced",
                    dir.display()
                );
                return Err(Error::invalid(what));
            }
        };
        let path = log.join(".lock");
        let was_there = disk.stat(&path).is_ok();
        locks.push(lock(&disk, dir, &path, LockKind::WithRecordLock)?);
        if !was_there {
            // Its presence says that somebody did not stop cleanly.
            disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        for entry in disk.list(&log).map_err(|e| Error::io("list", &log, e))? {
            let path = log.join(&entry.name);
            if entry.is_dir && name_of(&path).is_some() {
                finish_compaction(&disk, &path)?;
            }
        }
        let report = verify(&disk, dir, progress)?;
        Ok(Self { disk, dir: dir.to_owned(), log, report, _locks: locks })
    }

    /// What is bad.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Repairs it. What is replaced is kept below `aside`, which must lie outside of the folder.
    ///
    /// # Errors
    /// `Damaged` for what cannot be repaired; `Io`, `Full`: it can be called again.
    pub fn run(self, aside: &Path, now: Timestamp) -> Result<Repaired> {
        let keep = Aside::new(&self.disk, &self.dir, aside);
        let mut done = Repaired::default();
        let bad: Vec<&Finding> =
            self.report.findings.iter().filter(|f| f.severity > Severity::Note).collect();
        for finding in &bad {
            self.loose(finding, &keep)?;
        }
        let metadata = self.log.join(format!("{METADATA_TOPIC}-0"));
        let mut folders: Vec<&(PathBuf, Known)> = self.report.known.iter().collect();
        // The coordinator first: what it decided is told to others. The topics last: others tell them.
        let is_coordinator =
            |dir: &Path| name_of(dir).is_some_and(|at| &*at.topic == TRANSACTIONS_TOPIC);
        folders.sort_by_key(|(dir, _)| (*dir == metadata, !is_coordinator(dir)));
        for (dir, known) in folders {
            let of =
                |finding: &&&Finding| finding.path.parent() == Some(dir) || finding.path == *dir;
            let findings: Vec<&Finding> = bad.iter().filter(of).copied().collect();
            if findings.is_empty() {
                continue;
            }
            if self.is_anothers(&findings, known) {
                self.move_away(dir, known, &keep)?;
                done.partitions.push(dir.clone());
                continue;
            }
            let damaged = findings.iter().any(|finding| finding.severity == Severity::Damaged);
            let extra = match damaged && *dir == metadata {
                true => vec![self.topics_of_folders(&metadata, now)?],
                false => self.markers_of(dir, now)?,
            };
            let mended = mend(&self.disk, dir, known, &findings, &extra, &keep)?;
            done.segments += mended.segments;
            done.lost.extend(mended.lost.into_iter().map(|lost| (dir.clone(), lost)));
            done.partitions.push(dir.clone());
        }
        if bad.iter().any(|finding| finding.severity == Severity::Damaged) {
            // The next open takes another leader epoch, so that positions in what is gone are recognised.
            self.forget_clean_stop(&keep)?;
        }
        keep.sync()?;
        done.aside = keep.is_used().then(|| aside.to_owned());
        Ok(done)
    }

    /// What is no partition's file.
    fn loose(&self, finding: &Finding, keep: &Aside<'_, D>) -> Result<()> {
        let path = &finding.path;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if *path == self.dir.join(FORMAT_FILE) {
            keep.keep(path)?;
            return replace_file(&self.disk, path, format!("{FORMAT}\n").as_bytes())
                .map_err(|e| Error::io("write", path, e));
        }
        if path.parent() == Some(&self.log) && name.ends_with("-offset-checkpoint") {
            keep.keep(path)?;
            keep.sync()?;
            return self.disk.remove(path).map_err(|e| Error::io("remove", path, e));
        }
        let missing = path.parent() == Some(&self.log) && self.disk.stat(path).is_err();
        if missing && name == format!("{METADATA_TOPIC}-0") {
            let what = "without it nobody knows which topics there are: restore it from a copy";
            return Err(Error::damaged(path, 0, what));
        }
        if missing
            && let Some(at) = name_of(path)
            && let Ok(info) =
                self.metadata(&self.log.join(format!("{METADATA_TOPIC}-0")))?.topic(&at.topic)
        {
            create_folder(&self.disk, path, info.id)?;
            return self.disk.sync_dir(&self.log).map_err(|e| Error::io("sync", &self.log, e));
        }
        Ok(())
    }

    /// Whether a folder carries the id of another topic.
    fn is_anothers(&self, findings: &[&Finding], known: &Known) -> bool {
        known.topic_id.is_some()
            && findings.iter().any(|finding| {
                finding.severity == Severity::Damaged
                    && finding.path.file_name().is_some_and(|name| name == METADATA_FILE)
            })
    }

    /// Sets a whole folder aside, and makes the one that belongs there.
    fn move_away(&self, dir: &Path, known: &Known, keep: &Aside<'_, D>) -> Result<()> {
        let entries = self.disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            keep.keep(&dir.join(&entry.name))?;
        }
        keep.sync()?;
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            let path = dir.join(&entry.name);
            self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        self.disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        match known.topic_id {
            Some(id) => create_folder(&self.disk, dir, id),
            None => Ok(()),
        }
    }

    fn forget_clean_stop(&self, keep: &Aside<'_, D>) -> Result<()> {
        let path = self.log.join(CLEAN_MARKER);
        let ours = self.disk.stat(&self.log.join(format!("{METADATA_TOPIC}-0"))).is_ok();
        if !ours || self.disk.stat(&path).is_err() {
            return Ok(());
        }
        keep.keep(&path)?;
        self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        self.disk.sync_dir(&self.log).map_err(|e| Error::io("sync", &self.log, e))
    }

    /// The topics as far as the records of the metadata can be read.
    fn metadata(&self, dir: &Path) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        // What nobody can read says nothing.
        self.records(dir, |key, value| _ = metadata.replay(key, value))?;
        Ok(metadata)
    }

    /// Every record of a partition that can be read, whatever lies between.
    fn records(&self, dir: &Path, mut take: impl FnMut(&[u8], Option<&[u8]>)) -> Result<()> {
        let mut scratch = Scratch::default();
        for entry in self.disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
            let path = dir.join(&entry.name);
            if path.extension().is_none_or(|suffix| suffix != "log") {
                continue;
            }
            let bytes =
                read_file(&self.disk, &path, u64::MAX).map_err(|e| Error::io("read", &path, e))?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let Some(Ok(batch)) = batches(rest).next() else {
                    rest = &rest[1..];
                    continue;
                };
                if batch.check_crc().is_err() {
                    rest = &rest[1..];
                    continue;
                }
                rest = &rest[batch.bytes.len()..];
                let Ok(records) = batch.records(&mut scratch) else { continue };
                for record in records.map_while(std::result::Result::ok) {
                    take(record.key.unwrap_or_default(), record.value);
                }
            }
        }
        Ok(())
    }

    /// A batch with what damaged metadata may have lost: topics whose folders are there, with default
    /// settings, the log's id, and a counter of producer ids above every one that partitions remember.
    fn topics_of_folders(&self, dir: &Path, now: Timestamp) -> Result<Bytes> {
        let mut metadata = self.metadata(dir)?;
        let mut records = Vec::new();
        let mut take = |metadata: &mut Metadata,
                        all: Vec<crate::coordinator::CoordinatorRecord>| {
            for record in all {
                _ = metadata.replay(&record.key, record.value.as_deref());
                records.push(record);
            }
        };
        let mut topics: BTreeMap<String, (u32, crate::ids::Uuid)> = BTreeMap::new();
        let mut highest = -1;
        for entry in self.disk.list(&self.log).map_err(|e| Error::io("list", &self.log, e))? {
            let path = self.log.join(&entry.name);
            let Some(at) = name_of(&path).filter(|_| entry.is_dir) else { continue };
            highest = highest.max(highest_producer_id(&self.disk, &path)?);
            if let Ok(Some(id)) = topic_id_of(&self.disk, &path) {
                let (partitions, _) = topics.entry(at.topic.to_string()).or_insert((0, id));
                *partitions = (*partitions).max(at.partition + 1);
            }
        }
        if metadata.log_id().is_none()
            && let Some(id) = topic_id_of(&self.disk, dir)?
        {
            let plan = metadata.init(id)?;
            take(&mut metadata, plan.records);
        }
        let deleting: BTreeSet<String> =
            metadata.deleting().map(|info| info.name.to_string()).collect();
        for (name, (partitions, id)) in topics {
            if name == METADATA_TOPIC || metadata.topic(&name).is_ok() || deleting.contains(&name) {
                continue;
            }
            let compacted = name == OFFSETS_TOPIC || name == TRANSACTIONS_TOPIC;
            let cleanup = if compacted { Cleanup::Compact } else { Cleanup::Delete };
            let config = TopicConfig { cleanup, ..TopicConfig::default() };
            let plan = metadata.create_topic(&NewTopic { name, partitions, config }, id)?;
            take(&mut metadata, plan.records);
        }
        let plan = metadata.allocate_producer_ids(1000, highest + 1)?;
        take(&mut metadata, plan.records);
        let mut builder = BatchBuilder::new(Compression::None, 1024);
        for record in &records {
            builder.push(now, Some(&record.key), record.value.as_deref(), &[])?;
        }
        builder.finish(ProducerIdentity::NONE, -1, false)
    }

    /// The markers of commits that were decided and whose end in this partition may be what is damaged:
    /// a decision that somebody was told of stands, whatever is left of its records here.
    fn markers_of(&self, dir: &Path, now: Timestamp) -> Result<Vec<Bytes>> {
        let Some(at) = name_of(dir) else { return Ok(Vec::new()) };
        let mut markers = Vec::new();
        for entry in self.disk.list(&self.log).map_err(|e| Error::io("list", &self.log, e))? {
            let path = self.log.join(&entry.name);
            if name_of(&path).is_none_or(|other| &*other.topic != TRANSACTIONS_TOPIC) {
                continue;
            }
            let mut coordinator = TransactionCoordinator::new(i32::MAX);
            self.records(&path, |key, value| _ = coordinator.replay(key, value))?;
            for undecided in coordinator.undecided() {
                if let Undecided::Prepared(plan) = undecided
                    && plan.end == TransactionEnd::Commit
                    && plan.partitions.contains(&at)
                {
                    markers.push(control_batch(Marker::Commit, plan.marker, 0, now));
                }
            }
        }
        Ok(markers)
    }
}

fn lock<D: Disk>(disk: &D, dir: &Path, path: &Path, kind: LockKind) -> Result<D::Lock> {
    disk.lock(path, kind).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => {
            let by =
                lock_holder(disk, path).map_or_else(String::new, |id| format!(" by process {id}"));
            Error::InUse { path: dir.to_owned(), by }
        }
        _ => Error::io("lock", path, e),
    })
}

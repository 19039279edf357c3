//! F6 · Opening a folder, in the only order that is right (crash-catalogue 1-3, 8, 10, 13).
//!
//! ```text
//!   locks, format                         nobody else is in here, and we know the layout
//!   clean marker away, durably            before anything is written
//!   metadata: recover, replay             which topics there are
//!   every partition: recover              durable end = log end, or damaged
//!   a new leader epoch, durably           after an unclean stop; no epoch is given out twice
//!   deletions and creations completed     folders follow the metadata
//!   coordinators: replay                  what was under way
//!   members expelled                      no client survives its process
//!   Ongoing -> abort;  Prepare -> verify what it names, then finish or, if nobody was told, abort
//!   orphans -> as decided, or abort       only when every coordinator was loaded whole
//! ```
//!
//! Always true here: every step may be interrupted and is repeated by the next open; nothing is
//! decided on bytes that are not on the medium; a read error refuses to open.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::clock::{Clock, Entropy};
use super::foreign::is_foreign;
use super::handle::PartitionHandle;
use super::runtime::Runtime;
use super::sync::SyncQueue;
use super::topics::{make_folders, open_partition, opening, remove_folders};
use super::{
    Engine, Inner, METADATA_TOPIC, OFFSETS_TOPIC, Partitions, ProducerIds, Shard,
    TRANSACTIONS_TOPIC,
};
use crate::batch::{self, BatchRef, Marker};
use crate::config::{Cleanup, Level, LogConfig, TopicConfig};
use crate::coordinator::group::GroupCoordinator;
use crate::coordinator::metadata::Metadata;
use crate::coordinator::transaction::{EndPlan, TransactionCoordinator, Undecided};
use crate::coordinator::{CoordinatorRecord, Malformed};
use crate::disk::handles::Handles;
use crate::disk::{Disk, LockKind, read_file, replace_file};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, TopicPartition, Uuid};
use crate::log::{
    Buffers, METADATA_FILE, Opening, PartitionLog, Recovered, create_folder, topic_id_of,
};
use crate::partition::Partition;
use crate::request::{NewTopic, TopicInfo, TransactionEnd};

/// The folder of the log inside the data folder.
pub(super) const LOG_DIR: &str = "log";
/// The folder for the state of the layers above, inside the data folder.
pub const STATE_DIR: &str = "state";
///
/// - 1: partitions begin at 0, their hint ends after the durable end.
/// - 2: a log start, and a recovery point within a segment. What was written at 1 is read; a program of
///   layout 1 would not know that records were deleted.
/// - 3: compacted segments, between whose batches offsets are missing: to a program of layout 2 that
///   is damage.
pub(super) const FORMAT: u32 = 3;
pub(super) const FORMAT_FILE: &str = "format";
pub(super) const CLEAN_MARKER: &str = ".kafka_cleanshutdown";

/// The locks of an open folder.
pub(super) struct Locks<D: Disk> {
    _folder: D::Lock,
    _log: D::Lock,
}

/// What opening found and did.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Whether the last process stopped cleanly.
    pub clean: bool,
    /// Bytes that were read and checked.
    pub scanned_bytes: u64,
    /// Bytes of torn tails that were cut.
    pub cut_bytes: u64,
    /// Transactions that were aborted because their producer is gone.
    pub aborted: usize,
    /// Decided transactions that were finished.
    pub finished: usize,
    /// Commits that nobody was told of and that were aborted, because records of them are gone.
    pub revoked: usize,
    /// Partitions that could not be opened, and why. The others are served.
    pub damaged: Vec<(TopicPartition, String)>,
    /// Folders in the log directory that no topic of this log owns. They are left alone.
    pub strangers: Vec<PathBuf>,
}

impl<D: Disk> Engine<D> {
    /// Opens the data folder `dir`, made when it is missing, and recovers it when the last process
    /// did not stop cleanly.
    ///
    /// # Errors
    /// `InUse` naming the process that has it; `Unsupported` for a newer layout; `Damaged` when the
    /// metadata or a coordinator cannot be trusted; `Invalid` for a setting that would break a promise;
    /// `Io`.
    pub async fn open(
        disk: D,
        dir: impl Into<PathBuf>,
        config: LogConfig,
        runtime: Runtime,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self> {
        config.check()?;
        let dir = dir.into();
        let log_dir = dir.join(LOG_DIR);
        refuse_foreign(&disk, &dir)?;
        make_data_dir(&disk, &dir)?;
        let folder = lock(&disk, &dir, &dir.join("lock"), LockKind::Flock)?;
        check_format(&disk, &dir)?;
        make_dir(&disk, &log_dir)?;
        make_dir(&disk, &dir.join(STATE_DIR))?;
        // Whoever wrote these names may have been killed before syncing them.
        disk.sync_dir(&dir).map_err(|e| Error::io("sync", &dir, e))?;
        let log = lock(&disk, &log_dir, &log_dir.join(".lock"), LockKind::WithRecordLock)?;
        let locks = Locks { _folder: folder, _log: log };

        let clean = take_clean_marker(&disk, &log_dir)?;
        let mut opener = Opener {
            handles: Handles::new(disk.clone(), config.open_files),
            disk,
            dir,
            log_dir,
            config,
            runtime,
            clock,
            entropy,
            report: OpenReport { clean, ..OpenReport::default() },
            known_durable: BTreeMap::new(),
        };
        let inner = Arc::new(opener.open()?);
        // From here on threads may run. If the rest fails, or is given up, the engine is dropped with
        // its locks, and lets go of them.
        let mut engine =
            Self { inner, locks: Mutex::new(Some(locks)), report: OpenReport::default() };
        opener.finish(&engine.inner).await?;
        engine.report = opener.report;
        if let Runtime::Threads(_) = engine.inner.runtime {
            keep_ticking(&engine.inner);
        }
        Ok(engine)
    }
}

/// Runs `tick` for as long as the engine lives.
fn keep_ticking<D: Disk>(inner: &Arc<Inner<D>>) {
    fn again<D: Disk>(inner: Weak<Inner<D>>) -> futures::future::BoxFuture<'static, ()> {
        Box::pin(async move {
            let Some(strong) = inner.upgrade() else { return };
            if strong.stopped().is_some() {
                return;
            }
            if let Err(e) = strong.tick().await {
                tracing::warn!(error = %e, "background work failed; it is tried again");
            }
            let (runtime, interval) = (strong.runtime.clone(), strong.config.hint_interval);
            drop(strong);
            runtime.run_later(interval, again(inner));
        })
    }
    inner.runtime.run_later(inner.config.hint_interval, again(Arc::downgrade(inner)));
}

/// Refuses a log directory of Apache Kafka: ours beside it would make a broker refuse it, too.
fn refuse_foreign<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    if is_there(disk, &dir.join(FORMAT_FILE))? || !is_there(disk, dir)? || !is_foreign(disk, dir)? {
        return Ok(());
    }
    Err(Error::Unsupported {
        path: dir.to_owned(),
        what: "it is a log directory of Apache Kafka: look at it read-only, or take it over first"
            .to_owned(),
    })
}

/// Makes the data folder with its parents, and every name on the way to it durable: also of folders
/// that are there already, because whoever made them may have been killed before syncing them. Not
/// again once there is a `format`, which is written after this.
fn make_data_dir<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    if is_there(disk, &dir.join(FORMAT_FILE))? {
        return Ok(());
    }
    let way: Vec<&Path> = dir.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    for folder in way.into_iter().rev() {
        let was_there = is_there(disk, folder)?;
        make_dir(disk, folder)?;
        let Some(parent) = folder.parent() else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // We could not have made a name there, and did not.
            Err(e) if was_there && no_place_to_make_names(&e) => {}
            other => other.map_err(|e| Error::io("sync", parent, e))?,
        }
    }
    Ok(())
}

/// Whether a folder refuses to be synced because of what it is: not ours, or of a file system that is
/// read-only or has nothing to sync.
fn no_place_to_make_names(e: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(e.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

/// Makes a folder that may be there already; its name is not durable yet.
fn make_dir<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    if is_there(disk, dir)? {
        return Ok(());
    }
    match disk.create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", dir, e)),
        _ => Ok(()),
    }
}

pub(super) fn is_there<D: Disk>(disk: &D, path: &Path) -> Result<bool> {
    match disk.stat(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

pub(super) fn lock<D: Disk>(disk: &D, dir: &Path, path: &Path, kind: LockKind) -> Result<D::Lock> {
    disk.lock(path, kind).map_err(|e| {
        if e.kind() != io::ErrorKind::WouldBlock {
            return Error::io("lock", path, e);
        }
        let pid = read_file(disk, path, 64).ok().and_then(|b| String::from_utf8(b).ok());
        let by = match pid.as_deref().map(str::trim) {
            Some(pid) if !pid.is_empty() => format!(" by process {pid}"),
            _ => String::new(),
        };
        Error::InUse { path: dir.to_owned(), by }
    })
}

pub(super) fn check_format<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    let path = dir.join(FORMAT_FILE);
    match read_file(disk, &path, 64) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            match text.trim().parse::<u32>() {
                Ok(FORMAT) => Ok(()),
                // Before anything is written that an older program would misread.
                Ok(found) if found < FORMAT => {
                    replace_file(disk, &path, format!("{FORMAT}\n").as_bytes())
                        .map_err(|e| Error::io("write", &path, e))
                }
                Ok(found) => Err(Error::Unsupported {
                    path,
                    what: format!(
                        "the folder has layout {found}, this program reads up to {FORMAT}: use the program that wrote it, or a newer one"
                    ),
                }),
                Err(_) => Err(Error::damaged(
                    &path,
                    0,
                    "no layout number in it: restore the file (its content is \"3\") or use another folder",
                )),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if disk.stat(&dir.join(LOG_DIR).join(format!("{METADATA_TOPIC}-0"))).is_ok() {
                return Err(Error::damaged(
                    &path,
                    0,
                    "the file is missing and the folder holds a log: restore it (its content is \"3\")",
                ));
            }
            replace_file(disk, &path, format!("{FORMAT}\n").as_bytes())
                .map_err(|e| Error::io("write", &path, e))
        }
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// Says whether the last process stopped cleanly, and durably forgets that it did.
fn take_clean_marker<D: Disk>(disk: &D, log_dir: &Path) -> Result<bool> {
    let path = log_dir.join(CLEAN_MARKER);
    match disk.remove(&path) {
        Ok(()) => {
            disk.sync_dir(log_dir).map_err(|e| Error::io("sync", log_dir, e))?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("remove", &path, e)),
    }
}

/// Marks the folder as cleanly stopped: the last thing that is written.
pub(super) fn mark_clean<D: Disk>(disk: &D, log_dir: &Path) -> Result<()> {
    let lock = log_dir.join(".lock");
    disk.remove(&lock).map_err(|e| Error::io("remove", &lock, e))?;
    let path = log_dir.join(CLEAN_MARKER);
    let text = format!("{{\"version\":0,\"brokerEpoch\":-1,\"bootId\":\"{}\"}}", disk.boot_id());
    replace_file(disk, &path, text.as_bytes()).map_err(|e| Error::io("write", &path, e))
}

pub(super) struct Opener<D: Disk> {
    pub(super) disk: D,
    pub(super) handles: Handles<D>,
    pub(super) dir: PathBuf,
    pub(super) log_dir: PathBuf,
    pub(super) config: LogConfig,
    pub(super) runtime: Runtime,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) report: OpenReport,
    /// Per partition, what was known to be durable before the folder was opened.
    pub(super) known_durable: BTreeMap<TopicPartition, Offset>,
}

/// What an engine is made of, once it was found.
pub(super) struct Opened<D: Disk> {
    pub(super) id: Uuid,
    pub(super) epoch: LeaderEpoch,
    pub(super) metadata: Shard<D, Metadata>,
    pub(super) partitions: Partitions<D>,
    pub(super) damaged: BTreeMap<TopicPartition, Error>,
    pub(super) groups: Vec<Shard<D, GroupCoordinator>>,
    pub(super) transactions: Vec<Shard<D, TransactionCoordinator>>,
}

/// Partition logs before they have a leader epoch.
pub(super) type Logs<D> = BTreeMap<TopicPartition, (PartitionLog<D>, TopicInfo)>;

impl<D: Disk> Opener<D> {
    fn open(&mut self) -> Result<Inner<D>> {
        let (metadata_log, metadata_info) = self.open_metadata()?;
        let mut metadata = Metadata::new();
        let at = TopicPartition::new(METADATA_TOPIC, 0);
        replay(&metadata_log, &at, &self.log_dir, |_, record| {
            metadata.replay(record.key.unwrap_or_default(), record.value)
        })?;

        if metadata.log_id().is_none() {
            self.refuse_without_metadata()?;
        }

        let mut damaged = BTreeMap::new();
        let known: Vec<TopicInfo> = metadata.topics().cloned().collect();
        let logs = self.open_logs(&known, &mut damaged)?;

        // From here on the metadata can be written: under the epoch that this open takes.
        let seen = logs.values().map(|(log, _)| log.last_epoch()).max().unwrap_or(-1);
        let seen = seen.max(metadata_log.last_epoch());
        let take = !self.report.clean || metadata.leader_epoch() < 0;
        let epoch =
            if take { metadata.leader_epoch().max(seen) + 1 } else { metadata.leader_epoch() };
        let partition = Partition::new(metadata_log, metadata_info.id, Level::Disk, epoch);
        let metadata_handle =
            Arc::new(PartitionHandle::new(at, partition, Arc::new(metadata_info.config)));
        let mut writer = MetadataWriter {
            handle: &metadata_handle,
            metadata: &mut metadata,
            now: self.clock.now(),
        };
        if take {
            writer.write(|m| Ok(m.raise_epoch(seen)?.records))?;
        }
        let fresh = self.entropy.uuid();
        let id = writer.metadata.log_id().unwrap_or(fresh);
        writer.write(|m| Ok(m.init(id)?.records))?;
        for (name, partitions) in [
            (OFFSETS_TOPIC, self.config.coordinator_partitions),
            (TRANSACTIONS_TOPIC, self.config.coordinator_partitions),
        ] {
            if writer.metadata.topic(name).is_err() {
                let config = TopicConfig {
                    cleanup: Cleanup::Compact,
                    segment_bytes: self.config.internal_segment_bytes,
                    ..TopicConfig::default()
                };
                let topic =
                    NewTopic { name: name.to_owned(), partitions: partitions.max(1), config };
                let topic_id = self.entropy.uuid();
                writer.write(|m| Ok(m.create_topic(&topic, topic_id)?.records))?;
            }
        }
        // The epoch, the id and the topics are durable before anything is written under them.
        writer.sync()?;
        let deleting: Vec<TopicInfo> = metadata.deleting().cloned().collect();
        for info in deleting {
            remove_folders(&self.disk, &self.log_dir, &info)?;
            let mut writer = MetadataWriter {
                handle: &metadata_handle,
                metadata: &mut metadata,
                now: self.clock.now(),
            };
            writer.write(|m| Ok(m.forget_topic(&info.name)?.records))?;
        }

        let partitions = self.lead(&metadata, logs, &damaged, epoch, &metadata_handle)?;
        let groups = self.load_groups(&metadata, &partitions)?;
        let transactions = self.load_transactions(&metadata, &partitions)?;
        self.report.strangers = self.strangers(&metadata)?;
        let metadata = Shard { handle: metadata_handle, state: Mutex::new(metadata) };
        let opened = Opened { id, epoch, metadata, partitions, damaged, groups, transactions };
        Ok(self.assemble(opened, false))
    }

    pub(super) fn assemble(&mut self, opened: Opened<D>, read_only: bool) -> Inner<D> {
        let damaged = opened.damaged.iter().map(|(at, e)| (at.clone(), e.to_string()));
        self.report.damaged = damaged.collect();
        Inner {
            disk: self.disk.clone(),
            handles: self.handles.clone(),
            dir: self.dir.clone(),
            log_dir: self.log_dir.clone(),
            read_only,
            config: self.config.clone(),
            runtime: self.runtime.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            id: opened.id,
            epoch: opened.epoch,
            partitions: ArcSwap::from_pointee(opened.partitions),
            damaged: opened.damaged,
            metadata: opened.metadata,
            groups: opened.groups,
            transactions: opened.transactions,
            topics_busy: tokio::sync::Mutex::new(()),
            producer_ids: tokio::sync::Mutex::new(ProducerIds::default()),
            sync: SyncQueue::new(self.config.sync_threads),
            buffers: Buffers::default(),
            compaction: Mutex::new(None),
            stopped: OnceLock::new(),
            decided: tokio::sync::Notify::new(),
            since_space_check: std::sync::atomic::AtomicU64::new(u64::MAX / 2),
            no_space: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// How a partition is opened.
    pub(super) fn opening(&self, info: &TopicInfo, at: TopicPartition, clean: bool) -> Opening {
        opening(&self.log_dir, info, at, clean, &self.config)
    }

    pub(super) fn open_metadata(&mut self) -> Result<(PartitionLog<D>, TopicInfo)> {
        let at = TopicPartition::new(METADATA_TOPIC, 0);
        let dir = self.log_dir.join(at.folder());
        let found = if is_there(&self.disk, &dir)? { topic_id_of(&self.disk, &dir)? } else { None };
        let id = found.unwrap_or_else(|| self.entropy.uuid());
        create_folder(&self.disk, &dir, id)?;
        self.disk.sync_dir(&self.log_dir).map_err(|e| Error::io("sync", &self.log_dir, e))?;
        let config = TopicConfig {
            level: Some(Level::Disk),
            cleanup: Cleanup::Compact,
            segment_bytes: self.config.internal_segment_bytes,
            ..TopicConfig::default()
        };
        let info = TopicInfo { name: METADATA_TOPIC.into(), id, partitions: 1, config };
        let (log, recovered) =
            PartitionLog::open(&self.handles, &self.opening(&info, at, self.report.clean))?;
        self.note(&recovered);
        Ok((log, info))
    }

    /// A new folder has no topics: one that has folders of topics has lost the metadata that they
    /// follow from, and must not begin again as if it were empty.
    pub(super) fn refuse_without_metadata(&self) -> Result<()> {
        let ours = format!("{METADATA_TOPIC}-0");
        let entries =
            self.disk.list(&self.log_dir).map_err(|e| Error::io("list", &self.log_dir, e))?;
        for entry in entries.iter().filter(|e| e.is_dir && e.name.to_str() != Some(&ours)) {
            let path = self.log_dir.join(&entry.name).join(METADATA_FILE);
            if self.disk.stat(&path).is_ok() {
                return Err(Error::damaged(
                    &self.log_dir.join(&ours),
                    0,
                    format!(
                        "the folder is missing or empty, and {} belongs to a topic: restore it from a copy",
                        self.log_dir.join(&entry.name).display()
                    ),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn note(&mut self, recovered: &Recovered) {
        self.report.scanned_bytes += recovered.scanned_bytes;
        self.report.cut_bytes += recovered.cut_bytes;
        // A stop that left a torn tail was not a clean one, whatever its marker says.
        self.report.clean &= recovered.cut_bytes == 0 && recovered.removed_segments == 0;
    }

    /// Recovers every partition there is a folder for. A damaged one is set aside; one that a
    /// coordinator needs refuses the open.
    fn open_logs(
        &mut self,
        topics: &[TopicInfo],
        damaged: &mut BTreeMap<TopicPartition, Error>,
    ) -> Result<Logs<D>> {
        let mut logs = Logs::new();
        for info in topics {
            for number in 0..info.partitions {
                let at = TopicPartition::new(Arc::clone(&info.name), number);
                let opening = self.opening(info, at.clone(), self.report.clean);
                // A crash may have come between the record of a topic and its folders.
                let opened = create_folder(&self.disk, &opening.dir, info.id)
                    .and_then(|()| PartitionLog::open(&self.handles, &opening));
                match opened {
                    Ok((log, recovered)) => {
                        self.note(&recovered);
                        self.known_durable.insert(at.clone(), recovered.known_durable);
                        logs.insert(at, (log, info.clone()));
                    }
                    Err(e @ Error::Damaged { .. }) if !info.name.starts_with("__") => {
                        tracing::error!(partition = %at, error = %e, "damaged: set aside, the others go on");
                        damaged.insert(at, e);
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        // Folders that were made just now: durable before anything in them is acknowledged.
        self.disk.sync_dir(&self.log_dir).map_err(|e| Error::io("sync", &self.log_dir, e))?;
        Ok(logs)
    }

    /// Leads every log under `epoch`, and opens what was created by this open.
    pub(super) fn lead(
        &mut self,
        metadata: &Metadata,
        logs: Logs<D>,
        damaged: &BTreeMap<TopicPartition, Error>,
        epoch: LeaderEpoch,
        metadata_handle: &Arc<PartitionHandle<D>>,
    ) -> Result<Partitions<D>> {
        let mut partitions = Partitions::new();
        partitions.insert(metadata_handle.at.clone(), Arc::clone(metadata_handle));
        for (at, (log, info)) in logs {
            let level = info.config.level.unwrap_or(self.config.level);
            let partition = Partition::new(log, info.id, level, epoch);
            let handle = PartitionHandle::new(at.clone(), partition, Arc::new(info.config.clone()));
            partitions.insert(at, Arc::new(handle));
        }
        for info in metadata.topics() {
            for number in 0..info.partitions {
                let at = TopicPartition::new(Arc::clone(&info.name), number);
                if partitions.contains_key(&at) || damaged.contains_key(&at) {
                    continue;
                }
                make_folders(&self.disk, &self.log_dir, info)?;
                let opening = self.opening(info, at.clone(), false);
                let (handle, _) =
                    open_partition(&self.handles, &opening, info, self.config.level, epoch)?;
                partitions.insert(at, handle);
            }
        }
        Ok(partitions)
    }

    pub(super) fn load_groups(
        &self,
        metadata: &Metadata,
        partitions: &Partitions<D>,
    ) -> Result<Vec<Shard<D, GroupCoordinator>>> {
        let count = metadata.topic(OFFSETS_TOPIC)?.partitions;
        (0..count)
            .map(|number| {
                let handle = coordinator_partition(partitions, OFFSETS_TOPIC, number)?;
                let state = replay_groups(&handle, &self.log_dir)?;
                Ok(Shard { handle, state: Mutex::new(state) })
            })
            .collect()
    }

    pub(super) fn load_transactions(
        &self,
        metadata: &Metadata,
        partitions: &Partitions<D>,
    ) -> Result<Vec<Shard<D, TransactionCoordinator>>> {
        let count = metadata.topic(TRANSACTIONS_TOPIC)?.partitions;
        let timeout = timeout_max(&self.config);
        (0..count)
            .map(|number| {
                let handle = coordinator_partition(partitions, TRANSACTIONS_TOPIC, number)?;
                let state = replay_transactions(&handle, &self.log_dir, timeout)?;
                Ok(Shard { handle, state: Mutex::new(state) })
            })
            .collect()
    }

    /// Folders in the log directory that belong to no topic.
    pub(super) fn strangers(&self, metadata: &Metadata) -> Result<Vec<PathBuf>> {
        let mut ours: Vec<String> = vec![format!("{METADATA_TOPIC}-0")];
        for info in metadata.topics() {
            ours.extend((0..info.partitions).map(|n| format!("{}-{n}", info.name)));
        }
        let entries =
            self.disk.list(&self.log_dir).map_err(|e| Error::io("list", &self.log_dir, e))?;
        let strange = |e: &crate::disk::Entry| {
            e.is_dir && !ours.iter().any(|name| e.name.to_str() == Some(name.as_str()))
        };
        let found: Vec<_> = entries.into_iter().filter(strange).collect();
        Ok(found.into_iter().map(|e| self.log_dir.join(e.name)).collect())
    }

    /// Brings everything that was under way to an end, before any client.
    async fn finish(&mut self, inner: &Arc<Inner<D>>) -> Result<()> {
        for shard in &inner.groups {
            let mut state = shard.state.lock();
            let plan = state.expel_all(inner.clock.now());
            inner.write_group_records(shard, &mut state, &plan.records)?;
        }
        for shard in &inner.transactions {
            let undecided = shard.state.lock().undecided();
            for one in undecided {
                let id = match one {
                    Undecided::Ongoing(id) => {
                        inner.abort_if(shard, &id, |_| true).await?;
                        self.report.aborted += 1;
                        id
                    }
                    Undecided::Prepared(plan) => {
                        if self.stands(inner, &plan)? {
                            self.report.finished += 1;
                        } else {
                            let end = inner.revoke_commit(shard, &plan.id)?;
                            inner.wait_durable(&[(Arc::clone(&shard.handle), end)]).await?;
                            self.report.revoked += 1;
                        }
                        plan.id
                    }
                };
                inner.finish(&id).await?;
            }
        }
        self.end_orphans(inner).await
    }

    /// Whether a decision holds: a commit holds when all it names is there, or when anybody may have
    /// seen it.
    fn stands(&self, inner: &Inner<D>, plan: &EndPlan) -> Result<bool> {
        if plan.end == TransactionEnd::Abort || !inner.is_durable() {
            return Ok(true);
        }
        let partitions = inner.partitions.load();
        let marked = plan.partitions.iter().filter_map(|at| partitions.get(at)).any(|handle| {
            handle.lock().producer_epoch(plan.marker.id).is_some_and(|e| e >= plan.marker.epoch)
        });
        if marked || plan.partitions.iter().any(|at| inner.damaged.contains_key(at)) {
            return Ok(true);
        }
        for tail in &plan.tails {
            let Some(handle) = partitions.get(&tail.at) else { continue };
            let found = handle.view.log.batch_at(tail.last_offset)?;
            let same = found.is_some_and(|header| {
                header.last_offset() == tail.last_offset
                    && header.crc == tail.crc
                    && header.producer.id == plan.marker.id
            });
            if same {
                continue;
            }
            let known = self.known_durable.get(&tail.at).copied().unwrap_or(0);
            if tail.last_offset < known {
                let dir = self.log_dir.join(tail.at.folder());
                return Err(Error::damaged(
                    &dir,
                    0,
                    format!(
                        "the batch that ends at offset {} is not the one that transaction {:?} committed, and was synced once: restore the folder from a copy",
                        tail.last_offset, plan.id
                    ),
                ));
            }
            return Ok(false);
        }
        Ok(true)
    }

    /// Ends transactions that are open in a partition and that no coordinator has under way: as it was
    /// decided where only the marker was lost, or else, when their Ongoing record was, by aborting them.
    async fn end_orphans(&mut self, inner: &Arc<Inner<D>>) -> Result<()> {
        let whole = inner.transactions.iter().all(|shard| shard.state.lock().skipped() == 0);
        let mut written = Vec::new();
        for (at, handle) in inner.partitions.load().iter() {
            let open = handle.lock().open_transactions();
            for (producer, first_offset) in open {
                let owned =
                    inner.transactions.iter().any(|shard| shard.state.lock().owns(producer.id, at));
                if owned {
                    continue;
                }
                if !whole {
                    tracing::error!(partition = %at, producer = producer.id, first_offset, "an open transaction has no coordinator, and not every coordinator could be read: it stays open");
                    continue;
                }
                let marker =
                    ProducerIdentity { id: producer.id, epoch: producer.epoch.saturating_add(1) };
                // What is open began with another epoch where markers of two are gone: then nobody knows.
                let first = handle.view.log.batch_at(first_offset)?;
                let is_one = first.is_some_and(|header| header.producer == producer);
                let ended = inner.transactions.iter().filter(|_| is_one);
                let ended = ended.into_iter().find_map(|shard| shard.state.lock().ended(producer));
                let end = ended.unwrap_or(TransactionEnd::Abort);
                let kind = match end {
                    TransactionEnd::Commit => Marker::Commit,
                    TransactionEnd::Abort => Marker::Abort,
                };
                let mut positions = inner.positions_in(at);
                let stored = handle.lock().append_marker(
                    kind,
                    marker,
                    super::transact::COORDINATOR_EPOCH,
                    inner.clock.now(),
                );
                let stored = inner.watch(stored)?;
                if let Some(positions) = &mut positions {
                    positions.marker(producer.id, end);
                }
                drop(positions);
                written.push((Arc::clone(handle), stored.next_offset));
                match end {
                    TransactionEnd::Commit => self.report.finished += 1,
                    TransactionEnd::Abort => self.report.aborted += 1,
                }
            }
        }
        if inner.is_durable() {
            inner.wait_durable(&written).await?;
        }
        Ok(())
    }
}

/// Writes metadata before there is an engine.
pub(super) struct MetadataWriter<'a, D: Disk> {
    pub(super) handle: &'a Arc<PartitionHandle<D>>,
    pub(super) metadata: &'a mut Metadata,
    pub(super) now: i64,
}

impl<D: Disk> MetadataWriter<'_, D> {
    pub(super) fn write(
        &mut self,
        command: impl FnOnce(&Metadata) -> Result<Vec<CoordinatorRecord>>,
    ) -> Result<()> {
        let records = command(self.metadata)?;
        if records.is_empty() {
            return Ok(());
        }
        let mut builder = batch::BatchBuilder::new(crate::config::Compression::None, 1024);
        for record in &records {
            builder
                .push(self.now, Some(&record.key), record.value.as_deref(), &[])
                .map_err(Error::from)?;
        }
        let bytes = builder.finish(ProducerIdentity::NONE, -1, false)?;
        let header = batch::BatchHeader::parse(&bytes).map_err(Error::from)?;
        self.handle.lock().append(&header, &bytes, crate::log::Origin::Coordinator)?;
        for record in &records {
            self.metadata
                .replay(&record.key, record.value.as_deref())
                .map_err(|e| Error::invalid(format!("{METADATA_TOPIC}: own record: {e}")))?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let job = self.handle.lock().sync_job();
        if let Some(job) = job {
            job.run()?;
            self.handle.lock().synced(&job);
        }
        Ok(())
    }
}

fn timeout_max(config: &LogConfig) -> i32 {
    i32::try_from(config.transaction_timeout_max.as_millis()).unwrap_or(i32::MAX)
}

fn coordinator_partition<D: Disk>(
    partitions: &Partitions<D>,
    topic: &str,
    number: u32,
) -> Result<Arc<PartitionHandle<D>>> {
    let at = TopicPartition::new(topic, number);
    partitions.get(&at).cloned().ok_or_else(|| Error::Unknown { what: format!("partition {at}") })
}

/// Reads a whole partition and hands every record to `take`, control records included.
pub(super) fn replay<D: Disk>(
    log: &PartitionLog<D>,
    at: &TopicPartition,
    log_dir: &Path,
    mut take: impl FnMut(&BatchRef<'_>, &crate::record::RecordRef<'_>) -> Result<(), Malformed>,
) -> Result<()> {
    replay_view(log.view(), at, log_dir, &mut take)
}

fn replay_view<D: Disk>(
    view: &crate::log::LogView<D>,
    at: &TopicPartition,
    log_dir: &Path,
    take: &mut impl FnMut(&BatchRef<'_>, &crate::record::RecordRef<'_>) -> Result<(), Malformed>,
) -> Result<()> {
    let buffers = Buffers::default();
    let mut scratch = batch::Scratch::default();
    let (mut offset, end) = (view.start(), view.end());
    let dir = log_dir.join(at.folder());
    let bad = |offset: Offset, what: String| {
        let (path, position) = view.place_of(offset).unwrap_or_else(|| (dir.clone(), 0));
        let what = format!("offset {offset}: {what}: restore the folder from a copy");
        Error::damaged(&path, position, what)
    };
    while offset < end {
        let range = view.read(offset, end, 1 << 20, &buffers)?;
        if range.next <= offset {
            return Err(bad(offset, "nothing follows".to_owned()));
        }
        for batch in batch::batches(&range.bytes) {
            let batch = batch.map_err(|e| bad(offset, e.to_string()))?;
            batch.check_crc().map_err(|e| bad(batch.header.base_offset, e.to_string()))?;
            let records = batch
                .records(&mut scratch)
                .map_err(|e| bad(batch.header.base_offset, e.to_string()))?;
            for record in records {
                let record = record.map_err(|e| bad(batch.header.base_offset, e.to_string()))?;
                take(&batch, &record).map_err(|e| bad(record.offset, e.to_string()))?;
            }
        }
        offset = range.next;
    }
    Ok(())
}

fn replay_groups<D: Disk>(handle: &PartitionHandle<D>, log_dir: &Path) -> Result<GroupCoordinator> {
    let mut state = GroupCoordinator::new();
    replay_view(&handle.view.log, &handle.at, log_dir, &mut |batch, record| {
        let producer = batch.header.producer.id;
        if batch.header.is_control() {
            match batch::parse_marker(record) {
                Some((Marker::Commit, _)) => state.marker(producer, TransactionEnd::Commit),
                Some((Marker::Abort, _)) => state.marker(producer, TransactionEnd::Abort),
                None => {}
            }
            return Ok(());
        }
        let key = record.key.unwrap_or_default();
        if batch.header.is_transactional() {
            state.replay_pending(producer, key, record.value)
        } else {
            state.replay(key, record.value)
        }
    })?;
    Ok(state)
}

fn replay_transactions<D: Disk>(
    handle: &PartitionHandle<D>,
    log_dir: &Path,
    timeout_max: i32,
) -> Result<TransactionCoordinator> {
    let mut state = TransactionCoordinator::new(timeout_max);
    replay_view(&handle.view.log, &handle.at, log_dir, &mut |_, record| {
        state.replay(record.key.unwrap_or_default(), record.value)
    })?;
    Ok(state)
}

impl<D: Disk> Inner<D> {
    /// Rebuilds every coordinator from its partition and compares.
    pub(super) fn check_coordinators(&self) -> Result<()> {
        let dir = self.log_dir();
        let differs = |at: &TopicPartition| {
            Error::damaged(
                &dir.join(at.folder()),
                0,
                "replaying it gives another state than the one in memory",
            )
        };
        for shard in &self.groups {
            let state = shard.state.lock();
            if replay_groups(&shard.handle, &dir)? != *state {
                return Err(differs(&shard.handle.at));
            }
        }
        for shard in &self.transactions {
            let state = shard.state.lock();
            let timeout = timeout_max(&self.config);
            if replay_transactions(&shard.handle, &dir, timeout)? != *state {
                return Err(differs(&shard.handle.at));
            }
        }
        let state = self.metadata.state.lock();
        let mut rebuilt = Metadata::new();
        let handle = &self.metadata.handle;
        replay_view(&handle.view.log, &handle.at, &dir, &mut |_, record| {
            rebuilt.replay(record.key.unwrap_or_default(), record.value)
        })?;
        if rebuilt == *state { Ok(()) } else { Err(differs(&handle.at)) }
    }
}

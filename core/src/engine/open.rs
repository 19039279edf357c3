//! F6 · Opening a folder, in the only order that is right (crash-catalogue 1-3, 8, 10, 13).
//!
//! ```text
//!   locks, format                         nobody else is in here, and we know the layout: folder.rs
//!   clean marker away, durably            before anything is written
//!   metadata: recover, replay             which topics there are
//!   every partition: recover              durable end = log end, or damaged
//!   a new leader epoch, durably           after an unclean stop; no epoch is given out twice
//!   deletions and creations completed     folders follow the metadata
//!   coordinators: replay                  what was under way: replay.rs
//!   what was under way: brought to an end finish.rs
//! ```
//!
//! Always true here: every step may be interrupted and is repeated by the next open; nothing is
//! decided on bytes that are not on the medium; a read error refuses to open.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::clock::{Clock, Entropy};
use super::folder::{
    LOG_DIR, Locks, STATE_DIR, check_format, is_there, lock, make_data_dir, make_dir,
    refuse_foreign, take_clean_marker,
};
use super::handle::PartitionHandle;
use super::replay::replay;
use super::runtime::Runtime;
use super::sync::SyncQueue;
use super::topics::{epoch_max, make_folders, open_partition, opening, remove_folders};
use super::{
    Engine, Inner, METADATA_TOPIC, OFFSETS_TOPIC, Partitions, ProducerIds, Shard,
    TRANSACTIONS_TOPIC,
};
use crate::batch;
use crate::config::{Cleanup, Level, LogConfig, TopicConfig};
use crate::coordinator::CoordinatorRecord;
use crate::coordinator::group::GroupCoordinator;
use crate::coordinator::metadata::Metadata;
use crate::coordinator::transaction::TransactionCoordinator;
use crate::disk::handles::Handles;
use crate::disk::{Disk, LockKind};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, TopicPartition, Uuid};
use crate::log::{
    Buffers, METADATA_FILE, Opening, PartitionLog, Recovered, create_folder, topic_id_of,
};
use crate::partition::Partition;
use crate::request::{NewTopic, TopicInfo};

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
        let locks = Locks::new(folder, log);

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
        let epoch_max = epoch_max(metadata.leader_epoch());
        if metadata_log.last_epoch() > epoch_max {
            let what = format!(
                "leader epoch {} was never given out: repair the folder, which takes it from the batches, or restore it from a copy",
                metadata_log.last_epoch()
            );
            return Err(Error::damaged(&self.log_dir.join(at.folder()), 0, what));
        }
        let logs = self.open_logs(&known, epoch_max, &mut damaged)?;

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
        epoch_max: LeaderEpoch,
        damaged: &mut BTreeMap<TopicPartition, Error>,
    ) -> Result<Logs<D>> {
        let mut logs = Logs::new();
        for info in topics {
            for number in 0..info.partitions {
                let at = TopicPartition::new(Arc::clone(&info.name), number);
                let opening =
                    Opening { epoch_max, ..self.opening(info, at.clone(), self.report.clean) };
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

//! F6 · Topics: created and deleted by one durable record each; folders follow from it.
//!
//! ```text
//!   create:  record durable -> folders, idempotently -> partitions in the map
//!   delete:  record "deleting" durable -> out of the map -> folders gone -> record removed
//! ```
//!
//! Always true here: what the metadata says is durable before a folder is touched; a crash at any step
//! is completed by the next open; a folder is only ever removed when it carries the id of a topic that
//! a durable record deletes, never because metadata does not know it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::handle::PartitionHandle;
use super::{Inner, METADATA_TOPIC, Partitions};
use crate::config::LogConfig;
use crate::coordinator::CoordinatorRecord;
use crate::coordinator::metadata::Metadata;
use crate::disk::Disk;
use crate::disk::handles::Handles;
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, TopicPartition, Uuid};
use crate::log::{Opening, PartitionLog, Recovered, create_folder, topic_id_of};
use crate::partition::Partition;
use crate::request::{NewTopic, TopicInfo};

impl<D: Disk> Inner<D> {
    /// Writes records of the metadata and takes them in. The metadata's lock is held by the caller.
    pub(super) fn write_metadata_records(
        self: &Arc<Self>,
        metadata: &mut Metadata,
        records: &[CoordinatorRecord],
    ) -> Result<Offset> {
        let end = self.write_records(&self.metadata.handle, records, ProducerIdentity::NONE)?;
        for record in records {
            metadata
                .replay(&record.key, record.value.as_deref())
                .map_err(|e| Error::invalid(format!("{METADATA_TOPIC}: own record: {e}")))?;
        }
        Ok(end)
    }

    pub(super) async fn create_topic(self: &Arc<Self>, topic: &NewTopic) -> Result<TopicInfo> {
        self.check_running()?;
        if topic.name == METADATA_TOPIC {
            // Not a record of its own, as it holds them all.
            return Err(Error::TopicExists { topic: topic.name.clone(), partitions: 1 });
        }
        let _one_at_a_time = self.topics_busy.lock().await;
        let id = self.entropy.uuid();
        // Refused topics change nothing, least of all the positions in the one that is there.
        let refused = self.metadata.state.lock().create_topic(topic, id).err();
        if let Some(e) = refused {
            return self.complete_topic(&topic.name).and_then(|done| done.ok_or(e));
        }
        // Positions of an earlier topic of this name must never meet the new one's records.
        self.forget_positions(&topic.name).await?;
        let (info, end) = {
            let mut metadata = self.metadata.state.lock();
            let plan = metadata.create_topic(topic, id)?;
            (plan.reply, self.write_metadata_records(&mut metadata, &plan.records)?)
        };
        self.wait_durable(&[(Arc::clone(&self.metadata.handle), end)]).await?;
        self.open_topic(&info)?;
        Ok(info)
    }

    /// Opens a topic whose record was written when its folders could not be: the disk was full.
    /// `None` for any other.
    fn complete_topic(&self, name: &str) -> Result<Option<TopicInfo>> {
        let Ok(info) = self.topic(name) else { return Ok(None) };
        let first = TopicPartition::new(Arc::clone(&info.name), 0);
        let served = self.partitions.load().contains_key(&first)
            || (0..info.partitions).any(|number| {
                self.damaged.contains_key(&TopicPartition::new(Arc::clone(&info.name), number))
            });
        if served {
            return Ok(None);
        }
        self.open_topic(&info)?;
        Ok(Some(info))
    }

    /// Makes what is missing of a topic's folders and serves its partitions.
    fn open_topic(&self, info: &TopicInfo) -> Result<()> {
        let log_dir = self.log_dir();
        make_folders(&self.disk, &log_dir, info)?;
        let mut partitions = Partitions::clone(&self.partitions.load());
        for number in 0..info.partitions {
            let at = TopicPartition::new(Arc::clone(&info.name), number);
            let opening = opening(&log_dir, info, at.clone(), true, &self.config);
            let (handle, _) =
                open_partition(&self.handles, &opening, info, self.config.level, self.epoch)?;
            partitions.insert(at, handle);
        }
        self.partitions.store(Arc::new(partitions));
        Ok(())
    }

    /// Changes settings of a topic.
    pub(super) async fn alter_topic(
        self: &Arc<Self>,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<TopicInfo> {
        self.check_running()?;
        let _one_at_a_time = self.topics_busy.lock().await;
        let (info, end) = {
            let mut metadata = self.metadata.state.lock();
            let plan = metadata.alter_topic(name, changes)?;
            (plan.reply, self.write_metadata_records(&mut metadata, &plan.records)?)
        };
        self.wait_durable(&[(Arc::clone(&self.metadata.handle), end)]).await?;
        let config = Arc::new(info.config.clone());
        for number in 0..info.partitions {
            // One that is damaged has none to configure.
            if let Ok(handle) = self.partition(&TopicPartition::new(Arc::clone(&info.name), number))
            {
                handle.configure(Arc::clone(&config));
            }
        }
        Ok(info)
    }

    pub(super) async fn delete_topic(self: &Arc<Self>, name: &str) -> Result<()> {
        self.check_running()?;
        if name.starts_with("__") {
            return Err(Error::invalid(format!(
                "topic {name:?} is internal and cannot be deleted"
            )));
        }
        let _one_at_a_time = self.topics_busy.lock().await;
        let (info, end) = {
            let mut metadata = self.metadata.state.lock();
            let begun = metadata.deleting().find(|info| *info.name == *name).cloned();
            match begun {
                // Decided before, and then something failed: it goes on from there.
                Some(info) => (info, self.metadata.handle.view.log.end()),
                None => {
                    let plan = metadata.delete_topic(name)?;
                    (plan.reply, self.write_metadata_records(&mut metadata, &plan.records)?)
                }
            }
        };
        self.wait_durable(&[(Arc::clone(&self.metadata.handle), end)]).await?;
        // A decision over records of the topic could not be verified by recovery once they are gone.
        self.finish_decided(|plan| plan.partitions.iter().any(|at| *at.topic == *name)).await?;
        let mut partitions = Partitions::clone(&self.partitions.load());
        let mut gone = Vec::new();
        partitions.retain(|at, handle| {
            let keep = *at.topic != *name;
            if !keep {
                gone.push(Arc::clone(handle));
            }
            keep
        });
        self.partitions.store(Arc::new(partitions));
        for handle in gone {
            handle.leave();
            self.end_compaction(Some(&handle));
            self.wait_quiet(&handle).await?;
        }
        self.forget_positions(name).await?;
        remove_folders(&self.disk, &self.log_dir(), &info)?;
        let mut metadata = self.metadata.state.lock();
        let plan = metadata.forget_topic(name)?;
        self.write_metadata_records(&mut metadata, &plan.records)?;
        Ok(())
    }

    /// Removes every group's positions in a topic, durably.
    async fn forget_positions(self: &Arc<Self>, topic: &str) -> Result<()> {
        for shard in &self.groups {
            let end = {
                let mut state = shard.state.lock();
                let plan = state.delete_topic(topic);
                if plan.records.is_empty() {
                    continue;
                }
                self.write_group_records(shard, &mut state, &plan.records)?
            };
            // Positions in it were about to change: not any more.
            self.decided.notify_waiters();
            self.wait_durable(&[(Arc::clone(&shard.handle), end)]).await?;
        }
        Ok(())
    }

    pub(super) fn topic(&self, name: &str) -> Result<TopicInfo> {
        self.metadata.state.lock().topic(name).cloned()
    }

    pub(super) fn topics(&self) -> Vec<TopicInfo> {
        self.metadata.state.lock().topics().cloned().collect()
    }
}

/// What creates another topic like this one.
pub(super) fn like(info: &TopicInfo) -> NewTopic {
    let (name, config) = (info.name.to_string(), info.config.clone());
    NewTopic { name, partitions: info.partitions, config }
}

/// How a partition of a topic is opened.
pub(super) fn opening(
    log_dir: &Path,
    info: &TopicInfo,
    at: TopicPartition,
    clean: bool,
    config: &LogConfig,
) -> Opening {
    Opening {
        dir: log_dir.join(at.folder()),
        at,
        config: info.config.clone(),
        clean,
        page_cache_bytes: config.page_cache_bytes,
        recovery_bytes: config.recovery_bytes,
        gaps: false,
        epoch_max: EPOCH_MAX,
    }
}

/// Above the greatest leader epoch of a log one is left for the next run, which is not the last.
const EPOCH_MAX: LeaderEpoch = LeaderEpoch::MAX - 2;

/// The greatest epoch that is believed where `given` was given out last. What was given out is durable
/// before anything is written under it, but a repaired folder may have lost that.
pub(super) fn epoch_max(given: LeaderEpoch) -> LeaderEpoch {
    if given < 0 { EPOCH_MAX } else { given.saturating_add(1 << 20).min(EPOCH_MAX) }
}

/// Opens one partition's folder and leads it.
pub(super) fn open_partition<D: Disk>(
    handles: &Handles<D>,
    opening: &Opening,
    info: &TopicInfo,
    level: crate::config::Level,
    epoch: LeaderEpoch,
) -> Result<(Arc<PartitionHandle<D>>, Recovered)> {
    let (log, recovered) = PartitionLog::open(handles, opening)?;
    let level = info.config.level.unwrap_or(level);
    let partition = Partition::new(log, info.id, level, epoch);
    Ok((
        Arc::new(PartitionHandle::new(
            opening.at.clone(),
            partition,
            Arc::new(info.config.clone()),
        )),
        recovered,
    ))
}

/// Makes a topic's folders where they are missing, and makes their names durable.
pub(super) fn make_folders<D: Disk>(disk: &D, log_dir: &Path, info: &TopicInfo) -> Result<()> {
    for number in 0..info.partitions {
        let at = TopicPartition::new(Arc::clone(&info.name), number);
        create_folder(disk, &log_dir.join(at.folder()), info.id)?;
    }
    disk.sync_dir(log_dir).map_err(|e| Error::io("sync", log_dir, e))
}

/// Removes the folders of a deleted topic; only those that carry its id.
pub(super) fn remove_folders<D: Disk>(disk: &D, log_dir: &Path, info: &TopicInfo) -> Result<()> {
    for number in 0..info.partitions {
        let at = TopicPartition::new(Arc::clone(&info.name), number);
        remove_folder(disk, &log_dir.join(at.folder()), info.id)?;
    }
    disk.sync_dir(log_dir).map_err(|e| Error::io("sync", log_dir, e))
}

fn remove_folder<D: Disk>(disk: &D, dir: &Path, id: Uuid) -> Result<()> {
    let entries = match disk.list(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    match topic_id_of(disk, dir) {
        Ok(Some(found)) if found == id => {}
        Ok(None) if entries.is_empty() => {}
        // Somebody else's, or nobody can say whose: it stays.
        Ok(_) | Err(Error::Damaged { .. }) => return Ok(()),
        Err(e) => return Err(e),
    }
    let remove = |entry: &crate::disk::Entry| {
        let path = dir.join(&entry.name);
        disk.remove(&path).map_err(|e| Error::io("remove", &path, e))
    };
    let (names, last): (Vec<_>, Vec<_>) =
        entries.iter().partition(|e| e.name != crate::log::METADATA_FILE);
    names.into_iter().try_for_each(remove)?;
    // The file that names the id goes last, and the others *durably* before it: until then, the
    // removal can be taken up again, and a power loss never leaves records that say of no topic.
    disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
    last.into_iter().try_for_each(remove)?;
    disk.remove_dir(dir).map_err(|e| Error::io("remove", dir, e))
}

//! F6 · Coordinators from their partitions: at open, and again whenever a test asks whether what is in
//! memory is what a replay would give.
//!
//! Always true here: state follows from records alone; a record that cannot be read refuses the open,
//! naming its offset.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::handle::PartitionHandle;
use super::open::Opener;
use super::{Inner, OFFSETS_TOPIC, Partitions, Shard, TRANSACTIONS_TOPIC};
use crate::batch::{self, BatchRef, Marker};
use crate::config::LogConfig;
use crate::coordinator::Malformed;
use crate::coordinator::group::GroupCoordinator;
use crate::coordinator::metadata::Metadata;
use crate::coordinator::transaction::TransactionCoordinator;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Offset, TopicPartition};
use crate::log::{Buffers, LogView, PartitionLog};
use crate::record::RecordRef;
use crate::request::TransactionEnd;

impl<D: Disk> Opener<D> {
    /// Replays the coordinators of groups.
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

    /// Replays the coordinators of transactions.
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
    mut take: impl FnMut(&BatchRef<'_>, &RecordRef<'_>) -> Result<(), Malformed>,
) -> Result<()> {
    replay_view(log.view(), at, log_dir, &mut take)
}

fn replay_view<D: Disk>(
    view: &LogView<D>,
    at: &TopicPartition,
    log_dir: &Path,
    take: &mut impl FnMut(&BatchRef<'_>, &RecordRef<'_>) -> Result<(), Malformed>,
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

//! F4 · A partition: one log with a durability level, and what readers may see of it.
//!
//! ```text
//!   append -> end                       (written: survives a process crash)
//!   sync   -> durable end               (on the medium: survives a power loss)
//!
//!   high watermark    = end at level os, durable end at level disk
//!   last stable       = min(high watermark, first unstable offset)
//!   first unstable    = oldest open transaction, or ended one whose marker is not below the high watermark
//! ```
//!
//! Always true here: high watermark and last stable offset never fall while the partition is open;
//! readers of either level never see an offset above the high watermark; one replica today, whose
//! leader this is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::time::Duration;

use crate::batch::{BatchHeader, Marker};
use crate::config::{Level, TopicConfig};
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp, Uuid};
use crate::log::producers::Tail;
use crate::log::{Compaction, Limits, LogView, Origin, PartitionLog, Stored, SyncJob, Written};
use crate::request::PartitionOffsets;

/// What readers use, without a lock.
pub struct PartitionView<D: Disk> {
    /// The bytes.
    pub log: Arc<LogView<D>>,
    /// The topic's id.
    pub topic_id: Uuid,
    /// What an acknowledgement survives here.
    pub level: Level,
    high_watermark: AtomicI64,
    last_stable: AtomicI64,
    durable_end: AtomicI64,
    last_epoch: AtomicI32,
}

impl<D: Disk> PartitionView<D> {
    /// Where the partition begins and ends.
    pub fn offsets(&self) -> PartitionOffsets {
        // Read in this order, each bound is at most the one that follows.
        let last_stable = self.last_stable.load(Ordering::Acquire);
        let high_watermark = self.high_watermark.load(Ordering::Acquire);
        PartitionOffsets {
            start: self.log.start(),
            last_stable,
            high_watermark,
            end: self.log.end(),
            last_epoch: self.last_epoch.load(Ordering::Acquire),
            deletions_below: self.log.deletions_below(),
        }
    }

    /// Everything below was synced.
    pub fn durable_end(&self) -> Offset {
        self.durable_end.load(Ordering::Acquire)
    }
}

/// The writer's side of a partition.
pub struct Partition<D: Disk> {
    log: PartitionLog<D>,
    view: Arc<PartitionView<D>>,
    epoch: LeaderEpoch,
}

impl<D: Disk> Partition<D> {
    /// Leads `log` under a leader epoch.
    pub fn new(mut log: PartitionLog<D>, topic_id: Uuid, level: Level, epoch: LeaderEpoch) -> Self {
        let end = log.end();
        let unstable = log.decided_below(end);
        let view = Arc::new(PartitionView {
            log: Arc::clone(log.view()),
            topic_id,
            level,
            high_watermark: AtomicI64::new(end),
            last_stable: AtomicI64::new(unstable.map_or(end, |o| o.min(end))),
            durable_end: AtomicI64::new(log.durable_end()),
            last_epoch: AtomicI32::new(log.last_epoch()),
        });
        Self { log, view, epoch }
    }

    /// What readers use.
    pub fn view(&self) -> &Arc<PartitionView<D>> {
        &self.view
    }

    /// Appends a validated batch.
    ///
    /// # Errors
    /// As [`PartitionLog::append`].
    pub fn append(&mut self, header: &BatchHeader, bytes: &[u8], origin: Origin) -> Result<Stored> {
        let stored = self.log.append(header, bytes, self.epoch, origin)?;
        if !stored.duplicate {
            self.appended();
        }
        Ok(stored)
    }

    /// Appends a transaction marker.
    ///
    /// # Errors
    /// As [`PartitionLog::append`].
    pub fn append_marker(
        &mut self,
        marker: Marker,
        by: ProducerIdentity,
        coordinator_epoch: i32,
        now: Timestamp,
    ) -> Result<Stored> {
        let stored = self.log.append_marker(marker, by, coordinator_epoch, now, self.epoch)?;
        self.appended();
        Ok(stored)
    }

    fn appended(&mut self) {
        self.view.last_epoch.store(self.epoch, Ordering::Release);
        if self.view.level == Level::Os {
            self.raise_high_watermark(self.log.end());
        }
    }

    fn raise_high_watermark(&mut self, to: Offset) {
        let before = self.view.high_watermark.load(Ordering::Relaxed);
        let high_watermark = before.max(to);
        let unstable = self.log.decided_below(high_watermark);
        let stable = unstable.map_or(high_watermark, |o| o.min(high_watermark));
        // Raised first, so that a reader never sees a stable offset above the high watermark.
        self.view.high_watermark.store(high_watermark, Ordering::Release);
        self.view.last_stable.fetch_max(stable, Ordering::AcqRel);
    }

    /// Whether `by` has an open transaction here.
    pub fn has_open(&self, by: ProducerIdentity) -> bool {
        self.log.producers().is_open(by)
    }

    /// The epoch of the last batch of a producer that has an open transaction here: all of a
    /// transaction's are of one epoch.
    pub fn open_epoch(&self, producer_id: i64) -> Option<i16> {
        let producers = self.log.producers();
        producers.open_start(producer_id).and_then(|_| producers.epoch(producer_id))
    }

    /// Whether a decision's marker is here. One that `raises` the producer's epoch shows in that; one that
    /// does not leaves nothing open.
    pub fn is_marked(&self, marker: ProducerIdentity, raises: bool) -> bool {
        self.producer_epoch(marker.id).is_some_and(|epoch| {
            epoch > marker.epoch
                || (epoch == marker.epoch && (raises || self.open_epoch(marker.id).is_none()))
        })
    }

    /// The end of a producer's data, for the transaction record that names it.
    pub fn tail(&self, producer_id: i64) -> Option<Tail> {
        self.log.tail(producer_id)
    }

    /// Whether `by` may begin a transaction here.
    ///
    /// # Errors
    /// `Invalid` while an earlier one of the same producer is open here, and nobody can tell how it ended.
    pub fn check_decided(&self, by: ProducerIdentity) -> Result<()> {
        self.log.producers().check_decided(by)
    }

    /// Producers with an open transaction, and where it begins.
    pub fn open_transactions(&self) -> Vec<(ProducerIdentity, Offset)> {
        self.log.producers().open_transactions()
    }

    /// The epoch a producer has here.
    pub fn producer_epoch(&self, producer_id: i64) -> Option<i16> {
        self.log.producers().epoch(producer_id)
    }

    /// The leader epoch of the record at `offset`, or -1.
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        self.log.epoch_at(offset)
    }

    /// Captures what has to be synced; `None` when everything is durable.
    pub fn sync_job(&mut self) -> Option<SyncJob<D>> {
        self.log.sync_job()
    }

    /// Takes the result of a job that ran well: what it covered is durable.
    pub fn synced(&mut self, job: &SyncJob<D>) {
        self.log.synced(job);
        self.view.durable_end.fetch_max(self.log.durable_end(), Ordering::AcqRel);
        if self.view.level == Level::Disk {
            self.raise_high_watermark(self.log.durable_end());
        }
    }

    /// Whether segments were sealed that no sync has covered.
    pub fn has_sealed(&self) -> bool {
        self.log.has_sealed()
    }

    /// Notes the durable end on disk, if it moved since it was noted last.
    ///
    /// # Errors
    /// The system's, as `Io`.
    pub fn note_durable_end(&mut self) -> Result<()> {
        self.log.note_durable_end()
    }

    /// Takes over other settings, from the next append on.
    pub fn set_config(&mut self, config: TopicConfig) {
        self.log.set_config(config);
    }

    /// Makes `to` the first offset there is, durably. Lower than it is: nothing.
    ///
    /// # Errors
    /// As [`PartitionLog::raise_start`].
    pub fn raise_start(&mut self, to: Offset, now: Timestamp) -> Result<bool> {
        self.log.raise_start(to, now)
    }

    /// Forgets producers that wrote nothing here for so long, but none with an open transaction.
    pub(crate) fn expire_producers(&mut self, now: Timestamp, after: Duration) {
        self.log.expire_producers(now, after);
    }

    /// Lets go of what the topic's retention lets go of, and removes files whose time to stay is over.
    /// Whether segments went.
    ///
    /// # Errors
    /// As [`PartitionLog::retained_from`] and [`PartitionLog::raise_start`].
    pub fn retain(&mut self, now: Timestamp) -> Result<bool> {
        if self.log.is_refusing() {
            // Closed, or its topic deleted: nobody waits for its retention.
            return Ok(false);
        }
        let last_stable = self.view.last_stable.load(Ordering::Acquire);
        let start = self.log.retained_from(now, last_stable)?;
        let changed = self.log.raise_start(start, now)?;
        self.log.remove_leaving(now);
        Ok(changed)
    }

    /// How much waits to be compacted, if it is time for that: [`PartitionLog::compactable`].
    ///
    /// # Errors
    /// As there.
    pub fn compactable(&self, now: Timestamp) -> Result<Option<u16>> {
        self.log.compactable(now, self.view.last_stable.load(Ordering::Acquire))
    }

    /// Begins a compaction; `None` when there is nothing to compact.
    pub(crate) fn begin_compaction(
        &self,
        now: Timestamp,
        limits: Limits,
    ) -> Result<Option<Compaction<D>>> {
        let last_stable = self.view.last_stable.load(Ordering::Acquire);
        self.log.begin_compaction(now, last_stable, limits)
    }

    /// Lets a compacted group take the place of its segments. Whether they were still there.
    pub(crate) fn take_compacted(&mut self, written: &Written<D>, now: Timestamp) -> Result<bool> {
        self.log.take_compacted(written, now)
    }

    /// Refuses every write from now on.
    pub fn refuse(&mut self, why: &str) {
        self.log.refuse(why);
    }

    /// Writes and syncs what a clean start needs; nothing is written afterwards.
    ///
    /// # Errors
    /// As [`PartitionLog::close`].
    pub fn close(&mut self) -> Result<()> {
        self.log.close()
    }
}

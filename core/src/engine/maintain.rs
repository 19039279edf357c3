//! F6 · What is done to partitions beside appending and reading: retention, deleting from the front,
//! forgetting producers, and looking up offsets by time. Compaction is in compact.rs.
//!
//! Always true here: an answer that records are deleted leaves when that is durable; what one partition
//! refuses does not keep the others from their turn.

use std::sync::Arc;

use super::Inner;
use super::compact::Maintained;
use crate::client::log::Isolation;
use crate::coordinator::transaction::Undecided;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Offset, Timestamp, TopicPartition};
use crate::log::Timed;
use crate::request::{OffsetAt, OffsetSpec};

impl<D: Disk> Inner<D> {
    pub(super) fn list_offset(
        &self,
        at: &TopicPartition,
        which: OffsetSpec,
        isolation: Isolation,
    ) -> Result<Option<OffsetAt>> {
        self.check_running()?;
        let handle = self.partition(at)?;
        let offsets = handle.view.offsets();
        let bound = match isolation {
            Isolation::ReadCommitted => offsets.last_stable,
            Isolation::ReadUncommitted => offsets.high_watermark,
        };
        let log = &handle.view.log;
        let edge = |offset| Ok(Some(OffsetAt { offset, timestamp: -1, epoch: -1 }));
        let timed = |t: Timed| OffsetAt { offset: t.offset, timestamp: t.time, epoch: t.epoch };
        match which {
            OffsetSpec::Earliest => edge(offsets.start),
            OffsetSpec::Latest => edge(bound),
            OffsetSpec::MaxTimestamp => Ok(log.latest_by_time(bound)?.map(timed)),
            OffsetSpec::AtOrAfter(time) => Ok(log.first_at_or_after(time, bound)?.map(timed)),
        }
    }

    pub(super) async fn delete_records(
        self: &Arc<Self>,
        at: &TopicPartition,
        before: Offset,
    ) -> Result<Offset> {
        self.check_running()?;
        let handle = self.partition(at)?;
        if handle.internal {
            return Err(Error::invalid(format!("{at} is internal: only the log deletes there")));
        }
        let offsets = handle.view.offsets();
        if before < 0 || before > offsets.high_watermark {
            let (at, start, end) = (at.clone(), offsets.start, offsets.high_watermark);
            return Err(Error::OffsetOutOfRange { at, offset: before, start, end });
        }
        if before > offsets.last_stable {
            return Err(Error::invalid(format!(
                "records of {at} from offset {} on belong to a transaction that is not decided: delete \
                 up to there, or end it first",
                offsets.last_stable
            )));
        }
        let raised = handle.lock().raise_start(before, self.clock.now());
        self.watch_at(&handle, raised)?;
        if handle.lock().has_sealed() {
            self.request_sync(&handle);
        }
        Ok(handle.view.log.start())
    }

    /// Retention and compaction of every partition, and what `flush.ms` asks for.
    pub(super) fn maintain(self: &Arc<Self>, now: Timestamp) -> Result<()> {
        self.retain_all(now)?;
        let inner = Arc::clone(self);
        self.runtime.run_blocking(move || inner.compact());
        Ok(())
    }

    /// Retention of every partition, and of what it knows of its producers.
    pub(super) fn retain_all(self: &Arc<Self>, now: Timestamp) -> Result<()> {
        // Whether a partition got the marker of a decision is known by its producer.
        let finished = self.transactions.iter().all(|shard| {
            let undecided = shard.state.lock().undecided();
            !undecided.iter().any(|one| matches!(one, Undecided::Prepared(_)))
        });
        let handles: Vec<_> = self.partitions.load().values().cloned().collect();
        for handle in handles {
            if handle.is_due(now) {
                self.request_sync(&handle);
            }
            if finished {
                handle.lock().expire_producers(now, self.config.producer_expiration);
            }
            let retained = handle.lock().retain(now);
            match self.watch_at(&handle, retained) {
                Ok(_) => {}
                Err(e @ Error::Stopped { .. }) => return Err(e),
                // A damaged segment, a full disk: told, and tried again at the next turn.
                Err(e) => tracing::warn!(at = %handle.at, error = %e, "retention has to wait"),
            }
            if handle.lock().has_sealed() {
                self.request_sync(&handle);
            }
        }
        Ok(())
    }

    /// Everything that retention and compaction have to do now.
    pub(super) async fn maintain_all(self: &Arc<Self>) -> Result<Maintained> {
        self.check_running()?;
        let before = self.bytes();
        self.retain_all(self.clock.now())?;
        // What was sealed can be compacted once it is durable, and the hint says so.
        let handles: Vec<_> = self.partitions.load().values().cloned().collect();
        let ends: Vec<_> = handles.iter().map(|h| (Arc::clone(h), h.view.log.end())).collect();
        self.wait_durable(&ends).await?;
        for handle in handles {
            let noted = handle.lock().note_durable_end();
            self.watch_at(&handle, noted)?;
        }
        let groups = self.compact_all()?;
        Ok(Maintained { groups, freed_bytes: before.saturating_sub(self.bytes()) })
    }

    /// Bytes of batches in all partitions.
    fn bytes(&self) -> u64 {
        self.partitions.load().values().map(|handle| handle.view.log.bytes()).sum()
    }
}

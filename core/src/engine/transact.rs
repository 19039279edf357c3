//! F6 · The steps of a transaction, in the only order that is right (crash-catalogue 3).
//!
//! ```text
//!   join       Ongoing record written, then the partition's first batch may be
//!   decide     Prepare record written; it names the last offset and CRC of every partition
//!   settle     data, offsets and Prepare are synced at the same time    <- the commit's one wait
//!              ----------------------------------------------- acknowledge
//!   mark       markers written to every partition; the client may begin its next transaction
//!   complete   markers are durable -> Complete written; the next coordinator record may follow
//! ```
//!
//! Every step may be run again: `finish` runs what is left of a decision, whoever finds it (the next
//! call of the same id, the background step after the acknowledgement, or opening).
//!
//! Always true here: no marker is written before its decision is durable; no record of a transactional
//! id is written between its Prepare and its Complete; a failed sync stops the log and is never
//! turned into an abort.

use std::sync::Arc;
use std::time::Duration;

use super::handle::PartitionHandle;
use super::runtime::Runtime;
use super::{Inner, ProducerIds, Shard, TRANSACTIONS_TOPIC};
use crate::batch::Marker;
use crate::coordinator::transaction::{
    EndPlan, Init, PartitionTail, Prepared, TransactionCoordinator, Undecided,
};
use crate::coordinator::{CoordinatorRecord, partition_for};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, TopicPartition};
use crate::request::{TransactionEnd, TransactionInfo};

/// The epoch of this process's one coordinator, in markers. It would rise with a change of leader.
pub(super) const COORDINATOR_EPOCH: i32 = 0;
/// Producer ids are taken from the folder's counter so many at a time.
const PRODUCER_ID_BLOCK: u32 = 1000;
/// From this epoch on, ending a transaction may need a fresh producer id.
const LATE_EPOCH: i16 = i16::MAX - 3;

impl<D: Disk> Inner<D> {
    pub(super) fn transaction_shard(&self, id: &str) -> &Shard<D, TransactionCoordinator> {
        &self.transactions[partition_for(id, self.transactions.len() as u32) as usize]
    }

    /// Writes a coordinator's records and takes them in. The coordinator's lock is held by the
    /// caller, so that no other command sees a half-done transition.
    fn write_transaction_records(
        self: &Arc<Self>,
        shard: &Shard<D, TransactionCoordinator>,
        state: &mut TransactionCoordinator,
        records: &[CoordinatorRecord],
    ) -> Result<()> {
        self.write_records(&shard.handle, records, ProducerIdentity::NONE)?;
        for record in records {
            state
                .replay(&record.key, record.value.as_deref())
                .map_err(|e| Error::invalid(format!("{TRANSACTIONS_TOPIC}: own record: {e}")))?;
        }
        Ok(())
    }

    /// A producer id that was never given out.
    pub(super) async fn fresh_producer_id(self: &Arc<Self>) -> Result<i64> {
        let mut ids = self.producer_ids.lock().await;
        if ids.next == ids.end {
            let (block, end) = {
                let mut metadata = self.metadata.state.lock();
                let seen = self.highest_producer_id();
                let plan = metadata.allocate_producer_ids(PRODUCER_ID_BLOCK, seen + 1)?;
                let end = self.write_metadata_records(&mut metadata, &plan.records)?;
                (plan.reply, end)
            };
            // An id given out twice would mix two producers' sequences: durable before the first use.
            self.wait_durable(&[(Arc::clone(&self.metadata.handle), end)]).await?;
            *ids = ProducerIds { next: block.start, end: block.end };
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }

    /// The highest producer id that a transaction names, or -1: a counter that lost its tail at level
    /// `os` must not fall below it.
    fn highest_producer_id(&self) -> i64 {
        let of = |shard: &Shard<D, TransactionCoordinator>| {
            let state = shard.state.lock();
            state.transactions().map(|(_, t)| t.producer.id.max(t.next_id)).max()
        };
        self.transactions.iter().filter_map(of).max().unwrap_or(-1)
    }

    pub(super) async fn init_producer(
        self: &Arc<Self>,
        transactional_id: Option<&str>,
        timeout: Duration,
    ) -> Result<ProducerIdentity> {
        self.check_running()?;
        let fresh = self.fresh_producer_id().await?;
        let Some(id) = transactional_id else {
            return Ok(ProducerIdentity { id: fresh, epoch: 0 });
        };
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let shard = self.transaction_shard(id);
        loop {
            self.finish(id).await?;
            let (reply, end) = {
                let mut state = shard.state.lock();
                let plan = state.init_producer(id, timeout, fresh, self.clock.now())?;
                self.write_transaction_records(shard, &mut state, &plan.records)?;
                (plan.reply, shard.handle.view.log.end())
            };
            // EndFirst wrote its decision, Finishing found one: the next turn finishes it.
            if let Init::Ready(identity) = reply {
                // At level `os` a power loss can take the coordinator back behind what partitions
                // have seen: an epoch that was used must not be given out again.
                if self.highest_epoch(identity.id) >= identity.epoch {
                    continue;
                }
                if self.is_durable() {
                    self.wait_durable(&[(Arc::clone(&shard.handle), end)]).await?;
                }
                return Ok(identity);
            }
        }
    }

    /// The highest epoch that any partition has seen of a producer, or -1.
    fn highest_epoch(&self, producer_id: i64) -> i16 {
        let partitions = self.partitions.load();
        partitions.values().filter_map(|h| h.lock().producer_epoch(producer_id)).max().unwrap_or(-1)
    }

    /// Makes partitions part of the transaction, before their first batch.
    pub(super) async fn join_transaction(
        self: &Arc<Self>,
        id: &str,
        producer: ProducerIdentity,
        partitions: &[TopicPartition],
    ) -> Result<()> {
        self.finish(id).await?;
        let shard = self.transaction_shard(id);
        let mut state = shard.state.lock();
        let plan = state.add_partitions(id, producer, partitions, self.clock.now())?;
        self.write_transaction_records(shard, &mut state, &plan.records)
    }

    pub(super) async fn end_transaction(
        self: &Arc<Self>,
        id: &str,
        producer: ProducerIdentity,
        end: TransactionEnd,
    ) -> Result<ProducerIdentity> {
        self.check_running()?;
        // A repeated call: the decision may have been made, and its markers not been written because
        // the disk was full. Nobody else may come to finish it.
        self.finish(id).await?;
        let fresh = if producer.epoch >= LATE_EPOCH { self.fresh_producer_id().await? } else { -1 };
        let shard = self.transaction_shard(id);
        let prepared = {
            let mut state = shard.state.lock();
            let tails = self.tails(&state.open_partitions(id, producer), producer);
            let plan = state.prepare(id, producer, end, tails, fresh, self.clock.now())?;
            self.write_transaction_records(shard, &mut state, &plan.records)?;
            plan.reply
        };
        match prepared {
            Prepared::AlreadyDone(next) => Ok(next),
            Prepared::Decided(plan) => {
                self.settle(shard, &plan).await?;
                self.mark(&plan)?;
                let (inner, id) = (Arc::clone(self), Arc::clone(&plan.id));
                let finish = async move {
                    // Whoever uses the id next, or opens the folder, finishes it and is told. That the
                    // log was closed meanwhile is no news.
                    if let Err(e) = inner.finish(&id).await
                        && inner.stopped().is_none()
                    {
                        tracing::warn!(%id, error = %e, "a decided transaction is not complete yet");
                    }
                };
                if !matches!(self.runtime, Runtime::Stepped) {
                    self.runtime.run_later(Duration::ZERO, Box::pin(finish));
                }
                Ok(plan.next)
            }
        }
    }

    /// Where a producer's data ends in each partition. One whose topic was deleted meanwhile holds
    /// none any more, and does not keep the others from being decided.
    fn tails(
        &self,
        partitions: &[TopicPartition],
        producer: ProducerIdentity,
    ) -> Vec<PartitionTail> {
        let mut tails = Vec::with_capacity(partitions.len());
        for at in partitions {
            let Some(handle) = self.still_there(at) else { continue };
            let partition = handle.lock();
            // A partition that joined, but whose append was refused, has nothing to commit.
            if partition.has_open(producer)
                && let Some(tail) = partition.tail(producer.id)
            {
                tails.push(PartitionTail {
                    at: at.clone(),
                    last_offset: tail.last_offset,
                    crc: tail.crc,
                });
            }
        }
        tails
    }

    /// Makes a decision and all it rests on durable: one round of concurrent syncs.
    async fn settle(
        self: &Arc<Self>,
        shard: &Shard<D, TransactionCoordinator>,
        plan: &EndPlan,
    ) -> Result<()> {
        // At level `os` written is enough.
        if !self.is_durable() {
            return Ok(());
        }
        // Also an abort hands out a new epoch, which a crash must not take back. It rests on no data.
        let mut wanted = vec![(Arc::clone(&shard.handle), shard.handle.view.log.end())];
        for tail in plan.tails.iter().filter(|_| plan.end == TransactionEnd::Commit) {
            if let Some(handle) = self.still_there(&tail.at) {
                // A decision that stands although its data is gone must not wait for what cannot come.
                let end = handle.view.log.end().min(tail.last_offset + 1);
                wanted.push((handle, end));
            }
        }
        self.wait_durable(&wanted).await
    }

    /// A partition of a transaction; `None` when its topic was deleted meanwhile, or is damaged.
    fn still_there(&self, at: &TopicPartition) -> Option<Arc<PartitionHandle<D>>> {
        self.partitions.load().get(at).cloned()
    }

    /// Writes the markers that are missing.
    pub(super) fn mark(self: &Arc<Self>, plan: &EndPlan) -> Result<()> {
        for at in &plan.partitions {
            let Some(handle) = self.still_there(at) else {
                if self.damaged.contains_key(at) {
                    tracing::error!(partition = %at, id = %plan.id, "damaged: it gets no marker, its records of this transaction stay undecided");
                }
                continue;
            };
            // Positions are decided in the same step as their marker is written: a later transaction
            // of this producer must never be decided by it.
            let mut positions = self.positions_in(at);
            let mut partition = handle.lock();
            if partition.is_marked(plan.marker, plan.raises) {
                continue;
            }
            // At level `os` a power loss can take this transaction's records here, and the marker of one
            // before it with them. What is open then is not what was decided, and may have been aborted.
            let older = plan.raises
                && partition
                    .open_epoch(plan.marker.id)
                    .is_some_and(|epoch| i32::from(epoch) + 1 < i32::from(plan.marker.epoch));
            let end = if older { TransactionEnd::Abort } else { plan.end };
            let marker = match end {
                TransactionEnd::Commit => Marker::Commit,
                TransactionEnd::Abort => Marker::Abort,
            };
            let written =
                partition.append_marker(marker, plan.marker, COORDINATOR_EPOCH, self.clock.now());
            drop(partition);
            if written.is_err() && handle.is_gone() {
                continue;
            }
            self.watch(written)?;
            if let Some(positions) = &mut positions {
                positions.marker(plan.marker.id, end);
                self.decided.notify_waiters();
            }
            drop(positions);
            handle.changed.notify_waiters();
        }
        Ok(())
    }

    /// Runs what is left of a decision of `id`. Returns when Complete is written, or nothing was
    /// under way.
    pub(super) async fn finish(self: &Arc<Self>, id: &str) -> Result<()> {
        let shard = self.transaction_shard(id);
        let Some(plan) = shard.state.lock().under_way(id) else { return Ok(()) };
        self.settle(shard, &plan).await?;
        self.mark(&plan)?;
        if self.is_durable() {
            let ends: Vec<(Arc<PartitionHandle<D>>, Offset)> = plan
                .partitions
                .iter()
                .filter_map(|at| self.still_there(at))
                .map(|handle| {
                    let end = handle.view.log.end();
                    (handle, end)
                })
                .collect();
            self.wait_durable(&ends).await?;
        }
        let mut state = shard.state.lock();
        if state.under_way(id).is_none_or(|now| now.marker != plan.marker) {
            return Ok(());
        }
        let complete = state.complete(id, self.clock.now())?;
        self.write_transaction_records(shard, &mut state, &complete.records)
    }

    /// Finishes decisions that nobody finishes: their markers could not be written at once.
    pub(super) async fn finish_decided(
        self: &Arc<Self>,
        which: impl Fn(&EndPlan) -> bool + Send + Sync,
    ) -> Result<()> {
        for shard in &self.transactions {
            let undecided = shard.state.lock().undecided();
            for one in undecided {
                if let Undecided::Prepared(plan) = one
                    && which(&plan)
                {
                    self.finish(&plan.id).await?;
                }
            }
        }
        Ok(())
    }

    /// Aborts transactions that are open for longer than their producers asked for.
    pub(super) async fn abort_expired(self: &Arc<Self>) -> Result<()> {
        let now = self.clock.now();
        for shard in &self.transactions {
            let expired = shard.state.lock().expired(now);
            for id in expired {
                tracing::warn!(%id, "a transaction is open for longer than its timeout: aborting it");
                self.abort_if(shard, &id, |state| state.expired(now).contains(&id)).await?;
                self.finish(&id).await?;
            }
        }
        Ok(())
    }

    /// All transactional ids, by name.
    pub(super) fn all_transactions(&self) -> Vec<TransactionInfo> {
        let mut all = Vec::new();
        for shard in &self.transactions {
            let state = shard.state.lock();
            all.extend(state.transactions().map(|(id, found)| TransactionInfo {
                id: Arc::clone(id),
                producer: found.producer,
                state: found.state.name(),
                partitions: found.partitions.iter().cloned().collect(),
                started: found.started,
                timeout_ms: found.timeout_ms,
            }));
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Aborts an open transaction over its producer's head.
    pub(super) async fn abort_transaction(self: &Arc<Self>, id: &str) -> Result<()> {
        self.check_running()?;
        let shard = self.transaction_shard(id);
        let fresh = self.fresh_producer_id().await?;
        {
            let mut state = shard.state.lock();
            let plan = state.abort_ongoing(id, fresh, self.clock.now())?;
            self.write_transaction_records(shard, &mut state, &plan.records)?;
        }
        self.finish(id).await
    }

    /// Decides that an open transaction aborts, if `still` holds: it may have ended meanwhile, and
    /// another have begun. `finish` does the rest.
    pub(super) async fn abort_if(
        self: &Arc<Self>,
        shard: &Shard<D, TransactionCoordinator>,
        id: &str,
        still: impl Fn(&TransactionCoordinator) -> bool + Send + Sync,
    ) -> Result<()> {
        let fresh = self.fresh_producer_id().await?;
        let mut state = shard.state.lock();
        if still(&state) {
            let plan = state.abort_ongoing(id, fresh, self.clock.now())?;
            self.write_transaction_records(shard, &mut state, &plan.records)?;
        }
        Ok(())
    }

    /// Replaces a commit that nobody was told of, and that rests on records which are gone.
    pub(super) fn revoke_commit(
        self: &Arc<Self>,
        shard: &Shard<D, TransactionCoordinator>,
        id: &str,
    ) -> Result<Offset> {
        let mut state = shard.state.lock();
        let plan = state.revoke_commit(id, self.clock.now())?;
        self.write_transaction_records(shard, &mut state, &plan.records)?;
        Ok(shard.handle.view.log.end())
    }
}

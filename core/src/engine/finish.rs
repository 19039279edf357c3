//! F6 · Opening, its last part: what was under way when the last process ended comes to its end, before
//! any client (crash-catalogue 3, 8).
//!
//! ```text
//!   members of groups     expelled: no client survives its process
//!   Ongoing               aborted
//!   Prepare commit        stands, when all that it names is there, or a marker, or that it was deleted,
//!                         shows that it was told; or else nobody was told: revoked to an abort
//!   Prepare abort         finished
//!   open, of no one       as its id's last transaction was decided, where only the marker is lost; or
//!                         else aborted. Not judged unless every coordinator was read whole, and its
//!                         first batch can be; then no other of its producer is taken there
//! ```
//!
//! Always true here: a step that is interrupted is done again by the next open, with the same outcome.

use std::sync::Arc;

use super::Inner;
use super::handle::PartitionHandle;
use super::open::Opener;
use super::transact::COORDINATOR_EPOCH;
use crate::batch::Marker;
use crate::coordinator::transaction::{EndPlan, Undecided};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity};
use crate::request::TransactionEnd;

impl<D: Disk> Opener<D> {
    /// Brings everything that was under way to an end, before any client.
    pub(super) async fn finish(&mut self, inner: &Arc<Inner<D>>) -> Result<()> {
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
        let mut handles = plan.partitions.iter().filter_map(|at| partitions.get(at));
        let marked = handles.any(|handle| handle.lock().is_marked(plan.marker, plan.raises));
        if marked || plan.partitions.iter().any(|at| inner.damaged.contains_key(at)) {
            return Ok(true);
        }
        for tail in &plan.tails {
            let Some(handle) = partitions.get(&tail.at) else { continue };
            if tail.last_offset < handle.view.log.start() {
                // Nothing is deleted before it is decided, and was told.
                return Ok(true);
            }
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
                let end = match how_it_ended(inner, handle, producer, first_offset) {
                    Err(e @ Error::Damaged { .. }) => {
                        tracing::error!(partition = %at, producer = producer.id, first_offset, error = %e, "it cannot be told whose transaction is open: it stays open");
                        continue;
                    }
                    end => end?,
                };
                let marker =
                    ProducerIdentity { id: producer.id, epoch: producer.epoch.saturating_add(1) };
                let kind = match end {
                    TransactionEnd::Commit => Marker::Commit,
                    TransactionEnd::Abort => Marker::Abort,
                };
                let mut positions = inner.positions_in(at);
                let stored =
                    handle.lock().append_marker(kind, marker, COORDINATOR_EPOCH, inner.clock.now());
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

/// How the transaction of `producer` ended that is open in a partition since `first_offset`: as its
/// coordinator decided, while that knows; or else not at all, which is an abort. Where markers of two
/// transactions are gone, what is open began with another epoch: then nobody knows.
fn how_it_ended<D: Disk>(
    inner: &Inner<D>,
    handle: &PartitionHandle<D>,
    producer: ProducerIdentity,
    first_offset: Offset,
) -> Result<TransactionEnd> {
    let first = handle.view.log.batch_at(first_offset)?;
    if first.is_none_or(|header| header.producer != producer) {
        return Ok(TransactionEnd::Abort);
    }
    let mut coordinators = inner.transactions.iter();
    let ended = coordinators.find_map(|shard| shard.state.lock().ended(producer));
    Ok(ended.unwrap_or(TransactionEnd::Abort))
}

//! F6 · Groups: membership and positions, kept by the group coordinators.
//!
//! Always true here: a position is acknowledged at the coordinator's level; a position inside a
//! transaction becomes visible by the transaction's marker and by nothing else.

use std::sync::Arc;

use super::{Inner, OFFSETS_TOPIC, Shard};
use crate::coordinator::group::GroupCoordinator;
use crate::coordinator::{CoordinatorRecord, partition_for};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity, TopicPartition};
use crate::request::{GroupInfo, Membership, OffsetCommit};

impl<D: Disk> Inner<D> {
    pub(super) fn group_shard(&self, group: &str) -> &Shard<D, GroupCoordinator> {
        &self.groups[partition_for(group, self.groups.len() as u32) as usize]
    }

    /// Writes records that belong to no transaction, and takes them in.
    pub(super) fn write_group_records(
        self: &Arc<Self>,
        shard: &Shard<D, GroupCoordinator>,
        state: &mut GroupCoordinator,
        records: &[CoordinatorRecord],
    ) -> Result<Offset> {
        let end = self.write_records(&shard.handle, records, ProducerIdentity::NONE)?;
        for record in records {
            state
                .replay(&record.key, record.value.as_deref())
                .map_err(|e| Error::invalid(format!("{OFFSETS_TOPIC}: own record: {e}")))?;
        }
        Ok(end)
    }

    async fn answer_at_level(
        self: &Arc<Self>,
        shard: &Shard<D, GroupCoordinator>,
        end: Offset,
    ) -> Result<()> {
        if self.is_durable() {
            self.wait_durable(&[(Arc::clone(&shard.handle), end)]).await?;
        }
        Ok(())
    }

    pub(super) async fn join_group(self: &Arc<Self>, group: &str) -> Result<Membership> {
        let shard = self.group_shard(group);
        let member = format!("thalweg-{}", self.entropy.uuid());
        let (membership, end) = {
            let mut state = shard.state.lock();
            let plan = state.join(group, &member, self.clock.now())?;
            (plan.reply, self.write_group_records(shard, &mut state, &plan.records)?)
        };
        // A generation that a crash takes back would let an expelled member in again.
        self.answer_at_level(shard, end).await?;
        Ok(membership)
    }

    /// All groups with their positions, by name.
    pub(super) fn all_groups(&self) -> Vec<GroupInfo> {
        let mut all = Vec::new();
        for shard in &self.groups {
            all.extend(shard.state.lock().groups());
        }
        all.sort_by(|a, b| a.group.cmp(&b.group));
        all
    }

    pub(super) async fn leave_group(self: &Arc<Self>, member: &Membership) -> Result<()> {
        let shard = self.group_shard(&member.group);
        let end = {
            let mut state = shard.state.lock();
            let plan = state.leave(member, self.clock.now())?;
            self.write_group_records(shard, &mut state, &plan.records)?
        };
        self.answer_at_level(shard, end).await
    }

    pub(super) async fn commit_offsets(
        self: &Arc<Self>,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        self.check_positions(offsets)?;
        let shard = self.group_shard(&member.group);
        let end = {
            let mut state = shard.state.lock();
            let plan = state.commit(member, offsets, self.clock.now())?;
            self.write_group_records(shard, &mut state, &plan.records)?
        };
        self.answer_at_level(shard, end).await
    }

    pub(super) async fn commit_offsets_in(
        self: &Arc<Self>,
        transactional_id: &str,
        producer: ProducerIdentity,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        self.check_positions(offsets)?;
        let shard = self.group_shard(&member.group);
        // Refused members must not even join: their transaction could not be completed by them.
        let now = self.clock.now();
        let _ = shard.state.lock().commit_in(member, offsets, now)?;
        let at = shard.handle.at.clone();
        self.join_transaction(transactional_id, producer, std::slice::from_ref(&at)).await?;
        let mut state = shard.state.lock();
        let plan = state.commit_in(member, offsets, now)?;
        self.write_records(&shard.handle, &plan.records, producer)?;
        for record in &plan.records {
            state
                .replay_pending(producer.id, &record.key, record.value.as_deref())
                .map_err(|e| Error::invalid(format!("{OFFSETS_TOPIC}: own record: {e}")))?;
        }
        Ok(())
    }

    /// A position beyond the end of its partition would skip what is written there later.
    fn check_positions(&self, offsets: &[OffsetCommit]) -> Result<()> {
        for commit in offsets {
            let handle = self.partition(&commit.at)?;
            let (start, end) = (handle.view.log.start(), handle.view.log.end());
            if commit.offset < 0 || commit.offset > end {
                let (at, offset) = (commit.at.clone(), commit.offset);
                return Err(Error::OffsetOutOfRange { at, offset, start, end });
            }
        }
        Ok(())
    }

    /// The coordinator whose positions are kept in `at`, locked; `None` for any other partition.
    pub(super) fn positions_in(
        &self,
        at: &TopicPartition,
    ) -> Option<parking_lot::MutexGuard<'_, GroupCoordinator>> {
        let ours = *at.topic == *OFFSETS_TOPIC;
        let shard = ours.then(|| self.groups.get(at.partition as usize)).flatten()?;
        Some(shard.state.lock())
    }

    pub(super) async fn committed_offsets(
        self: &Arc<Self>,
        group: &str,
        at: &[TopicPartition],
    ) -> Result<Vec<Option<OffsetCommit>>> {
        let shard = self.group_shard(group);
        loop {
            let decided = self.decided.notified();
            let mut decided = std::pin::pin!(decided);
            decided.as_mut().enable();
            self.check_running()?;
            let found: Vec<_> = {
                let state = shard.state.lock();
                at.iter().map(|at| state.committed(group, at)).collect()
            };
            if !found.iter().any(|lookup| lookup.pending) {
                return Ok(found.into_iter().map(|lookup| lookup.commit).collect());
            }
            // In line nobody else runs, and what is only looked at does not go on.
            if self.runtime.is_inline() || self.read_only {
                return Err(Error::Retry {
                    what: format!("a transaction is about to move a position of group {group:?}"),
                });
            }
            decided.await;
        }
    }
}

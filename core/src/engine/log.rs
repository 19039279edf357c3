//! F6 · The engine as a [`Log`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use super::Engine;
use super::append::Given;
use crate::batch::Sealed;
use crate::client::log::{
    Ack, Appended, FetchFrom, FetchOptions, Fetched, FetchedRegion, Isolation, Log,
};
use crate::config::Level;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity, Timestamp, TopicPartition, Uuid};
use crate::request::{
    GroupInfo, Membership, NewTopic, OffsetAt, OffsetCommit, OffsetSpec, PartitionOffsets,
    TopicInfo, TransactionEnd, TransactionInfo,
};

#[async_trait]
impl<D: Disk> Log for Engine<D> {
    fn id(&self) -> Uuid {
        self.inner.id
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicInfo> {
        self.inner.check_writable()?;
        self.inner.create_topic(topic).await
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.delete_topic(name).await
    }

    async fn topic(&self, name: &str) -> Result<TopicInfo> {
        self.inner.topic(name)
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        Ok(self.inner.topics())
    }

    async fn alter_topic(
        &self,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<TopicInfo> {
        self.inner.check_writable()?;
        self.inner.alter_topic(name, changes).await
    }

    async fn list_offset(
        &self,
        at: &TopicPartition,
        which: OffsetSpec,
        isolation: Isolation,
    ) -> Result<Option<OffsetAt>> {
        self.inner.list_offset(at, which, isolation)
    }

    async fn delete_records(&self, at: &TopicPartition, before: Offset) -> Result<Offset> {
        self.inner.check_writable()?;
        self.inner.delete_records(at, before).await
    }

    async fn offsets(&self, at: &TopicPartition) -> Result<PartitionOffsets> {
        self.inner.check_running()?;
        Ok(self.inner.partition(at)?.view.offsets())
    }

    async fn append(
        &self,
        at: &TopicPartition,
        batch: Bytes,
        transactional_id: Option<&str>,
        ack: Ack,
    ) -> Result<Appended> {
        self.inner.check_writable()?;
        self.inner.append(at, Given::Bytes(&batch), transactional_id, ack).await
    }

    async fn append_sealed(
        &self,
        at: &TopicPartition,
        batch: &Sealed,
        transactional_id: Option<&str>,
        ack: Ack,
    ) -> Result<Appended> {
        self.inner.check_writable()?;
        self.inner.append(at, Given::Sealed(batch), transactional_id, ack).await
    }

    async fn fetch(&self, from: &[FetchFrom], options: FetchOptions) -> Result<Vec<Fetched>> {
        self.inner.fetch(from, options).await
    }

    async fn fetch_regions(
        &self,
        from: &[FetchFrom],
        options: FetchOptions,
    ) -> Result<Vec<FetchedRegion>> {
        self.inner.fetch_regions(from, options).await
    }

    async fn check_position(
        &self,
        at: &TopicPartition,
        id: Uuid,
        epoch: LeaderEpoch,
        offset: Offset,
    ) -> Result<()> {
        let handle = self.inner.partition(at)?;
        let lost = |why: String| Err(Error::PositionLost { at: at.clone(), offset, epoch, why });
        if handle.view.topic_id != id {
            return lost(format!(
                "the topic was deleted and created again (its id is {}, the position is for {id}): reset the position to start over",
                handle.view.topic_id
            ));
        }
        let end = handle.view.log.end();
        let found = if offset > 0 { handle.lock().epoch_at(offset - 1) } else { epoch };
        if offset > end || (epoch >= 0 && found != epoch) {
            let power = match handle.view.level {
                Level::Os => "a power loss at level os does that; ",
                Level::Disk => "",
            };
            return lost(format!(
                "the log ends at {end} and the record before the position has epoch {found}; {power}reset the position to {end} to go on with what is left"
            ));
        }
        Ok(())
    }

    async fn init_producer(
        &self,
        transactional_id: Option<&str>,
        timeout: Duration,
    ) -> Result<ProducerIdentity> {
        self.inner.check_writable()?;
        self.inner.init_producer(transactional_id, timeout).await
    }

    async fn commit_offsets_in(
        &self,
        transactional_id: &str,
        producer: ProducerIdentity,
        member: &Membership,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.commit_offsets_in(transactional_id, producer, member, offsets).await
    }

    async fn end_transaction(
        &self,
        transactional_id: &str,
        producer: ProducerIdentity,
        end: TransactionEnd,
    ) -> Result<ProducerIdentity> {
        self.inner.check_writable()?;
        self.inner.end_transaction(transactional_id, producer, end).await
    }

    async fn transactions(&self) -> Result<Vec<TransactionInfo>> {
        self.inner.check_running()?;
        Ok(self.inner.all_transactions())
    }

    async fn abort_transaction(&self, transactional_id: &str) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.abort_transaction(transactional_id).await
    }

    async fn groups(&self) -> Result<Vec<GroupInfo>> {
        self.inner.check_running()?;
        Ok(self.inner.all_groups())
    }

    async fn join_group(&self, group: &str) -> Result<Membership> {
        self.inner.check_writable()?;
        self.inner.join_group(group).await
    }

    async fn leave_group(&self, member: &Membership) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.leave_group(member).await
    }

    async fn commit_offsets(&self, member: &Membership, offsets: &[OffsetCommit]) -> Result<()> {
        self.inner.check_writable()?;
        self.inner.commit_offsets(member, offsets).await
    }

    async fn committed_offsets(
        &self,
        group: &str,
        at: &[TopicPartition],
    ) -> Result<Vec<Option<OffsetCommit>>> {
        self.inner.committed_offsets(group, at).await
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.inner.runtime.sleep(time)
    }

    fn run_later(&self, delay: Duration, what: BoxFuture<'static, ()>) {
        self.inner.runtime.run_later(delay, what);
    }

    fn guarantee(&self) -> String {
        if self.inner.read_only {
            return "read-only: what was there when it was opened, whether synced or not"
                .to_owned();
        }
        match self.inner.config.level {
            Level::Disk => "exactly once; acknowledged data survives a power loss".to_owned(),
            Level::Os => {
                "exactly once, except after a power loss; acknowledged data survives a crash of the process"
                    .to_owned()
            }
        }
    }
}

/// Type-erases an engine.
impl<D: Disk> Engine<D> {
    /// The engine as the log that clients take.
    pub fn into_log(self: Arc<Self>) -> Arc<dyn Log> {
        self
    }
}

//! F5 · The group coordinator: who reads for a group, and how far it came. One for each partition of
//! `__consumer_offsets`.
//!
//! ```text
//!   join -----> generation n, one member -----> join: generation n + 1, the new member
//!                  |          |                       (the former one is fenced)
//!                  |          +-- leave, expel_all: generation n + 1, no member
//!                  v
//!   commit ----------------------------------> stored at once
//!   commit_in -> (transactional batch) pending -- marker COMMIT --> stored
//!                                             \-- marker ABORT ---> forgotten
//! ```
//!
//! Always true here:
//! - In one process a group has one member; a newcomer takes its place. A generation never comes back
//!   while the group's record is kept, so whoever held an older one is fenced for good.
//! - A position is stored by the last record of its key, counted in log order, no matter in which
//!   order transactions end (`pending.rs` draws it).
//! - Nothing expires: an application that was away for two months finds its positions (Kafka would
//!   have dropped them after seven days). They go when their topic is deleted.
//! - Members live as long as the process. A folder is opened with [`expel_all`], so no session ever
//!   has to time out.
//!
//! Kafka's table of who may commit, as far as it applies to groups without rebalances:
//!
//! | group | membership shown | answer |
//! |---|---|---|
//! | no member | generation below 0 | stored |
//! | has a member | none, in a transaction | stored at its commit |
//! | has a member | none | `Fenced` |
//! | any | unknown member | `Fenced` |
//! | any | another generation | `Fenced` |
//! | has a member | that member, that generation | stored |
//!
//! [`expel_all`]: GroupCoordinator::expel_all

mod pending;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{CoordinatorRecord, Malformed, Plan, check_id};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, Timestamp, TopicPartition, check_topic_name};
use crate::request::{GroupInfo, Membership, OffsetCommit, TransactionEnd};
use pending::{Decided, Pending};
use record::{GroupValue, Key};

/// A stored position.
#[derive(Clone, PartialEq, Eq, Debug)]
struct StoredOffset {
    offset: Offset,
    leader_epoch: LeaderEpoch,
    metadata: Arc<str>,
    committed: Timestamp,
}

impl StoredOffset {
    fn to_commit(&self, at: &TopicPartition) -> OffsetCommit {
        OffsetCommit {
            at: at.clone(),
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata.as_ref().to_owned(),
        }
    }
}

/// The answer to [`GroupCoordinator::committed`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// The position, if one is stored.
    pub commit: Option<OffsetCommit>,
    /// Whether a transaction under way may replace it. Whoever must not read a position that is about
    /// to change (`require_stable`) waits for the marker.
    pub pending: bool,
}

/// The groups of one partition of `__consumer_offsets`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupCoordinator {
    groups: BTreeMap<Arc<str>, GroupValue>,
    offsets: BTreeMap<Arc<str>, BTreeMap<TopicPartition, StoredOffset>>,
    pending: Pending,
    skipped: u64,
}

impl GroupCoordinator {
    /// A coordinator of an empty partition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one record that belongs to no transaction, at open or after it was appended.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that no version writes; nothing has changed then.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Malformed> {
        match record::decode_key(key)? {
            Key::Group(group) => match value.map(record::decode_group).transpose()? {
                Some(Some(value)) => {
                    self.groups.insert(group.into(), value);
                }
                Some(None) => self.skipped += 1,
                None => {
                    self.groups.remove(group);
                }
            },
            Key::Offset { group, at } => match value.map(record::decode_offset).transpose()? {
                Some(Some(stored)) => {
                    self.pending.drop_key(group, &at);
                    self.store(group, at, stored);
                }
                Some(None) => self.skipped += 1,
                None => {
                    self.pending.drop_key(group, &at);
                    self.remove(group, &at);
                }
            },
            Key::Unknown => self.skipped += 1,
        }
        Ok(())
    }

    /// Takes in one record of a transactional batch: it counts when the producer's marker says so.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that no version writes; nothing has changed then.
    pub fn replay_pending(
        &mut self,
        producer_id: i64,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), Malformed> {
        // Only positions are written inside transactions; anything else is not ours to judge.
        let (Key::Offset { group, at }, Some(value)) = (record::decode_key(key)?, value) else {
            self.skipped += 1;
            return Ok(());
        };
        match record::decode_offset(value)? {
            Some(stored) => self.pending.add(producer_id, group, at, stored),
            None => self.skipped += 1,
        }
        Ok(())
    }

    /// Takes in a producer's marker in this partition: its pending positions are stored or forgotten.
    pub fn marker(&mut self, producer_id: i64, end: TransactionEnd) {
        for Decided { group, at, stored } in self.pending.decide(producer_id, end) {
            self.store(&group, at, stored);
        }
    }

    /// How many records of unknown types and versions were passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Makes `member` the member of a group, with a new generation. Whoever was it before is fenced.
    /// The caller makes the member's id, unlike any other.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty or too long id.
    pub fn join(&self, group: &str, member: &str, now: Timestamp) -> Result<Plan<Membership>> {
        check_id("group id", group)?;
        check_id("member id", member)?;
        let generation = self.next_generation(group);
        Ok(Plan {
            records: vec![record::encode_group(group, generation, Some(member), now)],
            reply: Membership { group: group.into(), member: member.into(), generation },
        })
    }

    /// Ends a membership. The group has no member then, and its positions stay.
    ///
    /// # Errors
    /// [`Error::Fenced`] when it had ended already.
    pub fn leave(&self, membership: &Membership, now: Timestamp) -> Result<Plan<()>> {
        self.check_member(membership)?;
        Ok(Plan { records: vec![self.empty_group(&membership.group, now)], reply: () })
    }

    /// Ends all memberships, as every opened folder begins: no member outlives its process. The reply
    /// names the groups that had one.
    pub fn expel_all(&self, now: Timestamp) -> Plan<Vec<Arc<str>>> {
        let groups: Vec<Arc<str>> = self
            .groups
            .iter()
            .filter(|(_, value)| !value.members.is_empty())
            .map(|(group, _)| Arc::clone(group))
            .collect();
        let records = groups.iter().map(|group| self.empty_group(group, now)).collect();
        Plan { records, reply: groups }
    }

    /// Stores positions.
    ///
    /// # Errors
    /// [`Error::Fenced`] for anyone but the group's member, or for [`Membership::simple`] while the
    /// group has one; [`Error::Invalid`] for metadata beyond 4096 bytes, a negative offset or a bad
    /// name.
    pub fn commit(
        &self,
        membership: &Membership,
        offsets: &[OffsetCommit],
        now: Timestamp,
    ) -> Result<Plan<()>> {
        if !self.is_open_to_all(membership) {
            self.check_member(membership)?;
        }
        offset_records(membership, offsets, now)
    }

    /// Stores positions if the transaction commits: the records go into a transactional batch of its
    /// producer and then to [`replay_pending`](Self::replay_pending).
    ///
    /// # Errors
    /// As [`commit`](Self::commit), except that [`Membership::simple`] is accepted always: Kafka lets
    /// the producer's own fence decide there.
    pub fn commit_in(
        &self,
        membership: &Membership,
        offsets: &[OffsetCommit],
        now: Timestamp,
    ) -> Result<Plan<()>> {
        let nobody = membership.generation < 0 && membership.member.is_empty();
        if !nobody && !self.is_open_to_all(membership) {
            self.check_member(membership)?;
        }
        offset_records(membership, offsets, now)
    }

    /// The position of a group in a partition. An unknown group has none.
    pub fn committed(&self, group: &str, at: &TopicPartition) -> Lookup {
        let stored = self.offsets.get(group).and_then(|offsets| offsets.get(at));
        Lookup {
            commit: stored.map(|stored| stored.to_commit(at)),
            pending: self.pending.contains(group, at),
        }
    }

    /// All positions of a group, by partition.
    pub fn positions(&self, group: &str) -> impl Iterator<Item = OffsetCommit> {
        let offsets = self.offsets.get(group).into_iter().flatten();
        offsets.map(|(at, stored)| stored.to_commit(at))
    }

    /// Removes all positions in a topic, pending ones too. To be durable before a topic of that name
    /// is created, so that no position ever meets the records of another topic; a good time is the
    /// deletion of the topic.
    pub fn delete_topic(&self, name: &str) -> Plan<()> {
        let stored = self
            .offsets
            .iter()
            .flat_map(|(group, offsets)| offsets.keys().map(move |at| (group, at)));
        let keys: BTreeSet<(&Arc<str>, &TopicPartition)> =
            stored.chain(self.pending.keys()).filter(|(_, at)| *at.topic == *name).collect();
        let tombstone = |(group, at): (&Arc<str>, &TopicPartition)| CoordinatorRecord {
            key: record::offset_key(group, at),
            value: None,
        };
        Plan { records: keys.into_iter().map(tombstone).collect(), reply: () }
    }

    /// The topics in which any group has a position, or one pending.
    pub fn topics(&self) -> BTreeSet<Arc<str>> {
        let stored = self.offsets.values().flat_map(BTreeMap::keys);
        let pending = self.pending.keys().map(|(_, at)| at);
        stored.chain(pending).map(|at| Arc::clone(&at.topic)).collect()
    }

    /// All groups, by name.
    pub fn groups(&self) -> Vec<GroupInfo> {
        let names: BTreeSet<&Arc<str>> = self.groups.keys().chain(self.offsets.keys()).collect();
        names
            .into_iter()
            .map(|group| GroupInfo {
                group: Arc::clone(group),
                generation: self.groups.get(group).map_or(0, |value| value.generation),
                members: self.members(group).to_vec(),
                positions: self.positions(group).collect(),
            })
            .collect()
    }

    fn members(&self, group: &str) -> &[Arc<str>] {
        self.groups.get(group).map_or(&[], |value| &value.members)
    }

    fn next_generation(&self, group: &str) -> i32 {
        let last = self.groups.get(group).map_or(0, |value| value.generation);
        // After 2^31 of them it begins again: the member's id fences then.
        last.checked_add(1).unwrap_or(1)
    }

    fn empty_group(&self, group: &str, now: Timestamp) -> CoordinatorRecord {
        record::encode_group(group, self.next_generation(group), None, now)
    }

    fn is_open_to_all(&self, membership: &Membership) -> bool {
        membership.generation < 0 && self.members(&membership.group).is_empty()
    }

    fn check_member(&self, membership: &Membership) -> Result<()> {
        let Membership { group, member, generation } = membership;
        let fenced = |why: String| {
            let who = format!("member {member:?}, generation {generation}, of group {group:?}");
            Err(Error::Fenced { who, why })
        };
        let Some(value) = self.groups.get(group) else {
            return fenced("the group has no member".to_owned());
        };
        if !value.members.contains(member) {
            return fenced(match value.members.first() {
                Some(other) => format!("member {other:?} took its place"),
                None => "its membership ended".to_owned(),
            });
        }
        if value.generation != *generation {
            return fenced(format!("generation {} holds its place", value.generation));
        }
        Ok(())
    }

    fn store(&mut self, group: &str, at: TopicPartition, stored: StoredOffset) {
        match self.offsets.get_mut(group) {
            Some(offsets) => {
                offsets.insert(at, stored);
            }
            None => {
                self.offsets.insert(group.into(), BTreeMap::from([(at, stored)]));
            }
        }
    }

    fn remove(&mut self, group: &str, at: &TopicPartition) {
        if let Some(offsets) = self.offsets.get_mut(group) {
            offsets.remove(at);
            if offsets.is_empty() {
                self.offsets.remove(group);
            }
        }
    }
}

fn offset_records(
    membership: &Membership,
    offsets: &[OffsetCommit],
    now: Timestamp,
) -> Result<Plan<()>> {
    let group = &*membership.group;
    check_id("group id", group)?;
    let mut records = Vec::with_capacity(offsets.len());
    for commit in offsets {
        let at = &commit.at;
        check_topic_name(&at.topic)?;
        if commit.offset < 0 || i32::try_from(at.partition).is_err() {
            return Err(Error::invalid(format!(
                "group {group:?}: offset {} in {at} is no position",
                commit.offset
            )));
        }
        if commit.metadata.len() > METADATA_BYTES_MAX {
            return Err(Error::invalid(format!(
                "group {group:?}: metadata of {at} has {} bytes, at most {METADATA_BYTES_MAX} are kept",
                commit.metadata.len()
            )));
        }
        let stored = StoredOffset {
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata.as_str().into(),
            committed: now,
        };
        records.push(record::encode_offset(group, at, &stored));
    }
    Ok(Plan { records, reply: () })
}

/// Kafka's `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

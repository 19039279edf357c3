//! F5 · What a folder holds: its id, its topics, and the counters that never fall. One for the whole
//! folder, over the single partition of `__thalweg_metadata`.
//!
//! ```text
//!   create_topic            delete_topic                 folders removed, forget_topic
//!   ------------> there ---------------------> deleting ------------------------------> (nothing)
//! ```
//!
//! Always true here:
//! - A topic exists from its one record on; its folders follow from it, at open if need be. So half a
//!   topic cannot be seen, whatever a crash interrupted.
//! - A folder is removed because a record with the topic's id says so ([`deleting`]), never because a
//!   topic is missing here.
//! - The counters of producer ids and leader epochs only rise, and rise above what the caller has seen
//!   in use: not even a lost tail of this topic lets a number be given out twice.
//! - Replies of this coordinator leave when their records are durable, at every level: they are few.
//!
//! Two topic names that differ only in `.` and `_` are refused, as Kafka refuses them: they would
//! share the names of their metrics.
//!
//! [`deleting`]: Metadata::deleting

mod record;

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::{Malformed, Plan};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Uuid, check_topic_name};
use crate::request::{NewTopic, TopicInfo};
use record::Key;

/// The first producer id that is given out. A fresh Kafka broker counts its own from 0 and knows none of
/// ours, but believes what the snapshots of partitions it is given say of them: an id of its own that is
/// in there would have its first batches taken for retries, and lost. It never gets so far.
pub const FIRST_PRODUCER_ID: i64 = 1 << 40;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Topic {
    info: TopicInfo,
    deleting: bool,
}

/// The replayed image of `__thalweg_metadata`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    log_id: Option<Uuid>,
    topics: BTreeMap<Arc<str>, Topic>,
    next_producer_id: i64,
    leader_epoch: Option<LeaderEpoch>,
    skipped: u64,
}

impl Metadata {
    /// The image of an empty partition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one record of the partition, at open or after it was appended.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that no version writes; nothing has changed then.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Malformed> {
        let key = record::decode_key(key)?;
        let known = match (key, value) {
            (Key::Topic(name), None) => {
                self.topics.remove(name);
                true
            }
            (Key::Topic(name), Some(value)) => {
                let topic = record::decode_value(value, |from| record::topic_fields(from, name))?;
                topic
                    .map(|(info, deleting)| {
                        self.topics.insert(Arc::clone(&info.name), Topic { info, deleting })
                    })
                    .is_some()
            }
            (Key::Log, Some(value)) => {
                let id = record::decode_value(value, record::log_fields)?;
                id.map(|id| self.log_id = Some(id)).is_some()
            }
            (Key::ProducerIds, Some(value)) => {
                let next = record::decode_value(value, record::producer_ids_fields)?;
                next.map(|next| self.next_producer_id = self.next_producer_id.max(next)).is_some()
            }
            (Key::LeaderEpoch, Some(value)) => {
                let epoch = record::decode_value(value, record::leader_epoch_fields)?;
                epoch.map(|epoch| self.leader_epoch = self.leader_epoch.max(Some(epoch))).is_some()
            }
            (Key::Log | Key::ProducerIds | Key::LeaderEpoch | Key::Unknown, _) => false,
        };
        self.skipped += u64::from(!known);
        Ok(())
    }

    /// How many records of unknown types and versions were passed over.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Gives the folder its id, once. The same id again needs no record.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it has another one.
    pub fn init(&self, log_id: Uuid) -> Result<Plan<()>> {
        match self.log_id {
            None => Ok(Plan { records: vec![record::encode_log(log_id)], reply: () }),
            Some(id) if id == log_id => Ok(Plan::answer(())),
            Some(id) => Err(Error::invalid(format!("the folder holds log {id}, not {log_id}"))),
        }
    }

    /// Creates a topic under a fresh `id`. Positions that groups may hold under its name are removed
    /// first ([`super::group::GroupCoordinator::delete_topic`]).
    ///
    /// # Errors
    /// [`Error::TopicExists`]; [`Error::Retry`] while one of that name is being deleted;
    /// [`Error::Invalid`] for a bad name, one that differs from another topic's only in `.` and `_`,
    /// a partition count outside of 1 to 10,000, or bad settings.
    pub fn create_topic(&self, new: &NewTopic, id: Uuid) -> Result<Plan<TopicInfo>> {
        check_topic_name(&new.name)?;
        if !PARTITIONS.contains(&new.partitions) {
            return Err(Error::invalid(format!(
                "topic {:?} with {} partitions: use {} to {}",
                new.name,
                new.partitions,
                PARTITIONS.start(),
                PARTITIONS.end()
            )));
        }
        new.config.check()?;
        match self.topics.get(new.name.as_str()) {
            Some(Topic { deleting: true, .. }) => {
                return Err(Error::Retry {
                    what: format!("topic {:?} is still being deleted", new.name),
                });
            }
            Some(Topic { info, .. }) => {
                return Err(Error::TopicExists {
                    topic: new.name.clone(),
                    partitions: info.partitions,
                });
            }
            None => self.check_collision(&new.name)?,
        }
        let info = TopicInfo {
            name: new.name.as_str().into(),
            id,
            partitions: new.partitions,
            config: new.config.clone(),
        };
        Ok(Plan { records: vec![record::encode_topic(&info, false)], reply: info })
    }

    /// Changes settings of a topic.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Invalid`] for a setting that is not known or out of range, and for
    /// the level: readers' positions and transactions under way rest on it.
    pub fn alter_topic(
        &self,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Plan<TopicInfo>> {
        let mut info = self.topic(name)?.clone();
        let config = info.config.altered(changes)?;
        if config.level != info.config.level {
            return Err(Error::invalid(format!(
                "thalweg.level of topic {name:?} is fixed: create another topic and copy its records"
            )));
        }
        if config == info.config {
            return Ok(Plan::answer(info));
        }
        info.config = config;
        Ok(Plan { records: vec![record::encode_topic(&info, false)], reply: info })
    }

    /// Decides to delete a topic: from this record on it is gone for clients. Its folders are removed
    /// afterwards, at open if need be, then [`forget_topic`](Self::forget_topic) frees the name.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none of that name.
    pub fn delete_topic(&self, name: &str) -> Result<Plan<TopicInfo>> {
        let info = self.topic(name)?.clone();
        Ok(Plan { records: vec![record::encode_topic(&info, true)], reply: info })
    }

    /// Notes that the folders of a deleted topic are durably gone. Again: nothing to append.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the topic was not deleted.
    pub fn forget_topic(&self, name: &str) -> Result<Plan<()>> {
        match self.topics.get(name) {
            None => Ok(Plan::answer(())),
            Some(Topic { deleting: true, .. }) => {
                Ok(Plan { records: vec![record::topic_tombstone(name)], reply: () })
            }
            Some(_) => Err(Error::invalid(format!("topic {name:?} was not deleted"))),
        }
    }

    /// Takes `count` producer ids, none of them below `unseen`: one above the highest that any
    /// partition knows, or 0; and none below [`FIRST_PRODUCER_ID`]. What is not used of them is lost,
    /// which costs nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are no more.
    pub fn allocate_producer_ids(&self, count: u32, unseen: i64) -> Result<Plan<Range<i64>>> {
        let start = self.next_producer_id.max(unseen).max(FIRST_PRODUCER_ID);
        let end = start
            .checked_add(i64::from(count))
            .ok_or_else(|| Error::invalid(format!("no {count} producer ids are left")))?;
        Ok(Plan { records: vec![record::encode_producer_ids(end)], reply: start..end })
    }

    /// Takes the next leader epoch: above every one given out, and above `seen`, the highest that any
    /// partition knows, or -1. For every unclean open, before anything is appended.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are no more.
    pub fn raise_epoch(&self, seen: LeaderEpoch) -> Result<Plan<LeaderEpoch>> {
        let epoch = self
            .leader_epoch()
            .max(seen)
            .checked_add(1)
            .filter(|epoch| *epoch < LeaderEpoch::MAX)
            .ok_or_else(|| Error::invalid("no leader epochs are left"))?;
        Ok(Plan { records: vec![record::encode_leader_epoch(epoch)], reply: epoch })
    }

    /// The log's own id; `None` for a folder that was never initialised.
    pub fn log_id(&self) -> Option<Uuid> {
        self.log_id
    }

    /// The last leader epoch given out, or -1.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch.unwrap_or(-1)
    }

    /// What a topic is.
    ///
    /// # Errors
    /// [`Error::Unknown`] when there is none of that name.
    pub fn topic(&self, name: &str) -> Result<&TopicInfo> {
        match self.topics.get(name) {
            Some(Topic { info, deleting: false }) => Ok(info),
            _ => Err(Error::Unknown { what: format!("topic {name:?}") }),
        }
    }

    /// All topics, by name, without those being deleted.
    pub fn topics(&self) -> impl Iterator<Item = &TopicInfo> {
        self.topics.values().filter(|topic| !topic.deleting).map(|topic| &topic.info)
    }

    /// The topics whose folders are to be removed, by name. Only a folder that carries the topic's id
    /// is its folder.
    pub fn deleting(&self) -> impl Iterator<Item = &TopicInfo> {
        self.topics.values().filter(|topic| topic.deleting).map(|topic| &topic.info)
    }

    fn check_collision(&self, name: &str) -> Result<()> {
        if !name.contains(['.', '_']) {
            return Ok(());
        }
        let plain = |c: u8| if c == b'.' { b'_' } else { c };
        match self.topics.keys().find(|other| other.bytes().map(plain).eq(name.bytes().map(plain)))
        {
            None => Ok(()),
            Some(other) => Err(Error::invalid(format!(
                "topic {name:?} differs from topic {other:?} only in '.' and '_': \
                 their metrics would share a name"
            ))),
        }
    }
}

/// How many partitions a topic may have.
const PARTITIONS: RangeInclusive<u32> = 1..=10_000;

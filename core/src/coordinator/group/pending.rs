//! F5 · Positions that a transaction under way will store, if it commits.
//!
//! ```text
//!   log order:    P1 writes K    P2 writes K    P2 commits    P1 commits
//!   pending of K: P1             P1, P2         -             -            K holds P2's
//! ```
//!
//! Always true here: of two records of one key the later in the log wins, whichever transaction is
//! decided first. So a position that commits drops the older ones of its key that still wait, and an
//! outright commit or removal drops them all. Compaction, which keeps the later record, then leaves a
//! log that replays to the same state.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::StoredOffset;
use crate::ids::TopicPartition;
use crate::request::TransactionEnd;

/// What waits for one key, in log order: producer id and position.
type Waiting = Vec<(i64, StoredOffset)>;

/// By group and partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Pending {
    groups: BTreeMap<Arc<str>, BTreeMap<TopicPartition, Waiting>>,
}

/// A position that a marker has stored.
pub(super) struct Decided {
    pub(super) group: Arc<str>,
    pub(super) at: TopicPartition,
    pub(super) stored: StoredOffset,
}

impl Pending {
    pub(super) fn add(
        &mut self,
        producer_id: i64,
        group: &str,
        at: TopicPartition,
        stored: StoredOffset,
    ) {
        let waiting = self.groups.entry(group.into()).or_default().entry(at).or_default();
        waiting.retain(|(producer, _)| *producer != producer_id);
        waiting.push((producer_id, stored));
    }

    /// Drops all that waits for a key: a later record has decided it.
    pub(super) fn drop_key(&mut self, group: &str, at: &TopicPartition) {
        if let Some(partitions) = self.groups.get_mut(group) {
            partitions.remove(at);
            if partitions.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Ends a producer's transaction and returns what it stores, by group and partition.
    ///
    /// Looks at every waiting position: there are as many as open transactions have inputs, which is
    /// few beside the positions stored.
    pub(super) fn decide(&mut self, producer_id: i64, end: TransactionEnd) -> Vec<Decided> {
        let mut decided = Vec::new();
        self.groups.retain(|group, partitions| {
            partitions.retain(|at, waiting| {
                let Some(mine) = waiting.iter().position(|(id, _)| *id == producer_id) else {
                    return true;
                };
                let (_, stored) = waiting.remove(mine);
                if end == TransactionEnd::Commit {
                    waiting.drain(..mine);
                    decided.push(Decided { group: Arc::clone(group), at: at.clone(), stored });
                }
                !waiting.is_empty()
            });
            !partitions.is_empty()
        });
        decided
    }

    pub(super) fn contains(&self, group: &str, at: &TopicPartition) -> bool {
        self.groups.get(group).is_some_and(|partitions| partitions.contains_key(at))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&Arc<str>, &TopicPartition)> {
        self.groups
            .iter()
            .flat_map(|(group, partitions)| partitions.keys().map(move |at| (group, at)))
    }
}

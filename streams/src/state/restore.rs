//! Brings the rows of a task up to date from its changelogs, and proves that they are.
//!
//! ```text
//!   Plan::Replay --------------------> +-----------+  apply(batch) ...  +--------+
//!                                      | Replayer  | -----------------> | finish |--> Restored
//!   Plan::Rebuild -- forget the tree ->+-----------+                    +--------+
//!                                            ^                              | rows are not those that
//!                                            |    once, loudly              | were committed
//!                                            +--- forget the tree ----------+
//!                                                                           | again, or read from the
//!                                                                           v start: StateError::Corrupt
//! ```
//!
//! No log is touched here: the caller fetches the changelogs `read_committed` and feeds the batches,
//! on a thread where blocking is allowed.
//!
//! Always true here:
//! - A stored offset never precedes its rows: in the middle of a long replay too, progress is marked
//!   by rows, barrier, meta, barrier. A crash at any point leaves a state that the next start can plan
//!   from.
//! - A tree is forgotten in this order: meta row, barrier, all rows, barrier. So no crash leaves a meta
//!   row that speaks of rows which are gone, and the log never grows while an old tree could come back.
//!
//! # What it costs
//! Replay writes every changelog record since the checkpoint once, in sorted batches. Then `finish`
//! reads *every* row of the task once to compare the digest: about 3 million small rows a second from
//! sled, so a gigabyte of 100-byte rows adds seconds to a start. It is the only check that finds a row
//! which vanished without a trace, and the only one that works at all after a half-written checkpoint,
//! where rows are newer than the meta row says.

use std::collections::BTreeMap;

use bytes::Bytes;
use thalweg_core::ids::{LeaderEpoch, Offset, TopicPartition};

use crate::state::backend::{Persist, Result, StateBackend, StateError, StoreId, store_of};
use crate::state::checkpoint::{Changelog, Plan, Rebuild, Truth, write_meta};
use crate::state::digest::Digest;
use crate::state::meta::{ChangelogPosition, CheckpointMeta, META_KEY, Meta, MetaError};

/// How much a replay holds in memory, and how much of it may have to be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayLimits {
    /// Bytes of keys and values gathered, sorted and written at once. Larger writes are better
    /// sorted; the memory is held once per restore thread. Default 4 MiB.
    pub batch_bytes: usize,
    /// Bytes after which progress is made durable (two barriers), so that a crash repeats no more.
    /// Default 64 MiB.
    pub mark_bytes: usize,
}

impl Default for ReplayLimits {
    fn default() -> Self {
        Self { batch_bytes: 4 << 20, mark_bytes: 64 << 20 }
    }
}

/// A record of a changelog: offset, key, and the new value or `None` to delete.
pub type ChangelogRecord = (Offset, Bytes, Option<Bytes>);

/// Replays changelogs into a backend.
pub struct Replayer {
    backend: Box<dyn StateBackend>,
    truth: Truth,
    limits: ReplayLimits,
    /// Why the tree was emptied, if it was.
    rebuilt: Option<Rebuild>,
    progress: Vec<Progress>,
    /// The meta record of the latest transaction seen; before the first one, the stored one.
    last: Meta,
    pending: BTreeMap<Bytes, Option<Bytes>>,
    pending_bytes: usize,
    unmarked_bytes: usize,
    records: u64,
    /// The first thing that cannot be. Judged at the end, like every other mismatch.
    wrong: Option<String>,
}

/// How far the changelog of one store was replayed.
struct Progress {
    log: Changelog,
    next: Offset,
    leader_epoch: LeaderEpoch,
    /// The transaction of the last meta record replayed from it.
    txn_seq: Option<u64>,
}

/// The rows of a task, up to date and proven to be.
pub struct Restored {
    /// The tree.
    pub backend: Box<dyn StateBackend>,
    /// What the task knew when its last transaction committed; `None` when it never committed.
    pub meta: Option<Meta>,
    /// How far the rows are complete: what the next checkpoint goes on from.
    pub changelogs: Vec<ChangelogPosition>,
    /// How many changelog records were replayed.
    pub records: u64,
    /// Why the tree was emptied and rebuilt, if it was.
    pub rebuilt: Option<Rebuild>,
}

/// How a replay ended.
pub enum Finish {
    /// The rows are those that were committed.
    Restored(Restored),
    /// They are not. The tree was emptied, and the replayer reads the changelogs from their start:
    /// feed it and finish it again. An error for people to look at: some part of the machine lost
    /// rows that it had called durable.
    Again {
        /// What differs.
        why: String,
        /// The replay to go on with.
        replayer: Replayer,
    },
}

impl Replayer {
    /// Begins what a plan says. A rebuild empties the tree first, durably.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn start(
        backend: Box<dyn StateBackend>,
        plan: Plan,
        truth: Truth,
        limits: ReplayLimits,
    ) -> Result<Self> {
        let last = Meta::fresh(truth.log_id, truth.topology_hash, truth.task);
        let mut replayer = Self {
            backend,
            progress: Vec::new(),
            truth,
            limits,
            rebuilt: None,
            last,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            unmarked_bytes: 0,
            records: 0,
            wrong: None,
        };
        match plan {
            Plan::Replay { from, checkpoint } => {
                let stored = |store| checkpoint.changelogs.iter().find(|c| c.store == store);
                for log in &replayer.truth.changelogs {
                    let next = from.iter().find(|(store, _)| *store == log.store);
                    replayer.progress.push(Progress {
                        log: log.clone(),
                        next: next.map_or(log.start, |(_, offset)| *offset),
                        leader_epoch: stored(log.store).map_or(-1, |c| c.leader_epoch),
                        txn_seq: None,
                    });
                }
                replayer.last = checkpoint.meta;
            }
            Plan::Rebuild { why } => replayer.begin_again(why)?,
        }
        Ok(replayer)
    }

    /// Which changelogs are to be read on, and from where. Records before that offset, or at or past
    /// the changelog's end, are ignored.
    pub fn remaining(&self) -> impl Iterator<Item = (&Changelog, Offset)> {
        self.progress.iter().filter(|p| p.next < p.log.end).map(|p| (&p.log, p.next))
    }

    /// Takes the committed records of one batch of a store's changelog, in order. Batches come in
    /// order too. Batches without anything to see (aborted, control) are told as well, with no
    /// records, so that `next_offset` gets past them.
    ///
    /// # Errors
    /// Those of the backend; [`StateError::Unsupported`] for a meta record of a newer program;
    /// [`StateError::Invalid`] for a store that the task does not have.
    pub fn apply(
        &mut self,
        store: StoreId,
        leader_epoch: LeaderEpoch,
        next_offset: Offset,
        records: &mut dyn Iterator<Item = ChangelogRecord>,
    ) -> Result<()> {
        let Some(index) = self.progress.iter().position(|p| p.log.store == store) else {
            let task = self.truth.task;
            return Err(StateError::invalid(format!("task {task} has no store {store}")));
        };
        let (from, end) = (self.progress[index].next, self.progress[index].log.end);
        for (offset, key, value) in records {
            if offset < from || offset >= end {
                continue;
            }
            self.records += 1;
            if key == META_KEY {
                self.take_meta(index, offset, value.as_deref())?;
            } else if store_of(&key) == Some(store) {
                let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
                self.pending_bytes += bytes;
                self.unmarked_bytes += bytes;
                self.pending.insert(key, value);
            } else {
                let at = &self.progress[index].log.at;
                let what = format!("the record at offset {offset} of {at} is of another store");
                self.wrong.get_or_insert(what);
            }
        }
        let progress = &mut self.progress[index];
        progress.next = progress.next.max(next_offset.min(end));
        progress.leader_epoch = leader_epoch;
        if self.pending_bytes >= self.limits.batch_bytes {
            self.write_pending()?;
        }
        if self.unmarked_bytes >= self.limits.mark_bytes {
            self.mark()?;
        }
        Ok(())
    }

    /// Compares the rows with what was committed: the last transaction and the positions in its meta
    /// record, and the digest of every row.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] when they differ although the changelogs were read from their start;
    /// [`StateError::OtherTopology`]; [`StateError::Invalid`] when a changelog was not read to its
    /// end; those of the backend.
    pub fn finish(mut self) -> Result<Finish> {
        let unread = self.remaining().next().map(|(log, next)| (log.at.clone(), next, log.end));
        if let Some((at, next, end)) = unread {
            let what = format!("{at} was replayed up to offset {next} only, not to {end}");
            return Err(StateError::invalid(what));
        }
        self.write_pending()?;
        // Before anything else: under another topology the rest may well look wrong.
        if self.last.topology_hash != self.truth.topology_hash {
            return Err(StateError::OtherTopology {
                task: self.truth.task.to_string(),
                found: self.last.topology_hash,
                expected: self.truth.topology_hash,
            });
        }
        match self.verify()? {
            Ok(()) => self.restored().map(Finish::Restored),
            // The log alone gave these rows: reading it again would give them again.
            Err(why) if self.rebuilt.is_some() => {
                Err(StateError::Corrupt { task: self.truth.task.to_string(), why })
            }
            Err(why) => {
                self.begin_again(Rebuild::Mismatch(why.clone()))?;
                Ok(Finish::Again { why, replayer: self })
            }
        }
    }

    fn restored(mut self) -> Result<Restored> {
        if self.records > 0 {
            self.mark()?;
        }
        Ok(Restored {
            changelogs: self.positions(),
            meta: Some(self.last).filter(|meta| meta.txn_seq > 0),
            backend: self.backend,
            records: self.records,
            rebuilt: self.rebuilt,
        })
    }

    /// Forgets the tree and everything replayed into it.
    fn begin_again(&mut self, why: Rebuild) -> Result<()> {
        forget(self.backend.as_mut())?;
        let fresh = |log: &Changelog| Progress {
            next: log.start,
            leader_epoch: -1,
            txn_seq: None,
            log: log.clone(),
        };
        self.progress = self.truth.changelogs.iter().map(fresh).collect();
        self.last = Meta::fresh(self.truth.log_id, self.truth.topology_hash, self.truth.task);
        self.rebuilt = Some(why);
        (self.unmarked_bytes, self.records) = (0, 0);
        self.wrong = None;
        Ok(())
    }

    fn take_meta(&mut self, index: usize, offset: Offset, value: Option<&[u8]>) -> Result<()> {
        let progress = &mut self.progress[index];
        let at = &progress.log.at;
        let task = self.truth.task;
        let wrong = match value.map(Meta::decode) {
            Some(Ok(meta)) if meta.task != task => Some(format!("is of task {}", meta.task)),
            Some(Ok(meta)) if meta.log_id != self.truth.log_id => {
                Some(format!("is of log {}", meta.log_id))
            }
            Some(Ok(meta)) if progress.txn_seq.is_some_and(|before| before >= meta.txn_seq) => {
                Some(format!("is of transaction {}, which is not the next one", meta.txn_seq))
            }
            Some(Ok(meta)) if meta.txn_seq == self.last.txn_seq && meta != self.last => {
                Some(format!("is not the one known for transaction {}", meta.txn_seq))
            }
            Some(Ok(meta)) => {
                progress.txn_seq = Some(meta.txn_seq);
                if meta.txn_seq > self.last.txn_seq {
                    self.last = meta;
                }
                None
            }
            Some(Err(newer @ MetaError::Newer { .. })) => {
                let what = format!("{newer} (offset {offset} of {at}): use the newer program");
                return Err(StateError::Unsupported { task: task.to_string(), what });
            }
            Some(Err(why)) => Some(why.to_string()),
            None => Some("was deleted".to_owned()),
        };
        if let Some(wrong) = wrong {
            self.wrong.get_or_insert(format!("the meta record at offset {offset} of {at} {wrong}"));
        }
        Ok(())
    }

    fn write_pending(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() { Ok(()) } else { self.backend.write(&mut pending.into_iter()) }
    }

    /// Makes the progress durable: rows, barrier, meta, barrier.
    fn mark(&mut self) -> Result<()> {
        self.write_pending()?;
        self.unmarked_bytes = 0;
        self.backend.persist(Persist::Power)?;
        let checkpoint = CheckpointMeta { meta: self.last.clone(), changelogs: self.positions() };
        let encoded = checkpoint.encode().map_err(|e| StateError::invalid(e.to_string()))?;
        write_meta(self.backend.as_mut(), encoded)
    }

    fn positions(&self) -> Vec<ChangelogPosition> {
        let position = |p: &Progress| ChangelogPosition {
            store: p.log.store,
            at: p.log.at.clone(),
            topic_id: p.log.topic_id,
            leader_epoch: p.leader_epoch,
            offset: p.next,
        };
        self.progress.iter().map(position).collect()
    }

    /// The inner result says what differs from what was committed.
    fn verify(&self) -> Result<Result<(), String>> {
        if let Err(why) = self.verify_meta() {
            return Ok(Err(why));
        }
        self.verify_rows()
    }

    fn verify_meta(&self) -> Result<(), String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let committed = self.truth.txn_seq;
        let found = self.last.txn_seq;
        if found != committed {
            return Err(format!("the last transaction is {found}, {committed} was committed"));
        }
        // A changelog that gave nothing new is covered by the stored meta record.
        for p in &self.progress {
            if let Some(found) = p.txn_seq.filter(|&found| found != committed) {
                let at = &p.log.at;
                return Err(format!(
                    "{at} ends with transaction {found}, {committed} was committed"
                ));
            }
        }
        let mut found: Vec<(&TopicPartition, Offset)> =
            self.last.inputs.iter().map(|input| (&input.at, input.next_offset)).collect();
        let mut committed: Vec<(&TopicPartition, Offset)> =
            self.truth.positions.iter().map(|(at, offset)| (at, *offset)).collect();
        found.sort_unstable();
        committed.sort_unstable();
        if found != committed {
            return Err(format!("the positions are {found:?}, {committed:?} were committed"));
        }
        Ok(())
    }

    fn verify_rows(&self) -> Result<Result<(), String>> {
        let mut digests: BTreeMap<StoreId, (Digest, Digest)> = BTreeMap::new();
        for &(store, committed) in &self.last.digests {
            digests.entry(store).or_default().1 = committed;
        }
        for row in self.backend.range(&[], &[], false)? {
            let (key, value) = row?;
            match store_of(&key) {
                Some(store) if store > 0 => digests.entry(store).or_default().0.add(&key, &value),
                _ if key == META_KEY => {}
                _ => return Ok(Err(format!("there is a row with the key {key:?} of no store"))),
            }
        }
        for (store, (found, committed)) in digests {
            if found != committed {
                let (there, then) = (found.rows(), committed.rows());
                return Ok(Err(format!(
                    "the rows of store {store} are not those committed ({there} now, {then} then)"
                )));
            }
        }
        Ok(Ok(()))
    }
}

/// Empties a tree durably, the meta row first.
fn forget(backend: &mut dyn StateBackend) -> Result<()> {
    if backend.get(META_KEY)?.is_some() {
        backend.write(&mut std::iter::once((Bytes::from_static(META_KEY), None)))?;
        backend.persist(Persist::Power)?;
    }
    backend.clear()?;
    backend.persist(Persist::Power)
}

//! A checkpoint of a task: how it is written, and what a stored one is worth at the next start.
//!
//! ```text
//!   write_checkpoint:   rows  ->  barrier  ->  meta { c, k }  ->  barrier
//!
//!   plan (at start):    stored meta (c, k)           truth: what the log says
//!                            \                          /
//!                 same log, same task, c still means the same records,
//!                 c not before what was removed, k not after what was committed?
//!                            |                            |
//!                      yes: replay from c          no: rebuild, from the log's start
//! ```
//!
//! Always true here (the invariants' names are those of docs/ARCHITECTURE.md):
//! - I2: a changelog offset `c` in a backend is durable only after every row with a changelog offset
//!   below `c` is. Two barriers give that without trusting the backend's order of writes.
//! - Nobody decides anything by a stored checkpoint except from where to replay. Every doubt ends in
//!   a rebuild; only another topology or a newer format is never wiped silently.
//!
//! Why any crash between the steps is harmless, given that only committed rows are frozen (I1): take a
//! key whose last committed change has changelog offset `u`. If `u >= c`, replay writes it last. If
//! `u < c`, it is durable already, and no newer row can be there, because it is the last. Whether the
//! write was atomic does not matter.

use bytes::Bytes;
use thalweg_core::ids::{Offset, TopicPartition, Uuid};

use crate::state::backend::{Change, Persist, Result, StateBackend, StateError, StoreId, store_of};
use crate::state::meta::{ChangelogPosition, CheckpointMeta, META_KEY, MetaError, TaskId};

/// What a checkpoint wrote.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Written {
    /// Rows, deletions included.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Writes a checkpoint: the frozen rows, a barrier, the meta record, a barrier. Blocks for two
/// barriers (milliseconds each): never called on the path of a commit.
///
/// `rows` holds the last committed change per key since the checkpoint before, in the order of the
/// keys, of transactions whose commit is durable by the log's own level, up to the transaction that
/// `meta` is of. May be repeated from the start after any crash.
///
/// # Errors
/// Those of the backend; [`StateError::Invalid`] for a row under the reserved store id or a meta
/// record that is too long. After an error the old checkpoint or the new one is there, and the rows
/// must be kept until a later checkpoint holds them.
pub fn write_checkpoint(
    backend: &mut dyn StateBackend,
    rows: &mut dyn Iterator<Item = Change>,
    meta: &CheckpointMeta,
) -> Result<Written> {
    // Encoded first: nothing is written for a meta record that cannot be.
    let encoded = meta.encode().map_err(|e| StateError::invalid(e.to_string()))?;
    let mut written = Written::default();
    let mut reserved = false;
    let mut counted = rows.take_while(|(key, value)| {
        reserved = store_of(key).unwrap_or(0) == 0;
        written.rows += 1;
        written.bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
        !reserved
    });
    backend.write(&mut counted)?;
    if reserved {
        return Err(StateError::invalid("a row of a store has the reserved store id 0"));
    }
    backend.persist(Persist::Power)?;
    write_meta(backend, encoded)?;
    Ok(written)
}

/// Meta, barrier. The rows that it speaks of are behind a barrier already.
pub(super) fn write_meta(backend: &mut dyn StateBackend, encoded: Bytes) -> Result<()> {
    let row = (Bytes::from_static(META_KEY), Some(encoded));
    backend.write(&mut std::iter::once(row))?;
    backend.persist(Persist::Power)
}

/// What a backend holds under the reserved key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stored {
    /// Nothing: a new tree, or one whose first checkpoint was never finished.
    Nothing,
    /// Bytes that are no checkpoint of this version.
    Unreadable(MetaError),
    /// A checkpoint.
    Checkpoint(Box<CheckpointMeta>),
}

impl Stored {
    /// Reads what a backend holds.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn load(backend: &dyn StateBackend) -> Result<Self> {
        Ok(match backend.get(META_KEY)?.as_deref().map(CheckpointMeta::decode) {
            None => Self::Nothing,
            Some(Err(why)) => Self::Unreadable(why),
            Some(Ok(checkpoint)) => Self::Checkpoint(Box::new(checkpoint)),
        })
    }
}

/// One changelog partition, as the log knows it when the task starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changelog {
    /// The store whose rows it holds.
    pub store: StoreId,
    /// The partition.
    pub at: TopicPartition,
    /// The topic's id.
    pub topic_id: Uuid,
    /// The first offset there is.
    pub start: Offset,
    /// The log end offset, captured *after* the committed positions were fetched; every transaction
    /// below is decided by the time its records are replayed.
    pub end: Offset,
    /// Below this offset compaction may have removed deletions: state older than it may hold rows
    /// that nobody will delete any more.
    pub tombstone_floor: Offset,
}

/// What the log says about a task when it starts: the only source of truth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truth {
    /// The log's id.
    pub log_id: Uuid,
    /// The task.
    pub task: TaskId,
    /// The hash of the topology that is about to run.
    pub topology_hash: u64,
    /// The number of the task's last committed transaction, from its committed positions; 0 when it
    /// never committed.
    pub txn_seq: u64,
    /// The committed position in every input partition that has one.
    pub positions: Vec<(TopicPartition, Offset)>,
    /// One changelog partition per store.
    pub changelogs: Vec<Changelog>,
}

/// How to bring a task's rows up to date.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The stored rows are good: replay each changelog from its offset.
    Replay {
        /// Where to begin, by store.
        from: Vec<(StoreId, Offset)>,
        /// What the rows stand for.
        checkpoint: Box<CheckpointMeta>,
    },
    /// The tree is emptied and every changelog read from its start.
    Rebuild {
        /// Why.
        why: Rebuild,
    },
}

/// Why a tree is emptied and rebuilt from the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rebuild {
    /// There is no checkpoint. Normal on the first start; a loss otherwise.
    #[error("there is no checkpoint")]
    NoCheckpoint,
    /// The meta row is not readable.
    #[error("{0}")]
    Unreadable(MetaError),
    /// The state folder belongs to another log.
    #[error("the state belongs to log {found}, this is log {expected}")]
    OtherLog {
        /// The id in the checkpoint.
        found: Uuid,
        /// The log's id.
        expected: Uuid,
    },
    /// The tree is that of another task.
    #[error("the tree holds the state of task {found}, not of {expected}")]
    OtherTask {
        /// The task in the checkpoint.
        found: TaskId,
        /// The task that opened it.
        expected: TaskId,
    },
    /// A changelog is missing in the checkpoint, is one too many, or was deleted and created again.
    #[error("the checkpoint does not speak of the changelogs there are: {what}")]
    OtherChangelogs {
        /// Which one differs, and how.
        what: String,
    },
    /// The log does not have, or not any more, what the checkpoint's offset means.
    #[error("{at}: the checkpoint's offset {offset}: {why}")]
    OffsetLost {
        /// The changelog partition.
        at: TopicPartition,
        /// The offset in the checkpoint.
        offset: Offset,
        /// What happened to it.
        why: String,
    },
    /// The checkpoint holds transactions that the log does not know.
    #[error("the checkpoint is of transaction {found}, the last committed one is {committed}")]
    AheadOfTheLog {
        /// The transaction in the checkpoint.
        found: u64,
        /// The last committed transaction.
        committed: u64,
    },
    /// The rows after the replay were not those that were committed.
    #[error("after the replay {0}")]
    Mismatch(String),
}

/// Decides what a stored checkpoint is worth.
///
/// `still_means` says whether an offset still stands for the same records: the topic's id and leader
/// epoch stored with it against the log's epoch history (`Log::check_position`). It is asked only for
/// offsets that are within the log, of topics with the right id.
///
/// # Errors
/// [`StateError::OtherTopology`]: state is never wiped because the program changed.
pub fn plan(
    stored: Stored,
    truth: &Truth,
    mut still_means: impl FnMut(&ChangelogPosition) -> Result<(), String>,
) -> Result<Plan> {
    let checkpoint = match stored {
        Stored::Nothing => return Ok(Plan::Rebuild { why: Rebuild::NoCheckpoint }),
        Stored::Unreadable(why) => return Ok(Plan::Rebuild { why: Rebuild::Unreadable(why) }),
        Stored::Checkpoint(checkpoint) => checkpoint,
    };
    // What the rows belong to comes before what they look like: a folder moved here from elsewhere
    // says nothing about this application's topology.
    if let Err(why) = belongs(&checkpoint, truth) {
        return Ok(Plan::Rebuild { why });
    }
    if checkpoint.meta.topology_hash != truth.topology_hash {
        return Err(StateError::OtherTopology {
            task: truth.task.to_string(),
            found: checkpoint.meta.topology_hash,
            expected: truth.topology_hash,
        });
    }
    Ok(match usable(&checkpoint, truth, &mut still_means) {
        Ok(from) => Plan::Replay { from, checkpoint },
        Err(why) => Plan::Rebuild { why },
    })
}

fn belongs(checkpoint: &CheckpointMeta, truth: &Truth) -> Result<(), Rebuild> {
    let meta = &checkpoint.meta;
    if meta.log_id != truth.log_id {
        return Err(Rebuild::OtherLog { found: meta.log_id, expected: truth.log_id });
    }
    if meta.task != truth.task {
        return Err(Rebuild::OtherTask { found: meta.task, expected: truth.task });
    }
    Ok(())
}

fn usable(
    checkpoint: &CheckpointMeta,
    truth: &Truth,
    still_means: &mut dyn FnMut(&ChangelogPosition) -> Result<(), String>,
) -> Result<Vec<(StoreId, Offset)>, Rebuild> {
    if checkpoint.meta.txn_seq > truth.txn_seq {
        let (found, committed) = (checkpoint.meta.txn_seq, truth.txn_seq);
        return Err(Rebuild::AheadOfTheLog { found, committed });
    }
    let other = |what| Err(Rebuild::OtherChangelogs { what });
    if checkpoint.changelogs.len() != truth.changelogs.len() {
        let (found, there) = (checkpoint.changelogs.len(), truth.changelogs.len());
        return other(format!("it has {found}, there are {there}"));
    }
    let mut from = Vec::with_capacity(truth.changelogs.len());
    for log in &truth.changelogs {
        let Some(position) =
            checkpoint.changelogs.iter().find(|c| c.store == log.store && c.at == log.at)
        else {
            return other(format!("{} of store {} is not in it", log.at, log.store));
        };
        if position.topic_id != log.topic_id {
            let (found, now) = (position.topic_id, log.topic_id);
            return other(format!("{} had the id {found}, now it has {now}", log.at));
        }
        let offset = position.offset;
        let why = if offset < log.start {
            Some(format!("the log begins at {}", log.start))
        } else if offset < log.tombstone_floor {
            Some(format!("deletions below {} may have been removed", log.tombstone_floor))
        } else if offset > log.end {
            Some(format!("the log ends at {}", log.end))
        } else if offset == 0 {
            // Nothing is before it that could have been lost.
            None
        } else {
            still_means(position).err()
        };
        if let Some(why) = why {
            return Err(Rebuild::OffsetLost { at: log.at.clone(), offset, why });
        }
        from.push((log.store, offset));
    }
    Ok(from)
}

//! The seam below the state of a task: ordered rows of bytes in a tree that may be lost at any time.
//!
//! ```text
//!   typed overlays of a task            (uncommitted, then committed rows; in memory)
//!            |                 \
//!     changelog in the log      \  checkpoint, every few seconds, off the commit path
//!       = the truth              v
//!                        StateBackend: one tree per task = a cache of the truth
//!                                |
//!               sled | memory | forgetful (loses what was not persisted, for tests)
//! ```
//!
//! Always true here: nothing in a backend is the only copy of anything. A backend is asked for five
//! things and relied on for no more: `write` need not be atomic, iterators need not be isolated from
//! writes, and only [`StateBackend::persist`] promises that something survives.
//!
//! Keys of a task's tree are `store id (u16 big endian) ++ key bytes`; store id 0 is reserved for the
//! task's [meta record](crate::state::meta).

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// The number of a store within its task: the first two bytes (big endian) of every key. 0 is
/// reserved for the meta record.
pub type StoreId = u16;

/// A row: key and value.
pub type Row = (Bytes, Bytes);

/// A change: a key and its new value, or `None` to delete it.
pub type Change = (Bytes, Option<Bytes>);

/// Rows in order.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row>> + 'a>;

/// The result of an operation on state.
pub type Result<T, E = StateError> = std::result::Result<T, E>;

/// What a [`StateBackend::persist`] call promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Persist {
    /// Nothing.
    None,
    /// What was written before survives the death of the process.
    Process,
    /// What was written before survives the loss of power. May take milliseconds: never called on
    /// the path of a commit.
    Power,
}

/// The tree of one task.
///
/// Handles of one tree are doors to the same rows: a task keeps one to read, the checkpointer and
/// the restore thread keep theirs to write.
pub trait StateBackend: Send {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StateError::Io`], [`StateError::Damaged`] or [`StateError::Stopped`], as every method here.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// The rows with `from <= key < to`, in the order of their bytes, or backwards when `rev`. An
    /// empty `to` means no upper bound; `from >= to` otherwise means no rows. A row that is written
    /// while the iterator lives may or may not be seen.
    fn range(&self, from: &[u8], to: &[u8], rev: bool) -> Result<Rows<'_>>;

    /// Applies changes, which come in the order of their keys (a backend may be slower when they do
    /// not). Not atomic: after a crash any subset may be there.
    fn write(&mut self, sorted: &mut dyn Iterator<Item = Change>) -> Result<()>;

    /// A barrier: what was written or cleared through any handle of this tree before the call
    /// survives, as `level` says, when it returned `Ok`. After an error nothing is known, and it
    /// must not be tried again: the store is reopened instead.
    fn persist(&mut self, level: Persist) -> Result<()>;

    /// Removes every row. Like a write, it may be forgotten until it was persisted.
    fn clear(&mut self) -> Result<()>;
}

/// The database: one tree per task, named by the task.
pub trait StateStore: Send + Sync {
    /// Opens a tree, created empty when it is missing. Several handles of one tree may be open.
    ///
    /// # Errors
    /// As the methods of [`StateBackend`].
    fn open(&self, tree: &str) -> Result<Box<dyn StateBackend>>;

    /// Removes a tree with its rows; it may come back after a crash until something was persisted.
    ///
    /// # Errors
    /// [`StateError::Invalid`] while a handle of it is open; else as the methods of [`StateBackend`].
    fn drop_tree(&self, tree: &str) -> Result<()>;

    /// The names of all trees, sorted.
    ///
    /// # Errors
    /// As the methods of [`StateBackend`].
    fn trees(&self) -> Result<Vec<String>>;
}

/// The exclusive upper bound of all keys that begin with `prefix`; empty (no bound) when there is
/// none, which is when `prefix` is empty or all bytes are 0xff.
///
/// ```
/// use thalweg_streams::state::backend::prefix_end;
/// assert_eq!(prefix_end(&[0, 7]), [0, 8]);
/// assert_eq!(prefix_end(&[1, 0xff]), [2]);
/// assert!(prefix_end(&[0xff, 0xff]).is_empty());
/// ```
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    end
}

/// The store a key belongs to; `None` for a key too short to have one.
pub fn store_of(key: &[u8]) -> Option<StoreId> {
    key.first_chunk().map(|&head| StoreId::from_be_bytes(head))
}

/// What went wrong with state, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// *Fix the call.*
    #[error("{what}")]
    Invalid {
        /// What is wrong and what is accepted.
        what: String,
    },

    /// *Close the other one.* The folder is used by another process or another store in this one.
    #[error("state folder {path} is in use: close it there, or open another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },

    /// *Look at the system's error, then reopen.* No room, no permission, no more descriptors.
    #[error("state in {path}: cannot {what}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The verb.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },

    /// *Close and reopen the store, once: it is then moved aside and every task rebuilt from the log.*
    /// The database is not what was written, or failed in a way that it should not. It may open and
    /// still say so later, when a damaged page is first read: typically during a restore, which scans
    /// everything.
    #[error(
        "state in {path} is damaged: {what}; nothing is lost: on the next start the folder is moved \
         aside and the state is rebuilt from the log"
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What was found.
        what: String,
    },

    /// *Reopen.* An earlier operation failed, and nothing is taken for granted since.
    #[error("state is stopped until it is reopened: {why}")]
    Stopped {
        /// The failure that stopped it.
        why: String,
    },

    /// *Use the newer program, or another application id.*
    #[error("state of task {task}: {what}")]
    Unsupported {
        /// The task.
        task: String,
        /// What was found, and what this program can read.
        what: String,
    },

    /// *Migrate the state, or give the application another id.* The stored state was made by a
    /// pipeline of another shape.
    #[error(
        "task {task}: its state was made by another topology (hash {found:016x}, now {expected:016x}): \
         bring the old topology back, migrate the stores, or run under another application id"
    )]
    OtherTopology {
        /// The task.
        task: String,
        /// The hash stored with the state.
        found: u64,
        /// The hash of the topology that runs.
        expected: u64,
    },

    /// *Stop and look.* The changelog, read from its beginning, does not give the state that the
    /// committed positions speak of.
    #[error(
        "task {task}: rebuilt from the beginning of its changelogs, the state still is not the one \
         that was committed: {why}; check the log for damage or restore it from a copy"
    )]
    Corrupt {
        /// The task.
        task: String,
        /// What differs.
        why: String,
    },
}

impl StateError {
    /// A call that can never succeed as it is.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// Wraps a system error with the verb and the path.
    pub fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), what, source }
    }
}

//! F0 · One error type for the package, sorted by what the caller can do about it.
//!
//! Always true here: an error names what, where and what to do. Expected outcomes (at the end of the
//! log, a batch already stored, nothing committed yet) are not errors.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{Offset, TopicPartition};

/// The result of an operation on the log.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// *Fix the call.* The request can never succeed as it is.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what is accepted.
        what: String,
    },

    /// *Create it, or fix the name.*
    #[error("{what} does not exist")]
    Unknown {
        /// The topic, partition or group that is missing.
        what: String,
    },

    /// *Use the one that is there, or another name.*
    #[error("topic {topic:?} exists already, with {partitions} partitions")]
    TopicExists {
        /// The topic.
        topic: String,
        /// How many partitions it has.
        partitions: u32,
    },

    /// *Seek into the range.*
    #[error("offset {offset} of {at} is outside of {start}..{end}")]
    OffsetOutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// The first offset there is.
        start: Offset,
        /// One past the last offset there is.
        end: Offset,
    },

    /// *Decide how to go on: stored records that a position rests on are gone.*
    #[error(
        "{at}: the records before offset {offset} (leader epoch {epoch}) are not there any more: {why}"
    )]
    PositionLost {
        /// The partition.
        at: TopicPartition,
        /// The position.
        offset: Offset,
        /// The leader epoch stored with it.
        epoch: i32,
        /// What was lost, how that may have come, and the ways to go on.
        why: String,
    },

    /// *Stop: another instance took over.* Nothing this client sends is accepted any more.
    #[error("{who} was fenced: {why}")]
    Fenced {
        /// The transactional id, producer or group member.
        who: String,
        /// Which newer epoch or generation holds its place.
        why: String,
    },

    /// *Try again shortly.* An earlier step of the same client is still being finished, or a limit
    /// was reached that others will free.
    #[error("try again: {what}")]
    Retry {
        /// What is still under way.
        what: String,
    },

    /// *Abort the transaction and go on.* A batch of it was refused; nothing of it will be seen.
    #[error("the transaction can only be aborted: {what}")]
    Abortable {
        /// What was refused.
        what: String,
    },

    /// *Stop and look: stored bytes are not what was written.* The rest of the log goes on.
    #[error("{path}: damaged at byte {position}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The byte position in the file.
        position: u64,
        /// What was found, what was expected and what to do.
        what: String,
    },

    /// *Free space or handles; writes are accepted again when there is room.*
    #[error("{path}: no room: {source}")]
    Full {
        /// The file or folder that could not grow.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// *Close the other one.* The folder is used by another process or by another opener in this one.
    #[error("{path} is in use{by}: close it there, or open another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who holds it, as ` by process 123`, or empty when unknown.
        by: String,
    },

    /// *Open it for writing.* The folder was opened to be looked at
    /// ([`Engine::look`](crate::engine::Engine::look)): nothing in it is changed.
    #[error("{path} was opened read-only: open it for writing to change anything")]
    ReadOnly {
        /// The folder.
        path: PathBuf,
    },

    /// *Look again.* Whoever writes in the folder removed, replaced or cut a file that a reader beside
    /// it was looking at: its records were deleted or written anew.
    #[error(
        "{path} is not there any more as it was: whoever writes here deleted or rewrote its records while they were looked at; open the folder again"
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },

    /// *Use the version of the program that wrote it.*
    #[error("{path}: {what}")]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What it is, and what this program can read.
        what: String,
    },

    /// *Reopen.* A write or sync failed; nothing is acknowledged until recovery has looked at what
    /// reached the disk. Also returned after close.
    #[error("the log is stopped until it is reopened: {why}")]
    Stopped {
        /// The failure that stopped it.
        why: String,
    },

    /// *Look at the system's error.* Reading failed, or a file could not be opened.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The verb: `read`, `write`, `sync`, ...
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// A request that can never succeed as it is.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// Wraps a system error with the verb and the path. A full disk becomes [`Error::Full`], a file that
    /// is not there any more [`Error::Gone`].
    pub fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        // ENOSPC 28, EDQUOT 122, EMFILE 24, ENFILE 23: room that can come back.
        match source.raw_os_error() {
            Some(23 | 24 | 28 | 122) => Self::Full { path: path.to_owned(), source },
            _ if source.kind() == io::ErrorKind::StorageFull => {
                Self::Full { path: path.to_owned(), source }
            }
            _ if source.kind() == io::ErrorKind::StaleNetworkFileHandle => {
                Self::Gone { path: path.to_owned() }
            }
            _ => Self::Io { what, path: path.to_owned(), source },
        }
    }

    /// Stored bytes that are not what was written.
    pub fn damaged(path: &Path, position: u64, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), position, what: what.into() }
    }

    /// The same error again, for everybody who waited for the one thing that failed.
    pub(crate) fn repeat(&self) -> Self {
        match self {
            Self::Invalid { what } => Self::Invalid { what: what.clone() },
            Self::Unknown { what } => Self::Unknown { what: what.clone() },
            Self::Fenced { who, why } => Self::Fenced { who: who.clone(), why: why.clone() },
            Self::ReadOnly { path } => Self::ReadOnly { path: path.clone() },
            Self::Gone { path } => Self::Gone { path: path.clone() },
            Self::Full { path, source } => Self::Full {
                path: path.clone(),
                source: io::Error::new(source.kind(), source.to_string()),
            },
            Self::Damaged { path, position, what } => {
                Self::Damaged { path: path.clone(), position: *position, what: what.clone() }
            }
            other => Self::Stopped { why: other.to_string() },
        }
    }

    /// Whether the same call may succeed later without anything being fixed.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::Full { .. })
    }

    /// Whether this client was replaced by a newer one and must stop.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }
}

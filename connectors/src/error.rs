//! The four things a runner can do about a failure.
//!
//! Always true here: an error names the file or split, the offset, and what to do.

/// The result of a connector's step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the runner does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// *Try the same call again, later.* A full disk, a busy file.
    #[error("{what}; trying again")]
    Retry {
        /// What failed.
        what: String,
    },
    /// *Start over from the last commit.* The task's own state can no longer be trusted.
    #[error("{what}; starting again from the last commit")]
    Restart {
        /// What failed.
        what: String,
    },
    /// *Stop and tell the user.*
    #[error("{what}")]
    Fatal {
        /// What failed and what to do.
        what: String,
    },
    /// The log refused; its own error says what to do.
    #[error(transparent)]
    Log(#[from] thalweg_core::Error),
}

//! What went wrong, and the exit status it has.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed |
//! | 2 | usage |
//! | 3 | unknown topic or offset |
//! | 4 | records damaged |
//! | 5 | in use |
//! | 6 | no log, or a newer format |
//! | 7 | no space or permission |
//! | 8 | some input lines refused |
//! | 9 | only files bad that can be rebuilt |
//! | 130, 143 | ended by SIGINT, SIGTERM |
//! | 141 | the reader of standard output went away |
//!
//! Always true here: [`exit_code`] is the one table from the library's errors to these numbers; a
//! message says what, where and what to do.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use thalweg_core::Error;

/// What a command comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
const UNKNOWN: u8 = 3;
const DAMAGED: u8 = 4;
const IN_USE: u8 = 5;
const NO_LOG: u8 = 6;
const NO_ROOM: u8 = 7;
const REFUSED: u8 = 8;
const REBUILDABLE: u8 = 9;
const CLOSED_PIPE: u8 = 141;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library's error.
    #[error("{0}{hint}", hint = hint(.0))]
    Log(#[from] Error),
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The command's work failed in a way that no other kind names.
    #[error("{0}")]
    Failed(String),
    /// The folder or file is not what the command works on.
    #[error("{path}: {what}")]
    NoLog {
        /// The folder or file.
        path: PathBuf,
        /// What it is, and what to do.
        what: String,
    },
    /// The system refused something.
    #[error("{path}: cannot {what}: {source}")]
    System {
        /// The file or folder.
        path: PathBuf,
        /// The verb.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Input lines were refused, each was named when it was met.
    #[error("{0} lines were refused: they are named above; the others are stored")]
    Refused(u64),
    /// Records of a file are damaged; each place was named when it was met.
    #[error("{0}")]
    Damaged(String),
    /// Files are bad that the log can build anew.
    #[error("{0}")]
    Rebuildable(String),
    /// The command was ended by this signal.
    #[error("ended by signal {0}")]
    Signal(i32),
    /// Who read standard output went away.
    #[error("standard output was closed")]
    ClosedPipe,
    /// Everything was said; only the status is left.
    #[error("exit status {0}")]
    Told(u8),
}

/// The exit status of a library's error.
fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Invalid { .. } => USAGE,
        Error::Unknown { .. } | Error::OffsetOutOfRange { .. } | Error::PositionLost { .. } => {
            UNKNOWN
        }
        Error::Damaged { .. } => DAMAGED,
        Error::InUse { .. } => IN_USE,
        Error::Unsupported { .. } => NO_LOG,
        Error::Full { .. } => NO_ROOM,
        Error::Io { source, .. } => status_of(source),
        Error::TopicExists { .. }
        | Error::Fenced { .. }
        | Error::Retry { .. }
        | Error::Abortable { .. }
        | Error::ReadOnly { .. }
        | Error::Gone { .. }
        | Error::Stopped { .. } => FAILED,
    }
}

/// The exit status of a system's error.
fn status_of(e: &io::Error) -> u8 {
    use io::ErrorKind::{
        NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    match e.kind() {
        PermissionDenied | ReadOnlyFilesystem | StorageFull | QuotaExceeded => NO_ROOM,
        NotFound => NO_LOG,
        _ => FAILED,
    }
}

/// What to do about an error whose own words do not say it.
fn hint(error: &Error) -> &'static str {
    match error {
        Error::Unknown { what } if what.starts_with("topic") => {
            ": `thalweg topics list` shows those there are, `thalweg topics create` makes one"
        }
        Error::Unknown { what } if what.starts_with("partition") => {
            ": `thalweg topics describe` shows those there are"
        }
        Error::OffsetOutOfRange { .. } => {
            ": `thalweg topics describe` shows where its partitions begin and end"
        }
        Error::Full { .. } => "; free some space and run the command again",
        Error::Damaged { what, .. } if !what.contains("restore") => "; restore it from a copy",
        Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "; run the command as the owner of the folder"
        }
        _ => "",
    }
}

impl Failure {
    /// A system's error on a file or folder.
    pub(crate) fn system(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::System { path: path.to_owned(), what, source }
    }

    /// An error of writing standard output.
    pub(crate) fn output(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::ClosedPipe;
        }
        Self::system("write", Path::new("standard output"), source)
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Log(e) => exit_code(e),
            Self::Usage(_) => USAGE,
            Self::Failed(_) => FAILED,
            Self::NoLog { .. } => NO_LOG,
            Self::System { source, .. } => status_of(source),
            Self::Refused(_) => REFUSED,
            Self::Damaged(_) => DAMAGED,
            Self::Rebuildable(_) => REBUILDABLE,
            Self::Signal(number) => signal_status(*number),
            Self::ClosedPipe => CLOSED_PIPE,
            Self::Told(status) => *status,
        }
    }

    /// Says it on standard error, unless there is nothing to say.
    pub(crate) fn tell(&self) {
        if !matches!(self, Self::Told(_) | Self::ClosedPipe | Self::Signal(_)) {
            tell(&self.to_string());
        }
    }
}

/// The exit status of a program that a signal ended.
pub(crate) fn signal_status(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(FAILED)
}

/// Says one line on standard error that is no failure.
pub(crate) fn note(what: &str) {
    // Nobody can be told that standard error is closed.
    writeln!(io::stderr().lock(), "thalweg: {what}").ok();
}

/// Says one line on standard error.
pub(crate) fn tell(what: &str) {
    let stderr = io::stderr();
    let name = if colour(&stderr) { "\x1b[1;31mthalweg\x1b[0m" } else { "thalweg" };
    // Nobody can be told that standard error is closed.
    writeln!(stderr.lock(), "{name}: {what}").ok();
}

/// Whether a stream is a terminal that wants colour (<https://no-color.org>).
pub(crate) fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

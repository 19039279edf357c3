//! Which files are tailed, and how: plain data with units, defaults and the reason to change them.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// Settings of a [`FileSource`](super::FileSource).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSourceConfig {
    /// Files, folders (their files, not below) and globs (`*`, `?`, `[..]`, `{..}`, `**`). A name
    /// that exists is meant literally. Relative ones start at the working folder.
    pub paths: Vec<PathBuf>,
    /// Folders never read from, whatever `paths` say and whatever link leads there: the log's own
    /// folder and the sinks'.
    pub excluded: Vec<PathBuf>,
    /// Read what is there at the first scan, then end. An unterminated last line is taken, where
    /// following waits for its newline. Default: follow.
    pub once: bool,
    /// Bytes of a line after which it is cut. Default 128 KiB. A cut line says how long it was in
    /// the header [`CUT_HEADER`](super::CUT_HEADER).
    pub line_limit: usize,
    /// Make the bytes of a tailed file durable before a position in it is committed (`fdatasync`
    /// through the read-only descriptor). Default on. Without it a power loss may take lines from
    /// the file that are in the log already; they are then not read again, only reported.
    pub sync_source: bool,
    /// How often the folders are looked through for new, renamed and removed files. Default 1 s.
    pub rescan: Duration,
    /// How often files that grew lately are asked for more. Default 100 ms. Other files are asked at
    /// each scan.
    pub look: Duration,
    /// How many files are held open. Default 400, which fits the usual limit of 1024 descriptors.
    /// When more have unread bytes they take turns, a commit in between.
    pub max_open: usize,
    /// How long a file must be quiet after it lost its name (or was renamed) before its unterminated
    /// last line is taken, and the file let go. Default 5 s; more for writers that keep writing to a
    /// rotated file after longer pauses.
    pub rotate_wait: Duration,
    /// How long a file that begins like another one, but is too short to tell, is held back as a
    /// copy in the making; counted from its last growth. Default 5 s.
    pub copy_patience: Duration,
    /// Bytes of one read. Default 256 KiB. All files share one buffer of this size.
    pub chunk: usize,
    /// Bytes a file may give before it is another file's turn. Default 256 KiB.
    pub quantum: usize,
    /// Pass over files and folders that may not be read without a word. Default off; on when `paths`
    /// was not chosen by a person.
    pub pass_unreadable: bool,
}

impl Default for FileSourceConfig {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            excluded: Vec::new(),
            once: false,
            line_limit: 128 << 10,
            sync_source: true,
            rescan: Duration::from_secs(1),
            look: Duration::from_millis(100),
            max_open: 400,
            rotate_wait: Duration::from_secs(5),
            copy_patience: Duration::from_secs(5),
            chunk: 256 << 10,
            quantum: 256 << 10,
            pass_unreadable: false,
        }
    }
}

impl FileSourceConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Fatal`] naming the setting, its value and what is accepted.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("line_limit", self.line_limit, 1, 64 << 20),
            ("chunk", self.chunk, 64, 64 << 20),
            ("quantum", self.quantum, 1, 1 << 30),
            ("max_open", self.max_open, 2, 1 << 20),
        ];
        for (name, value, least, most) in sizes {
            if !(least..=most).contains(&value) {
                let what = format!("file source: {name} {value}: use {least} to {most}");
                return Err(Error::Fatal { what });
            }
        }
        if self.paths.is_empty() {
            return Err(Error::Fatal { what: "file source: no path to read was given".to_owned() });
        }
        Ok(())
    }
}

//! What people should know about single files, said once per change of state.
//!
//! Always true here: a path that stays as it is, is named once, however often it is looked at; a
//! path that is well again, or gone, is no longer counted; the list of unread notices is bounded,
//! and says so when it was full.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Something a person may want to know about a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The file, folder or glob.
    pub path: PathBuf,
    /// What happened and what to do.
    pub what: String,
    /// How bad it is.
    pub level: NoticeLevel,
}

/// How bad a [`Notice`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NoticeLevel {
    /// Good to know: a file was rotated, truncated, or is well again.
    Info,
    /// Something is not read, or was lost.
    Warning,
}

/// The state of a path that is not as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// Found by the scan: nothing is there.
    Missing,
    /// Found by the scan: a file or folder that may not be looked at.
    Unseen,
    /// Found by the scan: a folder where a glob asks for files.
    Folder,
    /// Found by the scan: neither a file nor a folder.
    NoFile,
    /// Found by the scan: inside of a folder that is never read.
    Excluded,
    /// Found by the reader: it cannot be opened or read.
    Unreadable,
    /// Found by the reader: no text.
    Binary,
    /// Found by the reader: its bytes cannot be made durable.
    Unsynced,
}

impl Trouble {
    fn by_scan(self) -> bool {
        !matches!(self, Self::Unreadable | Self::Binary | Self::Unsynced)
    }

    /// Whether an input is left out because of it.
    fn skips(self) -> bool {
        !matches!(self, Self::Folder | Self::Unsynced)
    }
}

/// A trouble that a scan met.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: PathBuf,
    pub(crate) trouble: Trouble,
    pub(crate) what: String,
}

/// At most so many notices wait to be taken.
const WAITING_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Notices {
    troubles: BTreeMap<PathBuf, Trouble>,
    waiting: Vec<Notice>,
    dropped: u64,
}

impl Notices {
    /// `path` is in trouble: says so, unless that is known.
    pub(crate) fn trouble(&mut self, path: &Path, trouble: Trouble, what: impl FnOnce() -> String) {
        if self.troubles.get(path) != Some(&trouble) {
            self.troubles.insert(path.to_owned(), trouble);
            let level = if trouble.skips() { NoticeLevel::Warning } else { NoticeLevel::Info };
            self.say(path, level, what());
        }
    }

    /// `path` was read: whatever kept it from being read is over.
    pub(crate) fn read(&mut self, path: &Path) {
        if let Some(Trouble::Unreadable | Trouble::Binary) = self.troubles.get(path) {
            self.troubles.remove(path);
            self.say(path, NoticeLevel::Info, "is read now".to_owned());
        }
    }

    /// Takes what a scan met, and forgets troubles of paths that are over or gone. `listed` says
    /// whether a file of that name was found.
    pub(crate) fn scanned(&mut self, faults: Vec<Fault>, listed: impl Fn(&Path) -> bool) {
        let over: Vec<PathBuf> = self
            .troubles
            .iter()
            .filter(|(path, trouble)| match trouble.by_scan() {
                true => faults.iter().all(|f| f.path != **path),
                false => !listed(path),
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in over {
            if self.troubles.remove(&path).is_some_and(|trouble| trouble.by_scan()) {
                self.say(&path, NoticeLevel::Info, "is well again, or gone".to_owned());
            }
        }
        for fault in faults {
            self.trouble(&fault.path, fault.trouble, || fault.what);
        }
    }

    /// Something happened to `path`.
    pub(crate) fn say(&mut self, path: &Path, level: NoticeLevel, what: String) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push(Notice { path: path.to_owned(), what, level });
        } else {
            self.dropped += 1;
        }
    }

    /// What was said since the last call.
    pub(crate) fn take(&mut self) -> Vec<Notice> {
        let mut taken = std::mem::take(&mut self.waiting);
        if let Some(last) = taken.last()
            && self.dropped > 0
        {
            let what = format!("{} more notices about files were dropped", self.dropped);
            let path = last.path.clone();
            taken.push(Notice { path, what, level: NoticeLevel::Warning });
            self.dropped = 0;
        }
        taken
    }

    /// How many paths are left out at the moment.
    pub(crate) fn skipped(&self) -> u64 {
        self.troubles.values().filter(|t| t.skips()).count() as u64
    }
}

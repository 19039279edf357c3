//! Which files are open, and whether they may be read.
//!
//! Always true here: a file that still has a name may be closed when all of it was read and no open
//! transaction rests on it; one without a name is closed only by whoever knows that it is read to
//! its end; what the system refuses is named once and tried again at each scan.

use std::io;
use std::path::Path;
use std::time::Duration;

use thalweg_core::disk::{Disk, DiskFile, Open, Stat};

use super::{Follow, ms};
use crate::file::config::FileSourceConfig;
use crate::file::discover::is_absent;
use crate::file::identity::{FileId, Key};
use crate::file::notice::{Notices, Trouble};
use crate::file::tail::{Agreement, Seen, compare};

/// How long a file whose bytes could not be made durable is left alone.
const AVOIDED: Duration = Duration::from_secs(10);

/// Whether a file can be read now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Yes: it is open and agrees with its position.
    Open,
    /// Its name stands for something else by now: the next scan will tell.
    Moved,
    /// Too many files are open.
    NoRoom,
    /// The system refuses.
    Denied,
    /// It did not agree; what to do about it was done.
    Changed,
}

impl<D: Disk> Follow<D> {
    /// Opens a file that has a position, and compares the two.
    pub(crate) fn acquire(&mut self, key: Key, now: i64, scratch: &mut [u8]) -> Access {
        let Some(tail) = self.tails.get(&key) else { return Access::Moved };
        if tail.handle.is_some() {
            return Access::Open;
        }
        let Some(path) = tail.at.clone() else { return Access::Moved };
        if !self.make_room() {
            return Access::NoRoom;
        }
        let opened = open_with_stat(&self.disk, &path);
        let Some(tail) = self.tails.get_mut(&key) else { return Access::Moved };
        let agreement = opened.and_then(|(file, stat)| {
            let same_file = FileId::of(&stat) == key.file;
            let agreement = if same_file {
                Some(compare(&file, &stat, &tail.position, &self.boot)?)
            } else {
                None
            };
            Ok((file, stat, agreement))
        });
        match agreement {
            Ok((file, stat, Some(agreement))) => {
                tail.handle = Some(self.held.hold(file));
                tail.denied = false;
                tail.see(Seen::of(&stat), now);
                self.settle(key, &stat, agreement, scratch);
                if agreement == Agreement::Same { Access::Open } else { Access::Changed }
            }
            Ok((_, _, None)) => {
                self.rescan = true;
                Access::Moved
            }
            Err(e) if is_absent(&e) => {
                self.rescan = true;
                Access::Moved
            }
            Err(e) if is_out_of_handles(&e) => Access::NoRoom,
            Err(e) => {
                self.deny(key, "opened", &e);
                Access::Denied
            }
        }
    }

    /// Notes that the system refuses a file, and lets go of it until the next scan.
    pub(crate) fn deny(&mut self, key: Key, what: &str, error: &io::Error) {
        let Some(tail) = self.tails.get_mut(&key) else { return };
        tail.denied = true;
        tail.looked = Some(tail.seen);
        tail.backlog = None;
        tail.ahead = Default::default();
        if tail.at.is_some() && !self.touched.contains(&key) {
            // Without a name it could not be opened again, and what was read must be looked at
            // again before it is committed.
            tail.handle = None;
        }
        let path = tail.name().to_owned();
        let offset = tail.offset();
        refused(&mut self.notices, &self.config, &path, error, || {
            let refusal = refusal(&self.config, error);
            format!("cannot be {what} at byte {offset}: {error}{refusal}")
        });
    }

    /// Leaves a file alone for a while, also over the restart that comes next: the others go on. A
    /// source that reads only once leaves it for good.
    pub(crate) fn avoid(&mut self, key: Key, now: i64, what: &str) {
        let until = if self.config.once { i64::MAX } else { now.saturating_add(ms(AVOIDED)) };
        self.avoided.insert(key.file, until);
        if let Some(tail) = self.tails.get(&key) {
            self.notices.trouble(tail.name(), Trouble::Unreadable, || what.to_owned());
        }
    }

    /// Makes sure that one more file may be opened: closes those that were not read for longest.
    pub(super) fn make_room(&mut self) -> bool {
        if self.held.get() < self.config.max_open {
            return true;
        }
        let mut closable: Vec<(i64, Key)> = self
            .tails
            .iter()
            .filter(|(key, tail)| tail.is_closable() && !self.touched.contains(key))
            .map(|(&key, tail)| (tail.used_at, key))
            .collect();
        closable.sort_unstable();
        // Half of them at once, so that the list is not made for every single file.
        let count = closable.len().div_ceil(2);
        for (_, key) in closable.into_iter().take(count) {
            if let Some(tail) = self.tails.get_mut(&key) {
                tail.handle = None;
            }
        }
        if self.held.get() >= self.config.max_open {
            for undecided in self.undecided.values_mut().filter(|undecided| undecided.listed) {
                undecided.handle = None;
            }
        }
        self.held.get() < self.config.max_open
    }

    /// Files that wait are held open, so that they are not lost when they are renamed meanwhile; but
    /// not so many that the others cannot be read.
    pub(super) fn keep_few_handles(&mut self, id: FileId) {
        if self.held.get() > self.config.max_open / 2
            && let Some(undecided) = self.undecided.get_mut(&id)
            && undecided.listed
        {
            undecided.handle = None;
        }
    }

    /// Lets go of a file that was opened only to be compared, when many are open; of a twin always,
    /// as it is not read.
    pub(super) fn keep_few(&mut self, key: Key) {
        let many = self.held.get() > self.config.max_open / 2;
        if let Some(tail) = self.tails.get_mut(&key)
            && tail.at.is_some()
            && (many || tail.position.twin.is_some())
        {
            tail.handle = None;
        }
    }
}

pub(super) fn open_with_stat<D: Disk>(disk: &D, path: &Path) -> io::Result<(D::File, Stat)> {
    let file = disk.open(path, Open::Read)?;
    let stat = file.stat()?;
    Ok((file, stat))
}

/// Says that a file may not be read, unless nobody wants to know.
pub(super) fn refused(
    notices: &mut Notices,
    config: &FileSourceConfig,
    path: &Path,
    error: &io::Error,
    what: impl FnOnce() -> String,
) {
    if !(config.pass_unreadable && error.kind() == io::ErrorKind::PermissionDenied) {
        notices.trouble(path, Trouble::Unreadable, what);
    }
}

/// What to do about a file that the system refuses, and what is done.
pub(super) fn refusal(config: &FileSourceConfig, error: &io::Error) -> &'static str {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    match (denied, config.once) {
        (true, true) => "; left out: give read permission",
        (true, false) => "; give read permission: it is tried again at each scan",
        (false, true) => "; left out from there on",
        (false, false) => "; it is tried again at each scan",
    }
}

/// EMFILE and ENFILE: others have to close files first.
pub(super) fn is_out_of_handles(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

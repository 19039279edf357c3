//! Files that leave: rotated ones that are read to their end, and positions without a file.
//!
//! Always true here: a file without a name is let go of only when all of it was read and it was
//! quiet for a while; a position is deleted only when for the same while full scans, and more than
//! one, did not find its file, no file that waits or is a copy of it may hold its bytes, and the file
//! system it was on is there. A clock alone deletes nothing.

use std::collections::BTreeSet;
use std::path::Path;

use thalweg_core::disk::Disk;

use super::{Follow, ms};
use crate::file::discover::Listing;
use crate::file::identity::Key;
use crate::file::notice::NoticeLevel;
use crate::file::tail::{Tail, path_of};

/// A position is retired after at least so many full scans in a row without its file: one may have
/// listed a folder in the very moment of a rename.
pub(super) const MISSED_MAX: u32 = 2;

impl<D: Disk> Follow<D> {
    /// Takes the rest of rotated files that are quiet, and lets go of files without a name.
    pub(super) fn drain(&mut self, now: i64) {
        let wait = ms(self.config.rotate_wait);
        for (key, tail) in &mut self.tails {
            if tail.position.twin.is_some()
                || !tail.is_rotated()
                || now.saturating_sub(tail.changed_at) < wait
            {
                continue;
            }
            let unread = tail.upto() > tail.offset() && !tail.finished && !tail.denied;
            if unread && tail.looked != Some(tail.seen) {
                continue;
            }
            if unread && tail.rest_taken != Some(tail.seen) {
                tail.take_rest = true;
            } else if tail.at.is_none() && !self.touched.contains(key) {
                tail.handle = None;
            }
        }
    }

    /// Deletes positions whose bytes are nowhere to be found.
    pub(super) fn retire(&mut self, listing: &Listing, now: i64) {
        for tail in self.tails.values_mut().filter(|tail| tail.at.is_none()) {
            if tail.handle.is_none() && listing.saw(path_of(&tail.position.origin.path)) {
                let since = if tail.missed == 0 { now } else { tail.missed_since };
                tail.missed_since = since.min(now);
                tail.missed = tail.missed.saturating_add(1);
            }
        }
        let wait = if self.config.once { 0 } else { ms(self.config.rotate_wait) };
        let twins = self.tails.values().filter(|tail| tail.at.is_some());
        let originals: BTreeSet<Key> = twins.filter_map(|tail| tail.position.twin).collect();
        let waited: BTreeSet<Key> = self.undecided.values().filter_map(|u| u.waits_for).collect();
        let lost: Vec<Key> = self
            .tails
            .iter()
            .filter(|(key, tail)| {
                let path = path_of(&tail.position.origin.path);
                tail.at.is_none()
                    && tail.handle.is_none()
                    && tail.missed >= MISSED_MAX
                    && now.saturating_sub(tail.missed_since) >= wait
                    && !originals.contains(key)
                    && !self.waits_for_the_next_run(tail)
                    && !waited.contains(key)
                    && !self.busy.contains(key)
                    && self.finder.covers(path)
                    && listing.saw(path)
                    && self.is_place_there(listing, path, key.file.dev)
            })
            .map(|(&key, _)| key)
            .collect();
        for key in lost {
            let Some(tail) = self.remove(key) else { continue };
            let unread = if tail.superseded { tail.unread } else { tail.lag() };
            if unread > 0 {
                self.lost_bytes += unread;
                let what = format!(
                    "{unread} bytes after byte {} were not read before they were deleted or \
                     truncated",
                    tail.offset()
                );
                let path = path_of(&tail.position.origin.path);
                self.notices.say(path, NoticeLevel::Warning, what);
            }
        }
    }

    /// A source that reads only once does not look at files that came after its first scan: one of
    /// them may be the copy that holds the bytes of a truncated file.
    fn waits_for_the_next_run(&self, tail: &Tail<D::File>) -> bool {
        self.ends.is_some() && tail.superseded
    }

    /// Whether the file system that held a file is there: a folder without its mount looks empty.
    /// Some file systems give files another device than their folders; then another file tells.
    pub(super) fn is_place_there(&self, listing: &Listing, path: &Path, dev: u64) -> bool {
        let above = path.ancestors().skip(1).find_map(|folder| self.disk.stat(folder).ok());
        above.is_some_and(|stat| stat.dev == dev)
            || listing.files.iter().any(|found| found.stat.dev == dev)
    }

    /// Whether positions wait for the scan that retires them.
    pub(crate) fn has_missed(&self) -> bool {
        let missed = |tail: &Tail<D::File>| tail.missed > 0 && tail.missed < MISSED_MAX;
        self.tails.values().any(|tail| missed(tail) && !self.waits_for_the_next_run(tail))
    }
}

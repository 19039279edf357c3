//! F3 · What goes from the front of a partition: by time, by size, and because somebody said so.
//!
//! ```text
//!   1 the hint says the new log start, in both slots, synced       nothing comes back after this
//!   2 readers see the new log start
//!   3 the list of segments goes on without those below
//!   4 their files are renamed to .deleted                          readers that hold them go on
//!   5 the files are removed, after file.delete.delay.ms            at the next open at the latest
//! ```
//!
//! A crash behind step 1 leaves files below the log start: opening removes them. One before it has
//! changed nothing. Names need no sync here: a file that comes back is below the log start.
//!
//! Always true here: nothing at or above the last stable offset goes, so a transaction never loses the
//! records it is about to decide; a segment goes only when the recovery point is past it, so what
//! recovery begins with is always there; the log start never falls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::PartitionLog;
use super::hint::SLOT_LEN;
use super::segment::{FILES, Segment};
use crate::disk::{Disk, DiskFile, write_all_at};
use crate::error::{Error, Result};
use crate::ids::{Offset, Timestamp};

impl<D: Disk> PartitionLog<D> {
    /// Where the log start has to be for the topic's retention, `now`: at or above where it is.
    ///
    /// # Errors
    /// What reading a segment's greatest time refuses.
    pub fn retained_from(&self, now: Timestamp, last_stable: Offset) -> Result<Offset> {
        let segments = self.view.segments.load();
        let mut start = self.view.start();
        let limited = self.config.retention_ms.is_some() || self.config.retention_bytes.is_some();
        if !limited || !self.config.cleanup.deletes() {
            return Ok(start);
        }
        let mut size: u64 = segments.iter().map(|s| s.size()).sum();
        for (at, segment) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map_or(self.end(), |next| next.base);
            let late = match self.config.retention_ms {
                Some(keep) => {
                    let greatest = segment.greatest_time()?;
                    // Records without a time never grow old.
                    greatest >= 0 && now.saturating_sub(greatest) > keep.cast_signed()
                }
                None => false,
            };
            let large = self.config.retention_bytes.is_some_and(|keep| {
                // The newest segment is not cut for its size: it is rolled first.
                at + 1 < segments.len() && size - segment.size() >= keep
            });
            if end <= start {
                size -= segment.size();
                continue;
            }
            if !(late || large) || end > last_stable {
                break;
            }
            size -= segment.size();
            start = end;
        }
        Ok(start)
    }

    /// Raises the log start to `to`, durably, and lets go of segments that lie below. Lower: nothing.
    /// Whether the folder's files changed.
    ///
    /// # Errors
    /// `Full` and `Io` with nothing changed, as far as one can see; `Stopped` when the sync failed.
    pub fn raise_start(&mut self, to: Offset, now: Timestamp) -> Result<bool> {
        self.check_open()?;
        if to > self.view.start() {
            let before = self.hint;
            let raised = self.note_start(to);
            if matches!(raised, Err(Error::Full { .. })) {
                // Whoever asked is told that nothing was deleted: the next turns say so too.
                self.hint = before;
            }
            self.in_doubt(raised)?;
            self.view.start.store(to, Ordering::Release);
        }
        if self.view.start() == self.end() && self.active.size() > 0 {
            // Nothing is left in the newest segment either.
            let rolled = self.roll(self.end());
            self.in_doubt(rolled)?;
        }
        self.let_go(now)
    }

    fn note_start(&mut self, to: Offset) -> Result<()> {
        self.hint.log_start = to;
        self.note_twice()
    }

    /// Notes the hint durably in both slots: an older one would come back when the other is torn.
    pub(super) fn note_twice(&mut self) -> Result<()> {
        let path = self.hint_file.path().to_owned();
        let file = self.hint_file.get().map_err(|e| Error::io("open", &path, e))?;
        let write = |at: u64, bytes: &[u8]| {
            write_all_at(&*file, bytes, at).map_err(|e| Error::io("write", &path, e))
        };
        for _ in 0..2 {
            self.hint.turn += 1;
            write(self.hint.turn % 2 * SLOT_LEN, &self.hint.encode())?;
        }
        self.noted = self.hint;
        let stopped = |e: Error| Error::Stopped { why: e.to_string() };
        file.sync_data().map_err(|e| stopped(Error::io("sync", &path, e)))?;
        if !self.named {
            // Nothing was ever synced here: not even the name of the hint.
            let synced = self.disk.sync_dir(&self.dir);
            synced.map_err(|e| stopped(Error::io("sync", &self.dir, e)))?;
            self.named = true;
        }
        self.point_noted = self.noted.recovery_point;
        Ok(())
    }

    /// Takes segments below the log start out of the list, and gives their files their last names.
    fn let_go(&mut self, now: Timestamp) -> Result<bool> {
        let start = self.view.start();
        let segments = self.view.segments.load();
        let point = self.hint.recovery_point;
        let below =
            segments.iter().skip(1).take_while(|next| next.base <= start.min(point)).count();
        if below == 0 {
            return Ok(false);
        }
        let gone: Vec<Arc<Segment<D>>> = segments[..below].to_vec();
        self.view.segments.store(Arc::new(segments[below..].to_vec()));
        for (segment, next) in gone.iter().zip(&segments[1..]) {
            let side = super::path_of(&self.dir, next.base, super::SIDECAR);
            let files = FILES.map(|suffix| super::path_of(&self.dir, segment.base, suffix));
            for from in std::iter::once(side).chain(files) {
                let mut to = from.clone().into_os_string();
                to.push(".deleted");
                match self.disk.rename(&from, to.as_ref()) {
                    Ok(()) => self.leaving.push((PathBuf::from(to), now)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("rename", &from, e)),
                }
            }
        }
        Ok(true)
    }

    /// Removes files whose time to stay is over. What cannot be removed is tried again the next time.
    pub fn remove_leaving(&mut self, now: Timestamp) {
        let delay = self.config.file_delete_delay_ms.cast_signed();
        let disk = &self.disk;
        self.leaving.retain(|(path, since)| {
            if now.saturating_sub(*since) < delay {
                return true;
            }
            match disk.remove(path) {
                Ok(()) => false,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
                Err(e) => {
                    tracing::warn!(path = %path.display(), error = %e, "cannot remove");
                    true
                }
            }
        });
    }
}

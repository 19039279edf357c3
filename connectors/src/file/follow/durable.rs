//! Makes it durable that a file is gone, before the position of its bytes is.
//!
//! ```text
//!   removed                                     sync the folders: its name must not come back
//!   truncated, rewritten                        sync the file: its old bytes must not come back
//!   removed, its number given to another one    looks like the second, so both
//! ```
//!
//! Always true here: what a position stood for cannot reappear after a power loss once the position
//! was deleted in a committed transaction; else a file that nobody remembers would be read again. It
//! is the other half of making bytes durable before a position covers them.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use thalweg_core::disk::{Disk, DiskFile};

use super::Follow;
use super::handles::open_with_stat;
use crate::file::discover::is_absent;
use crate::file::identity::FileId;
use crate::file::notice::Trouble;
use crate::file::tail::{current, path_of};

impl<D: Disk> Follow<D> {
    /// For every position that the open transaction deletes. What cannot be synced is told, and holds
    /// up nobody: then a power loss may bring lines back.
    pub(crate) fn make_departures_durable(&mut self) {
        let mut folders = BTreeSet::new();
        for (id, origin) in self.departed.clone() {
            let path = path_of(&origin);
            folders.extend(self.folders.iter().cloned());
            folders.extend(path.parent().map(Path::to_owned));
            // A link's folder is not the one that its file lies in.
            let real = self.disk.canonical(path).ok();
            folders.extend(real.as_deref().and_then(Path::parent).map(Path::to_owned));
            if let Err(e) = self.sync_present(id) {
                self.tell_unsynced(path, &e);
            }
        }
        for folder in folders {
            if let Err(e) = self.sync_folder(&folder) {
                self.tell_unsynced(&folder, &e);
            }
        }
    }

    /// Syncs what the file holds now, if it is there.
    fn sync_present(&self, id: FileId) -> io::Result<()> {
        let tail = current(&self.tails, id).and_then(|key| self.tails.get(&key));
        let undecided = self.undecided.get(&id);
        let held = tail
            .and_then(|tail| tail.handle.as_ref())
            .or_else(|| undecided.and_then(|undecided| undecided.handle.as_ref()));
        let path = tail
            .and_then(|tail| tail.at.as_deref())
            .or_else(|| undecided.filter(|u| u.listed).map(|u| u.path.as_path()));
        if let Some(held) = held {
            return held.file.sync_data();
        }
        let Some(path) = path else { return Ok(()) };
        match open_with_stat(&self.disk, path) {
            Ok((file, stat)) if FileId::of(&stat) == id => file.sync_data(),
            Err(e) if !is_absent(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Syncs a folder, or what is left above it.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        for above in folder.ancestors() {
            match self.disk.sync_dir(above) {
                Err(e) if is_absent(&e) => {}
                synced => return synced,
            }
        }
        Ok(())
    }

    fn tell_unsynced(&mut self, path: &Path, error: &io::Error) {
        self.notices.trouble(path, Trouble::Unsynced, || {
            format!(
                "what was removed or truncated there cannot be made durable ({error}): a power loss \
                 may bring back lines that are in the log already"
            )
        });
    }
}

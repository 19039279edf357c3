//! Files that were renamed to where nobody looks, while nobody had them open.
//!
//! ```text
//!   /log/app.log    asked for, read up to a byte; then the program was down
//!   /log/app.log.1                  the same folder
//!   /log/old/app.log.1              a folder in it
//!   /archive/app.log.1              a folder beside it         its inode is looked for in these
//! ```
//!
//! Always true here: only what is unread and holds the bytes before the position is taken up; it is
//! read like any file that has lost its name, to its end from the open handle, and then let go of. The
//! search is made only in the first scans that miss a file, so that it costs nothing later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thalweg_core::disk::Disk;

use super::Follow;
use super::handles::open_with_stat;
use super::leave::MISSED_MAX;
use crate::file::discover::Listing;
use crate::file::identity::{FileId, Key};
use crate::file::tail::{Agreement, Seen, Tail, compare, path_of};

/// So many folders are searched for one file.
const FOLDERS_MAX: usize = 64;

impl<D: Disk> Follow<D> {
    /// Opens the files that are under none of the wanted names any more and have unread bytes.
    pub(super) fn follow_away(&mut self, listing: &Listing, now: i64) {
        let is_away = |(&key, tail): (&Key, &Tail<D::File>)| {
            let path = path_of(&tail.position.origin.path);
            let followed = !tail.superseded
                && !tail.finished
                && !tail.position.binary
                && tail.position.twin.is_none()
                && tail.offset() > 0;
            let may_hold_more = tail.looked.is_none() || tail.seen.len > tail.offset();
            let is_away = followed
                && may_hold_more
                && tail.at.is_none()
                && tail.handle.is_none()
                && tail.missed < MISSED_MAX
                && self.finder.covers(path)
                && listing.saw(path)
                && self.is_place_there(listing, path, key.file.dev);
            is_away.then_some(key)
        };
        let away: Vec<Key> = self.tails.iter().filter_map(is_away).collect();
        let mut searched = Searched::default();
        for key in away {
            let path = path_of(&self.tails[&key].position.origin.path).to_owned();
            let Some(found) = searched.find(&self.disk, &path, key.file) else { continue };
            if listing.excludes(&self.disk, &found) {
                continue;
            }
            if !self.make_room() {
                self.rescan = true;
                return;
            }
            let Some(tail) = self.tails.get_mut(&key) else { continue };
            // Whatever fails here, the position is retired as if the file were gone.
            let Ok((file, stat)) = open_with_stat(&self.disk, &found) else { continue };
            let seen = Seen::of(&stat);
            let is_unread = stat.len > tail.offset() && tail.rest_taken != Some(seen);
            let same = compare(&file, &stat, &tail.position, &self.boot);
            if FileId::of(&stat) == key.file
                && is_unread
                && same.is_ok_and(|same| same == Agreement::Same)
            {
                tail.handle = Some(self.held.hold(file));
                tail.compared = Some(seen);
                tail.missed = 0;
                tail.see(seen, now);
            }
        }
    }
}

/// What was found in this scan already: each folder is listed once.
#[derive(Default)]
struct Searched {
    near: BTreeMap<PathBuf, Vec<PathBuf>>,
    files: BTreeMap<PathBuf, BTreeMap<FileId, PathBuf>>,
}

impl Searched {
    /// Where a file is, in the folder of its old path or near it.
    fn find<D: Disk>(&mut self, disk: &D, path: &Path, id: FileId) -> Option<PathBuf> {
        let folder = path.parent()?.to_owned();
        let near = self.near.entry(folder).or_insert_with_key(|folder| near(disk, folder));
        let files = &mut self.files;
        near.iter().find_map(|folder| {
            let found = files.entry(folder.clone()).or_insert_with_key(|f| files_in(disk, f));
            found.get(&id).cloned()
        })
    }
}

/// A folder, those in it, and those beside it.
fn near<D: Disk>(disk: &D, folder: &Path) -> Vec<PathBuf> {
    let mut near = vec![folder.to_owned()];
    near.extend(folders_in(disk, folder));
    let beside = folder.parent().into_iter().flat_map(|above| folders_in(disk, above));
    near.extend(beside.filter(|beside| beside != folder));
    near.truncate(FOLDERS_MAX);
    near
}

fn files_in<D: Disk>(disk: &D, folder: &Path) -> BTreeMap<FileId, PathBuf> {
    let entries = disk.list(folder).unwrap_or_default().into_iter();
    let files = entries.filter(|entry| !entry.is_dir).filter_map(|entry| {
        let path = folder.join(&entry.name);
        disk.stat(&path).ok().map(|stat| (FileId::of(&stat), path))
    });
    files.collect()
}

fn folders_in<D: Disk>(disk: &D, folder: &Path) -> Vec<PathBuf> {
    let entries = disk.list(folder).unwrap_or_default().into_iter();
    entries.filter(|entry| entry.is_dir).map(|entry| folder.join(&entry.name)).collect()
}

//! F3 · A compacted group takes the place of the segments it was made of, whole or not at all.
//!
//! ```text
//!   0  the hint says the recovery point behind the group, in both slots, synced
//!   1  b.log.cleaned, b.index.cleaned ... e.sidecar.cleaned   written and synced
//!   2  side files .cleaned -> .swap                            sync the folder
//!   3  link b.log.cleaned -> b.log.swap                        sync the folder      from here on it counts
//!   4  old batches -> .N.deleted (readers go on there), old side files, sidecars and snapshots between
//!      b and e go; link every .swap to its last name           sync the folder
//!   5  b.log.swap goes                                         sync the folder      done
//!   6  the other .swap and .cleaned go
//! ```
//!
//! A crash before 3 leaves names that opening removes. One behind it leaves `b.log.swap`: opening does 4
//! to 6 again. Names are linked and not renamed, because a power loss may take both names of a rename;
//! `b.log.swap` is the first name to go, because without it the others mean nothing.
//!
//! 0 is there because a torn slot of the hint brings an older one back: recovery would begin inside the
//! group, where offsets are missing.
//!
//! Always true here: at every point in time each record that counts is under a durable name; a reader
//! that holds a segment goes on in the file it began with.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CLEANED, Written, batch_at_end};
use crate::disk::{Disk, Open, read_file, replace_file};
use crate::error::{Error, Result};
use crate::ids::{Offset, Timestamp};
use crate::log::PartitionLog;
use crate::log::segment::{SIDECAR, Segment, path_of};
use crate::log::sums::Sums;

/// What is put behind the names of files that are complete.
const SWAP: &str = "swap";
/// The files of a segment that have its base in their names, the batches last.
const NAMES: [&str; 4] = ["index", "timeindex", "txnindex", "log"];

impl<D: Disk> PartitionLog<D> {
    /// Lets a group that was written take its place. `false`: its segments are not there any more, and
    /// nothing was done.
    ///
    /// # Errors
    /// `Full`, `Unsupported` where the file system knows no second names, and `Io`, with nothing
    /// changed; `Stopped` after any failure behind that.
    pub(crate) fn take_compacted(&mut self, written: &Written<D>, now: Timestamp) -> Result<bool> {
        self.check_open()?;
        let segments = self.view.segments.load_full();
        let is_first = |s: &Arc<Segment<D>>| Arc::ptr_eq(s, &written.group[0]);
        let there = segments.iter().position(is_first).filter(|&at| {
            let mut pairs = segments[at..].iter().zip(&written.group);
            at + written.group.len() < segments.len() && pairs.all(|(a, b)| Arc::ptr_eq(a, b))
        });
        let Some(at) = there else {
            remove_unfinished(&self.disk, &self.dir, written.base, written.end);
            return Ok(false);
        };
        let prepared = match self.prepare(written) {
            Err(e @ Error::Unsupported { .. }) => Err(e),
            other => self.in_doubt(other),
        };
        if let Err(e) = prepared {
            if !self.is_refusing() {
                remove_unfinished(&self.disk, &self.dir, written.base, written.end);
            }
            return Err(e);
        }
        let complete = if written.same { Ok(()) } else { self.complete(written, now) };
        // Half way nobody knows what the folder holds: opening it does.
        let complete = complete.map_err(|e| Error::Stopped { why: e.to_string() });
        self.in_doubt(complete)?;
        let path = path_of(&self.dir, written.base, "log");
        let slot = if written.same {
            written.group[0].slot()
        } else {
            self.handles.slot(path, Open::Read)
        };
        // First: whoever finds a deletion gone finds that said, too.
        let deletions = written.sums.compacted.deletions_below;
        self.view.deletions_below.fetch_max(deletions, Ordering::AcqRel);
        let next = Segment::compacted(written.base, written.end, slot, written);
        let mut list = segments[..at].to_vec();
        list.push(Arc::new(next));
        list.extend_from_slice(&segments[at + written.group.len()..]);
        self.view.segments.store(Arc::new(list));
        Ok(true)
    }

    /// Steps 0 to 3. Of a group that stays as it is: its sidecar is replaced.
    fn prepare(&mut self, written: &Written<D>) -> Result<()> {
        if self.point_noted < written.end {
            self.note_twice()?;
        }
        let (disk, dir, base, end) = (&self.disk, &self.dir, written.base, written.end);
        if written.same {
            let path = path_of(dir, end, SIDECAR);
            return replace_file(disk, &path, &written.sums.encode())
                .map_err(|e| Error::io("replace", &path, e));
        }
        for name in side_names(dir, base, end) {
            let (from, to) = (with(&name, CLEANED), with(&name, SWAP));
            match disk.rename(&from, &to) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("rename", &from, e));
                }
                _ => {}
            }
        }
        let sync = || {
            disk.sync_dir(dir)
                .map_err(|e| Error::Stopped { why: Error::io("sync", dir, e).to_string() })
        };
        sync()?;
        let log = path_of(dir, base, "log");
        let (from, to) = (with(&log, CLEANED), with(&log, SWAP));
        disk.link(&from, &to).map_err(|e| match e.kind() {
            ErrorKind::PermissionDenied | ErrorKind::Unsupported => Error::Unsupported {
                path: dir.clone(),
                what: "compaction needs a file system on which a file can have two names"
                    .to_owned(),
            },
            _ => Error::io("link", &to, e),
        })?;
        sync()
    }

    /// Steps 4 to 6.
    fn complete(&mut self, written: &Written<D>, now: Timestamp) -> Result<()> {
        for segment in &written.group {
            self.swaps += 1;
            let from = path_of(&self.dir, segment.base, "log");
            let to = with(&from, &format!("{}.deleted", self.swaps));
            let slot = segment.slot();
            slot.moves_to(to.clone());
            self.disk.rename(&from, &to).map_err(|e| Error::io("rename", &from, e))?;
            slot.has_moved();
            self.leaving.push((to, now));
        }
        let bases: Vec<Offset> = written.group.iter().map(|segment| segment.base).collect();
        let ends: Vec<Offset> = bases[1..].iter().copied().chain([written.end]).collect();
        place(&self.disk, &self.dir, (written.base, written.end), &bases, &ends, &bases)
    }
}

/// The side files of a group, under their last names.
fn side_names(dir: &Path, base: Offset, end: Offset) -> [PathBuf; 4] {
    let side = |suffix| path_of(dir, base, suffix);
    [side("index"), side("timeindex"), side("txnindex"), path_of(dir, end, SIDECAR)]
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Steps 4 (without the batches that readers hold) to 6: old segments begin at `bases`, their sidecars
/// are at `ends`, snapshots at `snapshots`.
fn place<D: Disk>(
    disk: &D,
    dir: &Path,
    (base, end): (Offset, Offset),
    bases: &[Offset],
    ends: &[Offset],
    snapshots: &[Offset],
) -> Result<()> {
    for &old in bases {
        for suffix in NAMES {
            remove(disk, &path_of(dir, old, suffix))?;
        }
    }
    for &old in ends {
        remove(disk, &path_of(dir, old, SIDECAR))?;
    }
    // The one at the base belongs to the segment before, or is where the log begins.
    for &old in snapshots.iter().filter(|&&at| at > base && at < end) {
        remove(disk, &path_of(dir, old, "snapshot"))?;
    }
    let log = path_of(dir, base, "log");
    let names = side_names(dir, base, end);
    for name in names.iter().chain([&log]) {
        match disk.link(&with(name, SWAP), name) {
            // Without aborted transactions there is no index of them.
            Err(e) if e.kind() == ErrorKind::NotFound && *name != log => {}
            linked => linked.map_err(|e| Error::io("link", name, e))?,
        }
    }
    let sync = || disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e));
    sync()?;
    remove(disk, &with(&log, SWAP))?;
    sync()?;
    remove(disk, &with(&log, CLEANED))?;
    for name in &names {
        remove(disk, &with(name, SWAP))?;
    }
    Ok(())
}

fn remove<D: Disk>(disk: &D, path: &Path) -> Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Removes what was written of a group that does not count yet. What cannot be removed goes when the
/// folder is opened.
pub(super) fn remove_unfinished<D: Disk>(disk: &D, dir: &Path, base: Offset, end: Offset) {
    let log = path_of(dir, base, "log");
    // First: without it the others mean nothing.
    _ = disk.remove(&with(&log, SWAP));
    for name in side_names(dir, base, end).iter().chain([&log]) {
        _ = disk.remove(&with(name, CLEANED));
        _ = disk.remove(&with(name, SWAP));
    }
}

/// Completes a swap that a crash cut short. Before anything in the folder is looked at.
///
/// `foreign`: another program wrote the folder; where its group ends is read from the batches.
///
/// # Errors
/// `Damaged` for a group of which nobody knows where it ends; `Io`.
pub(in crate::log) fn finish_swaps<D: Disk>(disk: &D, dir: &Path, foreign: bool) -> Result<()> {
    let entries = disk.list(dir).map_err(|e| Error::io("list", dir, e))?;
    let names = entries.iter().filter_map(|entry| parse(entry.name.to_str()?));
    let names: Vec<(Offset, &str)> = names.collect();
    let at = |suffix: &str| -> Vec<Offset> {
        names.iter().filter(|(_, found)| *found == suffix).map(|&(offset, _)| offset).collect()
    };
    // Apache Kafka's: the batches of a segment that did not fit are not all there.
    let unfinished = at("log.cleaned").into_iter().min().filter(|_| foreign);
    for base in at("log.swap") {
        if unfinished.is_some_and(|lowest| base >= lowest) {
            continue;
        }
        let sidecar = at("sidecar.swap").into_iter().find(|&end| {
            let path = with(&path_of(dir, end, SIDECAR), SWAP);
            let sums = read_file(disk, &path, 4096).ok().and_then(|bytes| Sums::decode(&bytes));
            sums.is_some_and(|sums| (sums.base, sums.end) == (base, end))
        });
        let log = with(&path_of(dir, base, "log"), SWAP);
        let end = match sidecar {
            Some(end) => end,
            None if foreign => batch_at_end(disk, &log)?,
            None => {
                let what =
                    "a compacted segment without its sidecar: restore the folder from a copy";
                return Err(Error::damaged(&log, 0, what));
            }
        };
        let within = |suffix| -> Vec<Offset> {
            at(suffix).into_iter().filter(|&offset| offset >= base && offset < end).collect()
        };
        let bases: Vec<Offset> = NAMES.iter().flat_map(|suffix| within(suffix)).collect();
        let ends: Vec<Offset> =
            at(SIDECAR).into_iter().filter(|&offset| offset > base && offset <= end).collect();
        place(disk, dir, (base, end), &bases, &ends, &within("snapshot"))?;
    }
    Ok(())
}

/// The offset and the ending of a file's name.
fn parse(name: &str) -> Option<(Offset, &str)> {
    let (stem, suffix) = name.split_once('.')?;
    let numbered = stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit());
    Some((stem.parse().ok().filter(|_| numbered)?, suffix))
}

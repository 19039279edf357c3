//! F3 · Giving a folder the side files that a clean stop leaves there, without opening it as a log:
//! the last step of a repair, a cut and a backup.
//!
//! ```text
//!   newest snapshot at or below what has to be made
//!   batches from there on  ->  .index .timeindex .txnindex .sidecar   of the segments asked for, and the last
//!                              .snapshot                              where the log ends
//!                              leader-epoch-checkpoint
//!                              flushed-offset                         last: it says that the rest is there
//! ```
//!
//! Always true here: every file is replaced whole (temporary name, sync, rename, sync of the folder), and
//! the hint last, in both slots, so that a crash at any step leaves what the next open recovers, or what
//! is made again by the same call; batches are only read, and one that is bad ends it with an error.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::aborted::Aborted;
use super::epochs::Epochs;
use super::files::Files;
use super::hint::{Hint, SLOT_LEN};
use super::index::{Indexes, Marks};
use super::producers::Producers;
use super::recover::{SIDE_FILE_LIMIT, replay};
use super::segment::{SIDECAR, path_of};
use super::sums::{Compacted, Sums};
use super::walk::Walk;
use super::{EPOCHS_FILE, HINT_FILE};
use crate::disk::{Disk, DiskFile, Open, read_file, replace_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::Offset;

/// Bytes between entries of an index that is made anew.
const INTERVAL: u32 = 4096;

/// What is made.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    /// The first offset there is.
    pub(crate) log_start: Offset,
    /// Whether hint and sidecars belong into the folder: it is one of ours.
    pub(crate) ours: bool,
    /// Bases of segments whose indexes and sidecars are made anew; those of the last one always are.
    pub(crate) segments: BTreeSet<Offset>,
    /// Snapshots that are not believed, and made anew.
    pub(crate) snapshots: BTreeSet<Offset>,
    /// Whether the leader epochs are read from all batches, because their file is not believed.
    pub(crate) epochs: bool,
}

/// What a walk over a segment makes.
struct Made {
    size: u64,
    next: Offset,
    indexes: Indexes,
    marks: Marks,
    aborted: Vec<Aborted>,
    gaps: bool,
}

/// Makes the side files. `aside` is called for each file before it is replaced or removed. Returns where
/// the log ends.
///
/// # Errors
/// `Damaged` when a batch is bad; `Io`, `Full`.
pub(crate) fn settle<D: Disk>(
    disk: &D,
    dir: &Path,
    how: &Settle,
    aside: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<Offset> {
    let files = Files::list(disk, dir)?;
    let below = files.bases.iter().rposition(|base| *base <= how.log_start).unwrap_or(0);
    let bases = &files.bases[below..];
    let Some(&last) = bases.last() else { return Ok(how.log_start) };
    let needed = match how.epochs || !how.snapshots.is_empty() {
        true => bases[0],
        false => how.segments.first().copied().unwrap_or(last).min(last),
    };
    let mut work = Work { disk, dir, how, aside };
    let (start, mut producers) = work.producers_below(bases, needed);
    let mut epochs = work.epochs_below(start);
    let (mut size, mut end) = (0, start);
    for (at, &base) in bases.iter().enumerate().filter(|(_, base)| **base >= start) {
        let next_base = bases.get(at + 1).copied();
        let made = work.walk(base, next_base, &mut producers, &mut epochs)?;
        (size, end) = (made.size, next_base.unwrap_or(made.next));
        if next_base.is_none() || how.segments.contains(&base) {
            work.write_sides(base, end, &made)?;
        }
        if next_base.is_none() || how.snapshots.contains(&end) || how.segments.contains(&base) {
            work.write(&path_of(dir, end, "snapshot"), &producers.to_snapshot())?;
        }
    }
    epochs.cut(end);
    work.write(&dir.join(EPOCHS_FILE), epochs.to_text().as_bytes())?;
    work.remove_strays(&files, bases, end)?;
    if how.ours {
        work.write_hint(last, size, end)?;
    }
    Ok(end)
}

/// Writes the hint of a log that ends at `end`, durably: in both slots, so that an older bound does not
/// come back.
pub(super) fn write_hint<D: Disk>(disk: &D, dir: &Path, hint: Hint) -> Result<()> {
    let path = dir.join(HINT_FILE);
    let found = match read_file(disk, &path, SIDE_FILE_LIMIT) {
        Ok(bytes) => Hint::decode(&bytes).map_or(0, |hint| hint.turn),
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let file = disk.open(&path, Open::Create).map_err(|e| Error::io("open", &path, e))?;
    for turn in [found + 1, found + 2] {
        let hint = Hint { turn, ..hint };
        write_all_at(&file, &hint.encode(), turn % 2 * SLOT_LEN)
            .map_err(|e| Error::io("write", &path, e))?;
    }
    file.sync_data().map_err(|e| Error::io("sync", &path, e))?;
    disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))
}

struct Work<'a, D> {
    disk: &'a D,
    dir: &'a Path,
    how: &'a Settle,
    aside: &'a mut dyn FnMut(&Path) -> Result<()>,
}

impl<D: Disk> Work<'_, D> {
    /// The producers at the base of a segment at or below `needed`, from the newest snapshot that is
    /// believed; else nobody's, at the first segment.
    fn producers_below(&self, bases: &[Offset], needed: Offset) -> (Offset, Producers) {
        let of = |&base: &Offset| {
            let path = path_of(self.dir, base, "snapshot");
            let bytes = read_file(self.disk, &path, SIDE_FILE_LIMIT).ok()?;
            Some((base, Producers::from_snapshot(&bytes)?))
        };
        let believed = |base: &&Offset| **base <= needed && !self.how.snapshots.contains(base);
        let found = bases.iter().rev().filter(believed).find_map(of);
        found.unwrap_or_else(|| (bases[0], Producers::default()))
    }

    /// The epochs below `start`.
    fn epochs_below(&self, start: Offset) -> Epochs {
        if self.how.epochs {
            return Epochs::default();
        }
        let bytes = read_file(self.disk, &self.dir.join(EPOCHS_FILE), SIDE_FILE_LIMIT);
        let mut epochs = bytes.ok().and_then(|b| Epochs::from_text(&b)).unwrap_or_default();
        epochs.cut(start);
        epochs
    }

    fn walk(
        &self,
        base: Offset,
        end: Option<Offset>,
        producers: &mut Producers,
        epochs: &mut Epochs,
    ) -> Result<Made> {
        let path = path_of(self.dir, base, "log");
        let file = self.disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
        let len = file.len().map_err(|e| Error::io("read", &path, e))?;
        let mut walk = Walk::new(&file, len);
        let mut made = Made {
            size: 0,
            next: base,
            indexes: Indexes::new(),
            marks: Marks::new(base),
            aborted: Vec::new(),
            gaps: false,
        };
        while made.size < len {
            let batch = match walk.batch(made.size) {
                Ok(Ok(batch)) => batch,
                Ok(Err(bad)) => return Err(Error::damaged(&path, made.size, bad)),
                Err(e) => return Err(Error::io("read", &path, e)),
            };
            let header = batch.header;
            if header.base_offset < made.next {
                let what = format!("offset {} where {} must follow", header.base_offset, made.next);
                return Err(Error::damaged(&path, made.size, what));
            }
            made.gaps |= header.base_offset > made.next;
            made.marks.note(&made.indexes, &header, made.size, INTERVAL);
            replay(&batch, producers, &mut made.aborted);
            epochs.note(header.leader_epoch, header.base_offset);
            made.size += header.size() as u64;
            made.next = header.next_offset();
        }
        made.gaps |= end.is_some_and(|end| end > made.next);
        made.marks.enter_time(&made.indexes);
        Ok(made)
    }

    fn write_sides(&mut self, base: Offset, end: Offset, made: &Made) -> Result<()> {
        let (offsets, times) = (made.indexes.offsets.to_bytes(0), made.indexes.times.to_bytes(0));
        let aborted: Vec<u8> = made.aborted.iter().flat_map(Aborted::encode).collect();
        self.write(&path_of(self.dir, base, "index"), &offsets)?;
        self.write(&path_of(self.dir, base, "timeindex"), &times)?;
        let path = path_of(self.dir, base, "txnindex");
        match aborted.is_empty() {
            true => self.remove(&path)?,
            false => self.write(&path, &aborted)?,
        }
        if !self.how.ours {
            return Ok(());
        }
        let path = path_of(self.dir, end, SIDECAR);
        let before = read_file(self.disk, &path, 4096).ok().and_then(|b| Sums::decode(&b));
        let compacted = match before.filter(|sums| (sums.base, sums.end) == (base, end)) {
            Some(sums) => Compacted { gaps: sums.compacted.gaps || made.gaps, ..sums.compacted },
            // Nobody knows which deletions are gone: perhaps all.
            None if made.gaps => Compacted { gaps: true, clean_below: 0, deletions_below: end },
            None => Compacted::default(),
        };
        let sums = Sums::of(base, end, made.size, [&offsets, &times, &aborted]).after(compacted);
        self.write(&path, &sums.encode())
    }

    fn write_hint(&mut self, last: Offset, size: u64, end: Offset) -> Result<()> {
        let hint = Hint {
            turn: 0,
            recovery_point: end,
            durable_end: end,
            log_start: self.how.log_start,
            recovery_base: last,
            recovery_position: if end == last { 0 } else { size },
        };
        (self.aside)(&self.dir.join(HINT_FILE))?;
        write_hint(self.disk, self.dir, hint)
    }

    /// Replaces a file, unless it holds these bytes already.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        if read_file(self.disk, path, SIDE_FILE_LIMIT).is_ok_and(|found| found == bytes) {
            // Perhaps only in the system's cache so far.
            let file = self.disk.open(path, Open::Read);
            return file.and_then(|file| file.sync_data()).map_err(|e| Error::io("sync", path, e));
        }
        (self.aside)(path)?;
        replace_file(self.disk, path, bytes).map_err(|e| Error::io("write", path, e))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        (self.aside)(path)?;
        match self.disk.remove(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
            _ => Ok(()),
        }
    }

    /// What would be believed when the log grows again.
    fn remove_strays(&mut self, files: &Files, bases: &[Offset], end: Offset) -> Result<()> {
        let placed = |at: &Offset| *at == end || bases.contains(at);
        for at in files.snapshots.iter().filter(|at| !placed(at)) {
            self.remove(&path_of(self.dir, *at, "snapshot"))?;
        }
        for at in files.sidecars.iter().filter(|at| !placed(at)) {
            self.remove(&path_of(self.dir, *at, SIDECAR))?;
        }
        self.disk.sync_dir(self.dir).map_err(|e| Error::io("sync", self.dir, e))
    }
}

/// The highest producer id that a partition's snapshots know, or -1.
pub(crate) fn highest_producer_id<D: Disk>(disk: &D, dir: &Path) -> Result<i64> {
    let mut highest = -1;
    for at in Files::list(disk, dir)?.snapshots {
        let path = path_of(dir, at, "snapshot");
        let Ok(bytes) = read_file(disk, &path, SIDE_FILE_LIMIT) else { continue };
        if Producers::from_snapshot(&bytes).is_none() {
            continue;
        }
        // An entry begins with the id.
        let ids = bytes[10..].chunks_exact(46).filter_map(|entry| entry.first_chunk());
        highest = ids.map(|id| i64::from_be_bytes(*id)).fold(highest, i64::max);
    }
    Ok(highest)
}

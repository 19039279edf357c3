//! F3 · Opening a partition's folder: after a clean stop by looking, after any other by reading.
//!
//! ```text
//!   unclean:  sync files at and above the recovery point, and the folder      (crash-catalogue 1)
//!             drop their cached pages: what is read next is what is on the medium
//!             newest producer snapshot at or below the recovery point
//!             every batch above it: CRC, contiguous offsets -> index, aborted index, producers, epochs
//!             first bad batch:  >= hint  torn tail: cut here, remove later segments, sync the cut
//!                               <  hint  damaged: nothing is touched, the error names file and byte
//! ```
//!
//! Always true here: what recovery decided on is on the medium before it is used; a second crash at
//! any step of recovery is recovered the same way; side files above the recovery point are rebuilt,
//! never believed; no byte below the hint is ever removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use arc_swap::ArcSwap;

use super::aborted::Aborted;
use super::compact::finish_swaps;
use super::epochs::Epochs;
use super::hint::{Hint, SLOT_LEN};
use super::index::{Entry, Indexes, Marks, OffsetEntry, TimeEntry};
use super::producers::Producers;
use super::segment::{FILES, SIDECAR, Segment, path_of};
use super::sums::{Compacted, Sums};
use super::walk::Walk;
use super::{
    EPOCHS_FILE, EPOCHS_TMP, HINT_FILE, LogView, METADATA_TMP, PartitionLog, Unsynced, write_file,
};
use crate::batch::{self, BatchHeader, BatchRef};
use crate::config::TopicConfig;
use crate::disk::handles::{Handles, Slot};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, read_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, TopicPartition};

/// How a folder is opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Which partition it is.
    pub at: TopicPartition,
    /// The folder.
    pub dir: PathBuf,
    /// The topic's settings.
    pub config: TopicConfig,
    /// Whether the last process stopped cleanly.
    pub clean: bool,
    /// [`LogConfig::page_cache_bytes`](crate::config::LogConfig::page_cache_bytes).
    pub page_cache_bytes: Option<u64>,
    /// [`LogConfig::recovery_bytes`](crate::config::LogConfig::recovery_bytes).
    pub recovery_bytes: u64,
    /// Whether offsets may be missing between batches anywhere, and not only where a sidecar says so:
    /// another program wrote the folder.
    pub gaps: bool,
    /// No leader epoch is above it.
    pub epoch_max: LeaderEpoch,
}

/// What opening found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Bytes that were read and checked.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut.
    pub cut_bytes: u64,
    /// Everything below was known to be durable before the folder was opened.
    pub known_durable: Offset,
    /// Segments that lay behind the cut and were removed.
    pub removed_segments: usize,
}

/// The largest side file that is read whole.
pub(super) const SIDE_FILE_LIMIT: u64 = 64 << 20;

impl<D: Disk> PartitionLog<D> {
    /// Opens a partition's folder, recovering it when the last stop was not clean. The folder exists;
    /// a first segment is made when there is none.
    ///
    /// # Errors
    /// `Damaged` for bad bytes below the flushed-offset hint, or below the recovery point; `Io`.
    pub fn open(handles: &Handles<D>, opening: &Opening) -> Result<(Self, Recovered)> {
        let mut opener = Opener::new(handles, opening)?;
        let log = if opening.clean { opener.clean()? } else { opener.unclean()? };
        Ok((log, opener.report))
    }
}

struct Opener<'a, D: Disk> {
    disk: &'a D,
    handles: &'a Handles<D>,
    opening: &'a Opening,
    dir: &'a Path,
    bases: Vec<Offset>,
    snapshots: Vec<Offset>,
    sidecars: Vec<Offset>,
    /// Side files whose segment is not there.
    orphans: Vec<PathBuf>,
    hint: Option<Hint>,
    /// Whether both slots of the hint say the same of what was deleted.
    hint_agrees: bool,
    hint_file: Option<Arc<Slot<D>>>,
    report: Recovered,
}

/// What a scan of one segment built.
struct Scan {
    size: u64,
    next: Offset,
    marks: Marks,
    aborted: Vec<Aborted>,
    bad: Option<String>,
}

/// Where a scan begins: at the front of a segment, or at the recovery point inside it.
struct From {
    position: u64,
    offset: Offset,
    indexes: Box<Indexes>,
    marks: Marks,
    aborted: Vec<Aborted>,
}

impl From {
    fn front(base: Offset) -> Self {
        Self {
            position: 0,
            offset: base,
            indexes: Box::new(Indexes::new()),
            marks: Marks::new(base),
            aborted: Vec::new(),
        }
    }
}

impl<'a, D: Disk> Opener<'a, D> {
    fn new(handles: &'a Handles<D>, opening: &'a Opening) -> Result<Self> {
        let disk = handles.disk();
        let dir = opening.dir.as_path();
        finish_swaps(disk, dir, opening.gaps)?;
        let mut bases = Vec::new();
        let mut snapshots = Vec::new();
        let mut sidecars = Vec::new();
        let mut sides = Vec::new();
        let mut temporaries = Vec::new();
        for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
            let name = entry.name.to_string_lossy();
            if [EPOCHS_TMP, METADATA_TMP].contains(&&*name) {
                temporaries.push(dir.join(&*name));
            }
            let Some((stem, suffix)) = name.split_once('.') else { continue };
            if stem.len() != 20 || !stem.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let Ok(offset) = stem.parse::<Offset>() else { continue };
            let unfinished = [".cleaned", ".swap", ".deleted", ".tmp"];
            if unfinished.iter().any(|ending| suffix.ends_with(ending)) {
                temporaries.push(dir.join(&*name));
            }
            match suffix {
                "log" => bases.push(offset),
                "snapshot" => snapshots.push(offset),
                SIDECAR => sidecars.push(offset),
                "index" | "txnindex" | "timeindex" => sides.push((offset, dir.join(&*name))),
                _ => {}
            }
        }
        bases.sort_unstable();
        snapshots.sort_unstable();
        sides.retain(|(offset, _)| bases.binary_search(offset).is_err());
        // A power loss may leave both names of a rename.
        let orphans = sides.into_iter().map(|(_, path)| path).chain(temporaries).collect();
        let path = dir.join(HINT_FILE);
        let file = disk.open(&path, Open::Create).map_err(|e| Error::io("open", &path, e))?;
        let mut slots = vec![
            0;
            (file.len().map_err(|e| Error::io("read", &path, e))?).min(2 * SLOT_LEN)
                as usize
        ];
        read_exact_at(&file, &mut slots, 0).map_err(|e| Error::io("read", &path, e))?;
        let (hint, hint_agrees) = Hint::decode_both(&slots).unzip();
        let known_durable = hint.map_or(0, |h| h.durable_end);
        let report = Recovered { known_durable, ..Recovered::default() };
        Ok(Self {
            disk,
            handles,
            opening,
            dir,
            bases,
            snapshots,
            sidecars,
            orphans,
            hint,
            hint_agrees: hint_agrees.unwrap_or(false),
            hint_file: Some(handles.slot_of(path, Open::Create, file)),
            report,
        })
    }

    /// Opens after a clean stop: everything is durable, side files are whole, and the hint says
    /// exactly where the log ends. Nothing is read but the side files.
    fn clean(&mut self) -> Result<PartitionLog<D>> {
        let Some(hint) = self.hint else { return self.unclean() };
        self.remove_below(hint.log_start)?;
        let Some((&active, sealed)) = self.bases.split_last() else { return self.unclean() };
        if hint.recovery_point != hint.durable_end || self.bases[0] > hint.log_start {
            return self.unclean();
        }
        let mut segments = Vec::new();
        for (&base, &end) in sealed.iter().zip(&self.bases[1..]) {
            segments.push(Arc::new(self.sealed(base, end)?));
        }
        let noted = self.epochs();
        let mut producers = self.producers_at(hint.recovery_point);
        let from = match &producers {
            Some(_) => self.resume(active, &hint)?,
            None => None,
        };
        let (Some(producers), Some(from)) = (&mut producers, from) else { return self.unclean() };
        let mut epochs = self.epochs_at(segments.len(), hint.durable_end, noted.as_ref())?;
        let (segment, scan) = self.scan(active, from, producers, &mut epochs)?;
        if scan.bad.is_some() || scan.next != hint.durable_end {
            // More came from outside, and is checked as anything else.
            return self.unclean();
        }
        segments.push(Arc::new(segment));
        self.remove_strays(scan.next)?;
        let producers = std::mem::take(producers);
        self.assemble(segments, producers, epochs, noted, hint, scan.next, scan.marks)
    }

    /// Opens after anything else.
    fn unclean(&mut self) -> Result<PartitionLog<D>> {
        let hint = self.hint.unwrap_or_else(|| Hint {
            // Without a hint everything that is there is read: nothing tells that more was.
            log_start: self.bases.first().copied().unwrap_or(0),
            recovery_point: self.bases.first().copied().unwrap_or(0),
            recovery_base: self.bases.first().copied().unwrap_or(0),
            ..Hint::default()
        });
        let hint = self.settle_hint(hint)?;
        self.remove_below(hint.log_start)?;
        // Everything up to the recovery point may have been deleted: it begins with what is left then.
        let left = self.bases.first().copied().filter(|&base| base <= hint.log_start);
        let point = hint.recovery_point.max(left.unwrap_or(0));
        let first = self.bases.iter().rposition(|&b| b <= point);
        let (Some(_), Some(first)) = (left, first) else {
            if hint.durable_end > hint.log_start {
                return Err(self.lost(hint.log_start, hint.durable_end));
            }
            // Nothing was ever synced. What there is lies behind a first segment whose name was lost.
            return self.begin_again(hint.log_start);
        };
        // Where all that was synced was deleted, files of it come back in any order, and nothing is missed
        // while nothing lies behind them.
        let alone = first + 1 == self.bases.len();
        let needed = if alone && hint.durable_end <= hint.log_start { 0 } else { hint.durable_end };
        let resumed = match self.producers_at(hint.recovery_point) {
            Some(producers) if hint.recovery_position > 0 => {
                self.resume(self.bases[first], &hint)?.map(|from| (producers, from))
            }
            _ => None,
        };
        self.settle(first, resumed.as_ref().map_or(0, |(_, from)| from.position))?;
        let mut segments = Vec::new();
        for (&base, &end) in self.bases[..first].iter().zip(&self.bases[1..]) {
            segments.push(Arc::new(self.sealed(base, end)?));
        }
        let (mut producers, from) = match resumed {
            Some(found) => found,
            None => (self.snapshot_at(self.bases[first])?, From::front(self.bases[first])),
        };
        let noted = self.epochs();
        let mut epochs = self.epochs_at(first, from.offset, noted.as_ref())?;
        let mut next = self.bases[first];
        let mut cut: Option<usize> = None;
        let mut sealed: Vec<(Arc<Segment<D>>, Offset)> = Vec::new();
        let mut from = Some(from);
        let mut marks = Marks::new(next);
        for at in first..self.bases.len() {
            let base = self.bases[at];
            // Above the recovery point offsets are contiguous: a gap is the torn tail.
            if base != next && !(self.opening.gaps && base > next) {
                cut = Some(at);
                break;
            }
            if let Some(before) = segments.last().filter(|_| at > first) {
                self.reseal(before, &marks, base, &producers)?;
                sealed.push((Arc::clone(before), base));
            }
            let from = from.take().unwrap_or_else(|| From::front(base));
            let scanned_from = from.position;
            let (segment, scan) = self.scan(base, from, &mut producers, &mut epochs)?;
            (next, marks) = (scan.next, scan.marks);
            self.report.scanned_bytes += scan.size - scanned_from;
            segments.push(Arc::new(segment));
            if let Some(bad) = scan.bad {
                let synced = next < hint.durable_end;
                if next < needed || (synced && self.goes_on(base, scan.size, hint.log_start)?) {
                    return Err(self.damaged(base, scan.size, &bad));
                }
                cut = Some(at + 1);
                break;
            }
        }
        if next < needed {
            return Err(self.lost(next, needed));
        }
        if next < hint.log_start {
            // What was deleted reached further than what was synced: all that is left was deleted.
            drop(segments);
            return self.begin_again(hint.log_start);
        }
        // Before anything is cut.
        self.check_epochs(&epochs)?;
        let kept = segments.last().map(Arc::clone);
        if let Some(kept) = kept {
            self.cut_tail(&kept, cut)?;
        }
        for segment in &segments[first..] {
            self.write_rebuilt_aborted(segment)?;
        }
        self.remove_strays(next)?;
        epochs.cut(next);
        let hint = Hint { durable_end: next, ..hint };
        let mut log = self.assemble(segments, producers, epochs, noted, hint, next, marks)?;
        // The recovery point passes these segments when the next job has synced their side files.
        log.unsynced = Unsynced { names: true, sealed, epochs: None };
        if log.has_sealed() {
            log.write_epochs()?;
        }
        Ok(log)
    }

    /// An empty log that begins at `start`, whatever segments there are.
    fn begin_again(&mut self, start: Offset) -> Result<PartitionLog<D>> {
        if self.remove_segments(0)? {
            self.disk.sync_dir(self.dir).map_err(|e| Error::io("sync", self.dir, e))?;
        }
        self.empty(start)
    }

    /// Segments that lie wholly below the log start were deleted, and a crash kept their files.
    fn remove_below(&mut self, start: Offset) -> Result<()> {
        let below = self.bases.iter().skip(1).take_while(|&&next| next <= start).count();
        let ends: Vec<Offset> = self.bases.iter().skip(1).copied().collect();
        for (base, end) in self.bases.drain(..below).zip(ends) {
            let side = path_of(self.dir, end, SIDECAR);
            let files = FILES.map(|suffix| path_of(self.dir, base, suffix));
            for path in std::iter::once(side).chain(files) {
                match self.disk.remove(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io("remove", &path, e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What is needed to read the segment at `base` from the recovery point on; `None` when the hint
    /// names no place in it, or its index is not there.
    ///
    /// The side files were synced before the hint was written, and their sums with them.
    fn resume(&self, base: Offset, hint: &Hint) -> Result<Option<From>> {
        let (position, offset) = (hint.recovery_position, hint.recovery_point);
        if base != hint.recovery_base || (position == 0) != (offset == base) {
            return Ok(None);
        }
        let log = path_of(self.dir, base, "log");
        let len = self.disk.stat(&log).map_err(|e| Error::io("look at", &log, e))?.len;
        if len < position {
            return Err(self.lost_bytes(base, len, position));
        }
        let indexes = Box::new(Indexes::new());
        let mut marks = Marks::new(base);
        if position == 0 {
            return Ok(Some(From { position, offset, indexes, marks, aborted: Vec::new() }));
        }
        let Some(sums) = self.sums(base, offset).filter(|sums| sums.size == position) else {
            return Ok(None);
        };
        let side = |suffix| -> Option<Vec<u8>> {
            let path = path_of(self.dir, base, suffix);
            let file = match read_file(self.disk, &path, SIDE_FILE_LIMIT) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                file => file.ok()?,
            };
            sums.front(suffix, &file).map(<[u8]>::to_vec)
        };
        let (Some(offsets), Some(times), Some(aborted)) =
            (side("index"), side("timeindex"), side("txnindex"))
        else {
            return Ok(None);
        };
        let end = (offset - base) as u32;
        let mut last: Option<OffsetEntry> = None;
        for bytes in offsets.chunks_exact(OffsetEntry::LEN) {
            let Some(entry) = OffsetEntry::read(bytes) else { break };
            let rises =
                last.is_none_or(|l| l.relative < entry.relative && l.position < entry.position);
            if !rises || entry.relative >= end || u64::from(entry.position) >= position {
                break;
            }
            indexes.offsets.push(entry);
            last = Some(entry);
        }
        let mut last: Option<TimeEntry> = None;
        for bytes in times.chunks_exact(TimeEntry::LEN) {
            let Some(entry) = TimeEntry::read(bytes) else { break };
            let rises = last.is_none_or(|l| l.relative < entry.relative && l.time < entry.time);
            if !rises || entry.relative >= end || entry.time < 0 {
                break;
            }
            indexes.times.push(entry);
            last = Some(entry);
        }
        let from = indexes.offsets.last().map_or(0, |entry| u64::from(entry.position));
        let Some(first) = self.ends_at(base, from, position, offset)? else { return Ok(None) };
        marks.resume(first.max_timestamp, last);
        let aborted = Aborted::decode_all(&aborted, base);
        Ok(aborted.map(|aborted| From { position, offset, indexes, marks, aborted }))
    }

    /// The first header of the segment at `base`, if the batches from the last index entry on, at `from`,
    /// end at `position`, and their offsets before `offset`. Nothing else looks at what was synced last,
    /// which is what a device that lies about that loses, before records are written behind it.
    fn ends_at(
        &self,
        base: Offset,
        from: u64,
        position: u64,
        offset: Offset,
    ) -> Result<Option<BatchHeader>> {
        let path = path_of(self.dir, base, "log");
        let unread = |e| Error::io("read", &path, e);
        let file = self.disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
        let gaps = self.compacted(base).gaps;
        let mut walk = Walk::over_headers(&file, position);
        let Ok(first) = walk.header(0).map_err(unread)? else { return Ok(None) };
        let (mut at, mut next) = (from, base);
        while at < position {
            let Ok(header) = walk.header(at).map_err(unread)? else { return Ok(None) };
            (at, next) = (at + header.size() as u64, header.next_offset());
        }
        Ok((next == offset || (gaps && next < offset)).then_some(first))
    }

    /// Whether batches at and above `start` lie behind a bad one at `position`.
    fn goes_on(&self, base: Offset, position: u64, start: Offset) -> Result<bool> {
        let path = path_of(self.dir, base, "log");
        let unread = |e| Error::io("read", &path, e);
        let file = self.disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
        let mut walk = Walk::new(&file, file.len().map_err(unread)?);
        Ok(walk.resync(position, start, Offset::MAX).map_err(unread)?.is_some())
    }

    /// The producers as a snapshot taken at `offset` has them.
    fn producers_at(&self, offset: Offset) -> Option<Producers> {
        let file =
            read_file(self.disk, &path_of(self.dir, offset, "snapshot"), SIDE_FILE_LIMIT).ok();
        match file {
            Some(file) => Producers::from_snapshot(&file),
            // Nobody has written yet.
            None => (offset == 0).then(Producers::default),
        }
    }

    /// Writes again what a roll writes: the index of the sealed segment and the snapshot after it.
    fn reseal(
        &self,
        segment: &Segment<D>,
        marks: &Marks,
        next: Offset,
        producers: &Producers,
    ) -> Result<()> {
        segment.write_indexes(marks, next, self.disk, self.dir)?;
        let path = path_of(self.dir, next, "snapshot");
        write_file(self.disk, &path, &producers.to_snapshot()).map(drop)
    }

    /// What the hint says was deleted may be what a kill left in the page cache: it is durable, in both
    /// slots, before anything is removed for it and before a reader sees it.
    fn settle_hint(&self, mut hint: Hint) -> Result<Hint> {
        let Some(slot) =
            self.hint_file.as_ref().filter(|_| self.hint.is_some() && hint.log_start > 0)
        else {
            return Ok(hint);
        };
        let file = slot.get().map_err(|e| Error::io("open", slot.path(), e))?;
        if !self.hint_agrees {
            hint.turn += 1;
            write_all_at(&*file, &hint.encode(), hint.position())
                .map_err(|e| Error::io("write", slot.path(), e))?;
        }
        file.sync_data().map_err(|e| Error::io("sync", slot.path(), e))?;
        Ok(hint)
    }

    /// Makes what a kill left in the page cache durable, then forgets the cache: from here on reads
    /// see the medium.
    fn settle(&self, first: usize, position: u64) -> Result<()> {
        for (at, &base) in self.bases[first..].iter().enumerate() {
            let from = if at == 0 { position } else { 0 };
            let path = path_of(self.dir, base, "log");
            let file =
                self.disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
            file.sync_data().map_err(|e| Error::io("sync", &path, e))?;
            file.drop_cache(from..u64::MAX)
                .map_err(|e| Error::io("drop the cache of", &path, e))?;
        }
        self.disk.sync_dir(self.dir).map_err(|e| Error::io("sync", self.dir, e))
    }

    /// Cuts the torn tail and removes what lies behind it, last segment first, so that a crash in
    /// between leaves a gap at most (which the next recovery cuts again); then makes it durable.
    fn cut_tail(&mut self, kept: &Segment<D>, removed_from: Option<usize>) -> Result<()> {
        let mut changed = match removed_from {
            Some(from) => self.remove_segments(from)?,
            None => false,
        };
        let file = kept.file()?;
        let len = file.len().map_err(|e| Error::io("read", kept.path(), e))?;
        if len > kept.size() {
            self.report.cut_bytes += len - kept.size();
            file.set_len(kept.size()).map_err(|e| Error::io("cut", kept.path(), e))?;
            file.sync_data().map_err(|e| Error::io("sync", kept.path(), e))?;
            changed = true;
        }
        if changed {
            self.disk.sync_dir(self.dir).map_err(|e| Error::io("sync", self.dir, e))?;
        }
        Ok(())
    }

    /// Removes the segments from the one of this number on, last one first. Whether a name changed.
    fn remove_segments(&mut self, from: usize) -> Result<bool> {
        let mut changed = false;
        for base in self.bases.split_off(from).into_iter().rev() {
            for suffix in ["log", "index", "txnindex", "timeindex"] {
                let path = path_of(self.dir, base, suffix);
                match self.disk.remove(&path) {
                    Ok(()) => changed = true,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::io("remove", &path, e)),
                }
            }
            self.report.removed_segments += 1;
        }
        Ok(changed)
    }

    /// Snapshots above the log end would be believed when the log grows past them, and so would the
    /// side files of a segment whose own name was lost when another segment begins there: they go,
    /// durably, before the log grows. Strays between segments go too; the newest one stays.
    fn remove_strays(&self, end: Offset) -> Result<()> {
        let newest = self.snapshots.iter().copied().filter(|&s| s <= end).max();
        let named = self.hint.map(|hint| hint.recovery_point);
        let stray = |&at: &Offset| {
            let known = self.bases.contains(&at) || Some(at) == newest || Some(at) == named;
            at > end || !known
        };
        let snapshots = self.snapshots.iter().copied().filter(stray);
        let snapshots = snapshots.map(|at| path_of(self.dir, at, "snapshot"));
        let sidecars = self.sidecars.iter().copied().filter(stray);
        let sidecars = sidecars.map(|at| path_of(self.dir, at, SIDECAR));
        let mut removed = false;
        for path in snapshots.chain(sidecars).chain(self.orphans.iter().cloned()) {
            match self.disk.remove(&path) {
                Ok(()) => removed = true,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("remove", &path, e)),
            }
        }
        if removed {
            self.disk.sync_dir(self.dir).map_err(|e| Error::io("sync", self.dir, e))?;
        }
        Ok(())
    }

    fn empty(&mut self, start: Offset) -> Result<PartitionLog<D>> {
        if !self.opening.clean {
            // The run that named the topic here may have been killed before it synced that name: the
            // first segment must not outlive it.
            self.disk.sync_dir(self.dir).map_err(|e| Error::io("sync", self.dir, e))?;
        }
        let segment = Arc::new(Segment::create(self.handles, self.dir, start)?);
        self.remove_strays(start)?;
        let hint = Hint {
            turn: self.hint.map_or(0, |h| h.turn),
            log_start: start,
            recovery_point: start,
            recovery_base: start,
            durable_end: start,
            recovery_position: 0,
        };
        let (producers, epochs, noted) = (Producers::default(), Epochs::default(), self.epochs());
        let marks = Marks::new(start);
        let mut log = self.assemble(vec![segment], producers, epochs, noted, hint, start, marks)?;
        log.unsynced.names = true;
        log.named = false;
        Ok(log)
    }

    fn sealed(&self, base: Offset, end: Offset) -> Result<Segment<D>> {
        let path = path_of(self.dir, base, "log");
        let size = self.disk.stat(&path).map_err(|e| Error::io("look at", &path, e))?.len;
        let (aborted, compacted) = self.aborted_of(base, end)?;
        let slot = self.handles.slot(path, Open::Read);
        Ok(Segment::sealed(base, end, slot, size, Arc::new(aborted), compacted))
    }

    /// What compaction did to the segment at `base`, which was compacted only if it is not the last.
    fn compacted(&self, base: Offset) -> Compacted {
        if self.opening.gaps {
            return Compacted::FOREIGN;
        }
        let end = self.bases.get(self.bases.partition_point(|&b| b <= base));
        end.and_then(|&end| self.sums(base, end)).map(|sums| sums.compacted).unwrap_or_default()
    }

    /// The sums as of `end`; `None` where there are none, or others.
    fn sums(&self, base: Offset, end: Offset) -> Option<Sums> {
        let bytes = read_file(self.disk, &path_of(self.dir, end, SIDECAR), 4096).ok()?;
        Sums::decode(&bytes).filter(|sums| (sums.base, sums.end) == (base, end))
    }

    /// The aborted index of a sealed segment, and what compaction did to it. The index's sum is looked at
    /// here, because nothing else would tell a turned bit: readers would see aborted records.
    fn aborted_of(&self, base: Offset, end: Offset) -> Result<(Vec<Aborted>, Compacted)> {
        let side = path_of(self.dir, base, "txnindex");
        let bytes = match read_file(self.disk, &side, SIDE_FILE_LIMIT) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("read", &side, e)),
        };
        let fits = |sums: Sums| {
            sums.front("txnindex", &bytes).is_some_and(|front| front.len() == bytes.len())
        };
        let sidecar = read_file(self.disk, &path_of(self.dir, end, SIDECAR), 4096);
        let mut compacted = Compacted::default();
        if self.opening.gaps {
            compacted = Compacted::FOREIGN;
        }
        let bad = match sidecar.map(|bytes| Sums::decode(&bytes)) {
            Ok(Some(sums)) if sums.base == base => {
                compacted.gaps |= sums.compacted.gaps;
                compacted = Compacted { gaps: compacted.gaps, ..sums.compacted };
                !fits(sums)
            }
            // The segment between is gone: whoever reads on from here is told.
            Ok(Some(_)) => false,
            Ok(None) => true,
            // A segment of layout 1 has none.
            Err(e) => e.kind() != std::io::ErrorKind::NotFound,
        };
        if bad {
            return Err(Error::damaged(
                &side,
                0,
                "not the aborted-transaction index that was written: remove the flushed-offset file to have it rebuilt",
            ));
        }
        let aborted = Aborted::decode_all(&bytes, base).ok_or_else(|| {
            Error::damaged(&side, 0, "not an aborted-transaction index: remove it and the flushed-offset file to have both rebuilt")
        })?;
        Ok((aborted, compacted))
    }

    /// The epochs as their file has them; `None` when it is missing or no such file.
    fn epochs(&self) -> Option<Epochs> {
        let bytes = read_file(self.disk, &self.dir.join(EPOCHS_FILE), SIDE_FILE_LIMIT).ok()?;
        Epochs::from_text(&bytes)
    }

    /// The epochs below `offset`, which lies in segment `count`: from the file, or, where that is lost,
    /// from the batches themselves. What the file says of later records is not believed.
    fn epochs_at(&self, count: usize, offset: Offset, noted: Option<&Epochs>) -> Result<Epochs> {
        if let Some(noted) = noted {
            let mut epochs = noted.clone();
            epochs.cut(offset);
            return Ok(epochs);
        }
        let mut epochs = Epochs::default();
        let inside = usize::from(self.bases.get(count).is_some_and(|&base| base < offset));
        for &base in &self.bases[..count + inside] {
            let front = From::front(base);
            let (_, scan) = self.scan(base, front, &mut Producers::default(), &mut epochs)?;
            // What follows `offset` may be torn, and is looked at later.
            if let Some(bad) = scan.bad.filter(|_| scan.next < offset) {
                return Err(self.damaged(base, scan.size, &bad));
            }
        }
        epochs.cut(offset);
        Ok(epochs)
    }

    /// The producers as of the segment at `base`: its own snapshot is durable with the segment before
    /// it, so it is the normal case. From an older one the segments between are read again; only
    /// snapshots at the base of a segment tell where to begin.
    fn snapshot_at(&self, base: Offset) -> Result<Producers> {
        let from = |&&at: &&Offset| at <= base && self.bases.binary_search(&at).is_ok();
        let usable = self.snapshots.iter().rev().filter(from).find_map(|&at| {
            let path = path_of(self.dir, at, "snapshot");
            let file = read_file(self.disk, &path, SIDE_FILE_LIMIT).ok()?;
            Some((at, Producers::from_snapshot(&file)?))
        });
        let (from, mut producers) = usable.unwrap_or_default();
        for &at in self.bases.iter().filter(|&&b| b >= from && b < base) {
            self.scan_whole(at, &mut producers)?;
        }
        Ok(producers)
    }

    /// Reads a segment below the recovery point, where nothing may be bad.
    fn scan_whole(&self, base: Offset, producers: &mut Producers) -> Result<()> {
        let (_, scan) = self.scan(base, From::front(base), producers, &mut Epochs::default())?;
        scan.bad.map_or(Ok(()), |bad| Err(self.damaged(base, scan.size, &bad)))
    }

    /// Reads a segment to its first bad batch.
    fn scan(
        &self,
        base: Offset,
        from: From,
        producers: &mut Producers,
        epochs: &mut Epochs,
    ) -> Result<(Segment<D>, Scan)> {
        let path = path_of(self.dir, base, "log");
        let file = self.disk.open(&path, Open::Write).map_err(|e| Error::io("open", &path, e))?;
        let len = file.len().map_err(|e| Error::io("read", &path, e))?;
        let From { position, offset, indexes, marks, aborted } = from;
        let compacted = self.compacted(base);
        let mut scan = Scan { size: position, next: offset, marks, aborted, bad: None };
        let mut walk = Walk::new(&file, len);
        while scan.size < len {
            let batch = match walk.batch(scan.size) {
                Ok(Ok(batch)) => batch,
                Ok(Err(bad)) => {
                    scan.bad = Some(bad);
                    break;
                }
                Err(e) => return Err(Error::io("read", &path, e)),
            };
            let header = batch.header;
            let follows = header.base_offset == scan.next
                || (compacted.gaps && header.base_offset > scan.next);
            if !follows {
                scan.bad =
                    Some(format!("offset {} where {} must follow", header.base_offset, scan.next));
                break;
            }
            let interval = self.opening.config.index_interval_bytes;
            scan.marks.note(&indexes, &header, scan.size, interval);
            replay(&batch, producers, &mut scan.aborted);
            epochs.note(header.leader_epoch, header.base_offset);
            scan.size += header.size() as u64;
            scan.next = header.next_offset();
        }
        let (greatest, aborted) = (scan.marks.greatest, scan.aborted.clone());
        let slot = self.handles.slot_of(path, Open::Write, file);
        let segment =
            Segment::recovered(base, slot, scan.size, indexes, greatest, aborted, compacted);
        Ok((segment, scan))
    }

    fn check_epochs(&self, epochs: &Epochs) -> Result<()> {
        // No sum covers an epoch where it is stored, and the next run takes one above the greatest.
        let last = epochs.last();
        if last > self.opening.epoch_max {
            let what = format!(
                "leader epoch {last} was never given out: repair the folder, which takes it from the batches, or restore it from a copy"
            );
            return Err(Error::damaged(self.dir, 0, what));
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "all that opening found, once")]
    fn assemble(
        &mut self,
        segments: Vec<Arc<Segment<D>>>,
        mut producers: Producers,
        epochs: Epochs,
        noted_epochs: Option<Epochs>,
        hint: Hint,
        end: Offset,
        marks: Marks,
    ) -> Result<PartitionLog<D>> {
        self.check_epochs(&epochs)?;
        // What is below the end now is durable, so every marker in it is decided.
        producers.decided_below(end);
        let start = hint.log_start;
        let active = segments
            .last()
            .map(Arc::clone)
            .ok_or_else(|| Error::damaged(self.dir, 0, "no segment could be opened or made"))?;
        let deletions = segments.iter().map(|segment| segment.compacted.deletions_below).max();
        let view = Arc::new(LogView {
            deletions_below: AtomicI64::new(deletions.unwrap_or(0)),
            at: self.opening.at.clone(),
            segments: ArcSwap::from_pointee(segments),
            start: AtomicI64::new(start),
            end: AtomicI64::new(end),
        });
        let hint_file = self
            .hint_file
            .take()
            .ok_or_else(|| Error::damaged(self.dir, 0, "the hint file was opened twice"))?;
        Ok(PartitionLog {
            disk: self.disk.clone(),
            handles: self.handles.clone(),
            dir: self.dir.to_owned(),
            config: self.opening.config.clone(),
            page_cache_bytes: self.opening.page_cache_bytes,
            recovery_bytes: self.opening.recovery_bytes,
            view,
            active,
            producers,
            epochs,
            marks,
            hint,
            noted: self.hint.unwrap_or_default(),
            hint_file,
            durable_end: end,
            noted_epochs: noted_epochs.unwrap_or_default(),
            unsynced: Unsynced::default(),
            inside: Vec::new(),
            point_noted: 0,
            swaps: 0,
            leaving: Vec::new(),
            named: true,
            refusal: None,
        })
    }

    /// The aborted index of a segment that was scanned replaces whatever file was there.
    fn write_rebuilt_aborted(&self, segment: &Segment<D>) -> Result<()> {
        let path = path_of(self.dir, segment.base, "txnindex");
        let wanted: Vec<u8> = segment.aborted().iter().flat_map(Aborted::encode).collect();
        let found = match read_file(self.disk, &path, SIDE_FILE_LIMIT) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        if wanted == found {
            return Ok(());
        }
        write_file(self.disk, &path, &wanted).map(drop)
    }

    fn damaged(&self, base: Offset, position: u64, bad: &str) -> Error {
        Error::damaged(
            &path_of(self.dir, base, "log"),
            position,
            format!(
                "{bad}; these bytes were synced once, so this is not a torn write: restore the file from a copy"
            ),
        )
    }

    fn lost(&self, from: Offset, to: Offset) -> Error {
        Error::damaged(
            self.dir,
            0,
            format!(
                "records {from} to {} were synced and are not there: restore the folder from a copy",
                to - 1
            ),
        )
    }

    fn lost_bytes(&self, base: Offset, len: u64, known: u64) -> Error {
        let what = format!(
            "the file ends here and had {known} bytes that were synced: restore it from a copy"
        );
        Error::damaged(&path_of(self.dir, base, "log"), len, what)
    }
}

/// Takes a batch of the log into the producer state and the aborted index.
pub(super) fn replay(batch: &BatchRef<'_>, producers: &mut Producers, aborted: &mut Vec<Aborted>) {
    let header = &batch.header;
    if !header.is_control() {
        producers.written(header);
        return;
    }
    let mut scratch = batch::Scratch::default();
    let marker = batch
        .records(&mut scratch)
        .ok()
        .and_then(|mut records| records.next()?.ok().and_then(|r| batch::parse_marker(&r)));
    let Some((marker, coordinator_epoch)) = marker else { return };
    let last_stable = producers.stable_after(header.producer.id, header.base_offset);
    let ended = producers.marked(
        marker,
        header.producer,
        coordinator_epoch,
        header.base_offset,
        header.max_timestamp,
    );
    if let (batch::Marker::Abort, Some(ended)) = (marker, ended) {
        aborted.push(Aborted {
            producer_id: header.producer.id,
            first_offset: ended.first_offset,
            last_offset: ended.marker_offset,
            last_stable,
        });
    }
    // While replaying, nothing above is known yet; a marker that was read is decided.
    producers.decided_below(header.next_offset());
}

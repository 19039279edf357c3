//! F3 · One segment: batches in a row, an index, and the transactions aborted in it.
//!
//! ```text
//!   <base>.log        batch | batch | batch |            no header, no footer, no padding
//!   <base>.index, <base>.timeindex   see index.rs        <base>.txnindex   see aborted.rs
//! ```
//!
//! Always true here: bytes below `size` are whole batches and never change; a sealed segment is never
//! written again; readers need no lock (size and entries are published after the bytes are there).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::aborted::Aborted;
use super::compact::Written;
use super::index::{InFile, Indexes, Marks, NO_TIME, OffsetEntry, TimeEntry};
use super::recover::SIDE_FILE_LIMIT;
use super::sums::{Compacted, Sums};
use crate::batch::{BatchHeader, BatchRef, HEADER_LEN, Scratch};
use crate::disk::handles::{Handles, Slot};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, Timestamp};

/// The endings of a segment's files, the batches last: while they are there, so is the segment.
pub(crate) const FILES: [&str; 5] = ["index", "timeindex", "txnindex", "snapshot", "log"];
/// The ending of the file of sums.
pub(crate) const SIDECAR: &str = "sidecar";
/// Bytes between entries of an index that is made anew in memory.
const REBUILT_INTERVAL: u32 = 4096;

/// The path of one of a segment's files.
pub(crate) fn path_of(dir: &Path, base: Offset, suffix: &str) -> PathBuf {
    dir.join(format!("{base:020}.{suffix}"))
}

/// Where lookups of a segment go.
enum Index<D: Disk> {
    /// In memory: the segment is the active one, or its files are not durable yet.
    Growing(Box<Indexes>),
    /// In the files of a segment that ends at this offset: compared with their sums when somebody
    /// looks something up first.
    AtRest(Offset, OnceLock<Sides<D>>),
}

/// The indexes of a sealed segment.
enum Sides<D: Disk> {
    /// The files are what was written.
    Files(InFile<D>, InFile<D>),
    /// They are not, or not there: this was read from the batches.
    Rebuilt(Box<Indexes>),
}

/// A record that was found by its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Timed {
    pub(crate) offset: Offset,
    pub(crate) time: Timestamp,
    pub(crate) epoch: LeaderEpoch,
}

/// One segment of a partition.
pub(crate) struct Segment<D: Disk> {
    /// The offset its name says: at most that of its first batch.
    pub(crate) base: Offset,
    /// The batches.
    slot: Arc<Slot<D>>,
    size: AtomicU64,
    /// Bytes below this were dropped from the page cache.
    forgotten: AtomicU64,
    /// The greatest time of its records; [`UNKNOWN`] until somebody asked.
    greatest: AtomicI64,
    index: Index<D>,
    aborted: ArcSwap<Vec<Aborted>>,
    /// What compaction did to it.
    pub(crate) compacted: Compacted,
}

/// The greatest time of a segment that nobody asked for yet.
const UNKNOWN: Timestamp = i64::MIN;

impl<D: Disk> Segment<D> {
    /// Creates the file of a new, empty, active segment. A left-over of the same name (its folder
    /// entry survived a crash that its content did not) is emptied.
    pub(crate) fn create(handles: &Handles<D>, dir: &Path, base: Offset) -> Result<Self> {
        let path = path_of(dir, base, "log");
        let file =
            handles.disk().open(&path, Open::Create).map_err(|e| Error::io("create", &path, e))?;
        if file.len().map_err(|e| Error::io("read", &path, e))? > 0 {
            file.set_len(0).map_err(|e| Error::io("cut", &path, e))?;
        }
        let slot = handles.slot_of(path, Open::Write, file);
        let indexes = Box::new(Indexes::new());
        let compacted = Compacted::default();
        Ok(Self::recovered(base, slot, 0, indexes, NO_TIME, Vec::new(), compacted))
    }

    /// A segment whose content was looked at by recovery.
    pub(crate) fn recovered(
        base: Offset,
        slot: Arc<Slot<D>>,
        size: u64,
        indexes: Box<Indexes>,
        greatest: Timestamp,
        aborted: Vec<Aborted>,
        compacted: Compacted,
    ) -> Self {
        Self {
            base,
            slot,
            size: AtomicU64::new(size),
            forgotten: AtomicU64::new(0),
            greatest: AtomicI64::new(greatest),
            index: Index::Growing(indexes),
            aborted: ArcSwap::from_pointee(aborted),
            compacted,
        }
    }

    /// A sealed segment below the recovery point: its side files are trusted to be there, and
    /// checked when they are used.
    pub(crate) fn sealed(
        base: Offset,
        end: Offset,
        slot: Arc<Slot<D>>,
        size: u64,
        aborted: Arc<Vec<Aborted>>,
        compacted: Compacted,
    ) -> Self {
        Self {
            base,
            slot,
            size: AtomicU64::new(size),
            forgotten: AtomicU64::new(0),
            greatest: AtomicI64::new(UNKNOWN),
            index: Index::AtRest(end, OnceLock::new()),
            aborted: ArcSwap::new(aborted),
            compacted,
        }
    }

    /// The same segment once it is sealed and its side files are durable: nothing of its indexes is
    /// kept in memory any more.
    pub(crate) fn at_rest(&self, end: Offset) -> Self {
        self.slot.unpin();
        let slot = Arc::clone(&self.slot);
        let (size, aborted) = (self.size(), self.aborted());
        let rest = Self::sealed(self.base, end, slot, size, aborted, self.compacted);
        rest.greatest.store(self.greatest.load(Ordering::Relaxed), Ordering::Relaxed);
        rest
    }

    /// A group of segments that was compacted into one, which ends at `end`.
    pub(crate) fn compacted(
        base: Offset,
        end: Offset,
        slot: Arc<Slot<D>>,
        written: &Written<D>,
    ) -> Self {
        let aborted = Arc::new(written.aborted.clone());
        let this = Self::sealed(base, end, slot, written.size, aborted, written.sums.compacted);
        this.greatest.store(written.greatest, Ordering::Relaxed);
        this
    }

    /// The batches' file, opened or not.
    pub(crate) fn slot(&self) -> Arc<Slot<D>> {
        Arc::clone(&self.slot)
    }

    /// The path of the batches, for messages.
    pub(crate) fn path(&self) -> &Path {
        self.slot.path()
    }

    /// The file of the batches.
    pub(crate) fn file(&self) -> Result<Arc<D::File>> {
        self.slot.get().map_err(|e| Error::io("open", self.path(), e))
    }

    /// A sync has covered all that was written.
    pub(crate) fn unpin(&self) {
        self.slot.unpin();
    }

    /// Bytes of whole batches.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// The transactions aborted here.
    pub(crate) fn aborted(&self) -> Arc<Vec<Aborted>> {
        self.aborted.load_full()
    }

    /// Writes a header and a body at the end with one call. On failure nothing of it is visible, and
    /// the file is cut back to its size.
    pub(crate) fn append(&self, header: &[u8], body: &[u8]) -> Result<u64> {
        let position = self.size.load(Ordering::Relaxed);
        // First, so that it is not closed before it is synced.
        self.slot.pin();
        let file = self.file()?;
        match write_both(&*file, header, body, position) {
            Ok(()) => Ok(position),
            Err(e) => {
                // What was partly written lies past `size`: no reader sees it, but recovery would
                // find a torn batch. If even cutting fails, the caller's error stands and the tail
                // is cut by recovery.
                let cut = file.set_len(position);
                let error = Error::io("write", self.path(), e);
                match (error, cut) {
                    (full @ Error::Full { .. }, Ok(())) => Err(full),
                    (e, _) => Err(Error::Stopped { why: e.to_string() }),
                }
            }
        }
    }

    /// How many bytes may leave the page cache when its newest `keep` are to stay: 0 until as many
    /// again were appended, so that the system is not called for every sync.
    pub(crate) fn forgettable(&self, keep: u64) -> u64 {
        let below = self.size().saturating_sub(keep);
        if below < self.forgotten.load(Ordering::Relaxed) + keep {
            return 0;
        }
        self.forgotten.store(below, Ordering::Relaxed);
        below
    }

    /// Shows readers what was appended.
    pub(crate) fn publish(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Notes a batch in the indexes.
    pub(crate) fn note(
        &self,
        marks: &mut Marks,
        header: &BatchHeader,
        position: u64,
        interval: u32,
    ) {
        if let Index::Growing(indexes) = &self.index {
            marks.note(indexes, header, position, interval);
            self.greatest.store(marks.greatest, Ordering::Release);
        }
    }

    /// Adds an aborted transaction: its entry is written to the side file, then shown to readers. On
    /// failure nothing of it is left.
    pub(crate) fn add_aborted(&self, disk: &D, dir: &Path, entry: Aborted) -> Result<()> {
        let mut all = self.aborted().as_ref().clone();
        let path = path_of(dir, self.base, "txnindex");
        let file = disk.open(&path, Open::Create).map_err(|e| Error::io("create", &path, e))?;
        let at = (all.len() * super::aborted::ENTRY_LEN) as u64;
        if let Err(e) = write_all_at(&file, &entry.encode(), at) {
            let e = Error::io("write", &path, e);
            return Err(cut_back(&file, at).map_or_else(|stopped| stopped, |()| e));
        }
        all.push(entry);
        self.aborted.store(Arc::new(all));
        Ok(())
    }

    /// Takes the last aborted transaction back: its marker could not be written.
    pub(crate) fn take_back_aborted(&self, disk: &D, dir: &Path) -> Result<()> {
        let mut all = self.aborted().as_ref().clone();
        all.pop();
        let path = path_of(dir, self.base, "txnindex");
        let file = disk.open(&path, Open::Write).map_err(|e| Error::io("open", &path, e));
        let file = file.map_err(|e| Error::Stopped { why: e.to_string() })?;
        cut_back(&file, (all.len() * super::aborted::ENTRY_LEN) as u64)?;
        self.aborted.store(Arc::new(all));
        Ok(())
    }

    /// Writes the index files from the entries in memory, the last time among them, and the sums of
    /// all side files as of `end`. Sealed segments have theirs.
    pub(crate) fn write_indexes(
        &self,
        marks: &Marks,
        end: Offset,
        disk: &D,
        dir: &Path,
    ) -> Result<()> {
        let Index::Growing(indexes) = &self.index else { return Ok(()) };
        marks.enter_time(indexes);
        let (offsets, times) = (indexes.offsets.to_bytes(0), indexes.times.to_bytes(0));
        let aborted: Vec<u8> = self.aborted().iter().flat_map(Aborted::encode).collect();
        let sums = Sums::of(self.base, end, self.size(), [&offsets, &times, &aborted]);
        let sums = sums.after(self.compacted);
        self.write_side(disk, &path_of(dir, self.base, "index"), &offsets)?;
        self.write_side(disk, &path_of(dir, self.base, "timeindex"), &times)?;
        self.write_side(disk, &path_of(dir, end, SIDECAR), &sums.encode())
    }

    fn write_side(&self, disk: &D, path: &Path, bytes: &[u8]) -> Result<()> {
        let write = || -> io::Result<()> {
            let file = disk.open(path, Open::Create)?;
            write_all_at(&file, bytes, 0)?;
            if file.len()? != bytes.len() as u64 {
                file.set_len(bytes.len() as u64)?;
            }
            Ok(())
        };
        write().map_err(|e| Error::io("write", path, e))
    }

    /// The indexes of a sealed segment that ends at `end`.
    fn sides(&self, end: Offset) -> Sides<D> {
        let files = || {
            let sums = self.slot.sibling(&format!("{end:020}.{SIDECAR}"));
            let sums = match read_slot(&sums) {
                Ok(bytes) => Some(Sums::decode(&bytes).filter(|s| s.base == self.base)?),
                // A segment of layout 1 has none.
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(_) => return None,
            };
            let file = |suffix: &str| {
                let slot = self.slot.beside(suffix);
                if let Some(sums) = &sums {
                    let bytes = read_slot(&slot).ok()?;
                    sums.front(suffix, &bytes).filter(|front| front.len() == bytes.len())?;
                }
                Some(slot)
            };
            Some(Sides::Files(
                InFile::open::<OffsetEntry>(file("index")?)?,
                InFile::open::<TimeEntry>(file("timeindex")?)?,
            ))
        };
        files().unwrap_or_else(|| {
            tracing::warn!(path = %self.path().display(), "its indexes are not what was written: the segment is read instead");
            let indexes = Box::new(Indexes::new());
            let mut marks = Marks::new(self.base);
            // Where the batches are damaged, lookups tell it.
            _ = self.headers(0, |position, header| {
                marks.note(&indexes, header, position, REBUILT_INTERVAL);
                Ok(true)
            });
            marks.enter_time(&indexes);
            Sides::Rebuilt(indexes)
        })
    }

    /// Looks something up in the indexes, whichever there are.
    fn look_up<T>(
        &self,
        growing: impl FnOnce(&Indexes) -> Option<T>,
        files: impl FnOnce(&InFile<D>, &InFile<D>) -> Option<T>,
    ) -> Option<T> {
        if self.slot.is_moved() {
            // The files under these names are those of the segment that took its place.
            return None;
        }
        match &self.index {
            Index::Growing(indexes) => growing(indexes),
            Index::AtRest(end, sides) => match sides.get_or_init(|| self.sides(*end)) {
                Sides::Files(offsets, times) => files(offsets, times),
                Sides::Rebuilt(indexes) => growing(indexes),
            },
        }
    }

    fn offset_entry(&self, relative: u32) -> Option<OffsetEntry> {
        self.look_up(|i| i.offsets.floor(&relative), |offsets, _| offsets.floor(&relative))
    }

    fn time_entry(&self, time: Timestamp) -> Option<TimeEntry> {
        self.look_up(|i| i.times.floor(&time), |_, times| times.floor(&time))
    }

    fn last_time_entry(&self) -> Option<TimeEntry> {
        self.look_up(|i| i.times.last(), |_, times| times.last())
    }

    /// The greatest time of its records; [`NO_TIME`] when none has one. Of a sealed segment it is read
    /// from the time index, and from the batches where that does not agree with them.
    pub(crate) fn greatest_time(&self) -> Result<Timestamp> {
        let known = self.greatest.load(Ordering::Acquire);
        if known != UNKNOWN {
            return Ok(known);
        }
        let greatest = match self.last_time_entry() {
            Some(entry) if self.confirms(entry)?.is_some() => entry.time,
            _ => {
                let mut greatest = NO_TIME;
                self.headers(0, |_, header| {
                    greatest = greatest.max(header.max_timestamp);
                    Ok(true)
                })?;
                greatest
            }
        };
        self.greatest.store(greatest, Ordering::Release);
        Ok(greatest)
    }

    /// Where the batch of a time entry begins, if there is such a batch. No sum covers the entry.
    fn confirms(&self, entry: TimeEntry) -> Result<Option<u64>> {
        let offset = self.base + i64::from(entry.relative);
        let found = self.find(offset)?;
        let is_it = |header: &BatchHeader| {
            (header.last_offset(), header.max_timestamp) == (offset, entry.time)
        };
        Ok(found.filter(|(_, header)| is_it(header)).map(|(position, _)| position))
    }

    /// The first record at `from` or later, below `bound`, whose time is `time` or later.
    pub(crate) fn first_at_or_after(
        &self,
        time: Timestamp,
        from: Offset,
        bound: Offset,
    ) -> Result<Option<Timed>> {
        // Records up to this entry are older: what is wanted lies behind the entry's batch.
        let before = time.checked_sub(1).and_then(|before| self.time_entry(before));
        let start = match before {
            Some(entry) => self.confirms(entry)?.unwrap_or(0),
            None => 0,
        };
        let (mut bytes, mut scratch) = (Vec::new(), Scratch::default());
        let mut found = None;
        self.headers(start, |position, header| {
            if header.base_offset >= bound {
                return Ok(false);
            }
            if header.max_timestamp < time || header.last_offset() < from {
                return Ok(true);
            }
            bytes.resize(header.size(), 0);
            read_exact_at(&*self.file()?, &mut bytes, position)
                .map_err(|e| self.unread(position, e))?;
            let damaged = |e: crate::batch::BatchError| {
                Error::damaged(self.path(), position, format!("no batch here: {e}"))
            };
            let batch = BatchRef::parse(&bytes).map_err(damaged)?;
            batch.check_crc().map_err(damaged)?;
            for record in batch.records(&mut scratch).map_err(damaged)? {
                let record = record.map_err(damaged)?;
                let wanted = record.timestamp >= time && record.offset >= from;
                if wanted && record.offset < bound {
                    found = Some(Timed {
                        offset: record.offset,
                        time: record.timestamp,
                        epoch: header.leader_epoch,
                    });
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Where to begin looking for `offset`: the position of a batch that ends at or before it, or 0.
    pub(crate) fn floor(&self, offset: Offset) -> u64 {
        let Ok(relative) = u32::try_from(offset - self.base) else { return 0 };
        let entry = self.offset_entry(relative);
        let Some(entry) = entry else { return 0 };
        // An index has no sum: an entry counts when the batch there ends where the entry says. Any
        // other only costs a scan from the start.
        let ends = self.base + i64::from(entry.relative);
        match self.header_at(u64::from(entry.position)) {
            Ok(Some(header)) if header.last_offset() == ends => u64::from(entry.position),
            _ => 0,
        }
    }

    /// The header of the batch at `position`; `None` at the end of the segment.
    pub(crate) fn header_at(&self, position: u64) -> Result<Option<BatchHeader>> {
        if position >= self.size() {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_LEN];
        read_exact_at(&*self.file()?, &mut bytes, position)
            .map_err(|e| self.unread(position, e))?;
        BatchHeader::parse(&bytes).map(Some).map_err(|e| {
            Error::damaged(self.path(), position, format!("no batch header here: {e}"))
        })
    }

    /// The position of the batch that holds `offset`, or of the first one after it, with its header;
    /// `None` when every batch ends before it.
    pub(crate) fn find(&self, offset: Offset) -> Result<Option<(u64, BatchHeader)>> {
        let mut found = None;
        self.headers(self.floor(offset), |position, header| {
            if header.last_offset() < offset {
                return Ok(true);
            }
            found = Some((position, *header));
            Ok(false)
        })?;
        Ok(found)
    }

    /// Where the whole batches end that begin with `first` at `position`: about `max_bytes` of them, all
    /// of which begin below `bound`, `first` at least; and the offset that follows the last of them. Only
    /// headers near the end are read: most batches are found by the index to lie between.
    pub(crate) fn whole_batches(
        &self,
        position: u64,
        first: &BatchHeader,
        bound: Offset,
        max_bytes: usize,
    ) -> Result<(u64, Offset)> {
        let size = self.size();
        let limit = (position + max_bytes.max(first.size()) as u64).min(size);
        let (mut end, mut next) = (position + first.size() as u64, first.next_offset());
        if end > size {
            return Err(self.cut_off(position, first));
        }
        let after = |at: u64, header: &BatchHeader| {
            let after = at + header.size() as u64;
            let inside = header.base_offset < bound && after <= limit;
            inside.then(|| (after, header.next_offset()))
        };
        let mut more = true;
        if let Some((at, header)) = self.indexed_before(limit, bound)
            && at > position
        {
            (end, next) = after(at, &header).unwrap_or((at, header.base_offset));
            more = end > at;
        }
        if more && end < limit {
            self.headers(end, |at, header| {
                let inside = after(at, header);
                (end, next) = inside.unwrap_or((end, next));
                Ok(inside.is_some())
            })?;
        }
        Ok((end, next))
    }

    /// The last batch of the index that begins neither behind `position` nor above `bound`, as far as the
    /// index can be believed.
    fn indexed_before(&self, position: u64, bound: Offset) -> Option<(u64, BatchHeader)> {
        let below = |entry: &OffsetEntry| {
            u64::from(entry.position) <= position && self.base + i64::from(entry.relative) < bound
        };
        let entry =
            self.look_up(|i| i.offsets.last_where(below), |offsets, _| offsets.last_where(below));
        let entry = entry?;
        let (at, ends) = (u64::from(entry.position), self.base + i64::from(entry.relative));
        // An entry that misleads may point anywhere: into a batch, or behind the end.
        let header = self.header_at(at).ok().flatten()?;
        (header.last_offset() == ends).then_some((at, header))
    }

    /// A batch of which the segment holds only the front.
    pub(crate) fn cut_off(&self, position: u64, first: &BatchHeader) -> Error {
        // Not an empty answer: its reader would ask for the same offset for ever.
        let what = format!(
            "the batch takes {} bytes, and {} are left of its segment: restore the folder from a copy",
            first.size(),
            self.size() - position
        );
        Error::damaged(self.path(), position, what)
    }

    /// Shows the headers from `position` on, which is that of a batch, while `look` wants more.
    ///
    /// No sum covers the offsets in a header, so they are checked against each other: a batch begins
    /// where the one before it ended, and the first of a segment at its base; where compaction was,
    /// not before that.
    fn headers(
        &self,
        mut position: u64,
        mut look: impl FnMut(u64, &BatchHeader) -> Result<bool>,
    ) -> Result<()> {
        // Headers of small batches come many to a block: one read serves them all.
        let mut block = [0; 4096];
        let file = self.file()?;
        let (mut start, mut filled) = (position, 0usize);
        let mut next = (position == 0).then_some(self.base);
        while position < self.size() {
            let inside = position.checked_sub(start).map(|at| at as usize);
            let header = match inside {
                Some(at) if at + HEADER_LEN <= filled => &block[at..at + HEADER_LEN],
                _ => {
                    let want = (self.size() - position).min(block.len() as u64) as usize;
                    if want < HEADER_LEN {
                        let what = "the segment ends inside a batch header";
                        return Err(Error::damaged(self.path(), position, what));
                    }
                    read_exact_at(&*file, &mut block[..want], position)
                        .map_err(|e| self.unread(position, e))?;
                    (start, filled) = (position, want);
                    &block[..HEADER_LEN]
                }
            };
            let header = BatchHeader::parse(header).map_err(|e| {
                Error::damaged(self.path(), position, format!("no batch header here: {e}"))
            })?;
            if next.is_some_and(|next| !self.may_follow(header.base_offset, next)) {
                let what = format!(
                    "offset {} where {} must follow: records are missing; restore the folder from a copy",
                    header.base_offset,
                    next.unwrap_or_default()
                );
                return Err(Error::damaged(self.path(), position, what));
            }
            if !look(position, &header)? {
                return Ok(());
            }
            next = Some(header.next_offset());
            position += header.size() as u64;
        }
        Ok(())
    }

    /// Whether a batch that begins at `base_offset` may come where `next` is the next offset.
    pub(crate) fn may_follow(&self, base_offset: Offset, next: Offset) -> bool {
        base_offset == next || (self.compacted.gaps && base_offset > next)
    }

    /// A read error at `position`.
    pub(crate) fn unread(&self, position: u64, e: io::Error) -> Error {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            return Error::damaged(
                self.path(),
                position,
                "the file ends before the batch does: it was cut from outside; restore it from a copy",
            );
        }
        Error::io("read", self.path(), e)
    }
}

/// Cuts what a failed write left behind. When even that fails, nobody knows what the file holds.
fn cut_back<F: DiskFile>(file: &F, len: u64) -> Result<()> {
    file.set_len(len).map_err(|e| Error::Stopped {
        why: format!("a write failed, and its file could not be cut back to {len} bytes: {e}"),
    })
}

fn read_slot<D: Disk>(slot: &Arc<Slot<D>>) -> io::Result<Vec<u8>> {
    let file = slot.get()?;
    let mut bytes = vec![0; file.len()?.min(SIDE_FILE_LIMIT) as usize];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes)
}

fn write_both<F: DiskFile>(file: &F, header: &[u8], body: &[u8], position: u64) -> io::Result<()> {
    let bufs = [io::IoSlice::new(header), io::IoSlice::new(body)];
    let written = loop {
        match file.write_vectored_at(&bufs, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => break n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    };
    if written < header.len() {
        write_all_at(file, &header[written..], position + written as u64)?;
        return write_all_at(file, body, position + header.len() as u64);
    }
    let rest = &body[written - header.len()..];
    write_all_at(file, rest, position + written as u64)
}

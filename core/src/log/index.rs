//! F3 · The sparse indexes: from an offset, and from a time, to a place in the segment.
//!
//! ```text
//!   <base>.index: entries of 8 bytes
//!   int32 offset - base | int32 position        one per batch that ends 4096 bytes after the last
//!
//!   entry = (last offset of a batch, position of that batch); both columns strictly rise
//!
//!   <base>.timeindex: entries of 12 bytes
//!   int64 greatest time so far | int32 offset - base
//!
//!   entry = (greatest time so far, last offset of the first batch that has it); both columns strictly
//!           rise; made when an offset entry is and the time grew, and once more when the segment is
//!           sealed; a record with a greater time has a greater offset
//! ```
//!
//! The active segment's entries are kept in memory, in blocks that never move, so that readers look
//! up while the one writer appends, without a lock: an entry is stored first, then the count is
//! raised. The files are written at roll, at close and whenever the recovery point may pass.
//!
//! Always true here: an index only ever *narrows* a search. The batch found at an entry is checked
//! by its reader, and an index that misleads is rebuilt by a scan of the segment.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::batch::BatchHeader;
use crate::disk::handles::Slot;
use crate::disk::{Disk, DiskFile, read_exact_at};
use crate::ids::{Offset, Timestamp};

/// Entries of the first block; each next block has twice as many, so that an idle partition pays for
/// little and sixteen blocks hold four million entries (a full segment of 1 GiB needs 262,144).
const FIRST: usize = 64;
const BLOCKS: usize = 16;

/// The greatest time of a segment without records that have one.
pub(crate) const NO_TIME: Timestamp = -1;

/// An entry of an index: some words in memory, some bytes in its file.
pub(crate) trait Entry: Copy {
    /// Bytes in the file.
    const LEN: usize;
    /// What it is ordered by.
    type Key: Ord;

    fn words(self) -> [u64; 2];
    fn of_words(words: [u64; 2]) -> Self;
    fn key(&self) -> Self::Key;
    fn write(self, to: &mut Vec<u8>);
    fn read(from: &[u8]) -> Option<Self>;
}

/// An entry of the offset index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OffsetEntry {
    /// The last offset of a batch, minus base offset.
    pub(crate) relative: u32,
    /// Where the batch begins.
    pub(crate) position: u32,
}

impl Entry for OffsetEntry {
    const LEN: usize = 8;
    type Key = u32;

    fn words(self) -> [u64; 2] {
        [u64::from(self.relative), u64::from(self.position)]
    }

    fn of_words([relative, position]: [u64; 2]) -> Self {
        Self { relative: relative as u32, position: position as u32 }
    }

    fn key(&self) -> u32 {
        self.relative
    }

    fn write(self, to: &mut Vec<u8>) {
        to.extend(self.relative.to_be_bytes());
        to.extend(self.position.to_be_bytes());
    }

    fn read(from: &[u8]) -> Option<Self> {
        let (relative, position) = from.split_first_chunk()?;
        Some(Self {
            relative: u32::from_be_bytes(*relative),
            position: u32::from_be_bytes(*position.first_chunk()?),
        })
    }
}

/// An entry of the time index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeEntry {
    /// The greatest time so far.
    pub(crate) time: Timestamp,
    /// The last offset of the first batch that has it, minus base offset.
    pub(crate) relative: u32,
}

impl Entry for TimeEntry {
    const LEN: usize = 12;
    type Key = Timestamp;

    fn words(self) -> [u64; 2] {
        [self.time.cast_unsigned(), u64::from(self.relative)]
    }

    fn of_words([time, relative]: [u64; 2]) -> Self {
        Self { time: time.cast_signed(), relative: relative as u32 }
    }

    fn key(&self) -> Timestamp {
        self.time
    }

    fn write(self, to: &mut Vec<u8>) {
        to.extend(self.time.to_be_bytes());
        to.extend(self.relative.to_be_bytes());
    }

    fn read(from: &[u8]) -> Option<Self> {
        let (time, relative) = from.split_first_chunk()?;
        Some(Self {
            time: i64::from_be_bytes(*time),
            relative: u32::from_be_bytes(*relative.first_chunk()?),
        })
    }
}

type Block = Box<[[AtomicU64; 2]]>;

/// The entries of a segment that may still grow: one writer, any number of readers.
#[derive(Debug)]
pub(crate) struct Growing<E> {
    blocks: [OnceLock<Block>; BLOCKS],
    count: AtomicUsize,
    entries: std::marker::PhantomData<fn() -> E>,
}

impl<E: Entry> Growing<E> {
    /// An index without entries.
    pub(crate) fn new() -> Self {
        let entries = std::marker::PhantomData;
        Self { blocks: Default::default(), count: AtomicUsize::new(0), entries }
    }

    /// Adds an entry. Only the writer of the segment calls this. A full index takes no more: the
    /// segment is rolled by size long before, and a lookup past its end only scans further.
    pub(crate) fn push(&self, entry: E) {
        let at = self.count.load(Ordering::Relaxed);
        let (block, place) = locate(at);
        let Some(slot) = self.blocks.get(block) else { return };
        let slot = slot.get_or_init(|| (0..FIRST << block).map(|_| Default::default()).collect());
        for (cell, word) in slot[place].iter().zip(entry.words()) {
            cell.store(word, Ordering::Relaxed);
        }
        self.count.store(at + 1, Ordering::Release);
    }

    pub(crate) fn entry(&self, at: usize) -> Option<E> {
        let (block, place) = locate(at);
        let words = self.blocks.get(block)?.get()?.get(place)?;
        Some(E::of_words([words[0].load(Ordering::Relaxed), words[1].load(Ordering::Relaxed)]))
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The last entry.
    pub(crate) fn last(&self) -> Option<E> {
        self.len().checked_sub(1).and_then(|at| self.entry(at))
    }

    /// The greatest entry whose key is at most `key`.
    pub(crate) fn floor(&self, key: &E::Key) -> Option<E> {
        floor(self.len() as u64, key, |at| self.entry(at as usize))
    }

    /// The last entry of those in front for which `front` holds.
    pub(crate) fn last_where(&self, front: impl Fn(&E) -> bool) -> Option<E> {
        last_where(self.len() as u64, front, |at| self.entry(at as usize))
    }

    /// The bytes of the file, from entry `from` on.
    pub(crate) fn to_bytes(&self, from: usize) -> Vec<u8> {
        let len = self.len();
        let mut bytes = Vec::with_capacity(len.saturating_sub(from) * E::LEN);
        (from..len).filter_map(|at| self.entry(at)).for_each(|entry| entry.write(&mut bytes));
        bytes
    }
}

/// The block of an entry, and its place in there.
fn locate(at: usize) -> (usize, usize) {
    let block = (at / FIRST + 1).ilog2() as usize;
    (block, at - FIRST * ((1 << block) - 1))
}

fn floor<E: Entry>(len: u64, key: &E::Key, entry: impl Fn(u64) -> Option<E>) -> Option<E> {
    last_where(len, |entry| entry.key() <= *key, entry)
}

/// The last entry for which `front` holds, which holds for all before it.
fn last_where<E: Entry>(
    len: u64,
    front: impl Fn(&E) -> bool,
    entry: impl Fn(u64) -> Option<E>,
) -> Option<E> {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low.midpoint(high);
        if front(&entry(middle)?) { low = middle + 1 } else { high = middle }
    }
    low.checked_sub(1).and_then(entry)
}

/// The file of a sealed segment's index, looked up entry by entry: nothing is kept in memory.
pub(crate) struct InFile<D: Disk> {
    file: Arc<Slot<D>>,
    entries: u64,
}

impl<D: Disk> InFile<D> {
    /// An index file; `None` when there is none. Zeros at its end, which a kill of Apache Kafka leaves
    /// there, are no entries.
    pub(crate) fn open<E: Entry>(file: Arc<Slot<D>>) -> Option<Self> {
        let len = file.get().ok()?.len().ok()?;
        let mut this = Self { file, entries: len / E::LEN as u64 };
        // Only the first entry may be all zeros, so the rest of them is found by halving.
        let (mut low, mut high) = (1.min(this.entries), this.entries);
        while low < high {
            let middle = low.midpoint(high);
            match this.bytes::<E>(middle) {
                Some(bytes) if bytes != [0; 16] => low = middle + 1,
                _ => high = middle,
            }
        }
        this.entries = low;
        Some(this)
    }

    /// The bytes of an entry, zeros behind them.
    fn bytes<E: Entry>(&self, at: u64) -> Option<[u8; 16]> {
        let mut bytes = [0; 16];
        let file = self.file.get().ok()?;
        read_exact_at(&*file, &mut bytes[..E::LEN], at * E::LEN as u64).ok()?;
        Some(bytes)
    }

    fn entry<E: Entry>(&self, at: u64) -> Option<E> {
        E::read(&self.bytes::<E>(at)?)
    }

    /// The greatest entry at or below `key`. `None` also for a file that is no index.
    pub(crate) fn floor<E: Entry>(&self, key: &E::Key) -> Option<E> {
        floor(self.entries, key, |at| self.entry(at))
    }

    /// As [`Growing::last_where`].
    pub(crate) fn last_where<E: Entry>(&self, front: impl Fn(&E) -> bool) -> Option<E> {
        last_where(self.entries, front, |at| self.entry(at))
    }

    /// The last entry.
    pub(crate) fn last<E: Entry>(&self) -> Option<E> {
        self.entries.checked_sub(1).and_then(|at| self.entry(at))
    }
}

/// Both indexes of a segment that may still grow.
#[derive(Debug)]
pub(crate) struct Indexes {
    pub(crate) offsets: Growing<OffsetEntry>,
    pub(crate) times: Growing<TimeEntry>,
}

impl Indexes {
    pub(crate) fn new() -> Self {
        Self { offsets: Growing::new(), times: Growing::new() }
    }
}

/// What the writer of a segment knows about its indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    base: Offset,
    since_entry: u64,
    /// The greatest time so far, and the last offset of the first batch that has it.
    pub(crate) greatest: Timestamp,
    greatest_at: Offset,
    /// The greatest time of the first batch that has one.
    pub(crate) first: Timestamp,
}

impl Marks {
    /// Those of an empty segment.
    pub(crate) fn new(base: Offset) -> Self {
        Self { base, since_entry: 0, greatest: NO_TIME, greatest_at: base, first: NO_TIME }
    }

    /// Goes on in a segment: the time of its first batch, and its last entry.
    pub(crate) fn resume(&mut self, first: Timestamp, last: Option<TimeEntry>) {
        self.first = first;
        if let Some(entry) = last {
            self.greatest = entry.time;
            self.greatest_at = self.base + i64::from(entry.relative);
        }
    }

    /// Notes a batch that is at `position`, and enters it when it is time for an entry.
    pub(crate) fn note(
        &mut self,
        indexes: &Indexes,
        header: &BatchHeader,
        position: u64,
        interval: u32,
    ) {
        if header.max_timestamp > self.greatest {
            (self.greatest, self.greatest_at) = (header.max_timestamp, header.last_offset());
        }
        if self.first == NO_TIME {
            self.first = header.max_timestamp;
        }
        self.since_entry += header.size() as u64;
        if self.since_entry > u64::from(interval) {
            let relative = (header.last_offset() - self.base) as u32;
            indexes.offsets.push(OffsetEntry { relative, position: position as u32 });
            self.enter_time(indexes);
            self.since_entry = 0;
        }
    }

    /// Enters the greatest time when it grew: with an offset entry, and at the end of the segment.
    pub(crate) fn enter_time(&self, indexes: &Indexes) {
        let entered = indexes.times.last().map_or(NO_TIME, |entry| entry.time);
        if self.greatest > entered {
            let relative = (self.greatest_at - self.base) as u32;
            indexes.times.push(TimeEntry { time: self.greatest, relative });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_is_the_greatest_entry_at_or_below() {
        let index = Growing::new();
        assert_eq!(index.floor(&10), None);
        for i in 0..2000u32 {
            index.push(OffsetEntry { relative: 10 * i + 5, position: 100 * i });
        }
        for (asked, wanted) in [
            (0, None),
            (4, None),
            (5, Some(0)),
            (14, Some(0)),
            (15, Some(1)),
            (u32::MAX, Some(1999)),
        ] {
            assert_eq!(index.floor(&asked).map(|e| e.position / 100), wanted, "{asked}");
        }
        assert_eq!(index.to_bytes(0).len(), 2000 * OffsetEntry::LEN);
        assert_eq!(index.to_bytes(1999), [0, 0, 0x4e, 0x1b, 0, 3, 0x0c, 0xdc]);
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let (mut offsets, mut times) = (Vec::new(), Vec::new());
        let offset = OffsetEntry { relative: 0x0102_0304, position: u32::MAX };
        let time = TimeEntry { time: -2, relative: 7 };
        offset.write(&mut offsets);
        time.write(&mut times);
        assert_eq!(offsets, [1, 2, 3, 4, 255, 255, 255, 255]);
        assert_eq!(times, [255, 255, 255, 255, 255, 255, 255, 254, 0, 0, 0, 7]);
        assert_eq!(OffsetEntry::read(&offsets), Some(offset));
        assert_eq!(TimeEntry::read(&times), Some(time));
        assert_eq!(TimeEntry::of_words(time.words()), time);
        assert_eq!(TimeEntry::read(&times[..11]), None);
    }

    /// A kill of Apache Kafka leaves ten megabytes of zeros behind the entries.
    #[test]
    fn zeros_behind_the_entries_are_no_entries() {
        use crate::disk::handles::Handles;
        use crate::disk::sim::SimDisk;
        use crate::disk::{Open, write_all_at};
        for (entries, zeros) in [(0u32, 3u64), (1, 0), (1, 5), (2, 1), (9, 1000), (300, 0)] {
            let index = Growing::new();
            for i in 0..entries {
                index.push(OffsetEntry { relative: 10 * i, position: 100 * i });
            }
            let disk = SimDisk::new(1);
            let name = std::path::Path::new("/index");
            let file = disk.open(name, Open::CreateNew).expect("created");
            write_all_at(&file, &index.to_bytes(0), 0).expect("written");
            let len = (u64::from(entries) + zeros) * OffsetEntry::LEN as u64;
            file.set_len(len).expect("extended");
            let slot = Handles::new(disk.clone(), 1).slot(name.to_owned(), Open::Read);
            let found = InFile::open::<OffsetEntry>(slot).expect("there");
            let last = found.floor::<OffsetEntry>(&u32::MAX);
            assert_eq!(last.map_or(0, |e| e.relative), entries.saturating_sub(1) * 10);
        }
    }
}

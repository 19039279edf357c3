//! F3 · The offset index: from an offset to a place in the segment, sparse.
//!
//! ```text
//!   <base>.index: entries of 8 bytes
//!   int32 offset - base | int32 position        one per batch that ends 4096 bytes after the last
//!
//!   entry = (last offset of a batch, position of that batch); both columns strictly rise
//! ```
//!
//! The active segment's entries are kept in memory, in blocks that never move, so that readers look
//! up while the one writer appends, without a lock: an entry is stored first, then the count is
//! raised. The file is written at roll, at close and whenever the recovery point may pass.
//!
//! Always true here: an index only ever *narrows* a search. The batch found at an entry is checked
//! by its reader, and an index that misleads is rebuilt by a scan of the segment.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::disk::{DiskFile, read_exact_at};

/// Bytes of one entry.
pub(crate) const ENTRY_LEN: usize = 8;
/// Entries of the first block; each next block has twice as many, so that an idle partition pays for
/// little and sixteen blocks hold four million entries (a full segment of 1 GiB needs 262,144).
const FIRST: usize = 64;
const BLOCKS: usize = 16;

/// An entry: the last offset of a batch, relative to the segment's base, and where the batch begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Offset minus base offset.
    pub(crate) relative: u32,
    /// Byte position.
    pub(crate) position: u32,
}

impl Entry {
    fn pack(self) -> u64 {
        (u64::from(self.relative) << 32) | u64::from(self.position)
    }

    fn unpack(word: u64) -> Self {
        Self { relative: (word >> 32) as u32, position: word as u32 }
    }
}

/// The entries of a segment that may still grow: one writer, any number of readers.
#[derive(Debug)]
pub(crate) struct GrowingIndex {
    blocks: [OnceLock<Box<[AtomicU64]>>; BLOCKS],
    count: AtomicUsize,
}

impl GrowingIndex {
    /// An index without entries.
    pub(crate) fn new() -> Self {
        Self { blocks: Default::default(), count: AtomicUsize::new(0) }
    }

    /// Adds an entry. Only the writer of the segment calls this. A full index takes no more: the
    /// segment is rolled by size long before, and a lookup past its end only scans further.
    pub(crate) fn push(&self, entry: Entry) {
        let at = self.count.load(Ordering::Relaxed);
        let (block, place) = locate(at);
        let Some(slot) = self.blocks.get(block) else { return };
        let slot = slot.get_or_init(|| (0..FIRST << block).map(|_| AtomicU64::new(0)).collect());
        slot[place].store(entry.pack(), Ordering::Relaxed);
        self.count.store(at + 1, Ordering::Release);
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let (block, place) = locate(at);
        let word = self.blocks.get(block)?.get()?.get(place)?.load(Ordering::Relaxed);
        Some(Entry::unpack(word))
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The greatest entry whose offset is at most `relative`.
    pub(crate) fn floor(&self, relative: u32) -> Option<Entry> {
        let mut low = 0;
        let mut high = self.len();
        while low < high {
            let middle = (low + high) / 2;
            if self.entry(middle)?.relative <= relative { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1).and_then(|at| self.entry(at))
    }

    /// The bytes of the file, from entry `from` on.
    pub(crate) fn to_bytes(&self, from: usize) -> Vec<u8> {
        (from..self.len())
            .filter_map(|at| self.entry(at))
            .flat_map(|e| e.pack().to_be_bytes())
            .collect()
    }
}

/// The block of an entry, and its place in there.
fn locate(at: usize) -> (usize, usize) {
    let block = (at / FIRST + 1).ilog2() as usize;
    (block, at - FIRST * ((1 << block) - 1))
}

/// The greatest entry at or below `relative` in an index file of `len` bytes, read entry by entry:
/// a sealed segment keeps nothing in memory. `None` also for a file that is no index.
pub(crate) fn floor_in_file<F: DiskFile>(file: &F, len: u64, relative: u32) -> Option<Entry> {
    let entry = |at: u64| -> Option<Entry> {
        let mut word = [0; ENTRY_LEN];
        read_exact_at(file, &mut word, at * ENTRY_LEN as u64).ok()?;
        Some(Entry::unpack(u64::from_be_bytes(word)))
    };
    let mut low = 0;
    let mut high = len / ENTRY_LEN as u64;
    while low < high {
        let middle = low.midpoint(high);
        if entry(middle)?.relative <= relative { low = middle + 1 } else { high = middle }
    }
    low.checked_sub(1).and_then(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_is_the_greatest_entry_at_or_below() {
        let index = GrowingIndex::new();
        assert_eq!(index.floor(10), None);
        for i in 0..2000u32 {
            index.push(Entry { relative: 10 * i + 5, position: 100 * i });
        }
        for (asked, wanted) in [
            (0, None),
            (4, None),
            (5, Some(0)),
            (14, Some(0)),
            (15, Some(1)),
            (u32::MAX, Some(1999)),
        ] {
            assert_eq!(index.floor(asked).map(|e| e.position / 100), wanted, "{asked}");
        }
        assert_eq!(index.to_bytes(0).len(), 2000 * ENTRY_LEN);
        assert_eq!(index.to_bytes(1999), [0, 0, 0x4e, 0x1b, 0, 3, 0x0c, 0xdc]);
    }
}

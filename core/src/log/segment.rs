//! F3 · One segment: batches in a row, an index, and the transactions aborted in it.
//!
//! ```text
//!   <base>.log        batch | batch | batch |            no header, no footer, no padding
//!   <base>.index      see index.rs                       <base>.txnindex   see aborted.rs
//! ```
//!
//! Always true here: bytes below `size` are whole batches and never change; a sealed segment is never
//! written again; readers need no lock (size and entries are published after the bytes are there).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use std::sync::Arc;

use super::aborted::Aborted;
use super::index::{Entry, GrowingIndex, floor_in_file};
use crate::batch::{BatchHeader, HEADER_LEN};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, write_all_at};
use crate::error::{Error, Result};
use crate::ids::Offset;

/// The path of one of a segment's files.
pub(crate) fn path_of(dir: &Path, base: Offset, suffix: &str) -> PathBuf {
    dir.join(format!("{base:020}.{suffix}"))
}

/// Where lookups of a segment go.
#[expect(
    clippy::large_enum_variant,
    reason = "segments are few, and lookups are on the way of every fetch"
)]
enum Index<F> {
    /// In memory: the segment is, or was in this process, the active one.
    Growing(GrowingIndex),
    /// In the file, which is opened at the first lookup.
    File(std::sync::OnceLock<Option<(F, u64)>>),
}

/// One segment of a partition.
pub(crate) struct Segment<D: Disk> {
    /// The offset its name says: at most that of its first batch.
    pub(crate) base: Offset,
    /// The batches.
    pub(crate) file: D::File,
    /// The path of the batches, for messages.
    pub(crate) path: PathBuf,
    size: AtomicU64,
    /// Bytes below this were dropped from the page cache.
    forgotten: AtomicU64,
    index: Index<D::File>,
    aborted: ArcSwap<Vec<Aborted>>,
}

impl<D: Disk> Segment<D> {
    /// Creates the file of a new, empty, active segment. A left-over of the same name (its folder
    /// entry survived a crash that its content did not) is emptied.
    pub(crate) fn create(disk: &D, dir: &Path, base: Offset) -> Result<Self> {
        let path = path_of(dir, base, "log");
        let file = disk.open(&path, Open::Create).map_err(|e| Error::io("create", &path, e))?;
        if file.len().map_err(|e| Error::io("read", &path, e))? > 0 {
            file.set_len(0).map_err(|e| Error::io("cut", &path, e))?;
        }
        Ok(Self::assemble(base, file, path, 0, Index::Growing(GrowingIndex::new()), Vec::new()))
    }

    /// A segment whose content was looked at by recovery.
    pub(crate) fn recovered(
        base: Offset,
        file: D::File,
        path: PathBuf,
        size: u64,
        index: GrowingIndex,
        aborted: Vec<Aborted>,
    ) -> Self {
        Self::assemble(base, file, path, size, Index::Growing(index), aborted)
    }

    /// A sealed segment below the recovery point: its side files are trusted to be there, and
    /// checked when they are used.
    pub(crate) fn sealed(
        base: Offset,
        file: D::File,
        path: PathBuf,
        size: u64,
        aborted: Vec<Aborted>,
    ) -> Self {
        Self::assemble(base, file, path, size, Index::File(std::sync::OnceLock::new()), aborted)
    }

    fn assemble(
        base: Offset,
        file: D::File,
        path: PathBuf,
        size: u64,
        index: Index<D::File>,
        aborted: Vec<Aborted>,
    ) -> Self {
        let aborted = ArcSwap::from_pointee(aborted);
        let (size, forgotten) = (AtomicU64::new(size), AtomicU64::new(0));
        Self { base, file, path, size, forgotten, index, aborted }
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
        match write_both(&self.file, header, body, position) {
            Ok(()) => Ok(position),
            Err(e) => {
                // What was partly written lies past `size`: no reader sees it, but recovery would
                // find a torn batch. If even cutting fails, the caller's error stands and the tail
                // is cut by recovery.
                let cut = self.file.set_len(position);
                let error = Error::io("write", &self.path, e);
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

    /// Adds an index entry for the batch at `position`.
    pub(crate) fn mark(&self, last_offset: Offset, position: u64) {
        if let Index::Growing(index) = &self.index {
            index.push(Entry {
                relative: (last_offset - self.base) as u32,
                position: position as u32,
            });
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

    /// Writes the index file from the entries in memory. Sealed segments have theirs.
    pub(crate) fn write_index(&self, disk: &D, dir: &Path) -> Result<()> {
        let Index::Growing(index) = &self.index else { return Ok(()) };
        let path = path_of(dir, self.base, "index");
        let write = || -> io::Result<()> {
            let file = disk.open(&path, Open::Create)?;
            let bytes = index.to_bytes(0);
            write_all_at(&file, &bytes, 0)?;
            if file.len()? != bytes.len() as u64 {
                file.set_len(bytes.len() as u64)?;
            }
            Ok(())
        };
        write().map_err(|e| Error::io("write", &path, e))
    }

    /// Where to begin looking for `offset`: the position of a batch that ends at or before it, or 0.
    pub(crate) fn floor(&self, disk: &D, offset: Offset) -> u64 {
        let Ok(relative) = u32::try_from(offset - self.base) else { return 0 };
        let entry = match &self.index {
            Index::Growing(index) => index.floor(relative),
            Index::File(file) => file
                .get_or_init(|| {
                    let path = self.path.with_extension("index");
                    let file = disk.open(&path, Open::Read).ok()?;
                    let len = file.len().ok()?;
                    Some((file, len))
                })
                .as_ref()
                .and_then(|(file, len)| floor_in_file(file, *len, relative)),
        };
        let position = entry.map_or(0, |e| u64::from(e.position));
        // An index is not checksummed: an entry that does not land on a batch of the right offsets
        // only costs a scan from the start.
        let fits = |header: BatchHeader| {
            header.base_offset >= self.base && header.base_offset <= offset.max(self.base)
        };
        match self.header_at(position) {
            Ok(Some(header)) if fits(header) => position,
            _ => 0,
        }
    }

    /// The header of the batch at `position`; `None` at the end of the segment.
    pub(crate) fn header_at(&self, position: u64) -> Result<Option<BatchHeader>> {
        if position >= self.size() {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_LEN];
        read_exact_at(&self.file, &mut bytes, position).map_err(|e| self.unread(position, e))?;
        BatchHeader::parse(&bytes)
            .map(Some)
            .map_err(|e| Error::damaged(&self.path, position, format!("no batch header here: {e}")))
    }

    /// The position of the batch that holds `offset`, or of the first one after it, with its header;
    /// `None` when every batch ends before it.
    pub(crate) fn find(&self, disk: &D, offset: Offset) -> Result<Option<(u64, BatchHeader)>> {
        let mut position = self.floor(disk, offset);
        // Headers of small batches come many to a block: one read serves them all.
        let mut block = [0; 4096];
        let (mut start, mut filled) = (position, 0usize);
        while position < self.size() {
            let inside = position.checked_sub(start).map(|at| at as usize);
            let header = match inside {
                Some(at) if at + HEADER_LEN <= filled => &block[at..at + HEADER_LEN],
                _ => {
                    let want = (self.size() - position).min(block.len() as u64) as usize;
                    if want < HEADER_LEN {
                        let what = "the segment ends inside a batch header";
                        return Err(Error::damaged(&self.path, position, what));
                    }
                    read_exact_at(&self.file, &mut block[..want], position)
                        .map_err(|e| self.unread(position, e))?;
                    (start, filled) = (position, want);
                    &block[..HEADER_LEN]
                }
            };
            let header = BatchHeader::parse(header).map_err(|e| {
                Error::damaged(&self.path, position, format!("no batch header here: {e}"))
            })?;
            if header.last_offset() >= offset {
                return Ok(Some((position, header)));
            }
            position += header.size() as u64;
        }
        Ok(None)
    }

    /// A read error at `position`.
    pub(crate) fn unread(&self, position: u64, e: io::Error) -> Error {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            return Error::damaged(
                &self.path,
                position,
                "the file ends before the batch does: it was cut from outside; restore it from a copy",
            );
        }
        Error::io("read", &self.path, e)
    }
}

/// Cuts what a failed write left behind. When even that fails, nobody knows what the file holds.
fn cut_back<F: DiskFile>(file: &F, len: u64) -> Result<()> {
    file.set_len(len).map_err(|e| Error::Stopped {
        why: format!("a write failed, and its file could not be cut back to {len} bytes: {e}"),
    })
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

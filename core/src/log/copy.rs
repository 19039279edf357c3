//! F3 · Copying a partition's folder beside a living writer.
//!
//! ```text
//!   below the recovery point   sealed, synced, never written again   .log linked, side files copied
//!   above                      read batch by batch, copied           side files made anew  (settle.rs)
//!   ends at                    the first marker that is not to be there, or where batches end
//! ```
//!
//! Always true here: the source is only read; the copy is what a clean stop would have left at that
//! place, synced; files that a writer took away meanwhile make it begin again.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::files::Files;
use super::hint::Hint;
use super::recover::SIDE_FILE_LIMIT;
use super::segment::{SIDECAR, path_of};
use super::settle::{Settle, settle};
use super::sums::{SIDES, Sums};
use super::truncate::copy_part;
use super::walk::Walk;
use super::{EPOCHS_FILE, HINT_FILE, METADATA_FILE, write_file};
use crate::batch::{Scratch, parse_marker};
use crate::disk::{Disk, DiskFile, Open, read_file};
use crate::error::{Error, Result};
use crate::ids::{Offset, ProducerIdentity};

/// A place in a partition: the base of a segment, and bytes of it.
pub(crate) type Place = (Offset, u64);

/// How far a partition is copied.
pub(crate) struct Extent<'a> {
    /// Not beyond this place.
    pub(crate) upto: Option<Place>,
    /// Markers from this offset on end the copy when they are not `known`.
    pub(crate) markers_from: Offset,
    /// Whether a marker may be there.
    pub(crate) known: &'a dyn Fn(ProducerIdentity) -> bool,
}

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Copied {
    /// Where the copy ends.
    pub(crate) end: Offset,
    /// Bytes of batches that were copied.
    pub(crate) copied: u64,
    /// Bytes of batches that have a second name now.
    pub(crate) linked: u64,
}

/// Where a partition's batches end, by the length of its newest segment's file. The last batch there may
/// be on its way.
pub(crate) fn place<D: Disk>(disk: &D, dir: &Path) -> Result<Option<Place>> {
    let Some(&base) = Files::list(disk, dir)?.bases.last() else { return Ok(None) };
    let path = path_of(dir, base, "log");
    match disk.stat(&path) {
        Ok(stat) => Ok(Some((base, stat.len))),
        Err(e) => Err(Error::io("look at", &path, e)),
    }
}

/// The next offset that a partition gives out: behind its last whole batch.
pub(crate) fn end_of<D: Disk>(disk: &D, dir: &Path) -> Result<Offset> {
    let Some((base, len)) = place(disk, dir)? else { return Ok(0) };
    let bytes = read_file(disk, &dir.join(HINT_FILE), SIDE_FILE_LIMIT).ok();
    let hint = bytes.and_then(|bytes| Hint::decode(&bytes));
    let hint = hint.filter(|hint| hint.recovery_base == base && hint.recovery_position <= len);
    let (mut position, mut end) =
        hint.map_or((0, base), |hint| (hint.recovery_position, hint.recovery_point));
    let path = path_of(dir, base, "log");
    let file = disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
    let mut walk = Walk::over_headers(&file, len);
    while position < len {
        let header = walk.header(position).map_err(|e| Error::io("read", &path, e))?;
        let Ok(header) = header else { break };
        position += header.size() as u64;
        end = header.next_offset();
    }
    Ok(end)
}

/// Copies a partition's folder to one that is there and empty. `None` when its files changed meanwhile:
/// empty the folder and try again.
///
/// # Errors
/// `Damaged` when a batch between sound ones is bad; `Io`, `Full`.
pub(crate) fn copy<D: Disk>(
    disk: &D,
    from: &Path,
    to: &Path,
    extent: &Extent<'_>,
) -> Result<Option<Copied>> {
    match copy_files(disk, from, to, extent) {
        Ok(copied) => Ok(copied),
        Err(Error::Io { source, path, .. })
            if source.kind() == io::ErrorKind::NotFound && path.starts_with(from) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

fn copy_files<D: Disk>(
    disk: &D,
    from: &Path,
    to: &Path,
    extent: &Extent<'_>,
) -> Result<Option<Copied>> {
    let bytes = read_file(disk, &from.join(HINT_FILE), SIDE_FILE_LIMIT).ok();
    let hint = bytes.and_then(|bytes| Hint::decode(&bytes)).unwrap_or_default();
    let files = Files::list(disk, from)?;
    let below = files.bases.iter().rposition(|base| *base <= hint.log_start).unwrap_or(0);
    let bases = &files.bases[below..];
    if bases.first().is_some_and(|first| *first > hint.log_start) && hint.turn > 0 {
        // Compaction puts another segment there.
        return Ok(None);
    }
    whole(disk, from, to, METADATA_FILE)?;
    whole(disk, from, to, EPOCHS_FILE)?;
    let mut how = Settle { log_start: hint.log_start, ours: true, ..Settle::default() };
    let mut copied = Copied::default();
    let mut segments = BTreeSet::new();
    for (at, &base) in bases.iter().enumerate() {
        if extent.upto.is_some_and(|(last, _)| base > last) {
            break;
        }
        let end = bases.get(at + 1).copied();
        let name = format!("{base:020}.log");
        // The producers where it begins; those of most old segments are gone.
        whole(disk, from, to, &format!("{base:020}.snapshot"))?;
        let inside = extent.upto.is_none_or(|(last, _)| base < last);
        let sealed = |end: &Offset| *end <= hint.recovery_point && *end <= extent.markers_from;
        if let Some(end) = end.filter(|end| inside && sealed(end)) {
            let Some(bytes) = link(disk, from, to, &name)? else {
                copied.copied += whole(disk, from, to, &name)?;
                if !sides(disk, from, to, base, end)? {
                    return Ok(None);
                }
                continue;
            };
            copied.linked += bytes;
            if !sides(disk, from, to, base, end)? {
                return Ok(None);
            }
            continue;
        }
        segments.insert(base);
        let path = from.join(&name);
        let file = disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
        let len = file.len().map_err(|e| Error::io("read", &path, e))?;
        let len = match extent.upto {
            Some((last, position)) if last == base => len.min(position),
            _ => len,
        };
        let (stop, cut) = extent.walk(&file, &path, len)?;
        copy_part(disk, &file, &path, 0..stop, &to.join(&name))?;
        copied.copied += stop;
        if cut || stop < len {
            let noted = extent.upto.is_some_and(|(last, _)| last == base);
            if !cut && end.is_some() && !noted {
                return Err(Error::damaged(
                    &path,
                    stop,
                    "no batch begins here, and others follow: `thalweg verify` says more",
                ));
            }
            break;
        }
    }
    how.segments = segments;
    disk.sync_dir(to).map_err(|e| Error::io("sync", to, e))?;
    copied.end = settle(disk, to, &how, &mut |_| Ok(()))?;
    Ok(Some(copied))
}

impl Extent<'_> {
    /// Where the copy of a segment ends, and whether that is a marker.
    fn walk<F: DiskFile>(&self, file: &F, path: &Path, len: u64) -> Result<(u64, bool)> {
        let mut walk = Walk::new(file, len);
        let mut scratch = Scratch::default();
        let mut position = 0;
        while position < len {
            let batch = walk.batch(position).map_err(|e| Error::io("read", path, e))?;
            let Ok(batch) = batch else { break };
            let header = batch.header;
            if header.is_control() && header.base_offset >= self.markers_from {
                let record = batch.records(&mut scratch).ok().and_then(|mut all| all.next()?.ok());
                let is_marker = record.is_some_and(|record| parse_marker(&record).is_some());
                if is_marker && !(self.known)(header.producer) {
                    return Ok((position, true));
                }
            }
            position += header.size() as u64;
        }
        Ok((position, false))
    }
}

/// Copies a small file whole: its bytes. One that is not there is none.
fn whole<D: Disk>(disk: &D, from: &Path, to: &Path, name: &str) -> Result<u64> {
    let path = from.join(name);
    let file = match disk.open(&path, Open::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !name.ends_with(".log") => return Ok(0),
        Err(e) => return Err(Error::io("open", &path, e)),
    };
    let len = file.len().map_err(|e| Error::io("read", &path, e))?;
    copy_part(disk, &file, &path, 0..len, &to.join(name))?;
    Ok(len)
}

/// Gives a sealed segment a second name: its bytes. `None` where that cannot be.
fn link<D: Disk>(disk: &D, from: &Path, to: &Path, name: &str) -> Result<Option<u64>> {
    let (source, target) = (from.join(name), to.join(name));
    match disk.link(&source, &target) {
        Ok(()) => {
            let stat = disk.stat(&target).map_err(|e| Error::io("look at", &target, e))?;
            Ok(Some(stat.len))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::io("link", &source, e)),
        Err(_) => Ok(None),
    }
}

/// Copies the side files of a sealed segment. Whether they are those of the segment that was copied:
/// compaction may have put another one in its place.
fn sides<D: Disk>(disk: &D, from: &Path, to: &Path, base: Offset, end: Offset) -> Result<bool> {
    let read = |path: &Path| match read_file(disk, path, SIDE_FILE_LIMIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    };
    let sidecar = read(&path_of(from, end, SIDECAR))?;
    let sums = sidecar.as_deref().and_then(Sums::decode);
    let log = path_of(to, base, "log");
    let size = disk.stat(&log).map_err(|e| Error::io("look at", &log, e))?.len;
    if sums.is_some_and(|sums| (sums.base, sums.size) != (base, size)) {
        return Ok(false);
    }
    for suffix in SIDES {
        let bytes = read(&path_of(from, base, suffix))?;
        let found = bytes.as_deref().unwrap_or_default();
        let fits = |sums: Sums| sums.front(suffix, found).is_some_and(|f| f.len() == found.len());
        if !sums.is_none_or(fits) {
            return Ok(false);
        }
        if let Some(bytes) = bytes {
            synced(disk, &path_of(to, base, suffix), &bytes)?;
        }
    }
    if let Some(bytes) = sidecar {
        synced(disk, &path_of(to, end, SIDECAR), &bytes)?;
    }
    Ok(true)
}

fn synced<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> Result<()> {
    let file = write_file(disk, path, bytes)?;
    file.sync_data().map_err(|e| Error::io("sync", path, e))
}

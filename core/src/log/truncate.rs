//! F3 · Cutting a partition's end back to an offset: the newest records are taken out, for good.
//!
//! ```text
//!   1 what goes is copied aside, synced
//!   2 the hint falls to the cut, in both slots, synced     below it, nothing is touched after this
//!   3 segments behind the cut are removed, the last one first
//!   4 the segment of the cut is cut: in place where it is the newest; written anew and renamed where it
//!     was sealed, because a backup may hold its bytes under another name
//!   5 side files, and the hint as a clean stop leaves it   settle.rs
//! ```
//!
//! Always true here: a crash before step 3 leaves the whole log, one behind it a log that the next open
//! recovers, never one that looks damaged; a transaction that was committed is not cut in two.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::aside::Aside;
use super::files::Files;
use super::hint::Hint;
use super::producers::Producers;
use super::recover::{SIDE_FILE_LIMIT, replay};
use super::segment::{SIDECAR, path_of};
use super::settle::{Settle, settle, write_hint};
use super::walk::Walk;
use super::{HINT_FILE, write_file};
use crate::batch::{Marker, Scratch, parse_marker};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, read_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::Offset;

/// Where a log can be cut, and what goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    /// The offset asked for, or the next above it where a batch begins.
    pub(crate) to: Offset,
    /// Where the log ends now.
    pub(crate) end: Offset,
    /// Bytes of batches that go.
    pub(crate) bytes: u64,
    base: Offset,
    position: u64,
    log_start: Offset,
    /// Segments that go whole.
    behind: Vec<Offset>,
}

/// Looks where the log of a folder, which nobody writes, can be cut.
///
/// # Errors
/// `Invalid` when a committed transaction would be cut in two; `Damaged`, `Io`.
pub(crate) fn plan<D: Disk>(disk: &D, dir: &Path, log_start: Offset, to: Offset) -> Result<Cut> {
    let files = Files::list(disk, dir)?;
    let below = files.bases.iter().rposition(|base| *base <= log_start).unwrap_or(0);
    let bases = &files.bases[below..];
    let nothing = || Error::damaged(dir, 0, "there is no segment in it");
    let home = bases.iter().copied().rfind(|base| *base <= to).ok_or_else(nothing)?;
    let snapshot = |base: &Offset| {
        let path = path_of(dir, *base, "snapshot");
        let bytes = read_file(disk, &path, SIDE_FILE_LIMIT).ok()?;
        Some((*base, Producers::from_snapshot(&bytes)?))
    };
    let found = bases.iter().rev().filter(|base| **base <= home).find_map(snapshot);
    let (start, mut producers) = found.unwrap_or_else(|| (bases[0], Producers::default()));
    let mut cut: Option<Cut> = None;
    let mut open = BTreeMap::new();
    let mut scratch = Scratch::default();
    let mut end = start;
    for &base in bases.iter().filter(|base| **base >= start) {
        let path = path_of(dir, base, "log");
        let file = disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
        let len = file.len().map_err(|e| Error::io("read", &path, e))?;
        let mut walk = Walk::new(&file, len);
        let mut position = 0;
        end = end.max(base);
        while position < len {
            let batch = match walk.batch(position) {
                Ok(Ok(batch)) => batch,
                Ok(Err(bad)) => return Err(Error::damaged(&path, position, bad)),
                Err(e) => return Err(Error::io("read", &path, e)),
            };
            let header = batch.header;
            if cut.is_none() && header.base_offset >= to {
                // A segment whose first batch goes stays, empty, unless another one ends there.
                let (to, behind) = (header.base_offset, Vec::new());
                let (bytes, end) = (0, to);
                cut = Some(Cut { to, end, bytes, base, position, log_start, behind });
                let transactions = producers.open_transactions().into_iter();
                open = transactions.map(|(by, first)| (by.id, first)).collect();
            }
            match &mut cut {
                None => replay(&batch, &mut producers, &mut Vec::new()),
                Some(cut) => {
                    cut.bytes += header.size() as u64;
                    if cut.base != base && cut.behind.last() != Some(&base) {
                        cut.behind.push(base);
                    }
                    let mut records =
                        batch.records(&mut scratch).ok().filter(|_| header.is_control());
                    let record = records.as_mut().and_then(|all| all.next()?.ok());
                    let marker = record.and_then(|record| parse_marker(&record));
                    let first = marker.and_then(|_| open.remove(&header.producer.id));
                    if let (Some((Marker::Commit, _)), Some(first)) = (marker, first) {
                        return Err(Error::invalid(format!(
                            "a transaction of producer {} that was committed lies on both sides of offset {}: cut at {first} or below, or at {} or above",
                            header.producer.id,
                            cut.to,
                            header.next_offset()
                        )));
                    }
                }
            }
            position += header.size() as u64;
            end = header.next_offset();
        }
        if cut.as_ref().is_some_and(|cut| cut.base != base && cut.behind.last() != Some(&base)) {
            // The newest segment may be empty.
            cut.iter_mut().for_each(|cut| cut.behind.push(base));
        }
    }
    Ok(match cut {
        Some(cut) => Cut { end, ..cut },
        None => {
            let base = bases.last().copied().unwrap_or(start);
            let position = 0;
            Cut { to: end, end, bytes: 0, base, position, log_start, behind: Vec::new() }
        }
    })
}

/// Cuts. What goes is kept in `aside`, as a segment of its own.
///
/// # Errors
/// `Io`, `Full`, `Damaged`; the folder is then to be opened, which recovers it.
pub(crate) fn cut<D: Disk>(disk: &D, dir: &Path, cut: &Cut, aside: &Aside<'_, D>) -> Result<()> {
    if cut.bytes == 0 {
        return Ok(());
    }
    let path = path_of(dir, cut.base, "log");
    let file = disk.open(&path, Open::Write).map_err(|e| Error::io("open", &path, e))?;
    let len = file.len().map_err(|e| Error::io("read", &path, e))?;
    if len > cut.position {
        let kept = aside.path(&path_of(dir, cut.to, "log"))?;
        copy_part(disk, &file, &path, cut.position..len, &kept)?;
    }
    for base in &cut.behind {
        aside.keep(&path_of(dir, *base, "log"))?;
    }
    aside.sync()?;
    let bytes = read_file(disk, &dir.join(HINT_FILE), SIDE_FILE_LIMIT).ok();
    let hint = bytes.and_then(|bytes| Hint::decode(&bytes)).unwrap_or_default();
    let falls = hint.recovery_point > cut.to;
    write_hint(
        disk,
        dir,
        Hint {
            durable_end: cut.to,
            log_start: cut.log_start,
            recovery_point: if falls { cut.base } else { hint.recovery_point },
            recovery_base: if falls { cut.base } else { hint.recovery_base },
            recovery_position: if falls { 0 } else { hint.recovery_position },
            ..hint
        },
    )?;
    for base in cut.behind.iter().rev() {
        for suffix in ["log", "index", "timeindex", "txnindex"] {
            remove(disk, &path_of(dir, *base, suffix))?;
        }
    }
    disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
    if cut.behind.is_empty() {
        file.set_len(cut.position).map_err(|e| Error::io("cut", &path, e))?;
        file.sync_data().map_err(|e| Error::io("sync", &path, e))?;
    } else {
        let tmp = PathBuf::from(format!("{}.tmp", path.display()));
        copy_part(disk, &file, &path, 0..cut.position, &tmp)?;
        disk.rename(&tmp, &path).map_err(|e| Error::io("rename", &tmp, e))?;
    }
    let files = Files::list(disk, dir)?;
    for at in files.snapshots.iter().filter(|at| **at > cut.to) {
        remove(disk, &path_of(dir, *at, "snapshot"))?;
    }
    for at in files.sidecars.iter().filter(|at| **at > cut.to) {
        remove(disk, &path_of(dir, *at, SIDECAR))?;
    }
    disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
    let segments = BTreeSet::from([cut.base]);
    let how = Settle { log_start: cut.log_start, ours: true, segments, ..Settle::default() };
    settle(disk, dir, &how, &mut |_| Ok(())).map(drop)
}

fn remove<D: Disk>(disk: &D, path: &Path) -> Result<()> {
    match disk.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Copies a part of an open file to a new one, synced.
pub(super) fn copy_part<D: Disk>(
    disk: &D,
    from: &D::File,
    from_path: &Path,
    part: std::ops::Range<u64>,
    to: &Path,
) -> Result<()> {
    let file = write_file(disk, to, &[])?;
    let mut buffer = vec![0; (part.end - part.start).min(1 << 20) as usize];
    let mut position = part.start;
    while position < part.end {
        let piece = (part.end - position).min(buffer.len() as u64) as usize;
        read_exact_at(from, &mut buffer[..piece], position)
            .map_err(|e| Error::io("read", from_path, e))?;
        write_all_at(&file, &buffer[..piece], position - part.start)
            .map_err(|e| Error::io("write", to, e))?;
        position += piece as u64;
    }
    file.sync_data().map_err(|e| Error::io("sync", to, e))
}

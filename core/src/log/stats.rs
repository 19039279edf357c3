//! F3 · Counting what a partition's folder holds, from the headers of its batches.
//!
//! Always true here: nothing is written and no lock taken; headers are read, and of records only the
//! markers, so that sums are not checked; the log ends where no batch follows.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::HINT_FILE;
use super::files::Files;
use super::hint::Hint;
use super::producers::Producers;
use super::recover::SIDE_FILE_LIMIT;
use super::segment::path_of;
use super::verify::Known;
use super::walk::Walk;
use crate::batch::{Scratch, parse_marker};
use crate::disk::{Disk, DiskFile, Open, read_file};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, Timestamp};

/// What a partition holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Records of users, aborted ones included.
    pub records: u64,
    /// Batches.
    pub batches: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Bytes of the other files: indexes, snapshots, sums, checkpoints.
    pub side_bytes: u64,
    /// Bytes of files of deleted segments that were not removed yet.
    pub leaving_bytes: u64,
    /// The first offset there is.
    pub log_start: Offset,
    /// Up to here every transaction is decided.
    pub last_stable: Offset,
    /// One past the last offset.
    pub end: Offset,
    /// Everything below is known to be on the medium.
    pub durable_end: Offset,
    /// The time of the oldest batch's greatest record, in milliseconds since 1970.
    pub oldest: Option<Timestamp>,
    /// The greatest time of a record.
    pub newest: Option<Timestamp>,
    /// Transactions that are open: producer ids and first offsets.
    pub open_transactions: Vec<(i64, Offset)>,
    /// The leader epoch of the last batch, or -1.
    pub last_epoch: LeaderEpoch,
}

/// Counts.
///
/// # Errors
/// `Io`.
pub(crate) fn partition<D: Disk>(disk: &D, dir: &Path, known: &Known) -> Result<Stats> {
    let files = Files::list(disk, dir)?;
    let hint = read_file(disk, &dir.join(HINT_FILE), SIDE_FILE_LIMIT).ok();
    let hint = hint.and_then(|bytes| Hint::decode(&bytes));
    let first = files.bases.first().copied().unwrap_or(0);
    let log_start = hint.map(|hint| hint.log_start).or(known.log_start).unwrap_or(first);
    let below = files.bases.iter().rposition(|base| *base <= log_start).unwrap_or(0);
    let bases = &files.bases[below..];
    let mut stats = Stats {
        log_start,
        end: log_start.max(bases.first().copied().unwrap_or(0)),
        durable_end: hint.map(|hint| hint.durable_end).or(known.recovery_point).unwrap_or(0),
        last_epoch: -1,
        ..Stats::default()
    };
    sizes(disk, dir, &mut stats)?;
    let mut open: BTreeMap<i64, Offset> = BTreeMap::new();
    if let Some(&first) = bases.first() {
        let bytes = read_file(disk, &path_of(dir, first, "snapshot"), SIDE_FILE_LIMIT).ok();
        let producers = bytes.and_then(|bytes| Producers::from_snapshot(&bytes));
        let transactions = producers.iter().flat_map(Producers::open_transactions);
        open.extend(transactions.map(|(by, offset)| (by.id, offset)));
    }
    let mut scratch = Scratch::default();
    for (at, &base) in bases.iter().enumerate() {
        let path = path_of(dir, base, "log");
        let file = match disk.open(&path, Open::Read) {
            Ok(file) => file,
            // A living log deleted it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let len = file.len().map_err(|e| Error::io("read", &path, e))?;
        stats.segments += 1;
        let mut walk = Walk::over_headers(&file, len);
        let mut position = 0;
        let failed = |e| Error::io("read", &path, e);
        while let Ok(header) = walk.header(position).map_err(failed)? {
            stats.take(&header);
            if header.is_control() {
                if let Ok(batch) = walk.batch(position).map_err(failed)?
                    && let Ok(mut records) = batch.records(&mut scratch)
                    && let Some(Ok(record)) = records.next()
                    && parse_marker(&record).is_some()
                {
                    open.remove(&header.producer.id);
                }
            } else if header.is_transactional() {
                open.entry(header.producer.id).or_insert(header.base_offset);
            }
            position += header.size() as u64;
            if position >= len {
                break;
            }
        }
        stats.bytes += position;
        if let Some(next) = bases.get(at + 1) {
            stats.end = *next;
        }
    }
    stats.last_stable = open.values().min().map_or(stats.end, |first| *first);
    stats.open_transactions = open.into_iter().collect();
    Ok(stats)
}

impl Stats {
    fn take(&mut self, header: &crate::batch::BatchHeader) {
        self.batches += 1;
        self.end = header.next_offset();
        self.last_epoch = header.leader_epoch;
        // Of a batch on both sides of the log start, what lies behind.
        let behind = header.next_offset().saturating_sub(self.log_start).max(0);
        if !header.is_control() {
            self.records += i64::from(header.record_count).min(behind).unsigned_abs();
        }
        let time = header.max_timestamp;
        if time >= 0 && behind > 0 && !header.is_control() {
            self.oldest = Some(self.oldest.map_or(time, |oldest| oldest.min(time)));
            self.newest = self.newest.max(Some(time));
        }
    }
}

fn sizes<D: Disk>(disk: &D, dir: &Path, stats: &mut Stats) -> Result<()> {
    for entry in disk.list(dir).map_err(|e| Error::io("list", dir, e))? {
        let name = entry.name.to_string_lossy();
        if entry.is_dir || name.ends_with(".log") {
            continue;
        }
        let Ok(stat) = disk.stat(&dir.join(&entry.name)) else { continue };
        match name.ends_with(".deleted") {
            true => stats.leaving_bytes += stat.len,
            false => stats.side_bytes += stat.len,
        }
    }
    Ok(())
}

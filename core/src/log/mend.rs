//! F3 · Mending a partition's segments: what is sound is kept where it is, what is not becomes batches
//! without records, and the old file is kept aside.
//!
//! ```text
//!   before   | 0..9 sound | ~~~ bad ~~~ | 20..29 sound | 30..39 sound, cut o|
//!   after    | 0..9 sound | 10..19 none | 20..29 sound | 30..39 none |
//! ```
//!
//! A batch without records is what compaction leaves as well, so every reader, Apache Kafka's too, passes
//! over it, and no offset that was given out is given out again.
//!
//! Always true here: offsets go on without a gap where they did before; a segment is replaced whole, by a
//! synced file under its name; a batch whose own offset is wrong, and whose neighbours say which is right,
//! is not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::aside::Aside;
use super::compact::finish_swaps;
use super::files::Files;
use super::hint::Hint;
use super::recover::SIDE_FILE_LIMIT;
use super::segment::{SIDECAR, path_of};
use super::settle::{Settle, settle};
use super::sums::Sums;
use super::verify::{Finding, Fix, Known, Severity};
use super::walk::Walk;
use super::{EPOCHS_FILE, HINT_FILE, METADATA_FILE, write_file};
use crate::batch::{Attributes, BatchHeader, HEADER_LEN, crc32c, stamp};
use crate::disk::{Disk, DiskFile, Open, read_exact_at, read_file, replace_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, ProducerIdentity};

/// Finishes what compaction began, as the next open would.
///
/// # Errors
/// As opening.
pub(crate) fn finish_compaction<D: Disk>(disk: &D, dir: &Path) -> Result<()> {
    let ours = disk.stat(&dir.join(HINT_FILE)).is_ok();
    finish_swaps(disk, dir, !ours)
}

/// What was done to a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mended {
    /// Offsets whose records are gone.
    pub(crate) lost: Vec<Range<Offset>>,
    /// Segments that were written anew.
    pub(crate) segments: usize,
}

/// A part of a segment as it will be.
#[derive(PartialEq, Eq, Debug)]
enum Piece {
    /// Bytes of the old file.
    Keep(Range<u64>),
    /// A batch of the old file, at another offset or under another epoch.
    Stamp(Range<u64>, Offset, LeaderEpoch),
    /// Offsets without records.
    None(Range<Offset>, LeaderEpoch),
    /// A batch that was not there.
    Add(Vec<u8>),
}

/// Mends a partition's folder and makes its side files anew where they are bad. Batches of `extra` are
/// appended to it.
///
/// # Errors
/// `Io`, `Full`: it can be called again.
pub(crate) fn mend<D: Disk>(
    disk: &D,
    dir: &Path,
    known: &Known,
    findings: &[&Finding],
    extra: &[Bytes],
    aside: &Aside<'_, D>,
) -> Result<Mended> {
    let files = Files::list(disk, dir)?;
    let hint = read_file(disk, &dir.join(HINT_FILE), SIDE_FILE_LIMIT).ok();
    let ours = hint.is_some();
    let hint = hint.and_then(|bytes| Hint::decode(&bytes));
    let first = files.bases.first().copied().unwrap_or(0);
    let log_start = hint.map(|hint| hint.log_start).or(known.log_start).unwrap_or(first);
    let durable_end = hint.map(|hint| hint.durable_end);
    let below = files.bases.iter().rposition(|base| *base <= log_start).unwrap_or(0);
    let mut bases = files.bases[below..].to_vec();
    let mut work = Mend { disk, dir, aside, ours, mended: Mended::default() };
    let mut how = Settle { log_start, ours, ..Settle::default() };
    let damaged = findings.iter().any(|finding| finding.severity == Severity::Damaged);
    if damaged {
        if ours && bases.first().is_none_or(|first| *first > log_start) {
            let end = bases.first().copied().or(durable_end).unwrap_or(log_start);
            if end > log_start {
                work.fill_front(log_start, end)?;
                bases.insert(0, log_start);
            }
        }
        how.epochs = true;
    }
    // The last one first, and what is appended with it: whoever calls this again after a crash still
    // finds what else is bad, and appends it again, which changes nothing.
    let mut changed = (bases.first() < Some(&first)).then_some(log_start);
    for (at, &base) in bases.iter().enumerate().rev() {
        let end = bases.get(at + 1).copied();
        let added = if end.is_none() { extra } else { &[] };
        if work.segment(base, end, durable_end, findings, added)? {
            changed = Some(base);
        }
    }
    how.segments.extend(bases.iter().filter(|base| changed.is_some_and(|from| **base >= from)));
    work.mended.lost.sort_by_key(|lost| lost.start);
    for finding in findings {
        how.include(finding, &bases);
        if finding.path.file_name().is_some_and(|name| name == METADATA_FILE)
            && let Some(id) = known.topic_id
        {
            aside.keep(&finding.path)?;
            let text = format!("version: 0\ntopic_id: {id}");
            replace_file(disk, &finding.path, text.as_bytes())
                .map_err(|e| Error::io("write", &finding.path, e))?;
        }
    }
    aside.sync()?;
    settle(disk, dir, &how, &mut |path| aside.keep(path))?;
    aside.sync()?;
    Ok(work.mended)
}

impl Settle {
    /// Has a bad file made anew.
    fn include(&mut self, finding: &Finding, bases: &[Offset]) {
        let Some(name) = finding.path.file_name().and_then(|name| name.to_str()) else { return };
        self.epochs |= name == EPOCHS_FILE;
        let Some((stem, suffix)) = name.split_once('.') else { return };
        let Ok(at) = stem.parse::<Offset>() else { return };
        if finding.severity != Severity::Rebuildable {
            return;
        }
        match suffix {
            "index" | "timeindex" | "txnindex" => _ = self.segments.insert(at),
            SIDECAR => {
                // That of the segment which ends there.
                let before = bases.iter().rev().find(|base| **base < at);
                self.segments.extend(before);
            }
            "snapshot" => _ = self.snapshots.insert(at),
            _ => {}
        }
    }
}

struct Mend<'a, D> {
    disk: &'a D,
    dir: &'a Path,
    aside: &'a Aside<'a, D>,
    ours: bool,
    mended: Mended,
}

impl<D: Disk> Mend<'_, D> {
    /// A segment of offsets without records, where the first one should be.
    fn fill_front(&mut self, from: Offset, to: Offset) -> Result<()> {
        let path = path_of(self.dir, from, "log");
        let bytes: Vec<u8> = empties(from..to, 0).concat();
        replace_file(self.disk, &path, &bytes).map_err(|e| Error::io("write", &path, e))?;
        self.mended.lost.push(from..to);
        self.mended.segments += 1;
        Ok(())
    }

    /// Mends one segment, and appends `added` to it. Whether it was written anew.
    fn segment(
        &mut self,
        base: Offset,
        end: Option<Offset>,
        durable_end: Option<Offset>,
        findings: &[&Finding],
        added: &[Bytes],
    ) -> Result<bool> {
        let path = path_of(self.dir, base, "log");
        let mut stamps = BTreeMap::new();
        let mut drops = BTreeSet::new();
        for finding in findings.iter().filter(|finding| finding.path == path) {
            match finding.fix {
                Fix::Look => {}
                Fix::Stamp(epoch) => _ = stamps.insert(finding.position - 12, epoch),
                Fix::Drop => _ = drops.insert(finding.position),
            }
        }
        let file = self.disk.open(&path, Open::Read).map_err(|e| Error::io("open", &path, e))?;
        let len = file.len().map_err(|e| Error::io("read", &path, e))?;
        let target = end.or(durable_end.map(|durable| durable.max(base)));
        let mut plan = Plan {
            next: base,
            gaps: !self.ours || self.gaps(base, end),
            epoch: 0,
            pieces: Vec::new(),
            lost: Vec::new(),
        };
        let torn =
            |next: Offset| end.is_none() && durable_end.is_none_or(|durable| next >= durable);
        plan.walk(&file, len, end, torn, &stamps, &drops)
            .map_err(|e| Error::io("read", &path, e))?;
        if let Some(target) = target.filter(|target| *target > plan.next) {
            match plan.gaps {
                true => plan.next = target,
                false => plan.fill(target),
            }
        }
        let whole = [Piece::Keep(0..len)];
        let sound = plan.pieces == whole || (len == 0 && plan.pieces.is_empty());
        if sound && added.is_empty() {
            return Ok(false);
        }
        for batch in added {
            plan.add(batch);
        }
        self.aside.keep(&path)?;
        self.write(&file, &path, &plan.pieces)?;
        self.mended.lost.append(&mut plan.lost);
        self.mended.segments += usize::from(!sound);
        Ok(true)
    }

    /// Whether compaction took offsets out of a segment.
    fn gaps(&self, base: Offset, end: Option<Offset>) -> bool {
        let Some(end) = end else { return false };
        match read_file(self.disk, &path_of(self.dir, end, SIDECAR), 4096) {
            Ok(bytes) => match Sums::decode(&bytes) {
                Some(sums) => sums.base == base && sums.compacted.gaps,
                // What cannot be read may have said so.
                None => true,
            },
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Writes a segment from its pieces, and puts it in the place of the old one.
    fn write(&self, from: &D::File, path: &Path, pieces: &[Piece]) -> Result<()> {
        let tmp = PathBuf::from(format!("{}.tmp", path.display()));
        let failed = |e: io::Error| Error::io("write", &tmp, e);
        let file = write_file(self.disk, &tmp, &[])?;
        let mut at = 0;
        let mut buffer = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Keep(bytes) => {
                    let mut position = bytes.start;
                    while position < bytes.end {
                        buffer.resize((bytes.end - position).min(1 << 20) as usize, 0);
                        read_exact_at(from, &mut buffer, position)
                            .map_err(|e| Error::io("read", path, e))?;
                        write_all_at(&file, &buffer, at).map_err(failed)?;
                        position += buffer.len() as u64;
                        at += buffer.len() as u64;
                    }
                }
                Piece::Stamp(bytes, offset, epoch) => {
                    buffer.resize((bytes.end - bytes.start) as usize, 0);
                    read_exact_at(from, &mut buffer, bytes.start)
                        .map_err(|e| Error::io("read", path, e))?;
                    if let Some(header) = buffer.first_chunk_mut::<HEADER_LEN>() {
                        stamp(header, *offset, *epoch);
                    }
                    write_all_at(&file, &buffer, at).map_err(failed)?;
                    at += buffer.len() as u64;
                }
                Piece::Add(batch) => {
                    write_all_at(&file, batch, at).map_err(failed)?;
                    at += batch.len() as u64;
                }
                Piece::None(offsets, epoch) => {
                    for batch in empties(offsets.clone(), *epoch) {
                        write_all_at(&file, &batch, at).map_err(failed)?;
                        at += batch.len() as u64;
                    }
                }
            }
        }
        file.sync_data().map_err(|e| Error::io("sync", &tmp, e))?;
        self.aside.sync()?;
        self.disk.rename(&tmp, path).map_err(|e| Error::io("rename", &tmp, e))?;
        self.disk.sync_dir(self.dir).map_err(|e| Error::io("sync", self.dir, e))
    }
}

struct Plan {
    next: Offset,
    gaps: bool,
    epoch: LeaderEpoch,
    pieces: Vec<Piece>,
    lost: Vec<Range<Offset>>,
}

impl Plan {
    fn keep(&mut self, bytes: Range<u64>) {
        match self.pieces.last_mut() {
            Some(Piece::Keep(kept)) if kept.end == bytes.start => kept.end = bytes.end,
            _ => self.pieces.push(Piece::Keep(bytes)),
        }
    }

    fn add(&mut self, batch: &[u8]) {
        let mut batch = batch.to_vec();
        if let Some(header) = batch.first_chunk_mut::<HEADER_LEN>() {
            stamp(header, self.next, self.epoch);
        }
        self.next = BatchHeader::parse(&batch).map_or(self.next, |header| header.next_offset());
        self.pieces.push(Piece::Add(batch));
    }

    fn fill(&mut self, to: Offset) {
        if to > self.next {
            self.pieces.push(Piece::None(self.next..to, self.epoch));
            self.lost.push(self.next..to);
            self.next = to;
        }
    }

    fn walk<F: DiskFile>(
        &mut self,
        file: &F,
        len: u64,
        end: Option<Offset>,
        torn: impl Fn(Offset) -> bool,
        stamps: &BTreeMap<u64, LeaderEpoch>,
        drops: &BTreeSet<u64>,
    ) -> io::Result<()> {
        let most = end.unwrap_or(Offset::MAX);
        let mut walk = Walk::new(file, len);
        let mut position = 0;
        while position < len {
            let header = match walk.batch(position) {
                Ok(Ok(batch)) => batch.header,
                Ok(Err(_)) => {
                    if torn(self.next) {
                        return Ok(());
                    }
                    let Some(place) = walk.resync(position, self.next, most)? else {
                        return Ok(());
                    };
                    if let Ok(header) = walk.header(place)? {
                        self.fill(header.base_offset);
                    }
                    position = place;
                    continue;
                }
                // Nothing behind a place that cannot be read can be reached by walking.
                Err(_) => return Ok(()),
            };
            let bytes = position..position + header.size() as u64;
            let follows = self.next.saturating_add(i64::from(header.last_offset_delta) + 1);
            let after = match bytes.end < len {
                true => walk.header(bytes.end)?.ok().map(|header| header.base_offset),
                false => end,
            };
            position = bytes.end;
            let mut first = header.base_offset;
            let misplaced = first != self.next && !(self.gaps && first > self.next);
            if misplaced && after == Some(follows) {
                first = self.next;
            } else if misplaced && (first < self.next || header.next_offset() > most) {
                // Whatever it is, its offsets were there before.
                continue;
            } else if misplaced {
                self.fill(first);
            }
            let epoch = stamps.get(&bytes.start).copied().unwrap_or(header.leader_epoch);
            self.epoch = epoch.max(0);
            let next = first.saturating_add(i64::from(header.last_offset_delta) + 1);
            if drops.contains(&bytes.start) {
                self.next = self.next.max(first);
                self.fill(next);
                continue;
            }
            match (first, epoch) == (header.base_offset, header.leader_epoch) {
                true => self.keep(bytes),
                false => self.pieces.push(Piece::Stamp(bytes, first, epoch)),
            }
            self.next = next;
        }
        Ok(())
    }
}

/// Batches without records, over a range of offsets.
fn empties(offsets: Range<Offset>, leader_epoch: LeaderEpoch) -> Vec<[u8; HEADER_LEN]> {
    let mut all = Vec::new();
    let mut from = offsets.start;
    while from < offsets.end {
        let count = (offsets.end - from).min(i64::from(i32::MAX));
        let header = BatchHeader {
            base_offset: from,
            length: (HEADER_LEN - 12) as i32,
            leader_epoch,
            crc: 0,
            attributes: Attributes::default(),
            last_offset_delta: (count - 1) as i32,
            base_timestamp: -1,
            max_timestamp: -1,
            producer: ProducerIdentity::NONE,
            base_sequence: -1,
            record_count: 0,
        };
        let mut bytes = [0; HEADER_LEN];
        header.write(&mut bytes);
        let crc = crc32c(&bytes[21..]);
        BatchHeader { crc, ..header }.write(&mut bytes);
        all.push(bytes);
        from += count;
    }
    all
}

//! F3 · Compaction: of each key the last record stays, at its offset.
//!
//! ```text
//!   segments    | clean     | clean     | dirty     | dirty     | active
//!               '-----------------------^-----------------------^
//!                                       map: the last offset of each key, until memory is full
//!               copy: every record below the map's end that is not the last of its key goes
//!               groups of neighbours that fit one segment become one
//!   each group  written beside the old one, synced, then swapped in: compact/swap.rs
//! ```
//!
//! What goes: records with a later one of the same key; records without a key; all of aborted
//! transactions; deletions (records without a value), and markers of transactions of which no record is
//! left, once the delete horizon has come that the first compaction to meet them wrote into their batch
//! (KIP-534). What stays, if need be without records: the last batch of each producer, which its next
//! sequence number is judged by, and the last batch of each group, so that no segment ends before the
//! next one begins.
//!
//! Always true here: offsets, sequence numbers and the order of what stays do not change; only sealed
//! segments below the last stable offset *and* the recovery point are touched, so recovery never meets
//! a missing offset above that point; a batch is copied only after its sum was checked, and damage stops
//! the compaction of its partition; memory is bounded, however many keys there are; work is done in
//! steps of so many bytes, and a step can be the last one at any time.
//!
//! Source: Kafka's `LogCleaner`, KIP-58, KIP-354, KIP-534.

mod offsets;
mod swap;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::offsets::Offsets;
pub(super) use self::swap::finish_swaps;
use super::aborted::Aborted;
use super::index::{Indexes, Marks};
use super::segment::{SIDECAR, Segment, path_of};
use super::sums::{Compacted, Sums};
use super::walk::Walk;
use super::{PartitionLog, write_file};
use crate::batch::{self, BatchHeader, BatchRef, Marker, Rewrite, Rewriter, Rewritten, Scratch};
use crate::disk::{Disk, DiskFile, Open, read_file, write_all_at};
use crate::error::{Error, Result};
use crate::ids::{Offset, Timestamp};

/// What is put behind the names of files that are being written.
const CLEANED: &str = "cleaned";
/// How much is written with one call.
const FLUSH: usize = 1 << 20;

/// What a compaction may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Memory for keys.
    pub(crate) map_bytes: usize,
    /// What the hashes of keys begin with: nobody outside may know.
    pub(crate) secrets: [u64; 2],
}

/// A sealed segment and where it ends.
struct Source<D: Disk> {
    segment: Arc<Segment<D>>,
    end: Offset,
}

impl<D: Disk> Source<D> {
    fn is_clean(&self) -> bool {
        self.segment.compacted.clean_below >= self.end
    }
}

/// What a producer wrote last: its epoch, and the last offset of its data.
pub(super) type LastData = BTreeMap<i64, (i16, Option<Offset>)>;

/// One compaction of one partition.
pub(crate) struct Compaction<D: Disk> {
    disk: D,
    dir: PathBuf,
    sources: Vec<Source<D>>,
    /// Where the next batch is read: source and position.
    at: (usize, u64),
    offsets: Offsets,
    /// Whether a key was taken in.
    taken: bool,
    /// Records below were looked at for their keys.
    upto: Offset,
    rules: Rules,
    phase: Phase<D>,
    rewriter: Rewriter,
    scratch: Scratch,
}

enum Phase<D: Disk> {
    Map,
    Copy(Option<Box<Output<D>>>),
}

/// What decides which records stay.
struct Rules {
    now: Timestamp,
    delete_retention_ms: u64,
    index_interval_bytes: u32,
    segment_bytes: u64,
    /// Per producer, first offset and marker of its aborted transactions.
    aborted: BTreeMap<i64, Vec<(Offset, Offset)>>,
    producers: LastData,
    /// Producers of whose transaction records are left, until its marker comes.
    with_data: BTreeSet<i64>,
}

/// What a step came to.
pub(crate) enum Step<D: Disk> {
    /// Its bytes are used up.
    More,
    /// A group is on the medium, and waits to be swapped in.
    Written(Written<D>),
    /// Nothing is left to do.
    Done,
}

/// A group of segments, written again.
pub(crate) struct Written<D: Disk> {
    group: Vec<Arc<Segment<D>>>,
    base: Offset,
    end: Offset,
    pub(super) size: u64,
    pub(super) greatest: Timestamp,
    pub(super) aborted: Vec<Aborted>,
    pub(super) sums: Sums,
    /// Only what is known of it changed: the sidecar is all there is to write.
    same: bool,
}

/// A group under way.
struct Output<D: Disk> {
    file: D::File,
    base: Offset,
    end: Offset,
    /// The first source of the group.
    first: usize,
    bytes: Vec<u8>,
    flushed: u64,
    indexes: Box<Indexes>,
    marks: Marks,
    aborted: Vec<Aborted>,
    /// Where the last marker is, until its entry was looked up.
    last_marker: Option<Offset>,
    changed: bool,
    compacted: Compacted,
    /// The next offset, if none is missing.
    next: Offset,
}

impl<D: Disk> PartitionLog<D> {
    /// How much of what can be compacted was not, in thousandths; `None` when the topic's settings say
    /// that it is not time yet.
    ///
    /// # Errors
    /// What reading a segment's greatest time refuses.
    pub fn compactable(&self, now: Timestamp, last_stable: Offset) -> Result<Option<u16>> {
        if self.refusal.is_some() || !self.config.cleanup.compacts() {
            return Ok(None);
        }
        let sources = self.sources(now, last_stable)?;
        let size = |s: &Source<D>| s.segment.size();
        let all: u64 = sources.iter().map(size).sum();
        let dirty: u64 = sources.iter().filter(|s| !s.is_clean()).map(size).sum();
        let Some(oldest) = sources.iter().find(|s| !s.is_clean()) else { return Ok(None) };
        let permille = u16::try_from(u128::from(dirty) * 1000 / u128::from(all.max(1)));
        let permille = permille.unwrap_or(1000);
        let late = match self.config.max_compaction_lag_ms {
            Some(lag) => oldest.segment.header_at(0)?.is_some_and(|first| {
                let time = first.max_timestamp;
                time >= 0 && now.saturating_sub(time) > lag.cast_signed()
            }),
            None => false,
        };
        let due = late || permille > self.config.min_cleanable_dirty_permille;
        Ok(due.then_some(permille))
    }

    /// Begins a compaction; `None` when there is nothing to compact.
    ///
    /// # Errors
    /// As [`PartitionLog::compactable`].
    pub(crate) fn begin_compaction(
        &self,
        now: Timestamp,
        last_stable: Offset,
        limits: Limits,
    ) -> Result<Option<Compaction<D>>> {
        let sources = self.sources(now, last_stable)?;
        let Some(first) = sources.iter().position(|s| !s.is_clean()) else { return Ok(None) };
        let (Some(front), Some(back)) = (sources.first(), sources.last()) else { return Ok(None) };
        let mut aborted: BTreeMap<i64, Vec<(Offset, Offset)>> = BTreeMap::new();
        for one in self.view.aborted(front.segment.base, back.end) {
            let all = aborted.entry(one.producer_id).or_default();
            all.push((one.first_offset, one.last_offset));
        }
        Ok(Some(Compaction {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            at: (first, 0),
            upto: sources[first].segment.base,
            sources,
            offsets: Offsets::new(limits.map_bytes, limits.secrets),
            taken: false,
            rules: Rules {
                now,
                delete_retention_ms: self.config.delete_retention_ms,
                index_interval_bytes: self.config.index_interval_bytes,
                segment_bytes: u64::from(self.config.segment_bytes),
                aborted,
                producers: self.producers.last_data(),
                with_data: BTreeSet::new(),
            },
            phase: Phase::Map,
            rewriter: Rewriter::default(),
            scratch: Scratch::default(),
        }))
    }

    /// The segments that may be compacted.
    fn sources(&self, now: Timestamp, last_stable: Offset) -> Result<Vec<Source<D>>> {
        let segments = self.view.segments.load();
        // What the hint on disk says: recovery may begin there.
        let bound = last_stable.min(self.noted.recovery_point);
        let lag = self.config.min_compaction_lag_ms;
        let mut sources = Vec::new();
        for pair in segments.windows(2) {
            let (segment, end) = (&pair[0], pair[1].base);
            if end > bound || (lag > 0 && is_younger(segment.greatest_time()?, now, lag)) {
                break;
            }
            sources.push(Source { segment: Arc::clone(segment), end });
        }
        Ok(sources)
    }
}

fn is_younger(time: Timestamp, now: Timestamp, than: u64) -> bool {
    time >= 0 && now.saturating_sub(time) < than.cast_signed()
}

impl<D: Disk> Compaction<D> {
    /// Goes on until about `budget` bytes were read, which it takes off it, or a group is written.
    ///
    /// # Errors
    /// `Damaged` naming the batch; `Full` and `Io`. The compaction is then over: see
    /// [`Compaction::abandon`].
    pub(crate) fn step(&mut self, budget: &mut u64) -> Result<Step<D>> {
        if matches!(self.phase, Phase::Map) && !self.map(budget)? {
            return Ok(Step::More);
        }
        self.copy(budget)
    }

    /// Removes what was written of the group under way.
    pub(crate) fn abandon(self) {
        let Phase::Copy(Some(output)) = self.phase else { return };
        drop(output.file);
        swap::remove_unfinished(&self.disk, &self.dir, output.base, output.end);
    }

    /// Takes in keys. Whether that is done.
    fn map(&mut self, budget: &mut u64) -> Result<bool> {
        while let Some(source) = self.sources.get(self.at.0) {
            let segment = Arc::clone(&source.segment);
            let (end, from) = (source.end, segment.compacted.clean_below);
            let (file, size) = (segment.file()?, segment.size());
            let mut walk = Walk::new(&*file, size);
            while self.at.1 < size {
                if *budget == 0 {
                    return Ok(false);
                }
                let batch = batch_at(&mut walk, &segment, self.at.1)?;
                let header = batch.header;
                *budget = budget.saturating_sub(header.size() as u64);
                let data = !header.is_control() && !self.rules.is_aborted(&header);
                if data && header.last_offset() >= from {
                    let count = usize::try_from(header.record_count).unwrap_or(0);
                    if self.taken && !self.offsets.has_room_for(count) {
                        return Ok(self.begin_copy());
                    }
                    let bad = |e: batch::BatchError| damaged(&segment, self.at.1, &e.to_string());
                    for record in batch.records(&mut self.scratch).map_err(bad)? {
                        let record = record.map_err(bad)?;
                        if let Some(key) = record.key {
                            self.offsets.note(key, record.offset);
                            self.taken = true;
                        }
                    }
                }
                self.upto = header.next_offset();
                self.at.1 += header.size() as u64;
            }
            self.upto = end;
            self.at = (self.at.0 + 1, 0);
        }
        Ok(self.begin_copy())
    }

    fn begin_copy(&mut self) -> bool {
        let upto = self.upto;
        self.sources.retain(|source| source.segment.base < upto);
        self.at = (0, 0);
        self.phase = Phase::Copy(None);
        true
    }

    /// Copies what stays, to the end of a group.
    fn copy(&mut self, budget: &mut u64) -> Result<Step<D>> {
        let Phase::Copy(output) = &mut self.phase else { return Ok(Step::More) };
        if self.at.0 >= self.sources.len() {
            return Ok(Step::Done);
        }
        let output = match output {
            Some(output) => output,
            none => {
                let base = self.sources[self.at.0].segment.base;
                none.insert(Box::new(Output::begin(&self.disk, &self.dir, self.at.0, base)?))
            }
        };
        let mut more = true;
        while more {
            let Some(source) = self.sources.get(self.at.0) else { break };
            let segment = &source.segment;
            let (file, size) = (segment.file()?, segment.size());
            let mut walk = Walk::new(&*file, size);
            while self.at.1 < size {
                if *budget == 0 {
                    return Ok(Step::More);
                }
                let batch = batch_at(&mut walk, segment, self.at.1)?;
                let taken = batch.header.size() as u64;
                *budget = budget.saturating_sub(taken);
                if self.at.1 + taken >= size {
                    // Whether the next segment joins the group: its last batch stays otherwise.
                    let next = self.sources.get(self.at.0 + 1);
                    more = next.is_some_and(|next| {
                        let joined = output.size() + taken + next.segment.size();
                        joined <= self.rules.segment_bytes
                            && next.end - output.base <= i64::from(i32::MAX)
                    });
                }
                let last = !more;
                self.rules
                    .copy(&batch, last, &self.offsets, self.upto, &mut self.rewriter, output)
                    .map_err(|e| damaged(segment, self.at.1, &e.to_string()))?;
                self.rules.keep_aborted(segment, output);
                if output.bytes.len() >= FLUSH {
                    output.flush(&self.dir)?;
                }
                self.at.1 += taken;
            }
            output.take_over(source);
            self.at = (self.at.0 + 1, 0);
        }
        let group = self.sources[output.first..self.at.0].iter();
        let group = group.map(|source| Arc::clone(&source.segment)).collect();
        let written = output.finish(&self.disk, &self.dir, group, self.upto)?;
        self.phase = Phase::Copy(None);
        Ok(Step::Written(written))
    }
}

fn batch_at<'w, D: Disk>(
    walk: &'w mut Walk<'_, D::File>,
    segment: &Segment<D>,
    position: u64,
) -> Result<BatchRef<'w>> {
    match walk.batch(position) {
        Ok(batch) => batch.map_err(|bad| damaged(segment, position, &bad)),
        Err(e) => Err(segment.unread(position, e)),
    }
}

fn damaged<D: Disk>(segment: &Segment<D>, position: u64, what: &str) -> Error {
    Error::damaged(
        segment.path(),
        position,
        format!("{what}: the partition is not compacted until this file is restored from a copy"),
    )
}

impl Rules {
    /// Whether the batch belongs to an aborted transaction. Everything below the last stable offset is
    /// decided.
    fn is_aborted(&self, header: &BatchHeader) -> bool {
        header.is_transactional()
            && self.aborted.get(&header.producer.id).is_some_and(|all| {
                all.iter().any(|&(first, marker)| {
                    first <= header.base_offset && header.last_offset() < marker
                })
            })
    }

    /// Whether the horizon of a batch has come: what was kept for slow readers may go.
    fn is_past(&self, header: &BatchHeader) -> bool {
        header.delete_horizon().is_some_and(|horizon| horizon <= self.now)
    }

    /// Whether a producer's next batch is judged by this one.
    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        match self.producers.get(&header.producer.id) {
            Some((_, Some(last))) => !header.is_control() && *last == header.last_offset(),
            Some((epoch, None)) => header.is_control() && *epoch == header.producer.epoch,
            None => false,
        }
    }

    /// Copies what stays of a batch. `last`: it is the last one of its group.
    fn copy<D: Disk>(
        &mut self,
        batch: &BatchRef<'_>,
        last: bool,
        offsets: &Offsets,
        upto: Offset,
        rewriter: &mut Rewriter,
        output: &mut Output<D>,
    ) -> Result<(), batch::BatchError> {
        let header = &batch.header;
        let horizon = self.now.saturating_add_unsigned(self.delete_retention_ms);
        let mut how = Rewrite {
            delete_horizon: Some(horizon),
            marker_is_done: false,
            keep_empty: last || self.is_last_of_producer(header),
        };
        let past = self.is_past(header);
        let from = output.bytes.len();
        let mut deleted = 0;
        let rewritten = if header.is_control() {
            let ends = ends_a_transaction(batch)?;
            how.marker_is_done = ends && !self.with_data.remove(&header.producer.id);
            let keep = !(how.marker_is_done && past);
            rewriter.rewrite(batch, how, |_| keep, &mut output.bytes)?
        } else if self.is_aborted(header) {
            rewriter.rewrite(batch, how, |_| false, &mut output.bytes)?
        } else {
            let keep = |record: &crate::record::RecordRef<'_>| {
                if record.offset >= upto {
                    return true;
                }
                let Some(key) = record.key else { return false };
                if offsets.last(key).is_some_and(|last| record.offset < last) {
                    return false;
                }
                let goes = record.value.is_none() && past;
                if goes {
                    deleted = record.offset + 1;
                }
                !goes
            };
            rewriter.rewrite(batch, how, keep, &mut output.bytes)?
        };
        output.compacted.deletions_below = output.compacted.deletions_below.max(deleted);
        output.changed |= rewritten != Rewritten::Unchanged;
        let left = match rewritten {
            Rewritten::Unchanged => header.record_count,
            Rewritten::Changed { records, .. } => records,
            Rewritten::Emptied | Rewritten::Dropped => 0,
        };
        if left > 0 && header.is_transactional() && !header.is_control() {
            self.with_data.insert(header.producer.id);
        }
        if rewritten != Rewritten::Dropped {
            output.note(from, self.index_interval_bytes)?;
        }
        Ok(())
    }

    /// Aborted transactions stay in the index for as long as their markers are there.
    fn keep_aborted<D: Disk>(&self, segment: &Segment<D>, output: &mut Output<D>) {
        let all = segment.aborted();
        let at = output.last_marker.take();
        let entry = at.and_then(|at| all.iter().find(|entry| entry.last_offset == at));
        output.aborted.extend(entry.copied());
    }
}

/// Whether a control batch is the marker of a transaction. One without records was.
fn ends_a_transaction(batch: &BatchRef<'_>) -> Result<bool, batch::BatchError> {
    if batch.header.record_count == 0 {
        return Ok(true);
    }
    let mut scratch = Scratch::default();
    for record in batch.records(&mut scratch)? {
        if let Some((Marker::Abort | Marker::Commit, _)) = batch::parse_marker(&record?) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl<D: Disk> Output<D> {
    fn begin(disk: &D, dir: &Path, first: usize, base: Offset) -> Result<Self> {
        let path = path_of(dir, base, &format!("log.{CLEANED}"));
        Ok(Self {
            file: write_file(disk, &path, &[])?,
            base,
            end: base,
            first,
            bytes: Vec::new(),
            flushed: 0,
            indexes: Box::new(Indexes::new()),
            marks: Marks::new(base),
            aborted: Vec::new(),
            last_marker: None,
            changed: false,
            compacted: Compacted::default(),
            next: base,
        })
    }

    fn size(&self) -> u64 {
        self.flushed + self.bytes.len() as u64
    }

    /// A whole source was copied.
    fn take_over(&mut self, source: &Source<D>) {
        // A second one makes another segment of it, whatever its batches are.
        self.changed |= self.end > self.base;
        self.end = source.end;
        let deletions = source.segment.compacted.deletions_below;
        self.compacted.deletions_below = self.compacted.deletions_below.max(deletions);
    }

    /// Notes the batch that begins at `from` in the bytes and ends with them.
    fn note(&mut self, from: usize, interval: u32) -> Result<(), batch::BatchError> {
        let header = BatchHeader::parse(&self.bytes[from..])?;
        let position = self.flushed + from as u64;
        self.marks.note(&self.indexes, &header, position, interval);
        self.compacted.gaps |= header.base_offset != self.next;
        self.next = header.next_offset();
        if header.is_control() && header.record_count > 0 {
            self.last_marker = Some(header.base_offset);
        }
        Ok(())
    }

    fn flush(&mut self, dir: &Path) -> Result<()> {
        write_all_at(&self.file, &self.bytes, self.flushed).map_err(|e| {
            Error::io("write", &path_of(dir, self.base, &format!("log.{CLEANED}")), e)
        })?;
        self.flushed += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Writes the rest and the side files, and syncs all of them.
    fn finish(
        &mut self,
        disk: &D,
        dir: &Path,
        group: Vec<Arc<Segment<D>>>,
        upto: Offset,
    ) -> Result<Written<D>> {
        let (base, end) = (self.base, self.end);
        self.compacted.clean_below = end.min(upto);
        let written = |size, sums, same, this: &mut Self| Written {
            group,
            base,
            end,
            size,
            greatest: this.marks.greatest,
            aborted: std::mem::take(&mut this.aborted),
            sums,
            same,
        };
        let sidecar = path_of(dir, end, SIDECAR);
        if !self.changed
            && let Some(sums) = sums_in(disk, &sidecar, base, end)
        {
            swap::remove_unfinished(disk, dir, base, end);
            // Nothing of it moved, so whatever was missing before still is.
            let sums = sums.after(Compacted { gaps: sums.compacted.gaps, ..self.compacted });
            return Ok(written(sums.size, sums, true, self));
        }
        self.flush(dir)?;
        let sync =
            |file: &D::File, path: &Path| file.sync_data().map_err(|e| Error::io("sync", path, e));
        sync(&self.file, &path_of(dir, base, &format!("log.{CLEANED}")))?;
        self.marks.enter_time(&self.indexes);
        let (offsets, times) = (self.indexes.offsets.to_bytes(0), self.indexes.times.to_bytes(0));
        let aborted: Vec<u8> = self.aborted.iter().flat_map(Aborted::encode).collect();
        let sums = Sums::of(base, end, self.flushed, [&offsets, &times, &aborted]);
        let sums = sums.after(self.compacted);
        let sides = [("index", offsets), ("timeindex", times), ("txnindex", aborted)];
        for (suffix, bytes) in sides {
            // As the writer of a segment does it: without aborted transactions there is no file.
            if suffix != "txnindex" || !bytes.is_empty() {
                let path = path_of(dir, base, &format!("{suffix}.{CLEANED}"));
                sync(&write_file(disk, &path, &bytes)?, &path)?;
            }
        }
        let path = path_of(dir, end, &format!("{SIDECAR}.{CLEANED}"));
        sync(&write_file(disk, &path, &sums.encode())?, &path)?;
        Ok(written(self.flushed, sums, false, self))
    }
}

/// One past the last offset of the batches in the file at `path`.
fn batch_at_end<D: Disk>(disk: &D, path: &Path) -> Result<Offset> {
    let file = disk.open(path, Open::Read).map_err(|e| Error::io("open", path, e))?;
    let len = file.len().map_err(|e| Error::io("read", path, e))?;
    let mut walk = Walk::new(&file, len);
    let (mut position, mut end) = (0, 0);
    while position < len {
        let batch = walk.batch(position).map_err(|e| Error::io("read", path, e))?;
        let batch = batch.map_err(|bad| Error::damaged(path, position, bad))?;
        end = batch.header.next_offset();
        position += batch.header.size() as u64;
    }
    Ok(end)
}

/// The sidecar at `path`, if it is the one of this segment.
fn sums_in<D: Disk>(disk: &D, path: &Path, base: Offset, end: Offset) -> Option<Sums> {
    let bytes = read_file(disk, path, 4096).ok()?;
    Sums::decode(&bytes).filter(|sums| (sums.base, sums.end) == (base, end))
}

//! F3 · Verifying a partition's folder: every byte is read, nothing is written, no lock is taken.
//!
//! ```text
//!   .log       length, magic, sum, offsets one behind the other, every record      -> damaged
//!   .index     entries land on batches that end where they say      |
//!   .timeindex entries name batches of that time                    | and the sums
//!   .txnindex  what the markers make of it                          | of the sidecar -> rebuildable
//!   .snapshot, .sidecar, flushed-offset, leader-epoch-checkpoint                     -> rebuildable
//!   bytes behind what was synced that are no batch                                  -> a note
//! ```
//!
//! Always true here: what is bad is named once, with file and byte; where a segment's batches are bad,
//! its side files are not measured by them; bytes that a living writer has not finished yet are no
//! fault. Memory is bounded by the side files of one segment and the largest batch.

mod epochs;
mod sides;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::epochs::Other;
use self::sides::{Sides, Transactions};
use super::epochs::Epochs;
use super::files::Files;
use super::hint::{Hint, SLOT_LEN};
use super::producers::Producers;
use super::recover::SIDE_FILE_LIMIT;
use super::segment::{SIDECAR, path_of};
use super::sums::Sums;
use super::walk::Walk;
use super::{EPOCHS_FILE, HINT_FILE, METADATA_FILE};
use crate::batch::{BatchRef, Records, Scratch};
use crate::disk::{Disk, DiskFile, Open, read_file};
use crate::error::{Error, Result};
use crate::ids::{LeaderEpoch, Offset, Uuid};

/// How bad something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing is wrong; the next open tidies it up, or somebody else left it there.
    Note,
    /// The file can be built anew from the batches.
    Rebuildable,
    /// Records, or what decides which records are seen, are not what was written.
    Damaged,
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or folder.
    pub path: PathBuf,
    /// The byte in the file.
    pub position: u64,
    /// What is there, and what should be.
    pub what: String,
    /// Offsets whose records cannot be read because of it.
    pub lost: Option<Range<Offset>>,
    /// What a repair does with the batch there.
    pub(crate) fix: Fix,
}

/// What a repair does with a batch whose sum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Fix {
    /// Whatever its bytes say.
    #[default]
    Look,
    /// It gets this leader epoch.
    Stamp(LeaderEpoch),
    /// It is set aside: nobody can read what it holds.
    Drop,
}

/// How much was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Folders of partitions.
    pub partitions: u64,
    /// Files in them.
    pub files: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Batches.
    pub batches: u64,
    /// Records, those of the log itself included.
    pub records: u64,
}

/// What is known of a folder before it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Known {
    /// The topic id that its `partition.metadata` must name.
    pub(crate) topic_id: Option<Uuid>,
    /// Whether the last process stopped cleanly: then everything that is there was durable.
    pub(crate) clean: bool,
    /// Of Apache Kafka's folders, which have no hint: everything below was durable.
    pub(crate) recovery_point: Option<Offset>,
    /// Of Apache Kafka's folders: the first offset there is.
    pub(crate) log_start: Option<Offset>,
}

/// Who is shown what is read.
pub(crate) struct Sink<'a> {
    /// Called for every batch that is sound; says what is wrong with what it holds.
    pub(crate) batch: &'a mut dyn FnMut(&BatchRef<'_>, &mut Scratch) -> Option<String>,
    /// Called now and then.
    pub(crate) progress: &'a mut dyn FnMut(&Totals),
    /// Everything so far.
    pub(crate) totals: &'a mut Totals,
    /// What was found so far.
    pub(crate) findings: &'a mut Vec<Finding>,
}

/// How often progress is told, in bytes.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Reads a partition's folder. Returns where the log ends.
///
/// # Errors
/// `Io` when the folder cannot be listed, or a file may not be read.
pub(crate) fn partition<D: Disk>(
    disk: &D,
    dir: &Path,
    known: &Known,
    sink: &mut Sink<'_>,
) -> Result<Offset> {
    let mut files = Files::list(disk, dir)?;
    sink.totals.partitions += 1;
    let (before, told) = (*sink.totals, sink.findings.len());
    for tries in 1.. {
        let mut look = Look::new(disk, dir, known, sink, files.swaps());
        look.run(&files)?;
        let next = look.next;
        let is_bad = sink.findings[told..].iter().any(|f| f.severity > Severity::Note);
        let again = Files::list(disk, dir)?;
        if !is_bad || tries == TRIES || again == files {
            return Ok(next);
        }
        // A living log changed its files meanwhile: what did not fit together may do so now.
        *sink.totals = before;
        sink.findings.truncate(told);
        files = again;
    }
    Ok(0)
}

/// How often a folder is looked at whose files change meanwhile.
const TRIES: u32 = 5;

struct Look<'a, 's, D> {
    disk: &'a D,
    dir: &'a Path,
    known: &'a Known,
    sink: &'a mut Sink<'s>,
    hint: Option<Hint>,
    /// Whether a log of ours wrote the folder: without gaps, with a hint.
    ours: bool,
    /// Whether every batch so far was sound.
    sound: bool,
    next: Offset,
    durable_end: Offset,
    log_start: Offset,
    epochs: Option<Epochs>,
    epochs_bad: bool,
    others: Vec<Other>,
    last_epoch: LeaderEpoch,
    /// That of the batch before.
    epoch_before: LeaderEpoch,
    batches: u64,
    transactions: Transactions,
    scratch: Scratch,
    told_at: u64,
    /// Whether compaction was interrupted half way: the next open finishes it, and until then segments
    /// are there twice, or under another name.
    swapping: bool,
}

impl<'a, 's, D: Disk> Look<'a, 's, D> {
    fn new(
        disk: &'a D,
        dir: &'a Path,
        known: &'a Known,
        sink: &'a mut Sink<'s>,
        swapping: bool,
    ) -> Self {
        Self {
            disk,
            dir,
            known,
            sink,
            hint: None,
            ours: false,
            sound: true,
            next: 0,
            durable_end: 0,
            log_start: 0,
            epochs: None,
            epochs_bad: false,
            others: Vec::new(),
            last_epoch: -1,
            epoch_before: -1,
            batches: 0,
            transactions: Transactions::default(),
            scratch: Scratch::default(),
            told_at: 0,
            swapping,
        }
    }
}

impl<D: Disk> Look<'_, '_, D> {
    fn find(&mut self, severity: Severity, path: PathBuf, position: u64, what: impl Into<String>) {
        let what = what.into();
        let (lost, fix) = (None, Fix::Look);
        self.sink.findings.push(Finding { severity, path, position, what, lost, fix });
    }

    fn lose(&mut self, path: PathBuf, position: u64, lost: Range<Offset>, what: impl Into<String>) {
        self.sound = false;
        let (severity, what) = (Severity::Damaged, what.into());
        let (lost, fix) = (Some(lost), Fix::Look);
        self.sink.findings.push(Finding { severity, path, position, what, lost, fix });
    }

    /// A side file; `None` when it is not there, or cannot be read, which is told.
    fn side(&mut self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.sink.totals.files += 1;
        match read_file(self.disk, path, SIDE_FILE_LIMIT) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.sink.totals.files -= 1;
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::io("read", path, e))
            }
            Err(e) => {
                let what = format!("it cannot be read: {e}");
                self.find(Severity::Rebuildable, path.to_owned(), 0, what);
                Ok(None)
            }
        }
    }

    fn run(&mut self, files: &Files) -> Result<()> {
        self.topic_id(files)?;
        self.hint(files)?;
        self.read_epochs()?;
        let first_kept = files.bases.iter().rposition(|base| *base <= self.log_start).unwrap_or(0);
        let bases = &files.bases[first_kept..];
        for base in &files.bases[..first_kept] {
            let path = path_of(self.dir, *base, "log");
            let what = "it lies below the log start: the next open removes it";
            self.find(Severity::Note, path, 0, what);
        }
        self.begin(bases)?;
        let mut behind_tail = false;
        for (at, &base) in bases.iter().enumerate() {
            if behind_tail {
                let path = path_of(self.dir, base, "log");
                let what = "it lies behind a torn tail: the next open removes it";
                self.find(Severity::Note, path, 0, what);
                continue;
            }
            behind_tail = self.segment(base, bases.get(at + 1).copied(), files)?;
        }
        if self.ours && self.next < self.durable_end && self.sound {
            let (from, to) = (self.next.max(self.log_start), self.durable_end);
            let what = format!("records {from} to {} were synced and are not there", to - 1);
            self.lose(self.dir.to_owned(), 0, from..to, what);
        }
        self.compare_epochs();
        self.loose_files(files, bases)?;
        (self.sink.progress)(self.sink.totals);
        Ok(())
    }

    fn topic_id(&mut self, files: &Files) -> Result<()> {
        let path = self.dir.join(METADATA_FILE);
        let Some(bytes) = self.side(&path)? else {
            if !files.bases.is_empty() && self.known.topic_id.is_some() {
                let what = "it is missing, and the folder holds records";
                self.find(Severity::Rebuildable, path, 0, what);
            }
            return Ok(());
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.split('\n');
        let version = lines.next() == Some("version: 0");
        let id = lines.next().and_then(|line| line.strip_prefix("topic_id: "));
        let id = id.and_then(|id| Uuid::parse(id).ok());
        match (id.filter(|_| version), self.known.topic_id) {
            (None, _) => {
                let what = "it does not say `version: 0` and `topic_id: ID`";
                self.find(Severity::Rebuildable, path, 0, what);
            }
            (Some(found), Some(wanted)) if found != wanted => {
                let turned = u128::from_be_bytes(found.0) ^ u128::from_be_bytes(wanted.0);
                // Ids are random: two topics' differ in some sixty bits.
                let (severity, why) = match turned.count_ones() {
                    1..=6 => (Severity::Rebuildable, "bits of it turned"),
                    _ => (Severity::Damaged, "the folder is another topic's"),
                };
                let what = format!("topic id {found}, and the metadata says {wanted}: {why}");
                self.find(severity, path, 0, what);
            }
            _ => {}
        }
        Ok(())
    }

    fn hint(&mut self, files: &Files) -> Result<()> {
        let path = self.dir.join(HINT_FILE);
        let first = files.bases.first().copied().unwrap_or(0);
        let Some(bytes) = self.side(&path)? else {
            self.durable_end = match (self.known.clean, self.known.recovery_point) {
                (true, _) => Offset::MAX,
                (false, point) => point.unwrap_or(0),
            };
            self.log_start = self.known.log_start.unwrap_or(first);
            return Ok(());
        };
        self.ours = true;
        for (slot, at) in bytes.chunks(SLOT_LEN as usize).zip([0, SLOT_LEN]) {
            let used = &slot[..slot.len().min(60)];
            if used.iter().any(|byte| *byte != 0) && Hint::decode(slot).is_none() {
                let what = "this slot is not what was written: the other one counts";
                // A power loss tears what was written last, and that only.
                let clean = self.known.clean;
                let severity = if clean { Severity::Rebuildable } else { Severity::Note };
                self.find(severity, path.clone(), at, what);
            }
        }
        self.hint = Hint::decode(&bytes);
        match self.hint {
            Some(hint) => (self.durable_end, self.log_start) = (hint.durable_end, hint.log_start),
            None => {
                // Nothing tells what was synced.
                self.durable_end = 0;
                self.log_start = first;
            }
        }
        Ok(())
    }

    fn read_epochs(&mut self) -> Result<()> {
        let path = self.dir.join(EPOCHS_FILE);
        let Some(bytes) = self.side(&path)? else { return Ok(()) };
        self.epochs = Epochs::from_text(&bytes);
        self.epochs_bad = self.epochs.is_none();
        Ok(())
    }

    /// What is known where the first segment begins.
    fn begin(&mut self, bases: &[Offset]) -> Result<()> {
        let Some(&first) = bases.first() else {
            self.next = self.log_start;
            return Ok(());
        };
        self.next = first;
        let starts = !self.ours || self.swapping || first <= self.log_start;
        if !starts && self.durable_end > self.log_start {
            let lost = self.log_start..first.min(self.durable_end);
            let what = format!(
                "records {} to {} were synced, and the first segment begins at {first}",
                lost.start,
                lost.end - 1
            );
            self.lose(self.dir.to_owned(), 0, lost, what);
        }
        let path = path_of(self.dir, first, "snapshot");
        let bytes = read_file(self.disk, &path, SIDE_FILE_LIMIT).ok();
        if let Some(producers) = bytes.and_then(|bytes| Producers::from_snapshot(&bytes)) {
            let open = producers.open_transactions();
            self.transactions.open = open.into_iter().map(|(by, at)| (by.id, at)).collect();
        }
        Ok(())
    }

    /// Looks at one segment. Whether it ends in a torn tail, so that nothing follows.
    fn segment(&mut self, base: Offset, end: Option<Offset>, files: &Files) -> Result<bool> {
        let path = path_of(self.dir, base, "log");
        let (sums, unread) = self.sums_of(base, end, files)?;
        let mut sides = Sides::read(self, base, end, sums.as_ref())?;
        let sound_before = self.sound;
        let gaps = self.gaps(sums.as_ref(), unread);
        sides.compacted = gaps;
        let torn = match self.batches(base, end, &path, gaps, &mut sides) {
            Ok(torn) => torn,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let what = "it was removed while the folder was read";
                self.find(Severity::Note, path.clone(), 0, what);
                self.next = end.unwrap_or(base);
                return Ok(false);
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::io("read", &path, e));
            }
            Err(e) => {
                let lost = self.next..end.unwrap_or(self.durable_end.max(self.next));
                let lost = if lost.end == Offset::MAX { lost.start..lost.start } else { lost };
                self.lose(path.clone(), 0, lost, format!("it cannot be read: {e}"));
                self.next = end.unwrap_or(self.next);
                false
            }
        };
        let whole = sound_before && self.sound;
        if let (Some(sums), true, Some(_)) = (&sums, whole, end) {
            let size = sides.size;
            if sums.size != size {
                let end = sums.end;
                let what = format!("it says {} bytes of batches, there are {size}", sums.size);
                self.find(Severity::Rebuildable, path_of(self.dir, end, SIDECAR), 24, what);
            }
        }
        for (path, position, what) in sides.faults(self, whole) {
            self.find(Severity::Rebuildable, path, position, what);
        }
        Ok(torn)
    }

    /// The sums of a segment's side files, and whether there are some that cannot be read.
    fn sums_of(
        &mut self,
        base: Offset,
        end: Option<Offset>,
        files: &Files,
    ) -> Result<(Option<Sums>, bool)> {
        let hint =
            self.hint.filter(|hint| hint.recovery_base == base && hint.recovery_position > 0);
        let Some(at) = end.or(hint.map(|hint| hint.recovery_point)) else {
            return Ok((None, false));
        };
        let there = files.sidecars.binary_search(&at).is_ok();
        // Above the recovery point none is believed.
        if self.swapping || !there || at > self.believed() {
            return Ok((None, false));
        }
        let path = path_of(self.dir, at, SIDECAR);
        let Some(bytes) = self.side(&path)? else { return Ok((None, true)) };
        match Sums::decode(&bytes) {
            Some(sums) if (sums.base, sums.end) == (base, at) => Ok((Some(sums), false)),
            // That of a segment which is not there: its records are missed.
            Some(_) => Ok((None, false)),
            None => {
                let what = "it is not what was written: no sidecar, or its sum does not agree";
                self.find(Severity::Rebuildable, path, 0, what);
                Ok((None, true))
            }
        }
    }

    /// Up to where side files are believed: what is above is made anew by the next open.
    fn believed(&self) -> Offset {
        match (&self.hint, self.ours) {
            (Some(hint), _) => hint.recovery_point,
            (None, true) => -1,
            (None, false) => Offset::MAX,
        }
    }

    /// Whether offsets may be missing between the batches of a segment.
    fn gaps(&self, sums: Option<&Sums>, unread: bool) -> bool {
        // A sidecar that cannot be read may have said so.
        let gaps = sums.map_or(unread, |sums| sums.compacted.gaps);
        self.swapping || !self.ours || gaps
    }

    /// Reads the batches of one segment. Whether it ends in a torn tail.
    fn batches(
        &mut self,
        base: Offset,
        end: Option<Offset>,
        path: &Path,
        gaps: bool,
        sides: &mut Sides,
    ) -> io::Result<bool> {
        let file = self.disk.open(path, Open::Read)?;
        self.sink.totals.files += 1;
        let len = file.len()?;
        if !self.ours || self.swapping {
            self.next = self.next.max(base);
        } else if base > self.next {
            if self.next >= self.durable_end {
                return Ok(true);
            }
            let lost = self.next..base;
            let what = format!("it begins at {base} where {} must follow", self.next);
            self.lose(path.to_owned(), 0, lost, what);
            self.next = base;
        }
        let mut walk = Walk::new(&file, len);
        let mut position = 0;
        // Where a batch's own offset may be what is wrong, what follows by the one before it.
        let mut or_next = None;
        while position < len {
            let batch = match walk.batch(position)? {
                Ok(batch) => batch,
                Err(bad) => {
                    let most = end.unwrap_or(Offset::MAX);
                    if self.next >= self.durable_end && end.is_none_or(|e| e > self.durable_end) {
                        let left = len - position;
                        let what = format!(
                            "{bad}; {left} bytes behind what was synced: a torn tail, which the next open cuts"
                        );
                        self.find(Severity::Note, path.to_owned(), position, what);
                        sides.size = position;
                        return Ok(true);
                    }
                    let from = self.next;
                    let place = walk.resync(position, from, most)?;
                    let upto = match place {
                        Some(place) => walk.header(place)?.map_or(from, |h| h.base_offset),
                        None => self.end_of_damage(from, end),
                    };
                    let bytes = place.unwrap_or(len) - position;
                    self.lose(
                        path.to_owned(),
                        position,
                        from..upto,
                        format!("{bad}; {bytes} bytes"),
                    );
                    self.next = upto;
                    position = place.unwrap_or(len);
                    or_next = None;
                    continue;
                }
            };
            let header = batch.header;
            let first = header.base_offset;
            let fits = first == self.next || or_next == Some(first) || (gaps && first > self.next);
            let follows = self.next.saturating_add(i64::from(header.last_offset_delta) + 1);
            or_next = None;
            if !fits {
                let lost = self.next..follows.max(first.min(end.unwrap_or(first)));
                let what = format!("offset {first} where {} must follow", self.next);
                self.lose(path.to_owned(), position, lost, what);
                or_next = Some(follows);
            }
            if let Some(what) =
                check_records(&batch, &mut self.scratch, &mut self.sink.totals.records)
                    .or_else(|| (self.sink.batch)(&batch, &mut self.scratch))
            {
                self.sink.findings.push(Finding {
                    severity: Severity::Damaged,
                    path: path.to_owned(),
                    position,
                    what,
                    lost: Some(first..header.next_offset()),
                    fix: Fix::Drop,
                });
                self.sound = false;
            }
            if header.producer.id >= 0 {
                self.transactions.take(&batch, &mut self.scratch);
            }
            self.note_epoch(base, position, first, header.last_offset(), header.leader_epoch);
            sides.note(position, first, header.last_offset(), header.max_timestamp);
            self.next = header.next_offset();
            position += header.size() as u64;
            self.batches += 1;
            self.sink.totals.batches += 1;
            self.sink.totals.bytes += header.size() as u64;
            if self.sink.totals.bytes - self.told_at > PROGRESS_BYTES {
                self.told_at = self.sink.totals.bytes;
                (self.sink.progress)(self.sink.totals);
            }
        }
        if let (Some(follows), Some(end)) = (or_next, end) {
            // The last batch said a wrong offset.
            self.next = if follows == end { end } else { self.next };
        }
        sides.size = len;
        if let Some(end) = end.filter(|end| gaps && *end > self.next) {
            self.next = end;
        }
        if let Some(end) = end.filter(|end| *end != self.next && self.sound && !gaps) {
            if self.next >= self.durable_end {
                return Ok(true);
            }
            let lost = self.next..end.max(self.next);
            let what =
                format!("it ends at offset {} and the next segment begins at {end}", self.next);
            self.lose(path.to_owned(), len, lost, what);
            self.next = end;
        }
        Ok(false)
    }

    /// Where what is lost ends, when nothing sound follows in its segment.
    fn end_of_damage(&self, from: Offset, end: Option<Offset>) -> Offset {
        match end {
            Some(end) => end,
            None if self.durable_end < Offset::MAX => self.durable_end.max(from),
            None => from,
        }
    }

    /// What belongs to no segment.
    fn loose_files(&mut self, files: &Files, bases: &[Offset]) -> Result<()> {
        let point = self.hint.map(|hint| hint.recovery_point);
        // Those of recovery points that were passed may still be there.
        for &at in &files.snapshots {
            let path = path_of(self.dir, at, "snapshot");
            if at > self.next {
                let what = "the log ends before it: the next open removes it";
                self.find(Severity::Note, path, 0, what);
                continue;
            }
            let placed = bases.contains(&at) || Some(at) == point;
            if !placed || at > self.believed() {
                continue;
            }
            if let Some(bytes) = self.side(&path)?
                && Producers::from_snapshot(&bytes).is_none()
            {
                let what = "it is no snapshot of producers, or its sum does not agree";
                self.find(Severity::Rebuildable, path, 0, what);
            }
        }
        // After a power loss an older hint may name one that was removed.
        if let Some(hint) = self.hint.filter(|hint| self.known.clean && hint.recovery_position > 0)
            && files.snapshots.binary_search(&hint.recovery_point).is_err()
        {
            let path = path_of(self.dir, hint.recovery_point, "snapshot");
            let what = "it is missing: without it more is read at the next open";
            self.find(Severity::Rebuildable, path, 0, what);
        }
        let end = self.next;
        for &at in files.sidecars.iter().filter(|at| **at > end) {
            let what = "the log ends before it: the next open removes it";
            self.find(Severity::Note, path_of(self.dir, at, SIDECAR), 0, what);
        }
        for (base, suffix) in &files.sides {
            if files.bases.binary_search(base).is_err() {
                let what = "its segment is not there: the next open removes it";
                self.find(Severity::Note, path_of(self.dir, *base, suffix), 0, what);
            }
        }
        for name in &files.leaving {
            let what = "left behind by a deletion or a kill: the next open removes it";
            self.find(Severity::Note, self.dir.join(name), 0, what);
        }
        for name in &files.strange {
            self.find(Severity::Note, self.dir.join(name), 0, "no file of a log: it is left alone");
        }
        Ok(())
    }
}

/// Reads every record of a batch, and counts them.
fn check_records(batch: &BatchRef<'_>, scratch: &mut Scratch, count: &mut u64) -> Option<String> {
    // Of a codec that this build leaves out, the sum must do.
    if batch.header.attributes.codec().is_ok_and(|codec| codec.check_supported().is_err()) {
        *count += u64::from(batch.header.record_count.unsigned_abs());
        return None;
    }
    let sound = batch.records(scratch).and_then(Records::check);
    if let Err(e) = sound {
        return Some(e.to_string());
    }
    *count += u64::from(batch.header.record_count.unsigned_abs());
    None
}
